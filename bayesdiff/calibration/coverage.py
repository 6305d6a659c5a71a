"""Coverage: how often regions of the posterior at many levels hold the truth.

Two families of regions. The **central** interval of level c is equal-tailed, so it keeps its meaning under a change of
variable; the **highest-density** region is the smallest. A region among L draws is a set of ranks, and its probability
is a multiple of 1 / (L + 1); at a level between two multiples the rank at the edge counts with the share of it that is
inside. With that the expected coverage is the level itself for every number of draws, without a limit or a random
number, and its variance at most the binomial one. The p-values compare the coverage at all levels that L draws can
distinguish, by the exact test of `bayesdiff.calibration.binomial_path`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from bayesdiff.calibration.arrays import Key, checked_levels, generator, matched
from bayesdiff.calibration.binomial_path import binomial_path
from bayesdiff.calibration.density_ranks import density_ranks
from bayesdiff.calibration.ecdf import checked_ranks, ecdf_test
from bayesdiff.calibration.ranks import rank_statistics

LEVELS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())
# Standard deviations 1 and 2 of a normal law.
SIGMAS = (0.6826894921370859, 0.9544997361036416)


class CoverageCurve(NamedTuple):
    """Coverage of one family of regions.

    Attributes:
        levels: (level,) nominal coverage.
        coverage: (level, ...) fraction of simulations whose region holds the truth.
        lower: (level,) lower end of the binomial band for a calibrated posterior, at each level on its own.
        upper: (level,) its upper end.
        p_value: (...) of the whole curve, all levels at once.
    """

    levels: np.ndarray
    coverage: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray


class Coverage(NamedTuple):
    """Coverage of central and of highest-density intervals."""

    central: CoverageCurve
    highest_density: CoverageCurve


def coverage(
    truth: ArrayLike, draws: ArrayLike, levels: ArrayLike = LEVELS, band: float = 0.95, key: Key = 0
) -> Coverage:
    """Coverage of central intervals and of highest-density regions of every quantity.

    Args:
        truth: (simulation, ...).
        draws: (simulation, draw, ...), independent draws.
        levels: (level,) nominal levels.
        band: probability of the binomial band at each level.
        key: for ties.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, or the levels do not increase between 0 and 1.

    >>> rng = np.random.default_rng(1)
    >>> y = rng.standard_normal((300, 1))
    >>> measured = coverage(y[:, 0] + rng.standard_normal(300), y + rng.standard_normal((300, 50)))
    >>> bool(measured.central.p_value > 0.01)
    True
    """
    truth, draws = matched(truth, draws, smallest=2)
    rng = generator(key)
    num_draws = draws.shape[1]
    return Coverage(
        central_coverage(rank_statistics(truth, draws, rng), num_draws, levels, band),
        density_coverage(density_ranks(truth, draws, rng), num_draws, levels, band),
    )


def central_coverage(ranks: ArrayLike, num_draws: int, levels: ArrayLike = LEVELS, band: float = 0.95) -> CoverageCurve:
    """Coverage of central intervals from ranks (simulation, ...) of the truth among ``num_draws`` draws."""
    ranks = checked_ranks(ranks, num_draws)
    number = ranks.shape[0]
    # Distances from the middle rank, and the probability of being as near.
    reach = np.arange(num_draws % 2, num_draws, 2)
    probabilities = tuple(((reach + 1) / (num_draws + 1)).tolist())
    spread = np.abs(2 * ranks - num_draws)
    counts = np.stack([np.sum(spread <= r, axis=0) for r in reach]) if reach.size else np.zeros((0, *ranks.shape[1:]))
    path = binomial_path(number, probabilities)
    gamma = path.statistic(counts.astype(int))
    p_value = np.vectorize(path.p_value, otypes=[float])(gamma)
    return _curve(central_share(num_draws, levels), ranks, levels, band, p_value)


def density_coverage(ranks: ArrayLike, num_draws: int, levels: ArrayLike = LEVELS, band: float = 0.95) -> CoverageCurve:
    """Coverage of highest-density regions from density ranks (simulation, ...), 0 for a truth at the mode.

    The ranks are those of `density_ranks` or `joint_density_ranks`, or, where the posterior density is known,
    ``rank_statistics(-log_density_of_truth, -log_density_of_draws)``.
    """
    ranks = checked_ranks(ranks, num_draws)
    return _curve(density_share(num_draws, levels), ranks, levels, band, ecdf_test(ranks, num_draws).p_value)


def central_share(num_draws: int, levels: ArrayLike) -> np.ndarray:
    """Share (level, num_draws + 1) of every rank's cell that lies in the central interval; its mean is the level."""
    levels = checked_levels(levels)[:, None]
    edges = np.arange(num_draws + 2) / (num_draws + 1)
    low, high = (1 - levels) / 2, (1 + levels) / 2
    return np.diff(np.clip(edges, low, high), axis=1) * (num_draws + 1)


def density_share(num_draws: int, levels: ArrayLike) -> np.ndarray:
    """Share (level, num_draws + 1) of every density rank's cell that lies in the region; its mean is the level."""
    levels = checked_levels(levels)[:, None]
    return np.diff(np.minimum(np.arange(num_draws + 2) / (num_draws + 1), levels), axis=1) * (num_draws + 1)


def _curve(share: np.ndarray, ranks: np.ndarray, levels: ArrayLike, band: float, p_value: np.ndarray) -> CoverageCurve:
    levels = checked_levels(levels)
    number = ranks.shape[0]
    lower, upper = (binom.ppf(q, number, levels) / number for q in ((1 - band) / 2, (1 + band) / 2))
    measured = np.stack([inside[ranks].mean(axis=0) for inside in share])
    return CoverageCurve(levels, measured, lower, upper, p_value)
