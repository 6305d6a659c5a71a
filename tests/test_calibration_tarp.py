"""TARP on conjugate posteriors, right and wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from bayesdiff.calibration import box_references, tarp, tarp_of_ranks
from tests.calibration_toys import normal_posterior

SHAPE = (3,)


@pytest.mark.parametrize("num_draws", [9, 50])
def test_right_posteriors_fail_as_rarely_as_stated(num_draws: int) -> None:
    rng = np.random.default_rng(num_draws)
    results = []
    for repeat in range(200):
        truth, draws, _ = normal_posterior(rng, 100, num_draws, SHAPE)
        results.append(tarp(truth, draws, key=repeat, num_bootstrap=1))
    for name in ("p_value", "area_p_value"):
        p_values = np.array([getattr(result, name) for result in results])
        for level in (0.01, 0.1):
            assert binom.sf(np.sum(p_values <= level) - 1, 200, level) > 1e-3
    area = np.array([result.area for result in results])
    assert abs(area.mean()) < 4 * area.std() / np.sqrt(200)
    curves = np.mean([result.coverage for result in results], axis=0)
    np.testing.assert_allclose(curves, results[0].levels, atol=4 * np.sqrt(0.25 / 20000))


@pytest.mark.parametrize(
    ("wrong", "sign"), [({"shift": 1.0}, 0), ({"width": 0.6}, -1), ({"width": 1.7}, 1), ({"shift": -1.0}, 0)]
)
def test_wrong_posteriors_fail(wrong: dict[str, float], sign: int) -> None:
    truth, draws, _ = normal_posterior(np.random.default_rng(1), 500, 50, SHAPE, **wrong)
    result = tarp(truth, draws)
    assert result.p_value < 1e-4
    if sign:
        assert np.sign(result.area) == sign
        assert result.area_p_value < 1e-3


def test_units_of_a_parameter_do_not_matter() -> None:
    truth, draws, _ = normal_posterior(np.random.default_rng(2), 100, 20, SHAPE)
    units = np.array([1e-4, 1.0, 1e6])
    np.testing.assert_array_equal(tarp(truth * units, draws * units).ranks, tarp(truth, draws).ranks)


def test_a_bias_in_a_small_unit_is_found() -> None:
    # The first parameter is the wrong one; without a scale the second alone would decide.
    rng = np.random.default_rng(3)
    truth, draws, _ = normal_posterior(rng, 500, 50, (2,))
    draws[..., 0] = normal_posterior(rng, 500, 50)[1]
    truth, draws = truth * [1e-3, 1.0], draws * [1e-3, 1.0]
    assert tarp(truth, draws).p_value < 1e-3
    assert tarp(truth, draws, scale=1.0).p_value > 0.01


def test_a_posterior_that_ignores_the_data_needs_references_that_know_them() -> None:
    rng = np.random.default_rng(4)
    truth, _, data = normal_posterior(rng, 500, 1, SHAPE)
    prior = rng.standard_normal((500, 50, *SHAPE))
    assert tarp(truth, prior).p_value > 0.01
    assert tarp(truth, prior, references=data).p_value < 1e-6
    right = data[:, None] / 2 + np.sqrt(0.5) * rng.standard_normal((500, 50, *SHAPE))
    assert tarp(truth, right, references=data).p_value > 0.01


def test_references_from_a_box() -> None:
    truth, draws, _ = normal_posterior(np.random.default_rng(5), 300, 30, SHAPE)
    references = box_references(truth, key=1)
    assert np.all((references >= truth.min(axis=0)) & (references <= truth.max(axis=0)))
    assert tarp(truth, draws, references).p_value > 0.01
    assert tarp(truth, draws + 1.0, references).p_value < 1e-3


def test_bootstrap_band_is_that_of_resampled_simulations() -> None:
    ranks = np.random.default_rng(6).integers(0, 6, 80)
    result = tarp_of_ranks(ranks, 9, num_bootstrap=4000, band=0.9)
    expected = np.mean(ranks <= 2)
    assert result.coverage[3] == pytest.approx(expected)
    low, high = (binom.ppf(q, 80, expected) / 80 for q in (0.05, 0.95))
    assert result.lower[3] == pytest.approx(low, abs=1.01 / 80)
    assert result.upper[3] == pytest.approx(high, abs=1.01 / 80)
    assert result.levels[[0, -1]].tolist() == [0, 1]
    assert result.coverage[[0, -1]].tolist() == [0, 1]


def test_bad_input_is_refused() -> None:
    truth, draws, _ = normal_posterior(np.random.default_rng(7), 5, 4, SHAPE)
    with pytest.raises(ValueError, match=r"references have the shape of the truth, \(5, 3\), got \(5, 2\)"):
        tarp(truth, draws, references=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="single simulation"):
        tarp(truth[:1], draws[:1], scale=1.0)
    with pytest.raises(ValueError, match="positive finite scale"):
        tarp(np.ones((5, 3)), draws)
