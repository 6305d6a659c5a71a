"""Ranks, thinning, and the size and power of the tests on ranks."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom, binomtest

from bayesdiff.calibration import chi_square, holm, location_and_scale, rank_statistics, rank_tests, thin
from bayesdiff.calibration.ranks import ranks_of_all
from tests.calibration_toys import normal_posterior


def test_ranks_count_the_draws_below() -> None:
    rng = np.random.default_rng(0)
    truth, draws = rng.standard_normal((20, 3)), rng.standard_normal((20, 7, 3))
    loop = [[sum(d < t for d in draws[i, :, q]) for q, t in enumerate(truth[i])] for i in range(20)]
    np.testing.assert_array_equal(rank_statistics(truth, draws), loop)


def test_ties_are_broken_evenly() -> None:
    # Draws and truth of a coin: almost every comparison is a tie.
    rng = np.random.default_rng(1)
    coins = rng.integers(0, 2, (20000, 5))
    ranks = rank_statistics(coins[:, 0], coins[:, 1:], key=2)
    assert chi_square(ranks, 4)[1] > 1e-3
    counted = np.sum(coins[:, 1:] < coins[:, :1], axis=1)
    assert chi_square(counted, 4)[1] < 1e-10


def test_the_same_key_gives_the_same_ranks() -> None:
    truth, draws = np.zeros(50), np.zeros((50, 9))
    for key in (3, jax.random.key(3)):
        np.testing.assert_array_equal(rank_statistics(truth, draws, key), rank_statistics(truth, draws, key))
    assert np.any(rank_statistics(truth, draws, jax.random.key(3)) != rank_statistics(truth, draws, jax.random.key(4)))


def test_ranks_of_all_are_a_permutation_that_sorts() -> None:
    rng = np.random.default_rng(3)
    points = rng.integers(0, 4, (9, 2, 5)).astype(float)
    ranks = ranks_of_all(points, rng)
    np.testing.assert_array_equal(np.sort(ranks, axis=0), np.arange(9)[:, None, None] * np.ones((1, 2, 5)))
    by_rank = np.take_along_axis(points, np.argsort(ranks, axis=0), axis=0)
    assert np.all(np.diff(by_rank, axis=0) >= 0)


def test_failed_simulations_are_named_and_not_swallowed() -> None:
    truth, draws = np.zeros(4), np.zeros((4, 3))
    draws[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"draws must not be NaN, got 1 NaN in 1 of 4 simulations \(2\)"):
        rank_statistics(truth, draws)
    with pytest.raises(ValueError, match=r"draws \(simulation, draw, ...\) expected, got \(4,\) and \(3, 3\)"):
        rank_statistics(truth, draws[:3])


def test_thinned_chains_have_uniform_ranks_and_unthinned_ones_do_not() -> None:
    rng = np.random.default_rng(4)
    num_simulations, correlation = 400, 0.9
    innovations = np.sqrt(1 - correlation**2) * rng.standard_normal((num_simulations, 4, 300))
    innovations[..., 0] = rng.standard_normal((num_simulations, 4))
    chains = lfilter([1.0], [1.0, -correlation], innovations, axis=-1)
    truth = rng.standard_normal(num_simulations)
    kept = thin(chains)
    # 1200 draws with autocorrelation time 19.
    assert 25 < kept.draws.shape[1] < 63
    assert abs(np.median(kept.ess) - 1200 / 19) < 15
    assert 0.93 < kept.enough.mean() < 0.97
    assert rank_tests(rank_statistics(truth, kept.draws), kept.draws.shape[1]).passes(0.01)
    every = chains.reshape(num_simulations, -1)[:, :200]
    assert not rank_tests(rank_statistics(truth, every), 200).passes(0.01)


def test_thinning_keeps_the_simulations_that_fail() -> None:
    chains = np.random.default_rng(5).standard_normal((6, 2, 100, 2))
    chains[3] = 0.3
    chains[4, :, :, 1] = [[0.3], [0.4]]
    kept = thin(chains, 10)
    assert kept.draws.shape == (6, 10, 2)
    assert np.isnan(kept.ess[3])
    np.testing.assert_array_equal(kept.enough, ~np.isin(np.arange(6), (3, 4)))
    with pytest.raises(ValueError, match=r"num_draws must lie in \[1, 200\]"):
        thin(chains, 201)
    with pytest.raises(ValueError, match="never move"):
        thin(np.zeros((2, 2, 50)))


def test_a_constant_quantity_hides_nothing_of_the_others() -> None:
    chains = np.random.default_rng(6).standard_normal((3, 2, 100, 2))
    chains[..., 1] = 7.0
    alone = thin(chains[..., :1], 10)
    np.testing.assert_array_equal(thin(chains, 10).ess, alone.ess)
    assert alone.enough.all()
    # Of a single chain nobody knows whether it is stuck.
    assert np.isnan(thin(chains[:, :1], 10).ess).all()


def test_ties_of_different_pixels_are_broken_apart() -> None:
    ranks = ranks_of_all(np.zeros((40, 500)), np.random.default_rng(7))
    np.testing.assert_array_equal(np.sort(ranks, axis=0), np.broadcast_to(np.arange(40)[:, None], ranks.shape))
    # Ranks of one point over the pixels are spread as those of 500 independent ones.
    assert ranks[0].std() == pytest.approx(np.sqrt((40**2 - 1) / 12), rel=0.15)


@pytest.mark.parametrize("num_draws", [1, 9, 99])
def test_right_posteriors_fail_as_rarely_as_stated(num_draws: int) -> None:
    repeats, number = 400, 300
    ranks = np.random.default_rng(num_draws).integers(0, num_draws + 1, (number, repeats))
    tests = rank_tests(ranks, num_draws)
    for test in range(4):
        for level in (0.01, 0.05):
            failed = int(np.sum(tests.p_value[:, test] <= level))
            assert binomtest(failed, repeats, level, alternative="greater").pvalue > 1e-3
    together = np.array([holm(p).min() for p in tests.p_value])
    assert binom.sf(np.sum(together < 0.05) - 1, repeats, 0.05) > 1e-3


@pytest.mark.parametrize("wrong", [{"width": 1.25}, {"width": 0.8}, {"shift": 0.25}, {"shift": -0.25}])
@pytest.mark.parametrize("num_draws", [9, 99])
def test_wrong_posteriors_fail(wrong: dict[str, float], num_draws: int) -> None:
    rng = np.random.default_rng(6)
    failed = 0
    for _ in range(20):
        truth, draws, _ = normal_posterior(rng, 500, num_draws, **wrong)
        failed += not rank_tests(rank_statistics(truth, draws), num_draws).passes(0.01)
    # 0.8 to 0.99 of them, by a normal calculation, with 9 draws and with 99.
    assert failed >= (19 if num_draws == 99 else 14)


def test_the_signs_say_what_is_wrong() -> None:
    rng = np.random.default_rng(7)
    for wrong, sentence in [
        ({"shift": 0.5}, "the posterior lies too high"),
        ({"shift": -0.5}, "the posterior lies too low"),
        ({"width": 1.6}, "the posterior is too wide"),
        ({"width": 0.6}, "the posterior is over-confident"),
    ]:
        truth, draws, _ = normal_posterior(rng, 500, 50, **wrong)
        right, _, _ = normal_posterior(rng, 500, 50)
        exact, same, _ = normal_posterior(rng, 500, 50)
        ranks = np.stack([rank_statistics(truth, draws), rank_statistics(exact, same)], axis=1)
        tests = rank_tests(ranks, 50, ["sigma", "H0"])
        location, scale = location_and_scale(ranks[:, 0], 50)
        assert np.sign(location if "shift" in wrong else scale) == np.sign(
            -wrong.get("shift", wrong.get("width", 1) - 1)
        )
        [failure] = tests.failures()
        assert failure.startswith("sigma: ")
        assert sentence in failure


def test_location_and_scale_have_unit_variance_and_no_mean() -> None:
    # A histogram with one of each rank: exact moments of the polynomials.
    for num_draws in (1, 4, 9):
        each = [np.full(1, rank) for rank in range(num_draws + 1)]
        z = np.array([location_and_scale(rank, num_draws) for rank in each])
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose((z**2).mean(axis=0), [1, 0 if num_draws == 1 else 1], atol=1e-12)


def test_chi_square_knows_the_probability_of_uneven_bins() -> None:
    ranks = np.repeat(np.arange(11), 40)
    statistic, p_value = chi_square(ranks, 10, num_bins=4)
    assert statistic == pytest.approx(0, abs=1e-12)
    assert p_value == pytest.approx(1)


def test_names_must_fit() -> None:
    with pytest.raises(ValueError, match="2 quantities have as many names, got 1: H0"):
        rank_tests(np.zeros((5, 2), dtype=int), 9, ["H0"])
