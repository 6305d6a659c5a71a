"""Simultaneous bands for the empirical distribution function of discrete ranks, and the test that they are.

A rank among L draws takes L + 1 values, so the distribution function is evaluated at the L points i / (L + 1), where
that of uniform ranks is known without error (Saeilynoja, Buerkner and Vehtari 2022, arXiv:2103.10522). The band holds
the whole curve with the stated probability, so one point outside it is a rejection at that level, and the p-value says
at which level the curve would first touch the band; see `bayesdiff.calibration.binomial_path` for both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.calibration.binomial_path import uniform_path


class EcdfBand(NamedTuple):
    """Where the empirical distribution function of uniform ranks lies.

    Attributes:
        points: (draw,) evaluation points i / (L + 1), which are also the expected values.
        lower: (draw,) lowest fraction inside the band.
        upper: (draw,) highest fraction inside the band.
        level: probability asked for.
        probability: probability that the whole curve is inside, at least the level.
        gamma: two-sided tail probability that a single point must exceed to be inside.
    """

    points: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float
    probability: float
    gamma: float


class EcdfTest(NamedTuple):
    """Outcome of the test for uniform ranks.

    Attributes:
        gamma: (...) smallest two-sided tail probability along the curve.
        p_value: (...) probability of one as small under uniformity.
    """

    gamma: np.ndarray
    p_value: np.ndarray


def checked_ranks(ranks: ArrayLike, num_draws: int) -> np.ndarray:
    """Ranks (simulation, ...) as integers.

    Raises:
        ValueError: if there are none, they are not integers, or one lies outside {0, ..., num_draws}.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim < 1 or ranks.shape[0] == 0 or not np.issubdtype(ranks.dtype, np.integer):
        raise ValueError(f"integer ranks (simulation, ...) expected, got {ranks.dtype} of shape {ranks.shape}")
    if ranks.size and (ranks.min() < 0 or ranks.max() > num_draws):
        raise ValueError(f"ranks among {num_draws} draws lie in [0, {num_draws}], got {ranks.min()} to {ranks.max()}")
    return ranks


def rank_counts(ranks: ArrayLike, num_draws: int) -> np.ndarray:
    """How often each rank occurred: (num_draws + 1, ...) counts of ranks (simulation, ...)."""
    ranks = checked_ranks(ranks, num_draws)
    flat = ranks.reshape(ranks.shape[0], -1)
    counts = np.stack([np.bincount(column, minlength=num_draws + 1) for column in flat.T], axis=1)
    return counts.reshape(num_draws + 1, *ranks.shape[1:])


def rank_ecdf(ranks: ArrayLike, num_draws: int) -> np.ndarray:
    """Fraction of the ranks below i, for i = 1, ..., num_draws.

    Args:
        ranks: (simulation, ...) integers from 0 to num_draws.
        num_draws: L, the number of draws that the truth was ranked among.

    Returns:
        (num_draws, ...); at i it is i / (L + 1) on average for uniform ranks.
    """
    counts = rank_counts(ranks, num_draws)
    return np.cumsum(counts, axis=0)[:-1] / counts.sum(axis=0)


def ecdf_band(num_simulations: int, num_draws: int, level: float = 0.95) -> EcdfBand:
    """The simultaneous band of uniform ranks.

    Args:
        num_simulations: number of ranks.
        num_draws: L; ranks lie in {0, ..., L}.
        level: probability that the whole curve lies inside. Since ranks are discrete it is exceeded a little.

    Raises:
        ValueError: if the level is not between 0 and 1.

    >>> band = ecdf_band(500, 9)
    >>> band.points.shape, bool(band.lower[4] < 0.5 < band.upper[4])
    ((9,), True)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    path = uniform_path(num_simulations, num_draws)
    gamma = path.threshold(level)
    low, high = path.band(gamma)
    return EcdfBand(
        path.probabilities,
        low / num_simulations,
        high / num_simulations,
        level,
        path.probability_inside(gamma),
        gamma,
    )


def ecdf_test(ranks: ArrayLike, num_draws: int) -> EcdfTest:
    """Test of the ranks' uniformity by the most unusual point of their distribution function.

    Exact for every number of draws and simulations; as ranks are discrete, the probability of a p-value of at most p
    is at most p.

    Args:
        ranks: (simulation, ...) integers from 0 to num_draws.
        num_draws: L, the number of draws that the truth was ranked among.

    Returns:
        gamma and the p-value, each (...).
    """
    counts = np.cumsum(rank_counts(ranks, num_draws), axis=0)[:-1]
    path = uniform_path(len(np.asarray(ranks)), num_draws)
    gamma = path.statistic(counts)
    different, where = np.unique(gamma, return_inverse=True)
    p_values = np.array([path.p_value(float(value)) for value in different])
    return EcdfTest(gamma, p_values[where].reshape(gamma.shape))
