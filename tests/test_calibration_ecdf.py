"""Bands and p-values of discrete ranks against complete enumeration and brute-force simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from bayesdiff.calibration import ecdf_band, ecdf_test, rank_counts, rank_ecdf
from bayesdiff.calibration.binomial_path import BinomialPath, uniform_path


def enumerated(number: int, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Every histogram of the ranks (num_draws + 1, histogram), and its probability."""
    bars = itertools.combinations(range(number + num_draws), num_draws)
    histograms = np.array(
        [np.diff([-1, *places, number + num_draws]) - 1 for places in bars], dtype=int
    )  # stars and bars
    ways = np.array([math.factorial(number) / math.prod(map(math.factorial, h)) for h in histograms.tolist()])
    return histograms.T, ways / (num_draws + 1) ** number


@pytest.mark.parametrize(("number", "num_draws"), [(7, 3), (12, 4), (5, 1), (1, 6)])
def test_p_value_is_that_of_complete_enumeration(number: int, num_draws: int) -> None:
    histograms, probability = enumerated(number, num_draws)
    assert probability.sum() == pytest.approx(1.0)
    points = np.arange(1, num_draws + 1)[:, None] / (num_draws + 1)
    counts = np.cumsum(histograms, axis=0)[:-1]
    low, high = binom.cdf(counts, number, points), binom.sf(counts - 1, number, points)
    gamma = np.minimum(1, 2 * np.minimum(low, high)).min(axis=0)
    path = uniform_path(number, num_draws)
    np.testing.assert_allclose(path.statistic(counts), gamma, rtol=1e-9)
    for value in np.unique(gamma):
        expected = probability[gamma <= value * (1 + 1e-9)].sum()
        assert path.p_value(value) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("number", "num_draws", "level"), [(300, 9, 0.95), (50, 99, 0.9), (500, 20, 0.99)])
def test_band_holds_the_whole_curve_as_often_as_it_says(number: int, num_draws: int, level: float) -> None:
    rng = np.random.default_rng(0)
    repeats = 4000
    band = ecdf_band(number, num_draws, level)
    curves = rank_ecdf(rng.integers(0, num_draws + 1, (number, repeats)), num_draws)
    low, high = band.lower[:, None], band.upper[:, None]
    inside = np.mean(np.all((curves >= low - 1e-12) & (curves <= high + 1e-12), axis=0))
    assert level <= band.probability < level + 0.01
    assert abs(inside - band.probability) < 4 * math.sqrt(level * (1 - level) / repeats)


def test_unequal_steps_against_simulation() -> None:
    z = (0.05, 0.1, 0.5, 0.52, 0.97)
    path = BinomialPath(80, z)
    values = np.random.default_rng(1).uniform(size=(80, 20000))
    counts = np.stack([np.sum(values < point, axis=0) for point in z])
    gamma = path.threshold(0.8)
    inside = np.mean(path.statistic(counts) > gamma * (1 + 1e-9))
    assert path.probability_inside(gamma) >= 0.8
    assert abs(inside - path.probability_inside(gamma)) < 4 * math.sqrt(0.16 / 20000)


def test_p_values_are_valid_and_agree_with_the_band() -> None:
    rng = np.random.default_rng(2)
    repeats = 500
    ranks = rng.integers(0, 10, (200, repeats))
    test = ecdf_test(ranks, 9)
    for level in (0.01, 0.05, 0.2, 0.5):
        assert binom.sf(np.sum(test.p_value <= level) - 1, repeats, level) > 1e-3
    # Discreteness costs little: the test is not much smaller than it says.
    assert np.mean(test.p_value <= 0.2) > 0.12
    band = ecdf_band(200, 9, 0.95)
    curves = rank_ecdf(ranks, 9)
    leaves = np.any((curves < band.lower[:, None] - 1e-12) | (curves > band.upper[:, None] + 1e-12), axis=0)
    np.testing.assert_array_equal(leaves, test.p_value <= 0.05)


def test_a_perfect_histogram_passes_and_an_impossible_one_fails() -> None:
    perfect = np.repeat(np.arange(10), 50)
    assert ecdf_test(perfect, 9).p_value > 0.999
    p_value = ecdf_test(np.zeros(500, dtype=int), 9).p_value
    assert 0 < p_value < 1e-12
    np.testing.assert_array_equal(rank_counts(perfect, 9), 50)


def test_bad_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lie in \[0, 9\], got 0 to 10"):
        ecdf_test(np.arange(11), 9)
    with pytest.raises(ValueError, match="integer ranks"):
        ecdf_test(np.array([0.5]), 9)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        ecdf_band(10, 9, 95)
    with pytest.raises(ValueError, match="increasing probabilities"):
        BinomialPath(10, (0.5, 0.5))
