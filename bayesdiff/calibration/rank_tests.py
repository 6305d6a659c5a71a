"""Tests that ranks are uniform on {0, ..., L}, of several quantities at once.

Four tests, each sensitive to something else and none of them a continuous test on discrete ranks:

* ``ecdf``: the most unusual point of the distribution function, exact (`bayesdiff.calibration.ecdf`);
* ``chi_square``: counts in bins of ranks, with the exact probability of every bin;
* ``location``: the mean rank. Positive where the truth ranks high, so the posterior lies too low;
* ``scale``: the mean of the second discrete Legendre polynomial in the rank, that is how often ranks are extreme.
  Positive where they are too often, so the posterior is over-confident; negative where it is too wide.

The last two are the first components of Neyman's smooth test. Their standard deviation on {0, ..., L} is known, so
that with N simulations each is a standard normal number z up to 1/sqrt(N). They find a posterior that is a little too
wide, which moves every point of the distribution function by little, far sooner than the other two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, norm

from bayesdiff.calibration.arrays import checked_names
from bayesdiff.calibration.ecdf import checked_ranks, ecdf_test, rank_counts

TESTS = ("ecdf", "chi_square", "location", "scale")
SMALLEST_P = 1e-16
"""About the rounding of a double; sentences know of none below it."""


@dataclass(frozen=True)
class RankTests:
    """p-values of every test on every quantity.

    Attributes:
        names: of the quantities.
        statistic: (quantity, test) gamma, chi-square, z of the location, z of the scale, in the order of ``TESTS``.
        p_value: (quantity, test) as each test gives it.
        adjusted: (quantity, test) by Holm's correction over the whole table: the smallest of them is at most p with
            probability p at most, however the quantities and the tests depend on each other.
        num_simulations: number of ranks of each quantity.
        num_draws: number of draws that the truth was ranked among.
    """

    names: tuple[str, ...]
    statistic: np.ndarray
    p_value: np.ndarray
    adjusted: np.ndarray
    num_simulations: int
    num_draws: int

    def passes(self, level: float = 0.01) -> bool:
        """Whether no adjusted p-value is below the level."""
        return bool(np.all(self.adjusted >= level))

    @property
    def per_quantity(self) -> np.ndarray:
        """(quantity,) smallest adjusted p-value of each quantity."""
        return self.adjusted.min(axis=1)

    def failures(self, level: float = 0.01) -> list[str]:
        """Sentences that say which quantity fails, by which test, and what that means."""
        sentences = []
        for row in np.argsort(self.per_quantity):
            if self.per_quantity[row] >= level:
                break
            test = int(np.argmin(self.adjusted[row]))
            sentences.append(
                f"{self.names[row]}: {self._meaning(int(row), level)} "
                f"({TESTS[test]} test, p {p_text(self.adjusted[row, test])} after Holm's correction)"
            )
        return sentences

    def _meaning(self, row: int, level: float) -> str:
        location, scale = TESTS.index("location"), TESTS.index("scale")
        faults = []
        if self.adjusted[row, location] < level:
            faults.append("lies too " + ("low" if self.statistic[row, location] > 0 else "high"))
        if self.adjusted[row, scale] < level:
            faults.append("is " + ("over-confident" if self.statistic[row, scale] > 0 else "too wide"))
        return "the posterior " + " and ".join(faults) if faults else "the ranks are not uniform"


def rank_tests(ranks: ArrayLike, num_draws: int, names: Sequence[str] | None = None) -> RankTests:
    """All four tests on every quantity.

    Args:
        ranks: (simulation,) or (simulation, quantity) integers from 0 to num_draws.
        num_draws: L, the number of draws that the truth was ranked among.
        names: of the quantities; default "0", "1", ...

    Raises:
        ValueError: if ranks lie outside {0, ..., num_draws} or the names do not fit.
    """
    ranks = checked_ranks(ranks, num_draws)
    if ranks.ndim > 2:
        raise ValueError(f"ranks (simulation, quantity) expected, got {ranks.shape}")
    ranks = ranks.reshape(ranks.shape[0], -1)
    ecdf = ecdf_test(ranks, num_draws)
    square, square_p = chi_square(ranks, num_draws)
    location, scale = location_and_scale(ranks, num_draws)
    p_value = np.stack([ecdf.p_value, square_p, 2 * norm.sf(abs(location)), 2 * norm.sf(abs(scale))], axis=-1)
    return RankTests(
        names=checked_names(names, ranks.shape[1]),
        statistic=np.stack([ecdf.gamma, square, location, scale], axis=-1),
        p_value=p_value,
        adjusted=holm(p_value),
        num_simulations=ranks.shape[0],
        num_draws=num_draws,
    )


def chi_square(ranks: ArrayLike, num_draws: int, num_bins: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's chi-square of the ranks' histogram.

    Args:
        ranks: (simulation, ...) integers from 0 to num_draws.
        num_draws: L, the number of draws that the truth was ranked among.
        num_bins: default 20, or fewer so that 10 ranks are expected in each. Bins hold whole ranks; where num_bins
            does not divide L + 1 their probabilities differ, which is taken into account.

    Returns:
        chi-square and its p-value, each (...).
    """
    counts = rank_counts(ranks, num_draws)
    number = len(np.asarray(ranks))
    if num_bins is None:
        num_bins = max(2, min(20, number // 10))
    num_bins = min(num_bins, num_draws + 1)
    first = np.arange(num_bins) * (num_draws + 1) // num_bins
    observed = np.add.reduceat(counts, first, axis=0)
    width = np.diff(first, append=num_draws + 1)
    expected = (number * width / (num_draws + 1)).reshape(-1, *(1,) * (counts.ndim - 1))
    statistic = np.sum((observed - expected) ** 2 / expected, axis=0)
    return statistic, np.asarray(chi2.sf(statistic, num_bins - 1))


def location_and_scale(ranks: ArrayLike, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal numbers that say whether ranks are high and whether they are extreme.

    Args:
        ranks: (simulation, ...) integers from 0 to num_draws.
        num_draws: L, the number of draws that the truth was ranked among.

    Returns:
        z of the location and z of the scale, each (...); the scale is 0 with a single draw, which knows nothing of it.
    """
    counts = rank_counts(ranks, num_draws)
    number = len(np.asarray(ranks))
    centred = np.arange(num_draws + 1) - num_draws / 2
    z = []
    for polynomial in (centred, centred**2 - np.mean(centred**2)):
        deviation = np.sqrt(np.mean(polynomial**2))
        standard = polynomial / deviation if deviation > 0 else polynomial
        z.append(np.tensordot(standard, counts, axes=1) / np.sqrt(number))
    return z[0], z[1]


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values corrected for their number (Holm 1979), valid however they depend on each other.

    Args:
        p_values: of any shape.

    Returns:
        The corrected p-values, in the same shape.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p_values = np.asarray(p_values, dtype=float)
    flat = p_values.ravel()
    order = np.argsort(flat)
    corrected = np.maximum.accumulate(flat[order] * np.arange(flat.size, 0, -1))
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(corrected, 1.0)
    return adjusted.reshape(p_values.shape)


def p_text(p: float) -> str:
    """A p-value for a sentence, with its sign of comparison."""
    return f"= {p:.1e}" if p > SMALLEST_P else f"< {SMALLEST_P:.0e}"
