"""Masked maps: masks and noise maps as surveys have them, simulated observations, and those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from models.shared_data import read_arrays


class MaskedMap(NamedTuple):
    """An observation, and what is known of it.

    Attributes:
        y: calibrated map, (1, H, W); zero where nothing was observed.
        mask: 1 where a pixel was observed, else 0, (H, W).
        relative_noise: noise of each pixel over the unknown level, (H, W).
        truth: field, its amplitude and offset, level and calibration, where they are known.
        description: what it is, a phrase.
    """

    y: np.ndarray
    mask: np.ndarray
    relative_noise: np.ndarray
    truth: dict[str, np.ndarray] | None = None
    description: str = "masked map"


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
    description: str = "simulated masked map",
) -> MaskedMap:
    """A masked, noisy map of a known field (1, H, W), refused like a survey that does not fit."""
    mask, relative_noise = check_survey(mask, relative_noise, np.shape(field)[-2:])
    noise = level * relative_noise * np.asarray(jax.random.normal(key, field.shape))
    y = np.where(mask, calibration * field + noise, 0.0).astype(np.float32)
    scale = {"amplitude": np.std(field, dtype=float), "offset": np.mean(field, dtype=float)}
    truth = {"x": field, "level": np.asarray(level), "calibration": np.asarray(calibration), **scale}
    return MaskedMap(y, mask, relative_noise, truth, description)


def check_survey(mask: np.ndarray, relative_noise: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The mask as booleans and the relative noise as floats, refused unless they fit.

    Raises:
        ValueError: the shapes do not fit, nothing was observed, or the relative noise is not positive.
    """
    mask, relative_noise = np.asarray(mask).astype(bool), np.asarray(relative_noise, dtype=float)
    for name, array in (("mask", mask), ("relative_noise", relative_noise)):
        if array.shape != tuple(shape):
            raise ValueError(f"{name} must have the shape {tuple(shape)} of the prior's fields, got {array.shape}")
    if not mask.any():
        raise ValueError("the mask must leave a pixel: it is 0 everywhere")
    unfit = ~((relative_noise > 0) & np.isfinite(relative_noise)) & mask
    if unfit.any():
        raise ValueError(
            f"relative_noise must be positive wherever the mask is 1, got {relative_noise[unfit][0]:g} and "
            f"{int(unfit.sum())} such values"
        )
    return mask, relative_noise


def read_masked_map(path: Path, shape: tuple[int, ...]) -> MaskedMap:
    """An observation from a ``.npz`` file.

    Args:
        path: with the arrays ``y``, ``mask`` and ``relative_noise``, (H, W) each; ``y`` in the unit of the prior.
        shape: (1, H, W) of the prior.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it cannot be read, lacks an array, or one does not fit; an observed pixel is not finite.
    """
    arrays = read_arrays(path)
    missing = {"y", "mask", "relative_noise"} - set(arrays)
    if missing:
        raise ValueError(f"{path} must hold y, mask and relative_noise, got {', '.join(arrays) or 'no array'}")
    mask, relative_noise = check_survey(arrays["mask"], arrays["relative_noise"], shape[-2:])
    if arrays["y"].shape not in (shape, shape[1:]):
        raise ValueError(f"y must have shape {shape[1:]} or {shape}, got {arrays['y'].shape}")
    y = np.asarray(arrays["y"], dtype=np.float64).reshape(shape)
    unfit = mask & ~np.isfinite(y[0])
    if unfit.any():
        raise ValueError(f"y must be finite wherever the mask is 1, got {int(unfit.sum())} NaN or infinite pixels")
    return MaskedMap(np.where(mask, y, 0.0).astype(np.float32), mask, relative_noise, None, f"masked map {path.name}")
