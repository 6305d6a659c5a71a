"""Coverage of central and highest-density regions, local coverage, z-scores and contraction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import root_scalar
from scipy.stats import binom, gamma, norm

from bayesdiff.calibration import (
    central_coverage,
    coverage,
    density_coverage,
    density_ranks,
    joint_density_ranks,
    local_coverage,
    rank_statistics,
    z_scores,
)
from bayesdiff.calibration.coverage import central_share, density_share
from tests.calibration_toys import normal_posterior


@pytest.mark.parametrize("num_draws", [1, 2, 9, 10, 99])
def test_expected_coverage_is_the_level_for_every_number_of_draws(num_draws: int) -> None:
    levels = [0.01, 0.1, 0.5, 0.683, 0.95, 0.999]
    for share in (central_share(num_draws, levels), density_share(num_draws, levels)):
        assert share.min() >= 0
        assert share.max() <= 1 + 1e-12
        np.testing.assert_allclose(share.mean(axis=1), levels, rtol=1e-12)


def test_central_intervals_are_those_between_order_statistics() -> None:
    truth, draws, _ = normal_posterior(np.random.default_rng(0), 200, 19)
    ordered = np.sort(draws, axis=1)
    measured = coverage(truth, draws, levels=[0.1, 0.5, 0.9]).central
    # Probability of lying between the order statistics a and 20 - a is 1 - a / 10.
    for a, value in [(9, measured.coverage[0]), (5, measured.coverage[1]), (1, measured.coverage[2])]:
        assert value == pytest.approx(np.mean((truth > ordered[:, a - 1]) & (truth < ordered[:, 19 - a])))
    np.testing.assert_allclose(measured.lower, binom.ppf(0.025, 200, [0.1, 0.5, 0.9]) / 200)


def test_right_posteriors_pass_and_wrong_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    for width, failures in [(1.0, (0, 2)), (1.5, (9, 10)), (0.65, (9, 10))]:
        failed = np.zeros(2, dtype=int)
        for _ in range(10):
            truth, draws, _ = normal_posterior(rng, 300, 39, width=width)
            measured = coverage(truth, draws, levels=[0.5])
            failed += [measured.central.p_value < 0.01, measured.highest_density.p_value < 0.01]
            assert np.sign(measured.central.coverage[0] - 0.5) == np.sign(width - 1) or width == 1
        assert np.all((failures[0] <= failed) & (failed <= failures[1]))


def test_p_values_of_few_discrete_draws_are_valid() -> None:
    repeats = 400
    ranks = np.random.default_rng(2).integers(0, 10, (150, repeats))
    for curve in (central_coverage(ranks, 9), density_coverage(ranks, 9)):
        for level in (0.01, 0.1):
            assert binom.sf(np.sum(curve.p_value <= level) - 1, repeats, level) > 1e-3
        assert curve.coverage.shape == (19, repeats)
    assert central_coverage(ranks % 2, 1).p_value == pytest.approx(1)


def exact_region(shape: float, level: float) -> tuple[float, float]:
    """Ends of the highest-density region of a gamma law."""
    mode = shape - 1

    def root(function: Callable[[float], float], a: float, b: float) -> float:
        return root_scalar(function, bracket=(a, b)).root

    def upper(low: float) -> float:
        return root(lambda x: gamma.logpdf(x, shape) - gamma.logpdf(low, shape), mode, 60.0)

    low = root(lambda a: gamma.cdf(upper(a), shape) - gamma.cdf(a, shape) - level, 1e-9, mode - 1e-9)
    return low, upper(low)


def test_highest_density_regions_of_a_skewed_law() -> None:
    # A scale family: y has no information on the shape of the posterior, a gamma law of shape 2.
    rng = np.random.default_rng(3)
    truth, draws = rng.gamma(2.0, size=400), rng.gamma(2.0, size=(400, 199))
    ranks = density_ranks(truth, draws)
    assert density_coverage(ranks, 199).p_value > 0.01
    for level in (0.5, 0.9):
        low, high = exact_region(2.0, level)
        inside = (truth > low) & (truth < high)
        # Neither the region of finitely many draws nor the kernel estimate is the exact one.
        assert np.mean(inside == (ranks < level * 200)) > 0.87
    # The density itself as the test quantity gives the same, exactly.
    known = rank_statistics(-gamma.logpdf(truth, 2.0), -gamma.logpdf(draws, 2.0))
    assert density_coverage(known, 199).p_value > 0.01
    assert np.corrcoef(known, ranks)[0, 1] > 0.93
    # A normal law of the same mean and variance has another region, though its central interval is nearly right.
    normal = norm(2.0, np.sqrt(2.0)).rvs((1500, 99), random_state=rng)
    assert density_coverage(density_ranks(rng.gamma(2.0, size=1500), normal), 99).p_value < 1e-5


def test_a_bimodal_posterior_has_a_region_of_two_parts() -> None:
    rng = np.random.default_rng(4)
    draws = rng.choice([-4.0, 4.0], (100, 299)) + rng.standard_normal((100, 299))
    between = density_ranks(np.zeros(100), draws)
    at_a_mode = density_ranks(np.full(100, 4.0), draws)
    assert between.min() > 285
    assert at_a_mode.mean() < 75


def test_joint_regions_see_a_wrong_correlation_that_the_margins_do_not() -> None:
    rng = np.random.default_rng(5)
    root = np.linalg.cholesky(np.array([[1.0, 0.9], [0.9, 1.0]]))
    truth, right = rng.standard_normal((300, 2)) @ root.T, rng.standard_normal((300, 59, 2)) @ root.T
    independent = rng.standard_normal((300, 59, 2))
    assert density_coverage(joint_density_ranks(truth, right), 59).p_value > 0.01
    assert density_coverage(joint_density_ranks(truth, independent), 59).p_value < 1e-6
    assert np.all(coverage(truth, independent).central.p_value > 0.01)
    stretched = joint_density_ranks(truth * [1e5, 1.0], right * [1e5, 1.0])
    np.testing.assert_array_equal(stretched, joint_density_ranks(truth, right))


def test_local_coverage_of_a_correct_posterior_is_expected_even_where_it_is_not_nominal() -> None:
    rng = np.random.default_rng(6)
    p_values, z = [], []
    for _ in range(100):
        truth, draws, _ = normal_posterior(rng, 300, 30)
        local = local_coverage(truth, draws, num_bins=5)
        p_values.append(local.p_value)
        z.append(local.z)
    # At extreme truths the prior pulls the posterior away: far below the nominal 0.68.
    assert local.expected[[0, -1]].max() < 0.58
    assert local.expected[2] > 0.8
    assert binom.sf(np.sum(np.array(p_values) <= 0.05) - 1, 100, 0.05) > 1e-3
    assert 0.8 < np.std(z) < 1.2
    assert abs(np.mean(z)) < 4 / np.sqrt(500)


def test_local_coverage_finds_where_a_posterior_fails() -> None:
    rng = np.random.default_rng(7)
    truth, _, data = normal_posterior(rng, 600, 1)
    # Over-confident where the data are large only.
    width = np.where(data > 1, 0.4, 1.0)[:, None]
    draws = data[:, None] / 2 + np.sqrt(0.5) * width * rng.standard_normal((600, 40))
    local = local_coverage(truth, draws, by=data, num_bins=6)
    np.testing.assert_array_equal(local.number, 100)
    assert local.p_value < 1e-6
    assert local.z[-1] < -4
    assert np.all(np.abs(local.z[:3]) < 4)
    np.testing.assert_allclose(local.expected, 0.6827, atol=0.01)
    with pytest.raises(ValueError, match="one quantity expected"):
        local_coverage(truth[:, None], draws[..., None])


def test_z_scores_and_contraction_of_a_conjugate_posterior() -> None:
    rng = np.random.default_rng(8)
    truth, draws, _ = normal_posterior(rng, 4000, 400, noise=0.5)
    scores = z_scores(truth, draws)
    assert np.std(scores.z) == pytest.approx(1.0, abs=4 / np.sqrt(8000))
    assert scores.mean_absolute_z == pytest.approx(np.sqrt(2 / np.pi), abs=4 * 0.6 / np.sqrt(4000))
    assert scores.contraction.mean() == pytest.approx(1 - 0.2, abs=0.02)
    low = z_scores(np.ones((50, 1)), rng.standard_normal((50, 9, 1)), prior_sd=[2.0])
    assert low.z.mean() < 0
    assert low.contraction.mean() == pytest.approx(0.75, abs=0.1)


def test_bad_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        coverage(np.zeros(3), np.ones((3, 4)), levels=[68, 95])
