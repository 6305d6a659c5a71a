"""The noise level of single held-out windows, by the bound as it is, and by the bound no surer than it is right.

A prior describes the maps it learned from better than others, and the posterior of a noise level, which thousands of
modes tell, is then too narrow. How much too narrow is itself learned, from windows of known truth that the prior has
not seen either: the exponent of :func:`bayesdiff.calibration.gaussian_exponent`. Held-out maps are cut into a left
and a right half that share no pixel, and the exponent for the windows of one half is that of the other (cross-fitting),
so that no window is judged by what was learned from itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.calibration import Exponent, gaussian_exponent
from bayesdiff.diffusion.densities import LogDensity
from bayesdiff.windows import MapWindows
from models.denoising.data import SIZE, Maps
from models.denoising.model import make_model
from validation.field_posteriors import (
    SURROGATE_OF_ONE,
    Estimate,
    Judged,
    Row,
    by_surrogate,
    calibration_figures,
    posteriors,
)
from validation.figures import Figure

NUM, RANGE = 100, (0.1, 2.0)
REQUIRED = {"noise_level": (0.65, 0.95)}
NAMES = ("noise_level",)
BOUND = bd.Elbo(num_times=32, num_noise=1)
HALVES = ("left", "right")


def as_it_is(prior: bd.DiffusionModel, maps: Maps, folder: Path) -> list[Figure]:
    """By the bound as it is, on windows of all held-out maps."""
    y, s = in_noise(jax.vmap(maps.windows(held_out=True).draw), jax.random.key(22), NUM)
    rows = posteriors(folder, "unknown_noise", _estimate(prior, BOUND), y, s[:, None])
    return calibration_figures("unknown noise", rows, s[:, None], NAMES, REQUIRED)


def cross_fitted(prior: bd.DiffusionModel, maps: Maps, folder: Path) -> list[Figure]:
    """By the bound as it is and raised to the exponent of the other half, on as many windows of each half."""
    plain, tempered, levels, figures = [], [], [], []
    observed = [in_noise(jax.vmap(half.draw), jax.random.key(22 + i), NUM // 2) for i, half in enumerate(halves(maps))]
    for name, (y, s) in zip(HALVES, observed, strict=True):
        plain.append(posteriors(folder, f"unknown_noise_{name}", _estimate(prior, BOUND), y, s[:, None]))
        levels.append(s)
    exponents = [exponent_of(rows, s) for rows, s in zip(plain, levels, strict=True)]
    for name, (y, s), other, found in zip(HALVES, observed, HALVES[::-1], exponents[::-1], strict=True):
        b = min(found.value, 1.0)
        estimate = _estimate(prior, bd.Tempered(BOUND, b))
        tempered.append(posteriors(folder, f"unknown_noise_{name}_{b:.4f}", estimate, y, s[:, None]))
        interval = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
        figures.append(Figure(f"unknown noise: exponent of the {other} half", interval))
    truths = np.concatenate(levels)[:, None]
    both = [[row for rows in kind for row in rows] for kind in (tempered, plain)]
    figures += calibration_figures("unknown noise", both[0], truths, NAMES, REQUIRED)
    return figures + calibration_figures("unknown noise, bound as it is", both[1], truths, NAMES)


def halves(maps: Maps) -> list[MapWindows]:
    """Windows of the left half of the held-out maps, and of the right."""
    middle = maps.held_out.shape[-1] // 2
    parts = (maps.held_out[..., :middle], maps.held_out[..., middle:])
    return [MapWindows(jnp.asarray(part), SIZE, (False, False)) for part in parts]


def exponent_of(rows: list[Row], levels: np.ndarray) -> Exponent:
    """The exponent that makes these posteriors as wide as their errors."""
    return gaussian_exponent(Judged.of(rows).z(levels[:, None])[:, 0])


def in_noise(draw: Callable[[jax.Array], jax.Array], key: jax.Array, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (num, 1, H, W) in white noise, and its levels, uniform in their logarithm."""
    cut, level, noise = jax.random.split(key, 3)
    x = draw(jax.random.split(cut, num))
    low, high = np.log(RANGE)
    s = np.exp(np.asarray(jax.random.uniform(level, (num,), minval=low, maxval=high)))
    return np.asarray(x + s[:, None, None, None] * jax.random.normal(noise, x.shape)), s


def _estimate(prior: bd.DiffusionModel, bound: LogDensity) -> Estimate:
    return by_surrogate(make_model(prior), bd.MarginalSurrogate(bound, **SURROGATE_OF_ONE), NAMES)
