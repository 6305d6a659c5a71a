"""Spectra against known sinusoids, the exact law of Gaussian powers, and Parseval."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from bayesdiff.fields import cross_correlation, cross_spectrum, power_spectrum, wavenumbers
from tests.field_toys import gaussian_fields, red_power

SIZE = 64


@pytest.mark.parametrize(("ky", "kx"), [(0, 5), (7, 0), (3, 4), (-6, 8)])
def test_sinusoid_has_its_power_in_its_bin(ky: int, kx: int) -> None:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    amplitude = 1.7
    field = 3.0 + amplitude * np.cos(2 * np.pi * (ky * y + kx * x) + 0.4)
    spectrum = power_spectrum(field[None])
    expected = np.zeros(SIZE // 2)
    # Two modes, each |N a / 2|^2 in the orthonormal convention.
    mode = round(np.hypot(ky, kx)) - 1
    expected[mode] = 2 * (amplitude * SIZE / 2) ** 2
    np.testing.assert_allclose(spectrum.power[0] * spectrum.num_modes, expected, atol=0.05)


def test_modes_are_counted_as_an_explicit_loop_counts_them() -> None:
    edges = [0.5, 1.5, 4.0, 9.2]
    spectrum = power_spectrum(np.ones((1, 12, 20)), edges=edges)
    lengths = [
        np.hypot(i * 20 / 12, j) for i in range(-6, 6) for j in range(-10, 10)
    ]  # in units of the fundamental of the longer side
    counts, _ = np.histogram(lengths, edges)
    sums, _ = np.histogram(lengths, edges, weights=lengths)
    np.testing.assert_array_equal(spectrum.num_modes, counts)
    np.testing.assert_allclose(spectrum.centers, sums / counts, rtol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (12, 20), (9, 14)])
def test_all_modes_sum_to_the_variance(x64: None, shape: tuple[int, int]) -> None:
    field = np.random.default_rng(1).standard_normal((3, 2, *shape)) + 5.0
    spectrum = power_spectrum(field, edges=[0.1, 3.0, 100.0])
    total = np.sum(spectrum.power * spectrum.num_modes, axis=-1) / np.prod(shape)
    np.testing.assert_allclose(total, field.var(axis=(-2, -1)), rtol=1e-12)
    assert spectrum.num_modes.sum() == np.prod(shape) - 1


def test_gaussian_field_has_its_power_and_the_exact_scatter() -> None:
    power = red_power((SIZE, SIZE))
    number = 400
    spectrum = power_spectrum(gaussian_fields(2, power, (number, 1)))
    index = np.round(wavenumbers((SIZE, SIZE))).astype(int)
    mean_power = np.array([power[index == i].mean() for i in range(1, SIZE // 2 + 1)])
    variance = np.array([2 * np.sum(power[index == i] ** 2) for i in range(1, SIZE // 2 + 1)])
    sd = np.sqrt(variance) / np.asarray(spectrum.num_modes)
    measured = np.asarray(spectrum.power[:, 0])
    z = (measured.mean(0) - mean_power) / (sd / np.sqrt(number))
    assert np.abs(z).max() < 4
    assert z.std() < 1.5
    # The first bins are sums of few squared normals: the exact law, by Kolmogorov and Smirnov. The four corner modes of
    # the first ring differ in power, so the law holds for the ring of edges that leaves them out.
    first = power_spectrum(gaussian_fields(3, power, (number, 1)), edges=[0.5, 1.2])
    assert first.num_modes[0] == 4
    law = stats.chi2(df=4, scale=power[0, 1] / 4)
    assert stats.kstest(np.asarray(first.power[:, 0, 0]), law.cdf).pvalue > 0.01
    assert stats.kstest(1.2 * np.asarray(first.power[:, 0, 0]), law.cdf).pvalue < 0.01


def test_pixel_size_turns_modes_into_multipoles() -> None:
    field = gaussian_fields(4, red_power((SIZE, SIZE)), (1,))
    by_mode, by_ell = power_spectrum(field, num_bins=10), power_spectrum(field, num_bins=10, pixel_arcmin=8.0)
    fundamental = 360 / (SIZE * 8 / 60)
    np.testing.assert_allclose(by_ell.centers, by_mode.centers * fundamental, rtol=1e-6)
    np.testing.assert_array_equal(by_ell.power, by_mode.power)
    assert wavenumbers((SIZE, SIZE), 8.0)[0, 1] == pytest.approx(42.1875)
    assert wavenumbers((SIZE, SIZE), 8.0)[0, SIZE // 2] == pytest.approx(1350)


def test_batches_channels_and_jit_agree_with_one_map() -> None:
    fields = gaussian_fields(5, red_power((SIZE, SIZE)), (2, 3, 4))
    together = jax.jit(lambda f: power_spectrum(f, num_bins=12))(fields)
    assert together.power.shape == (2, 3, 4, 12)
    one = power_spectrum(fields[1, 2, 3], num_bins=12)
    np.testing.assert_allclose(together.power[1, 2, 3], one.power, rtol=1e-5)


def test_cross_correlation_of_a_known_mixture() -> None:
    power = red_power((SIZE, SIZE))
    a, b = gaussian_fields(6, power, (2, 300, 1))
    correlation = 0.6
    mixed = correlation * a + np.sqrt(1 - correlation**2) * b
    result = cross_correlation(a, mixed, num_bins=8)
    measured = np.asarray(result.coefficient[:, 0])
    error = measured.std(0) / np.sqrt(len(a))
    # The coefficient of few modes is biased by -rho (1 - rho^2) / (2 n), n independent complex modes.
    bias = correlation * (1 - correlation**2) / np.asarray(result.num_modes)
    assert np.all(np.abs(measured.mean(0) - correlation) < 4 * error + bias)
    assert error.max() < 0.05
    np.testing.assert_allclose(cross_correlation(a, -2 * a).coefficient, -1.0, atol=1e-5)
    np.testing.assert_array_equal(cross_correlation(a, 0 * a).coefficient, 0.0)


def test_cross_spectrum_is_bilinear_and_sees_the_phase() -> None:
    a, b = gaussian_fields(7, red_power((SIZE, SIZE)), (2, 1))
    cross, auto_a, auto_b = cross_spectrum(a, b), power_spectrum(a), power_spectrum(b)
    np.testing.assert_allclose(
        power_spectrum(a + b).power, auto_a.power + auto_b.power + 2 * cross.power, rtol=1e-3, atol=1e-4
    )
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    wave, shifted = np.cos(2 * np.pi * 5 * x), np.sin(2 * np.pi * 5 * x)
    assert np.abs(cross_spectrum(wave[None], shifted[None]).power).max() < 1e-2
    assert cross_spectrum(wave[None], wave[None]).power.max() > 10


def test_gradient(x64: None) -> None:
    a, b = jnp.asarray(np.random.default_rng(8).standard_normal((2, 1, 8, 8)))
    check_grads(lambda x: power_spectrum(x).power, (a,), order=2)
    check_grads(lambda x, y: cross_correlation(x, y).coefficient, (a, b), order=1, modes=["rev"])
    flat = jax.grad(lambda x: cross_correlation(x, b).coefficient.sum())(jnp.zeros_like(a))
    assert np.all(np.isfinite(flat))


def test_bad_bins_are_refused() -> None:
    field = np.ones((1, 16, 16))
    with pytest.raises(ValueError, match="holds no mode of a 16 x 16 map"):
        power_spectrum(field, num_bins=100)
    with pytest.raises(ValueError, match="increasing"):
        power_spectrum(field, edges=[3.0, 2.0])
    with pytest.raises(ValueError, match="not both"):
        power_spectrum(field, num_bins=3, edges=[1.0, 2.0])
    with pytest.raises(ValueError, match="of one size expected"):
        cross_spectrum(field, np.ones((1, 8, 8)))
    with pytest.raises(ValueError, match="height, width"):
        power_spectrum(np.ones(16))
