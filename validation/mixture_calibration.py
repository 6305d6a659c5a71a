"""Calibration of the prior of dust behind the CMB, in a mixture of unknown cosmology and amplitude.

On draws of the prior itself by the reverse process, which tests denoiser, bound and samplers together. What becomes of
dust that the prior has not seen is the subject of :mod:`validation.mixtures`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

import bayesdiff as bd
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from validation.field_calibration import Campaign, calibrate, observe, of_fields, of_study, own_field, uniform
from validation.figures import RESULTS, Figure

PRIOR = "dust-cmb-64"
NUM, NUM_FIELDS, KEY = 30, 20, 43
FOLDER = RESULTS / "mixture_calibration"


def run(folder: Path = FOLDER) -> list[Figure]:
    """Ranks of cosmology and amplitude and checks of fields on draws of the prior, and their page."""
    prior, name = bd.load_pretrained(PRIOR), "own draws"
    campaign = Campaign(
        KEY,
        make_model(prior),
        bd.MarginalSurrogate(),
        partial(mix, prior, partial(own_field, prior)),
        prior.name,
        NUM,
        NUM_FIELDS,
        f"{PRIOR}: dust and CMB of unknown cosmology and amplitude, {name}",
        str(__doc__),
    )
    study, fields = calibrate(campaign, folder / name.replace(" ", "_"))
    return [*of_study(name, study, required=False), *of_fields(name, fields, required=False)]


def mix(
    prior: bd.DiffusionModel, field: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Dust, and a CMB of parameters from the model's prior."""
    key_parameters, key_field, key_noise = jax.random.split(key, 3)
    parameters = uniform(key_parameters, PRIOR_BOUNDS)
    context = prior.context_array(tuple(parameters[name] for name in prior.context_names))
    return parameters | observe(key_noise, prior, field(key_field, context), parameters["sigma"], context)
