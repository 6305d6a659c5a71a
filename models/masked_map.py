"""A field under a mask and inhomogeneous noise, with unknown noise level and calibration: denoising and inpainting.

    y = c x + f r n   where the mask is 1,

with x from a diffusion prior, n unit white noise, r a known map of relative noise, f its unknown level and c the
unknown calibration. Neither mask nor r is stationary, so no closed form helps: the field is sampled, as unit normal
values under the prior's probability flow (``bd.noncentred``). The application is the denoising of arXiv:2211.12444,
there at known noise without a mask.

With a Gaussian prior the posterior of x at given (f, c) is that of a linear Gaussian model, in closed form:
:func:`exact_posterior` is the check of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayesdiff as bd

LEVEL_BOUNDS = (0.05, 1.0)
CALIBRATION_SD = 0.05


class MaskedMap(NamedTuple):
    """An observation, and what is known of it.

    Attributes:
        y: calibrated map, (1, H, W); zero where nothing was observed.
        mask: 1 where a pixel was observed, else 0, (H, W).
        relative_noise: noise of each pixel over the unknown level, (H, W).
        truth: field, level and calibration, where they are known.
    """

    y: np.ndarray
    mask: np.ndarray
    relative_noise: np.ndarray
    truth: dict[str, np.ndarray] | None = None


def make_model(
    prior: bd.DiffusionModel, mask: np.ndarray, relative_noise: np.ndarray, context: tuple[float, ...] | None = None
) -> Callable:
    """The NumPyro model of a masked map, with the field as a non-centred site.

    Args:
        prior: diffusion prior of the field, of unit variance.
        mask: 1 where a pixel was observed, else 0, (H, W).
        relative_noise: positive, (H, W).
        context: of the prior; by default the centre of its range.

    Returns:
        A model with sites ``level``, ``calibration``, ``x`` (1, H, W; its unit normal values at ``x_base``) and ``y``.

    Raises:
        ValueError: the shapes do not fit, nothing was observed, or the relative noise is not positive.
    """
    shape = prior.event_shape
    mask, relative_noise = np.asarray(mask, dtype=bool), np.asarray(relative_noise, dtype=float)
    for name, array in (("mask", mask), ("relative_noise", relative_noise)):
        if array.shape != shape[-2:]:
            raise ValueError(f"{name} must have the shape {shape[-2:]} of the prior's fields, got {array.shape}")
    if not mask.any():
        raise ValueError("the mask must leave a pixel: it is 0 everywhere")
    if not np.all(relative_noise[mask] > 0):
        raise ValueError("relative_noise must be positive wherever the mask is 1")
    if context is None:
        context = tuple(0.5 * (low + high) for low, high in prior.context_bounds or ())
    spread = jnp.where(mask, relative_noise, 1.0)

    def model(y=None):
        level = numpyro.sample("level", dist.LogUniform(*LEVEL_BOUNDS))
        calibration = numpyro.sample("calibration", dist.Normal(1.0, CALIBRATION_SD))
        x = numpyro.sample("x", bd.DiffusionPrior(prior, context))
        observed = dist.Normal(calibration * x, level * spread).mask(mask).to_event(3)
        numpyro.sample("y", observed, obs=y)

    return bd.noncentred(model)


def survey_mask(size: int, hole: float = 0.25, stars: int = 6, seed: int = 0) -> np.ndarray:
    """A mask as surveys have: a strip at one edge, a hole in the middle and discs around stars, (size, size)."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size]
    mask = column >= max(size // 16, 1)
    half = hole * size / 2
    mask &= (np.abs(row - size / 2) > half) | (np.abs(column - size / 2) > half)
    for _ in range(stars):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.5, 0.5 + size / 20)
        mask &= (row - centre[0]) ** 2 + (column - centre[1]) ** 2 > radius**2
    return mask


def scan_noise(size: int) -> np.ndarray:
    """Relative noise of a scanning survey: deep in a band across the map, up to three times noisier away from it."""
    row = (np.arange(size) - size / 2) / (size / 2)
    return np.broadcast_to((1.0 + 2.0 * row**2)[:, None], (size, size)).copy()


def observe(
    key: jax.Array,
    field: np.ndarray,
    mask: np.ndarray,
    relative_noise: np.ndarray,
    level: float = 0.3,
    calibration: float = 1.02,
) -> MaskedMap:
    """A masked, noisy map of a known field (1, H, W)."""
    noise = level * relative_noise * np.asarray(jax.random.normal(key, field.shape))
    y = np.where(mask, calibration * field + noise, 0.0).astype(np.float32)
    truth = {"x": field, "level": np.asarray(level), "calibration": np.asarray(calibration)}
    return MaskedMap(y, mask, relative_noise, truth)


def exact_posterior(
    observation: MaskedMap, power: np.ndarray, mean: float, level: float, calibration: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The closed form for a Gaussian field: mean (N,), covariance (N, N) of x and log p(y) at given level, calibration.

    Args:
        observation: of H W = N pixels.
        power: of the field, orthonormal, (H, W).
        mean: of the field.
        level: noise level f.
        calibration: c.
    """
    height, width = power.shape
    correlation = np.real(np.fft.ifft2(power))
    row, column = (x.ravel() for x in np.mgrid[:height, :width])
    prior = correlation[(row[:, None] - row) % height, (column[:, None] - column) % width]
    seen = np.flatnonzero(observation.mask.ravel())
    variance = (level * observation.relative_noise.ravel()[seen]) ** 2
    residual = observation.y.ravel()[seen].astype(float) - calibration * mean
    total = calibration**2 * prior[np.ix_(seen, seen)] + np.diag(variance)
    gain = np.linalg.solve(total, calibration * prior[seen]).T
    log_density = -0.5 * residual @ np.linalg.solve(total, residual) - 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]
    return mean + gain @ residual, prior - calibration * gain @ prior[seen], float(log_density)
