"""Checks of fields on the exact posterior of a Gaussian field, and on posteriors that are wrong in one band."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from bayesdiff.calibration import (
    band_coverage,
    check_fields,
    exchange_test,
    field_tarp,
    functional_ranks,
    pixel_coverage,
    rank_tests,
)
from bayesdiff.fields import wavenumbers

SIZE, CHANNELS, NUM_DRAWS = 16, 2, 24
EDGES = (0.5, 2.5, 5.5, 12.0)
K = wavenumbers((SIZE, SIZE))
POWER = 30.0 / (1 + K**3)
NOISE = 0.5


def gaussian(rng: np.random.Generator, shape: tuple[int, ...], power: np.ndarray) -> np.ndarray:
    white = rng.standard_normal((*shape, SIZE, SIZE))
    return np.fft.ifft2(np.sqrt(power) * np.fft.fft2(white)).real


def wiener_posterior(
    rng: np.random.Generator, number: int, width: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, draws and posterior mean of a Gaussian field in white noise; the width is of each mode's deviation."""
    truth = gaussian(rng, (number, CHANNELS), POWER)
    data = truth + NOISE * rng.standard_normal(truth.shape)
    gain = POWER / (POWER + NOISE**2)
    mean = np.fft.ifft2(gain * np.fft.fft2(data)).real
    draws = mean[:, None] + gaussian(rng, (number, NUM_DRAWS, CHANNELS), gain * NOISE**2 * width**2)
    return truth, draws, mean


def test_exchange_test_has_unit_variance_whatever_the_correlations() -> None:
    rng = np.random.default_rng(0)
    common = rng.exponential(size=(3000, 40, 1, 1))
    values = common + rng.standard_normal((3000, 40, 10, 2)) + rng.standard_normal((3000, 1, 1, 2))
    z = np.stack([exchange_test(part).z for part in np.split(values, 100)])
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=4 / np.sqrt(200))
    # All ten columns share most of their scatter, and each is still right.
    assert np.corrcoef(z[:, 0, 0], z[:, 1, 0])[0, 1] > 0.3
    constant = exchange_test(np.full((5, 4), 0.1))
    assert constant.z == 0
    assert constant.p_value == 1


def test_exact_field_posteriors_pass() -> None:
    rng = np.random.default_rng(1)
    z, p_values = [], []
    for _ in range(12):
        truth, draws, _ = wiener_posterior(rng, 25)
        pixels, bands = pixel_coverage(truth, draws), band_coverage(truth, draws, edges=EDGES)
        np.testing.assert_allclose(pixels.coverage.expected, np.tile(pixels.levels, (CHANNELS, 1)), rtol=1e-9)
        np.testing.assert_allclose(bands.spread.expected, 0.5, atol=1e-3)
        np.testing.assert_allclose(pixels.maps.mean(axis=(-2, -1)).T, pixels.coverage.observed)
        z.append([pixels.spread.z, pixels.location.z, *bands.spread.z.T])
        p_values.append(rank_tests(bands.residual_ranks.reshape(25, -1), NUM_DRAWS).p_value.ravel())
    z = np.ravel(z)
    assert abs(np.mean(z)) < 4 / np.sqrt(z.size)
    assert 0.75 < np.std(z) < 1.25
    p_values = np.ravel(p_values)
    assert binom.sf(np.sum(p_values < 0.01) - 1, p_values.size, 0.01) > 1e-3


def test_over_confidence_is_found_in_its_band() -> None:
    # Deviations a quarter too small at small scales.
    truth, draws, _ = wiener_posterior(np.random.default_rng(2), 60, width=np.where(EDGES[2] <= K, 0.8, 1.0))
    bands = band_coverage(truth, draws, edges=EDGES)
    assert np.all(bands.spread.z[:, 2] > 5)
    assert np.all(bands.coverage.z[:, 2] < -5)
    assert np.all(np.abs(bands.spread.z[:, :2]) < 4)
    residual = rank_tests(bands.residual_ranks[:, 0], NUM_DRAWS)
    assert residual.per_quantity[2] < 1e-6
    assert residual.statistic[2, 2] > 0
    assert np.all(residual.per_quantity[:2] > 0.01)
    assert np.all(pixel_coverage(truth, draws).coverage.observed < pixel_coverage(truth, draws).levels)


def test_an_offset_is_found_in_the_pixels() -> None:
    truth, draws, _ = wiener_posterior(np.random.default_rng(3), 60)
    draws[:, :, 1] += 0.15
    pixels = pixel_coverage(truth, draws)
    assert pixels.location.z[1] < -4
    assert abs(pixels.location.z[0]) < 4


def test_masked_pixels_are_ties_and_count_as_calibrated() -> None:
    truth, draws, _ = wiener_posterior(np.random.default_rng(4), 60)
    truth[..., :8, :], draws[..., :8, :] = 0.0, 0.0
    pixels = pixel_coverage(truth, draws)
    assert np.all(np.abs(pixels.coverage.z) < 4)
    np.testing.assert_allclose(pixels.maps[0, 0, :8], 0.6827, atol=4 * np.sqrt(0.22 / 60))


def test_band_weights_count_every_mode_of_the_plane_once() -> None:
    # The same averages from the full plane of modes, where every mode is there as k and as -k.
    truth, draws, _ = wiener_posterior(np.random.default_rng(5), 3)
    bands = band_coverage(truth, draws, edges=EDGES, levels=[0.5])
    points = np.concatenate([truth[:, None], draws], axis=1)
    modes = np.fft.fft2(points, norm="ortho")
    residual = np.abs(modes - modes.mean(axis=1, keepdims=True)) ** 2
    for band, (low, high) in enumerate(zip(EDGES[:-1], EDGES[1:], strict=True)):
        inside = (low <= K) & (high > K)
        assert bands.num_modes[band] == inside.sum()
        power = residual[..., inside].mean(axis=-1)
        np.testing.assert_array_equal(bands.residual_ranks[..., band], np.sum(power[:, 1:] < power[:, :1], axis=1))


def test_functionals_of_exact_posteriors_pass_and_a_smooth_mean_fails() -> None:
    truth, draws, mean = wiener_posterior(np.random.default_rng(6), 60)
    right = functional_ranks(truth, draws, edges=EDGES)
    assert right.ranks.shape == (60, len(right.names))
    assert right.names[0] == "channel 0, power in band 0"
    assert right.names[-1] == "channel 1, maximum"
    assert rank_tests(right.ranks, NUM_DRAWS, right.names).passes(0.001)
    # Half of the deviations missing: too smooth.
    smooth = functional_ranks(truth, mean[:, None] + 0.5 * (draws - mean[:, None]), edges=EDGES)
    tests = rank_tests(smooth.ranks, NUM_DRAWS, smooth.names)
    power = tests.names.index("channel 0, power in band 2")
    assert tests.statistic[power, 2] > 5
    assert not tests.passes(1e-6)


def test_tarp_of_whole_fields() -> None:
    rng = np.random.default_rng(7)
    truth, draws, mean = wiener_posterior(rng, 150)
    assert field_tarp(truth, draws, edges=EDGES).p_value > 0.01
    # Only the powerless small scales are wrong, which plain distances between fields would not see.
    small = np.where(EDGES[2] <= K, 0.5, 1.0)
    deviation = np.fft.ifft2(small * np.fft.fft2(draws - mean[:, None])).real
    wrong = field_tarp(truth, mean[:, None] + deviation, references=mean, edges=EDGES)
    assert wrong.p_value < 1e-6
    assert field_tarp(truth, draws, references=mean, edges=EDGES).p_value > 0.01
    in_other_units = field_tarp(truth * [[[1e-3]], [[1e3]]], draws * [[[1e-3]], [[1e3]]], edges=EDGES)
    np.testing.assert_array_equal(in_other_units.ranks, field_tarp(truth, draws, edges=EDGES).ranks)


class OneAtATime:
    """Draws that cannot be held in memory all at once."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape = array, array.shape

    def __getitem__(self, index: int) -> np.ndarray:
        assert isinstance(index, int)
        return self.array[index]


def test_one_simulation_is_read_at_a_time() -> None:
    truth, draws, _ = wiener_posterior(np.random.default_rng(8), 4)
    lazy = OneAtATime(draws)
    np.testing.assert_array_equal(pixel_coverage(truth, lazy).maps, pixel_coverage(truth, draws).maps)
    assert band_coverage(truth, lazy, edges=EDGES).num_draws == NUM_DRAWS
    assert field_tarp(truth, lazy, edges=EDGES).num_draws == NUM_DRAWS


def test_bad_fields_are_refused() -> None:
    truth, draws, _ = wiener_posterior(np.random.default_rng(9), 3)
    with pytest.raises(ValueError, match=r"truth \(simulation, channel, height, width\) expected, got \(3, 16, 16\)"):
        pixel_coverage(truth[:, 0], draws)
    with pytest.raises(ValueError, match=r"draws \(simulation, draw, ...\) expected"):
        band_coverage(truth, draws[:, :, :1], edges=EDGES)
    draws[1, 2, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="truth and draws of simulation 1 must not be NaN, got 1 NaN"):
        pixel_coverage(truth, draws)


def test_all_checks_name_the_band_that_is_over_confident() -> None:
    rng = np.random.default_rng(11)
    truth, draws, _ = wiener_posterior(rng, 60)
    exact = check_fields(truth, draws, edges=EDGES)
    assert exact.passes()
    assert exact.verdict().startswith("Fields calibrated: 6 checks of 60 fields pass")
    narrow = np.where((K > EDGES[1]) & (K <= EDGES[2]), 0.8, 1.0)
    truth, draws, _ = wiener_posterior(rng, 60, narrow)
    wrong = check_fields(truth, draws, edges=EDGES)
    assert not wrong.passes()
    assert wrong.p_values()["spread in Fourier bands"] < 1e-4
    centre = f"{wrong.bands.centers[1]:.3g}"
    assert f"over-confident at |k| of {centre} (channel 0), {centre} (channel 1)." in wrong.verdict()
    assert "too wide" not in wrong.verdict()
