"""How the prior of dust behind the CMB fails on mixtures it does not describe, and whether the mixture alone tells.

The model and its own data are those of :mod:`validation.mixture_calibration`. In the other data the dust is a draw of
the prior as well, so that only the rest is wrong: a CMB cut from curved skies, which is not periodic, and instrument
noise of twice its level. Beside the ranks stands the share of mixtures that are flagged by the noise that was separated
from them, which has to look like the model's. Dust of other maps is the subject of
:mod:`validation.prior_misspecification`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import bayesdiff as bd
from bayesdiff.calibration import Sbc
from bayesdiff.diffusion.noise import colour
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.dust_cmb.observation import model_pixel_arcmin
from validation.alarms import look_at_first
from validation.field_calibration import own_field, uniform
from validation.figures import RESULTS, Figure, below
from validation.misspecification import OWN, WRONG_NOISE_RMS, curved_skies
from validation.mixture_calibration import FOLDER, KEY, NUM, PRIOR, mix
from validation.ranked import quantity_figures

NUM_FIELDS = 39
NUM_SKIES = 60
CMB, INSTRUMENT_NOISE = "cmb", "instrument_noise"


def run(folder: Path = RESULTS / "mixture_misspecification") -> list[Figure]:
    """All figures of this study, and a page for each kind of data."""
    prior = bd.load_pretrained(PRIOR)
    own = partial(mix, prior, partial(own_field, prior))
    figures, _ = judged(OWN, prior, own, FOLDER / "own_draws" / "study.sbc")
    for name, simulator in others(prior, folder).items():
        page = folder / name.replace(" ", "_").lower()
        found, study = judged(name, prior, simulator, page / "study.sbc")
        title = f"{PRIOR}: dust and CMB of unknown cosmology and amplitude, {name}"
        bd.reporting.write_calibration_report(study, page, title=title, notes=(str(__doc__),))
        figures += found
    return figures


def others(prior: bd.DiffusionModel, folder: Path) -> dict[str, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Simulators of what the model does not describe."""
    size = prior.event_shape[-1]
    skies = curved_skies(folder / "skies.npz", size, model_pixel_arcmin(prior), NUM_SKIES)
    return {
        "CMB of curved skies": partial(on_skies, prior, skies),
        "twice the instrument noise": partial(noisier, prior),
    }


def on_skies(prior: bd.DiffusionModel, skies: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """Dust, and the CMB of a patch of a curved sky, which knows its cosmology."""
    key_sky, key_patch, key_parameters, *keys = jax.random.split(key, 5)
    index = jax.random.randint(key_sky, (), 0, len(skies["H0"]))
    patch = skies["patches"][index, jax.random.randint(key_patch, (), 0, skies["patches"].shape[1])]
    parameters = uniform(key_parameters, PRIOR_BOUNDS) | {name: skies[name][index] for name in ("H0", "omega_b")}
    powers = _powers(prior, parameters)
    noise = colour(jax.random.normal(keys[0], prior.event_shape), powers[INSTRUMENT_NOISE])
    return _mixture(prior, keys[1], parameters, patch[None] + noise)


def noisier(prior: bd.DiffusionModel, key: jax.Array) -> dict[str, jax.Array]:
    """Dust, a CMB of the model, and instrument noise of another level than the model's."""
    key_parameters, key_noise, key_dust = jax.random.split(key, 3)
    parameters = uniform(key_parameters, PRIOR_BOUNDS)
    powers = _powers(prior, parameters)
    wrong = jnp.full_like(powers[INSTRUMENT_NOISE], WRONG_NOISE_RMS**2)
    noise = colour(jax.random.normal(key_noise, prior.event_shape), powers[CMB] + wrong)
    return _mixture(prior, key_dust, parameters, noise)


def _powers(prior: bd.DiffusionModel, parameters: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    noise: Any = prior.noise
    return noise.component_powers(_context(prior, parameters))


def _context(prior: bd.DiffusionModel, parameters: Mapping[str, jax.Array]) -> jax.Array:
    return prior.context_array(tuple(parameters[name] for name in prior.context_names))


def _mixture(
    prior: bd.DiffusionModel, key: jax.Array, parameters: Mapping[str, jax.Array], noise: jax.Array
) -> dict[str, jax.Array]:
    dust = own_field(prior, key, _context(prior, parameters))
    return {**parameters, "y": dust + parameters["sigma"] * noise}


def judged(name: str, prior: bd.DiffusionModel, simulator: Callable, store: Path) -> tuple[list[Figure], Sbc]:
    """Calibration of cosmology and amplitude on one kind of data, and how often a mixture is flagged."""
    key, model = jax.random.key(KEY), make_model(prior)
    study = bd.calibration.sbc(
        key, model, algorithm=bd.MarginalSurrogate(), num_simulations=NUM, simulator=simulator, store=store
    )
    looks = look_at_first(key, model, study, simulator, prior.name, NUM, NUM_FIELDS, 0)
    share, label = sum(bool(looked.findings) for looked in looks) / NUM, f"{name}: mixtures of {NUM} that are flagged"
    figures = [
        Figure(f"{name}: smallest adjusted p-value of the ranks", float(study.tests.adjusted.min())),
        Figure(f"{name}: simulations that failed", f"{len(study.failed)} of {NUM}"),
        *quantity_figures(name, study),
        # One false alarm in twenty would be chance.
        below(f"{label}, share", share, 0.051) if name == OWN else Figure(f"{label}, share", share),
    ]
    return figures, study
