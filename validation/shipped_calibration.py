"""Calibration of the other shipped priors, each in a model that it is for.

The priors of matter, of convergence, of CIB and tSZ and of the shapes of dust are observed in white noise of a level to
be found, the prior of dust behind the CMB in a mixture of unknown cosmology. Fields are draws of the priors themselves
by the reverse process, which tests denoiser, bound and samplers together, and for the mixture windows of held-out dust
as well. Fields of a known power law are what their conditional prior was trained for, and come from the closed form.
``dust-64`` and ``density-fields-64`` have studies of their own, also on maps that they have not seen; what
``dark-matter-64`` makes of held-out stars is judged in the study ``dark_matter``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import bayesdiff as bd
from bayesdiff.calibration import Sbc
from bayesdiff.windows import MapWindows
from models.denoising.data import load_dust
from models.dust_cmb.model import PRIOR_BOUNDS
from models.dust_cmb.model import make_model as dust_and_cmb
from models.gaussian_fields.data import PARAMETER_BOUNDS, exact_family
from models.gaussian_fields.model import make_model as gaussian_fields
from validation.field_calibration import Campaign, calibrate, observe, of_fields, of_study, own_field
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
DUST_CMB, GAUSSIAN = "dust-cmb-64", "gaussian-fields-64"
NUM, NUM_FIELDS, KEY = 50, 20, 43


def run(folder: Path = RESULTS / "shipped_calibration") -> list[Figure]:
    """Ranks of the parameters and checks of fields, and a page for each prior."""
    figures = []
    for name, campaign in campaigns().items():
        study, fields = calibrate(campaign, folder / name.replace(", ", "_").replace(" ", "_"))
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
    prior = bd.load_pretrained(DUST_CMB)
    own = Campaign(
        KEY,
        dust_and_cmb(prior),
        bd.MarginalSurrogate(),
        partial(mix, prior, partial(own_field, prior)),
        prior.name,
        NUM,
        NUM_FIELDS,
        f"{DUST_CMB}: dust and CMB of unknown cosmology and amplitude",
        str(__doc__),
    )
    simulator = partial(mix, prior, partial(window, load_dust().windows(held_out=True)))
    held_out = own._replace(simulator=simulator, title=f"{own.title}, held-out dust")
    return found | {DUST_CMB: own, f"{DUST_CMB}, held-out dust": held_out}


def mix(
    prior: bd.DiffusionModel, field: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Dust, and a CMB of parameters from the model's prior."""
    key_parameters, key_field, key_noise = jax.random.split(key, 3)
    parameters = uniform(key_parameters, PRIOR_BOUNDS)
    context = prior.context_array(tuple(parameters[name] for name in prior.context_names))
    return parameters | observe(key_noise, prior, field(key_field, context), parameters["sigma"], context)


def window(windows: MapWindows, key: jax.Array, context: jax.Array) -> jax.Array:
    """A window of maps that the prior has not seen, whatever the cosmology."""
    del context
    return windows.draw(key)


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


def uniform(key: jax.Array, bounds: dict[str, tuple[float, float]]) -> dict[str, jax.Array]:
    """Parameters from the uniform prior of a model."""
    keys = jax.random.split(key, len(bounds))
    return {
        name: jax.random.uniform(k, minval=low, maxval=high)
        for k, (name, (low, high)) in zip(keys, bounds.items(), strict=True)
    }
