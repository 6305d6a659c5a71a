"""Fields of varying contrast: their spectra are found, and a field's own modes say which it has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.networks.spectral_mixture import SpectralMixture, fit_spectral_mixture, single_spectrum
from tests.diffusion_toys import filtered, red_power, wavenumber

SIZE = 16
FAINT, BRIGHT = 0.1, 1.9
NOISE = 0.05 * np.ones((SIZE, SIZE), np.float32)

window_of = jax.jit(lambda mixture, *arguments: mixture(*arguments))


def fields_of(power: np.ndarray, seed: int, num: int) -> np.ndarray:
    """Gaussian fields (num, 1, SIZE, SIZE)."""
    white = np.random.default_rng(seed).normal(size=(num, 1, SIZE, SIZE))
    return filtered(white, np.sqrt(power)).astype(np.float32)


def reference() -> GaussianDenoiser:
    return GaussianDenoiser(red_power(SIZE).astype(np.float32), 0.0)


@pytest.fixture(scope="module")
def fitted() -> SpectralMixture:
    """Three in four windows are faint, and the rest bright."""
    power = red_power(SIZE)
    fields = np.concatenate([fields_of(FAINT * power, 0, 768), fields_of(BRIGHT * power, 1, 256)])
    return fit_spectral_mixture(jnp.asarray(fields), reference(), num_components=2)


def test_fit_finds_two_populations(fitted):
    order = np.argsort(np.asarray(fitted.log_ratio).mean(axis=1))
    found = np.exp(np.asarray(fitted.log_ratio)[order])
    np.testing.assert_allclose(found[0], FAINT, rtol=0.15)
    np.testing.assert_allclose(found[1], BRIGHT, rtol=0.15)
    np.testing.assert_allclose(np.exp(np.asarray(fitted.log_weight))[order], [0.75, 0.25], atol=0.02)


@pytest.mark.parametrize(("ratio", "seed"), [(FAINT, 5), (BRIGHT, 6)])
def test_levels_are_those_of_the_field_behind_the_noise(fitted, ratio, seed):
    power, s = red_power(SIZE), 0.3
    y = fields_of(ratio * power + s**2 * NOISE, seed, 1)[0]
    levels, features = window_of(fitted, reference(), y, jnp.float32(s), NOISE)
    total = ratio * power + s**2 * NOISE
    low = wavenumber(SIZE) < 6
    np.testing.assert_allclose(levels.total[0][low], total[low], rtol=0.2)
    np.testing.assert_allclose(levels.signal + levels.noise, 1.0, rtol=1e-5)
    np.testing.assert_allclose(features, np.log(ratio), atol=0.2)


def test_filter_beats_that_of_the_mean_spectrum(fitted):
    """The filter errs about as little as one that was told the spectrum of each field."""
    power, s, noise = red_power(SIZE), 1.0, 0.5 * np.ones((SIZE, SIZE), np.float32)
    errors = np.zeros(3)
    for ratio, num, seed in ((FAINT, 192, 7), (BRIGHT, 64, 8)):
        x = fields_of(ratio * power, seed, num)
        y = x + fields_of(s**2 * noise, seed + 10, num)
        window = jax.vmap(lambda y: fitted(reference(), y, jnp.float32(s), noise).levels.signal)(jnp.asarray(y))
        transfers = np.asarray(window), power / (power + noise), ratio * power / (ratio * power + noise)
        for i, transfer in enumerate(transfers):
            errors[i] += np.sum((filtered(y, transfer) - x) ** 2)
    assert errors[0] < 0.95 * errors[1]
    assert errors[0] < 1.02 * errors[2]


def test_noise_hides_the_spectrum(fitted):
    """Where nothing can be seen, the spectrum is the mean of the components'."""
    y = fields_of(1e6 * NOISE, 9, 1)[0]
    levels, _ = window_of(fitted, reference(), y, jnp.float32(1e3), NOISE)
    power = levels.signal[0] * levels.total[0]
    np.testing.assert_allclose(power, (0.75 * FAINT + 0.25 * BRIGHT) * red_power(SIZE), rtol=0.15)


def test_single_spectrum_is_the_reference():
    y, s = fields_of(red_power(SIZE), 3, 1)[0], jnp.float32(0.7)
    levels, features = window_of(single_spectrum(), reference(), y, s, NOISE)
    for ours, theirs in zip(levels, reference().levels(s, NOISE), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)
    np.testing.assert_array_equal(features, np.zeros(3))


def test_fewer_fields_than_spectra_are_refused():
    with pytest.raises(ValueError, match="16 spectra cannot be fitted to 3 fields"):
        fit_spectral_mixture(jnp.zeros((3, 1, SIZE, SIZE)), reference())
