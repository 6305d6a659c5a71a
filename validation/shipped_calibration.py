"""Calibration of the other shipped priors, each in a model that it is for.

The priors of matter, of convergence, of CIB and tSZ and of the shapes of dust are observed in white noise of a level to
be found. Fields are draws of the priors themselves by the reverse process, which tests denoiser, bound and samplers
together. Fields of a known power law are what their conditional prior was trained for, and come from the closed form.
The prior of dust behind the CMB (:mod:`validation.mixture_calibration`), ``dust-64``, ``density-fields-64`` and
``dark-matter-64`` (:mod:`validation.dark_matter_calibration`) have studies of their own, also on maps that they have
not seen.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import bayesdiff as bd
from bayesdiff.calibration import Sbc
from models.gaussian_fields.data import PARAMETER_BOUNDS, exact_family
from models.gaussian_fields.model import make_model as gaussian_fields
from validation.field_calibration import Campaign, calibrate, of_fields, of_study, own_field, uniform
from validation.field_posteriors import SURROGATE
from validation.figures import RESULTS, Figure
from validation.prior_calibration import in_noise

DENOISED = {
    "matter-64": "dark matter of N-body boxes",
    "kappa-64": "convergence",
    "cib-64": "CIB at three frequencies",
    "cib-tsz-64": "CIB and tSZ",
    "dust-shapes-64": "shapes of dust",
}
GAUSSIAN = "gaussian-fields-64"
NUM, NUM_FIELDS, KEY = 50, 20, 43


def run(folder: Path = RESULTS / "shipped_calibration") -> list[Figure]:
    """Ranks of the parameters and checks of fields, and a page for each prior."""
    figures = []
    for name, campaign in campaigns().items():
        study, fields = calibrate(campaign, folder / name)
        figures += [*of_study(name, study, required=False), *of_fields(name, fields, required=False)]
    return figures + of_study(GAUSSIAN, power_laws(folder / GAUSSIAN), required=False)


def campaigns() -> dict[str, Campaign]:
    """Those with fields to check, by the name of the prior."""
    found = {}
    for name, what in DENOISED.items():
        prior = bd.load_pretrained(name)
        title = f"{name}: {what} in white noise of unknown level"
        campaign = in_noise(prior, partial(own_field, prior), title, str(__doc__), KEY)
        found[name] = campaign._replace(num=NUM, num_fields=NUM_FIELDS)
    return found


def power_laws(folder: Path) -> Sbc:
    """Amplitude and index of Gaussian fields by the trained bound, and the page."""
    prior = bd.load_pretrained(GAUSSIAN)
    bound = bd.Elbo(num_times=16, num_noise=1)
    study = bd.calibration.sbc(
        jax.random.key(KEY),
        gaussian_fields(prior),
        algorithm=bd.MarginalSurrogate(bound, twin_exponent=1.0, **SURROGATE),
        num_simulations=NUM,
        simulator=gaussian_field,
        store=folder / "study.sbc",
    )
    title = f"{GAUSSIAN}: amplitude and index of a power law"
    bd.reporting.write_calibration_report(study, folder, title=title, notes=(str(__doc__),))
    return study


def gaussian_field(key: jax.Array) -> dict[str, jax.Array]:
    """A field of a power law from the closed form, and its parameters."""
    key_parameters, key_field = jax.random.split(key)
    parameters, family = uniform(key_parameters, PARAMETER_BOUNDS), exact_family()
    field = family.at(jnp.stack(list(parameters.values())))
    white = jax.random.normal(key_field, (1, *family.shape))
    return parameters | {"x": field.unwhiten(white, jnp.zeros(()), jnp.zeros(()))}
