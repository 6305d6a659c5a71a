"""Ranks of the truth in posterior density: whether it lies in the highest-density region of every level.

Where the posterior density is known up to a factor, it is a test quantity like any other, and the rank of the truth's
density among the draws' is exactly uniform. Where only draws are known, the density is a Gaussian kernel estimate from
**all** points, the truth and its draws alike. As the estimate treats them alike, the rank stays exactly uniform for a
correct posterior, whatever the bandwidth; an estimate from the draws alone would see the truth at a disadvantage. The
bandwidth (Silverman's rule) decides only how close the region is to the one of highest density.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.calibration.arrays import Key, matched
from bayesdiff.calibration.exchange import with_truth_first
from bayesdiff.calibration.ranks import rank_statistics


def density_ranks(truth: ArrayLike, draws: ArrayLike, key: Key = 0) -> np.ndarray:
    """Number of draws in regions denser than the truth, of each quantity on its own.

    Args:
        truth: (simulation, ...).
        draws: (simulation, draw, ...), independent draws; the cost is quadratic in their number.
        key: for ties.

    Returns:
        (simulation, ...) integers from 0 (the truth is at the mode) to the number of draws.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, or there are fewer than 2 draws.
    """
    truth, draws = matched(truth, draws, smallest=2)
    points = with_truth_first(truth, draws)
    rows = np.moveaxis(points, 1, -1)
    density = np.moveaxis(_log_kernel_density(rows.reshape(-1, rows.shape[-1], 1)).reshape(rows.shape), -1, 1)
    return rank_statistics(-density[:, 0], -density[:, 1:], key)


def joint_density_ranks(truth: ArrayLike, draws: ArrayLike, key: Key = 0) -> np.ndarray:
    """Number of draws in regions denser than the truth, in the joint posterior of all quantities.

    Args:
        truth: (simulation, quantity), a handful of quantities at most: kernel estimates know little in more.
        draws: (simulation, draw, quantity), independent draws, more than there are quantities.
        key: for ties.

    Returns:
        (simulation,) integers from 0 to the number of draws.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, or there are too few draws.
    """
    truth, draws = matched(truth, draws, smallest=2)
    if truth.ndim != 2 or draws.shape[1] <= truth.shape[1]:
        raise ValueError(
            "truth (simulation, quantity) and draws (simulation, draw, quantity) with more draws than quantities "
            f"expected, got {truth.shape} and {draws.shape}"
        )
    density = _log_kernel_density(with_truth_first(truth, draws))
    return rank_statistics(-density[:, 0], -density[:, 1:], key)


def _log_kernel_density(points: np.ndarray) -> np.ndarray:
    """Log of Gaussian kernel densities (row, point) of points (row, point, quantity) at the points themselves.

    Up to a constant; a few rows at a time, so that the distances between all points fit into memory.
    """
    at_once = max(1, 2**21 // points.shape[1] ** 2)
    return np.concatenate([_rows(points[i : i + at_once].astype(float)) for i in range(0, len(points), at_once)])


def _rows(points: np.ndarray) -> np.ndarray:
    number, dimension = points.shape[1:]
    # Robust scales, since one outlier must not blur the whole density.
    quartiles = np.quantile(points, [0.25, 0.75], axis=1)
    scale = np.minimum(points.std(axis=1, ddof=1), (quartiles[1] - quartiles[0]) / 1.34)
    white = (points - points.mean(axis=1, keepdims=True)) / np.where(scale > 0, scale, 1.0)[:, None]
    if dimension > 1:
        # Principal axes of unit variance, so that the kernel has the shape of the posterior.
        values, axes = np.linalg.eigh(np.matmul(np.swapaxes(white, 1, 2), white) / (number - 1))
        deviations = np.sqrt(np.maximum(values, 1e-12 * values[:, -1:] + 1e-300))
        white = np.matmul(white, axes) / deviations[:, None]
    bandwidth = (4 / (dimension + 2) / number) ** (1 / (dimension + 4))
    distance = sum((column[:, :, None] - column[:, None, :]) ** 2 for column in np.moveaxis(white, -1, 0))
    return np.log(np.sum(np.exp(distance / (-2 * bandwidth**2)), axis=-1))
