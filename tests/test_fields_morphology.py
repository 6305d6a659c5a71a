"""Minkowski functionals against geometry, image labelling and the closed form of a Gaussian field."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import ndimage, stats

from bayesdiff.fields import (
    banded_moments,
    gaussian_minkowski_functionals,
    histogram,
    minkowski_functionals,
    moments,
    wavenumbers,
)
from tests.field_toys import gaussian_fields


def waves(size: int, cycles: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = 2 * np.pi * cycles * np.mgrid[:size, :size] / size
    # The phase keeps pixels off the symmetry points of the pattern.
    return np.cos(y + 0.3), np.cos(x + 0.7)


def test_stripes(x64: None) -> None:
    size, cycles = 256, 3
    field = waves(size, cycles)[0][None]
    thresholds = np.array([-0.5, 0.0, 0.5])
    result = minkowski_functionals(field, thresholds, window=0.2)
    np.testing.assert_allclose(result.v0[0], np.arccos(thresholds) / np.pi, atol=2 * cycles / size)
    # Each cycle has two straight edges of the map's length.
    np.testing.assert_allclose(result.v1[0], 2 * cycles / size / 4, rtol=0.05)
    np.testing.assert_allclose(result.v2[0], 0.0, atol=1e-12)


def test_blobs_are_counted_as_labelling_counts_them(x64: None) -> None:
    size, cycles = 256, 3
    along_y, along_x = waves(size, cycles)
    field = along_y + along_x
    result = minkowski_functionals(field[None], np.array([-0.8, 0.8]), window=0.2)
    # Above 0.8 the set is cycles^2 blobs, and below -0.8 its complement is. Blobs cut by the border are counted on the
    # map shifted so that none is.
    centred = np.roll(field, -np.array(np.unravel_index(field.argmin(), field.shape)), axis=(0, 1))
    labels = np.zeros(field.shape, int)
    ndimage.label(centred > 0.8, output=labels)
    blobs = labels.max()
    assert blobs == cycles**2
    np.testing.assert_allclose(result.v2[0], np.array([-blobs, blobs]) / size**2, rtol=0.03)


def test_gaussian_field_follows_the_closed_form(x64: None) -> None:
    """Rough at the pixel scale on purpose: the prediction is for the estimator, and not for the continuum."""
    size, number = 64, 300
    k = wavenumbers((size, size))
    power = np.where(k > 0, 3.0 * np.maximum(k, 1) ** -2.5, 0.0) * (k < 25)
    sigma = np.sqrt(power.mean())
    thresholds = sigma * np.linspace(-2.5, 2.5, 11)
    measured = minkowski_functionals(gaussian_fields(1, power, (number, 1)), thresholds)
    predicted = gaussian_minkowski_functionals(power, thresholds)
    for values, expected in zip(measured, predicted, strict=True):
        values = np.asarray(values[:, 0])
        error = values.std(0) / np.sqrt(number)
        z = (values.mean(0) - expected) / error
        assert np.abs(z).max() < 4
        # The check has power: an error of 3 % of the peak would be seen.
        assert np.max(0.03 * np.abs(expected).max() / error) > 4


def test_prediction_is_the_textbook_formula_and_its_window_average(x64: None) -> None:
    k = wavenumbers((32, 32))
    power = np.exp(-0.5 * (k / 3) ** 2)
    sigma0 = np.sqrt(power.mean())
    sigma1 = np.sqrt(np.mean((2 * np.pi * k / 32) ** 2 * power))
    nu = np.linspace(-2, 2, 9)
    at_points = gaussian_minkowski_functionals(power, sigma0 * nu, window=0)
    np.testing.assert_allclose(at_points.v0, stats.norm.sf(nu), rtol=1e-10)
    np.testing.assert_allclose(at_points.v1, sigma1 / (np.sqrt(2) * sigma0) / 8 * np.exp(-(nu**2) / 2), rtol=1e-3)
    v2 = (sigma1 / sigma0) ** 2 / 2 * (2 * np.pi) ** -1.5 * nu * np.exp(-(nu**2) / 2)
    np.testing.assert_allclose(at_points.v2, v2, rtol=2e-3, atol=1e-12)
    fine = sigma0 * np.linspace(0.75, 1.25, 2001)
    averaged = gaussian_minkowski_functionals(power, sigma0 * np.array([0.5, 1.0]))
    inside = gaussian_minkowski_functionals(power, fine, window=0)
    assert float(averaged.v1[1]) == pytest.approx(float(np.trapezoid(inside.v1, fine) / (0.5 * sigma0)), rel=1e-6)
    assert float(averaged.v2[1]) == pytest.approx(float(np.trapezoid(inside.v2, fine) / (0.5 * sigma0)), rel=1e-6)


def test_shapes_jit_and_constant_map() -> None:
    fields = np.random.default_rng(2).standard_normal((2, 3, 16, 12)).astype(np.float32)
    thresholds = np.linspace(-1, 1, 5)
    together = jax.jit(minkowski_functionals)(fields, thresholds)
    one = minkowski_functionals(fields[1, 2], thresholds)
    for all_values, values in zip(together, one, strict=True):
        assert all_values.shape == (2, 3, 5)
        np.testing.assert_allclose(all_values[1, 2], values, rtol=1e-4, atol=1e-6)
    flat = minkowski_functionals(np.zeros((1, 16, 16), np.float32), thresholds)
    np.testing.assert_array_equal(flat.v0[0], [1, 1, 0, 0, 0])
    np.testing.assert_allclose(flat.v1, 0.0)
    assert gaussian_minkowski_functionals(np.ones((3, 16, 16)), thresholds).v2.shape == (3, 5)
    with pytest.raises(ValueError, match="give the window"):
        minkowski_functionals(fields, np.array([0.0]))
    with pytest.raises(ValueError, match="thresholds must increase"):
        minkowski_functionals(fields, thresholds[::-1])
    with pytest.raises(ValueError, match="window must be positive, got 0"):
        minkowski_functionals(fields, thresholds, window=0)
    with pytest.raises(ValueError, match="thresholds must increase"):
        gaussian_minkowski_functionals(np.ones((16, 16)), np.zeros(3))


def test_histogram_agrees_with_numpy() -> None:
    fields = np.random.default_rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32)
    fields[0, 0, 0, :3] = [-2.0, 2.0, 1.5]
    result = histogram(fields, bins=16, range=(-2.0, 2.0))
    assert result.density.shape == (2, 3, 16)
    for i, j in np.ndindex(2, 3):
        counts, edges = np.histogram(fields[i, j], bins=16, range=(-2.0, 2.0))
        np.testing.assert_allclose(result.density[i, j], counts / 1024 / 0.25, rtol=1e-5)
        np.testing.assert_allclose(result.edges, edges, atol=1e-6)
    with pytest.raises(ValueError, match="low < high"):
        histogram(fields, range=(1.0, -1.0))


def test_moments_agree_with_scipy() -> None:
    fields = np.random.default_rng(4).gamma(2.0, size=(3, 2, 32, 32)).astype(np.float32)
    result = moments(fields)
    flat = fields.reshape(3, 2, -1).astype(float)
    np.testing.assert_allclose(result.mean, flat.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(result.standard_deviation, flat.std(-1), rtol=1e-5)
    np.testing.assert_allclose(result.skewness, stats.skew(flat, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(result.kurtosis, stats.kurtosis(flat, axis=-1), rtol=1e-3)


def test_banded_moments_find_the_band_of_a_signal() -> None:
    stripes = waves(64, 6)[0]
    field = (2.0 * stripes + 5.0)[None]
    result = banded_moments(field, edges=(1, 4, 8, 16))
    np.testing.assert_allclose(result.standard_deviation[0], [0, np.sqrt(2), 0], atol=1e-4)
    # A sine has kurtosis 3/8 / (1/2)^2 - 3.
    assert float(result.kurtosis[0, 1]) == pytest.approx(-1.5, abs=1e-3)
    spiky = np.zeros((1, 64, 64), np.float32)
    spiky[0, 10, 20] = 1.0
    assert np.all(banded_moments(spiky, edges=(4, 8, 16, 32)).skewness > 1)
    with pytest.raises(ValueError, match="increasing"):
        banded_moments(field, edges=(4, 1))
    with pytest.raises(ValueError, match="none between 64 and 128"):
        banded_moments(field, edges=(4, 64, 128))
