"""How the trained dust prior fails on data that it does not describe, and whether the observation alone tells.

The model is that of :mod:`validation.prior_calibration`, dust in white noise of unknown level (held-out rows of the
prior's own maps are judged there). Its data are the Stokes maps Q and U of the same simulation, the Planck sky, and its
own draws in noise that is not white, beside the study of its own draws in white noise, which is the one there. Beside
the ranks stands the share of observations that are flagged by the noise that was separated from them, which has to look
white.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.windows import MapWindows
from models.denoising.data import SIZE
from models.denoising.model import make_model
from models.denoising.prior import DUST
from validation.alarms import look_at_first
from validation.field_calibration import FIELD, own_field
from validation.figures import RESULTS, Figure, below
from validation.misspecification import planck_map, polarisation_maps
from validation.prior_calibration import KEY, NUM, OWN, SURROGATE, simulate
from validation.ranked import quantity_figures

NUM_LOOKED, NUM_FIELDS = 40, 39
KNEE = 8.0
"""Wavenumber [fundamental modes] below which red noise has more power than white noise of its level at high |k|."""


def run(
    folder: Path = RESULTS / "prior_misspecification", own: Path = RESULTS / "prior_calibration" / "own_draws"
) -> list[Figure]:
    """All figures of this study, and a page for each kind of data; that of the prior's own draws is in ``own``."""
    prior = bd.load_pretrained(DUST.name)
    figures = []
    for name, simulator in kinds(prior).items():
        figures += judged(name, prior, simulator, own if name == OWN else folder / name.replace(" ", "_").lower())
    return figures


def kinds(prior: bd.DiffusionModel) -> dict[str, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Simulators of every kind of data."""
    own = partial(own_field, prior)
    stokes = MapWindows(jnp.asarray(polarisation_maps()), SIZE, periodic=(True, True))
    planck = MapWindows(jnp.asarray(planck_map()), SIZE, periodic=(False, False))
    return {
        OWN: partial(simulate, prior, own),
        "dust of MHD Q and U": partial(simulate, prior, stokes.draw),
        "dust of the Planck sky": partial(simulate, prior, planck.draw),
        "red noise": partial(reddened, prior, own),
    }


def reddened(prior: bd.DiffusionModel, dust: Callable[[jax.Array], jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """Dust in noise whose power rises as 1 / |k| below the knee, of unit mean over the modes."""
    simulated = simulate(prior, dust, key)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE))) * SIZE
    power = 1.0 + KNEE / np.maximum(frequency, 1.0)
    transfer = jnp.asarray(np.sqrt(power / power.mean()), jnp.float32)
    noise = jnp.fft.ifft2(jnp.fft.fft2(simulated["y"] - simulated[FIELD]) * transfer).real
    return simulated | {"y": simulated[FIELD] + noise}


def judged(name: str, prior: bd.DiffusionModel, simulator: Callable, folder: Path) -> list[Figure]:
    """Calibration of the noise level on one kind of data, and how often the observation is flagged."""
    key, model = jax.random.key(KEY), make_model(prior)
    study = bd.calibration.sbc(
        key, model, algorithm=SURROGATE, num_simulations=NUM, simulator=simulator, store=folder / "study.sbc"
    )
    if name != OWN:  # its page is that of the other study, which has fields as well
        bd.reporting.write_calibration_report(study, folder, title=f"The dust prior on {name}", notes=(str(__doc__),))
    looks = look_at_first(key, model, study, simulator, prior.name, NUM_LOOKED, NUM_FIELDS, 0)
    share = sum(bool(looked.findings) for looked in looks) / NUM_LOOKED
    label = f"{name}: observations of {NUM_LOOKED} that are flagged, share"
    return [
        Figure(f"{name}: smallest adjusted p-value of the ranks", float(study.tests.adjusted.min())),
        Figure(f"{name}: simulations that failed", f"{len(study.failed)} of {NUM}"),
        *quantity_figures(name, study),
        # One false alarm in forty would be chance.
        below(label, share, 0.051) if name == OWN else Figure(label, share),
    ]
