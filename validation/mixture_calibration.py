"""Calibration of the prior of dust behind the CMB, in a mixture of unknown cosmology and amplitude.

On draws of the prior itself by the reverse process, which tests denoiser, bound and samplers together. Both separated
fields are checked, the dust and the CMB. What becomes of dust that the prior has not seen is the subject of
:mod:`validation.mixtures`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

import bayesdiff as bd
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import colour
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from validation.field_calibration import FIELD, Campaign, calibrate, observe, of_fields, of_study, own_field, uniform
from validation.figures import RESULTS, Figure

PRIOR = "dust-cmb-64"
CMB = "cmb"
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
        (prior.name, CMB),
        NUM,
        NUM_FIELDS,
        f"{PRIOR}: dust and CMB of unknown cosmology and amplitude, {name}",
        str(__doc__),
        (FIELD, CMB),
        ("dust", "CMB"),
    )
    study, fields = calibrate(campaign, folder / name.replace(" ", "_"))
    return [*of_study(name, study, required=False), *of_fields(name, fields, required=False)]


def mix(
    prior: bd.DiffusionModel, field: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Dust, and a CMB of parameters from the model's prior, apart and mixed with instrument noise."""
    key_parameters, key_field, key_noise, key_cmb = jax.random.split(key, 4)
    parameters = uniform(key_parameters, PRIOR_BOUNDS)
    context, sigma = prior.context_array(tuple(parameters[name] for name in prior.context_names)), parameters["sigma"]
    mixture = observe(key_noise, prior, field(key_field, context), sigma, context)
    # What a Gaussian field could be, given its sum with another: the closed form, not the code that is calibrated.
    noise: Any = prior.noise
    share = noise.component_powers(context)[CMB] / prior.noise_power(context)
    free = colour(jax.random.normal(key_cmb, prior.event_shape), prior.noise_power(context) * share * (1.0 - share))
    cmb = filter_field(mixture["y"] - mixture[FIELD], share) + sigma * free
    return {**parameters, **mixture, CMB: cmb}
