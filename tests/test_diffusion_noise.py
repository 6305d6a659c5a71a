"""Noise against dense linear algebra, SciPy and float64 sums."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayesdiff.diffusion.fourier import RadialModes, filter_field, mode_power
from bayesdiff.diffusion.noise import StationaryNoise, WhiteNoise, colour, gaussian_log_density
from bayesdiff.diffusion.sums import accurate_sum
from tests.diffusion_toys import NO_CONTEXT, TiltedPower, dense_covariance, even_power, red_power


def test_coloured_draws_have_the_power():
    power = jnp.asarray(even_power(0, (2, 8, 6)))
    num = 4000
    draws = colour(jax.random.normal(jax.random.key(1), (num, 2, 8, 6)), power)
    ratio = np.asarray(mode_power(draws).mean(axis=0) / power)
    # |F|^2 / P has variance 2 at the real modes, the corners of the half-planes, and 1 elsewhere.
    variance = np.ones((2, 8, 6))
    variance[:, ::4, ::3] = 2.0
    assert np.abs((ratio - 1.0) / np.sqrt(variance / num)).max() < 4.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (4, 3)])
def test_log_density_is_that_of_the_dense_covariance(shape):
    powers = even_power(2, (2, *shape))
    field = np.random.default_rng(3).normal(size=(2, *shape))
    expected = sum(
        multivariate_normal.logpdf(x.ravel(), cov=dense_covariance(p)) for x, p in zip(field, powers, strict=True)
    )
    assert float(gaussian_log_density(jnp.asarray(field), jnp.asarray(powers))) == pytest.approx(expected, rel=1e-12)
    expected = sum(multivariate_normal.logpdf(x.ravel(), cov=dense_covariance(powers[0])) for x in field)
    assert float(gaussian_log_density(jnp.asarray(field), jnp.asarray(powers[0]))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mean", [1.3, np.linspace(0.0, 2.0, 24).reshape(2, 4, 3)])
def test_log_density_about_a_mean_and_its_gradient_are_those_of_the_difference(mean):
    field, power = (jnp.asarray(x) for x in (np.random.default_rng(5).normal(size=(2, 4, 3)), even_power(2, (2, 4, 3))))
    value, slope = jax.value_and_grad(lambda mean: gaussian_log_density(field, power, mean))(jnp.asarray(mean))
    expected, expected_slope = jax.value_and_grad(lambda mean: gaussian_log_density(field - mean, power))(
        jnp.asarray(mean)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_filter_is_the_matrix_root():
    power = even_power(4, (4, 6))
    white = np.random.default_rng(5).normal(size=(1, 4, 6))
    once = np.asarray(filter_field(jnp.asarray(white), jnp.asarray(power)))
    np.testing.assert_allclose(once.ravel(), dense_covariance(power) @ white.ravel(), atol=1e-12)
    twice = colour(colour(jnp.asarray(white), jnp.asarray(power)), jnp.asarray(power))
    np.testing.assert_allclose(twice, once, atol=1e-12)


def test_accurate_sum_is_rounded_once():
    rng = np.random.default_rng(6)
    terms = (rng.normal(size=(3, 1, 256, 256)) ** 2 + 2.0).astype(np.float32)
    sums = np.asarray(accurate_sum(jnp.asarray(terms)), dtype=np.float64)
    exact = np.array([math.fsum(field.ravel().tolist()) for field in terms])
    assert (np.abs(sums - exact) <= 0.5 * np.spacing(exact.astype(np.float32))).all()
    odd = terms[:, :, :7, :5]
    np.testing.assert_allclose(accurate_sum(jnp.asarray(odd)), odd.astype(np.float64).sum(axis=(1, 2, 3)), rtol=1e-7)
    assert (jax.grad(lambda x: accurate_sum(x)[0])(jnp.asarray(odd))[0] == 1.0).all()


def test_small_differences_of_log_density_survive_in_float32():
    size = 256
    power = red_power(size, -2.0) + 0.01
    white = np.random.default_rng(7).normal(size=(1, size, size))
    field = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(power)).real
    scales = 1.0 + 0.0005 * np.arange(8)  # log densities a few hundredths apart, at a total of about -51,000

    def exact(scale):
        periodogram = np.abs(np.fft.fft2(field, norm="ortho")) ** 2
        return -0.5 * math.fsum((periodogram / (scale * power) + np.log(2.0 * np.pi * scale * power)).ravel().tolist())

    field32, power32 = jnp.asarray(field, jnp.float32), jnp.asarray(power, jnp.float32)
    values = np.array([float(gaussian_log_density(field32, jnp.float32(scale) * power32)) for scale in scales])
    truth = np.array([exact(scale) for scale in scales])
    assert np.abs(truth).max() > 3e4
    assert 0.03 < np.abs(np.diff(truth)).max() < 0.1
    np.testing.assert_allclose(np.diff(values), np.diff(truth), atol=0.01)


def test_white_noise_has_unit_power():
    np.testing.assert_array_equal(WhiteNoise().power(NO_CONTEXT, (3, 4, 6)), np.ones((4, 6)))
    assert WhiteNoise().isotropic


def test_components_are_summed_and_kept():
    floor = 0.3 * np.ones((8, 8))
    noise = StationaryNoise({"sky": TiltedPower(8), "floor": floor})
    context = jnp.array([1.5, -1.0])
    parts = noise.component_powers(context)
    assert list(parts) == ["sky", "floor"]
    np.testing.assert_allclose(noise.power(context, (1, 8, 8)), np.asarray(TiltedPower(8)(context)) + floor, rtol=1e-6)
    assert not noise.isotropic
    assert StationaryNoise(TiltedPower(8)).isotropic
    leaves, structure = jax.tree.flatten(noise)
    assert len(leaves) == 1
    doubled = jax.tree.unflatten(structure, [2 * leaves[0]])
    np.testing.assert_allclose(doubled.component_powers(context)["floor"], 2 * floor, rtol=1e-6)


@pytest.mark.parametrize(
    "power", [-np.ones((4, 4)), np.full((4, 4), np.nan), np.ones(4)], ids=["negative", "nan", "1-d"]
)
def test_bad_power_is_refused_by_name(power):
    with pytest.raises(ValueError, match="the power of 'floor' must be a finite, non-negative array"):
        StationaryNoise({"floor": power})


def test_power_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"noise power has shape \(4, 4\), but the field is \(1, 8, 8\)"):
        StationaryNoise(np.ones((4, 4))).power(NO_CONTEXT, (1, 8, 8))


def test_radial_modes_group_equal_wavenumbers():
    modes = RadialModes((8, 8))
    power = np.asarray(TiltedPower(8)(jnp.array([1.0, -1.0])))
    assert modes.counts.sum() == 64
    np.testing.assert_allclose(
        np.asarray(modes.representative(jnp.asarray(power)))[modes.group], power.ravel(), rtol=1e-6
    )
    field_power = np.random.default_rng(0).uniform(size=(1, 8, 8))
    direct = np.sum(field_power / power)
    grouped = jnp.sum(modes.total(jnp.asarray(field_power)) / modes.representative(jnp.asarray(power)))
    assert float(grouped) == pytest.approx(direct, rel=1e-5)
