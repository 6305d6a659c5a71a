"""Gaussian fields: simulation and separation against their closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from bayesdiff.cosmology import simulate_gaussian, wiener_separation

SIZE = 16
NUM_DRAWS = 4000


@pytest.fixture
def powers():
    """A steep component without mean, a white one and a smooth one."""
    frequency = np.fft.fftfreq(SIZE)
    k = np.hypot(frequency[:, None], frequency[None, :]) * SIZE
    steep = np.where(k > 0, np.maximum(k, 1.0) ** -3.0, 0.0) * 30
    return {"steep": steep, "white": np.full((SIZE, SIZE), 0.2), "smooth": np.exp(-((k / 4) ** 2)) + 0.01}


def fourier_power(fields):
    return np.abs(np.fft.fft2(np.asarray(fields), norm="ortho")) ** 2


def test_simulated_power_follows_its_law(powers):
    # A complex Gaussian mode has an exponential power, a self-conjugate one a chi-squared of one degree.
    power = powers["smooth"]
    drawn = fourier_power(simulate_gaussian(jax.random.key(0), jnp.asarray(power), (NUM_DRAWS, SIZE, SIZE)))
    ratio = drawn / power
    assert kstest(ratio[:, 1, 2], "expon").pvalue > 1e-3
    assert kstest(ratio[:, 0, 0], "chi2", args=(1,)).pvalue > 1e-3
    standard_error = np.sqrt(2.0 / NUM_DRAWS)
    assert np.abs(ratio.mean(0) - 1).max() < 5 * standard_error


def test_default_shape_is_that_of_the_power(powers):
    power = jnp.asarray(np.stack([powers["white"], powers["smooth"]]))
    field = simulate_gaussian(jax.random.key(0), power)
    assert field.shape == power.shape
    assert field.dtype == power.dtype


def test_posterior_means_are_the_wiener_filter(powers):
    with jax.enable_x64(True):
        field = np.random.default_rng(0).normal(size=(3, 2, SIZE, SIZE))
        means = wiener_separation(None, field, powers)
        total = sum(powers.values())
        for name, power in powers.items():
            expected = np.fft.ifft2(np.fft.fft2(field) * power / total).real
            np.testing.assert_allclose(means[name], expected, rtol=0, atol=1e-12)


def test_draws_have_the_posterior_covariance(powers):
    with jax.enable_x64(True):
        field = np.random.default_rng(1).normal(size=(SIZE, SIZE))
        repeated = jnp.broadcast_to(jnp.asarray(field), (NUM_DRAWS, SIZE, SIZE))
        draws = jax.tree.map(np.asarray, wiener_separation(jax.random.key(2), repeated, powers))
        means = jax.tree.map(np.asarray, wiener_separation(None, field, powers))
    total = sum(powers.values())
    deviations = {name: np.fft.fft2(draws[name] - means[name], norm="ortho") for name in powers}
    for first in powers:
        for second in powers:
            expected = powers[first] * (first == second) - powers[first] * powers[second] / total
            product = (deviations[first] * deviations[second].conj()).real
            error = product.mean(0) - expected
            scale = np.sqrt(powers[first] * powers[second]) + 1e-12
            assert np.abs(error / scale).max() < 6 * np.sqrt(2.0 / NUM_DRAWS)
    for name in powers:
        spread = np.sqrt(np.var(draws[name], axis=0).max() / NUM_DRAWS)
        assert np.abs(np.mean(draws[name], axis=0) - means[name]).max() < 5 * spread


def test_components_sum_to_the_field(powers):
    field = jax.random.normal(jax.random.key(3), (2, 1, SIZE, SIZE))
    for key in (None, jax.random.key(4)):
        components = wiener_separation(key, field, powers)
        assert list(components) == list(powers)
        total = sum(np.asarray(component, float) for component in components.values())
        np.testing.assert_allclose(total, np.asarray(field, float), rtol=0, atol=1e-6)


def test_a_single_component_is_the_field(powers):
    field = jax.random.normal(jax.random.key(5), (SIZE, SIZE))
    np.testing.assert_array_equal(
        wiener_separation(jax.random.key(6), field, {"steep": powers["steep"]})["steep"], field
    )


def test_separation_refuses_what_does_not_fit():
    field = jnp.zeros((SIZE, SIZE))
    with pytest.raises(ValueError, match="at least one component"):
        wiener_separation(None, field, {})
    with pytest.raises(ValueError, match="'cmb'.*does not fit a field of shape"):
        wiener_separation(None, field, {"cmb": jnp.ones((8, 8))})
