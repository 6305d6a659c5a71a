"""CRPS and energy score against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln, hyp1f1
from scipy.stats import norm

from bayesdiff.calibration import crps, energy_score


def exact_crps(y: np.ndarray) -> np.ndarray:
    """Of a unit normal law (Gneiting et al. 2005, equation 5)."""
    return y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)


@pytest.mark.parametrize("num_draws", [2, 5, 100])
def test_crps_of_a_normal_law_is_unbiased_for_every_number_of_draws(num_draws: int) -> None:
    rng = np.random.default_rng(num_draws)
    y = np.array([0.0, 0.7, -2.5])
    repeats = 200_000 // num_draws
    scores = crps(np.tile(y, (repeats, 1)), rng.standard_normal((repeats, num_draws, 3)))
    error = scores.std(axis=0) / np.sqrt(repeats)
    assert np.all(np.abs(scores.mean(axis=0) - exact_crps(y)) < 4 * error)


def test_crps_is_the_double_sum() -> None:
    rng = np.random.default_rng(0)
    truth, draws = rng.standard_normal(4), rng.standard_normal((4, 6))
    for score, y, x in zip(crps(truth, draws), truth, draws, strict=True):
        pairs = np.abs(x[:, None] - x[None, :]).sum() / (2 * 6 * 5)
        assert score == pytest.approx(np.abs(x - y).mean() - pairs)


def mean_distance(dimension: int, y: float) -> float:
    """E |X - y| of a unit normal vector and a fixed one of length y."""
    ratio = np.exp(gammaln((dimension + 1) / 2) - gammaln(dimension / 2))
    return float(np.sqrt(2) * ratio * hyp1f1(-0.5, dimension / 2, -(y**2) / 2))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4)])
def test_energy_score_of_a_normal_law(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    repeats, dimension = 4000, int(np.prod(shape))
    y = np.full(shape, 1.3 / np.sqrt(dimension))
    scores = energy_score(np.tile(y, (repeats, *(1,) * y.ndim)), rng.standard_normal((repeats, 6, *shape)), scale=1.0)
    exact = mean_distance(dimension, 1.3) - np.sqrt(2) * mean_distance(dimension, 0.0) / 2
    assert abs(scores.mean() - exact) < 4 * scores.std() / np.sqrt(repeats)


def test_energy_score_of_one_quantity_is_the_crps() -> None:
    rng = np.random.default_rng(2)
    truth, draws = rng.standard_normal((5, 1)), rng.standard_normal((5, 8, 1))
    np.testing.assert_allclose(energy_score(truth, draws, scale=2.0), crps(truth, draws)[:, 0] / 2)


def test_energy_score_does_not_depend_on_units() -> None:
    rng = np.random.default_rng(3)
    truth, draws = rng.standard_normal((50, 2)), rng.standard_normal((50, 8, 2))
    np.testing.assert_allclose(energy_score(truth * [1, 1e-6], draws * [1, 1e-6]), energy_score(truth, draws))


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 draws"):
        crps(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="positive finite scale, got 1 of 2 without"):
        energy_score(np.array([[0.0, 1.0], [1.0, 1.0]]), np.ones((2, 3, 2)))
