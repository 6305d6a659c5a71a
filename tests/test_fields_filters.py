"""Smoothing against single waves and real-space convolution; histograms of smoothed Gaussian fields; refusals."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage, stats

from bayesdiff.fields import (
    banded_moments,
    cross_correlation,
    find_peaks,
    gaussian_smooth,
    histogram,
    minkowski_functionals,
    moments,
    power_spectrum,
    wavenumbers,
)
from tests.field_toys import gaussian_fields, red_power, z_of_mean


def test_a_wave_is_damped_by_the_transfer_function(x64: None) -> None:
    y, x = np.mgrid[:24, :32]
    wave = np.cos(2 * np.pi * (3 * y / 24 - 5 * x / 32) + 0.3)
    squared = (2 * np.pi) ** 2 * ((3 / 24) ** 2 + (5 / 32) ** 2)
    np.testing.assert_allclose(gaussian_smooth(wave + 2.0, 1.7), 2.0 + np.exp(-squared * 1.7**2 / 2) * wave, atol=1e-12)
    np.testing.assert_allclose(gaussian_smooth(wave, 3.4, pixel_arcmin=2.0), gaussian_smooth(wave, 1.7), atol=1e-12)
    np.testing.assert_allclose(gaussian_smooth(wave, 0.0), wave, atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 20), (15, 18)])
def test_smoothing_is_real_space_convolution(shape: tuple[int, int]) -> None:
    fields = np.random.default_rng(1).standard_normal((2, 3, *shape)).astype(np.float32)
    expected = ndimage.gaussian_filter(fields, (0, 0, 2.0, 2.0), mode="wrap", truncate=8)
    np.testing.assert_allclose(gaussian_smooth(fields, 2.0), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(gaussian_smooth)(fields, 2.0), expected, atol=1e-5)


def test_smoothing_has_gradients(x64: None) -> None:
    field = np.random.default_rng(2).standard_normal((1, 6, 8))
    check_grads(gaussian_smooth, (field, 1.3), order=1, modes=["rev"])


def test_histogram_of_a_smoothed_gaussian_field_is_normal() -> None:
    shape, sigma = (32, 32), 1.5
    power = red_power(shape, slope=-1.0)
    fields = gaussian_fields(3, power, (1500, 1))
    squared = (2 * np.pi * wavenumbers(shape) / 32) ** 2
    sd = np.sqrt(np.mean(power * np.exp(-squared * sigma**2)))
    result = histogram(fields, bins=11, range=(-2.5 * sd, 2.5 * sd), smoothing=sigma)
    expected = np.diff(stats.norm(scale=sd).cdf(result.edges)) / np.diff(result.edges)
    assert np.abs(z_of_mean(result.density[:, 0], expected)).max() < 4
    plain = histogram(fields, bins=11, range=(-2.5 * sd, 2.5 * sd))
    assert np.abs(z_of_mean(plain.density[:, 0], expected)).min() > 5


@pytest.mark.parametrize(
    "statistic",
    [
        power_spectrum,
        lambda field: cross_correlation(np.ones((1, 8, 8)), field),
        lambda field: gaussian_smooth(field, 1.0),
        lambda field: minkowski_functionals(field, [0.0, 1.0]),
        lambda field: banded_moments(field, edges=(1, 2)),
        moments,
        histogram,
        find_peaks,
    ],
)
def test_every_statistic_refuses_nan_and_missing_axes(statistic: Callable) -> None:
    field = np.zeros((1, 8, 8), np.float32)
    field[0, 3, 4:] = np.nan
    with pytest.raises(ValueError, match=r"field must be finite, got 4 NaN or infinite values, .* \(0, 3, 4\)"):
        statistic(field)
    with pytest.raises(ValueError, match=r"must have shape \(..., channels, height, width\), got \(8,\)"):
        statistic(np.zeros(8))
    with pytest.raises(ValueError, match=r"got \(1, 0, 8\)"):
        statistic(np.zeros((1, 0, 8)))


def test_negative_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma must lie in"):
        gaussian_smooth(np.zeros((8, 8)), -1.0)
    with pytest.raises(ValueError, match="sigma must lie in"):
        histogram(np.zeros((8, 8)), smoothing=-1.0)
