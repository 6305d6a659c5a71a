"""Fields whose power varies: their amplitudes are found, in noise too, and fields that are drawn vary as much."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.samplers import draw_prior
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.networks.band_table import constant_table
from bayesdiff.networks.spectral_mixture import NUM_BANDS
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.varying_spectrum import VaryingSpectrum, band_hats, fit_varying_spectrum
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from tests.diffusion_toys import NO_CONTEXT, filtered, red_power, wavenumber

SIZE = 32
SLOPE, SPREAD = 0.15, 0.3
WHITE = np.ones((SIZE, SIZE))

window_of = jax.jit(lambda spectrum, *arguments: spectrum(*arguments))
amplitudes_of = jax.jit(lambda spectrum, *arguments: spectrum.amplitudes(*arguments))


def common(spread: float = SPREAD, slope: float = SLOPE) -> VaryingSpectrum:
    """One log amplitude of all bands, which rises with the mean of the field; E exp a = 1."""
    ones = jnp.ones(NUM_BANDS)
    return VaryingSpectrum(-0.5 * (spread**2 + slope**2) * ones, slope * ones, spread**2 * jnp.outer(ones, ones))


def reference() -> GaussianDenoiser:
    return GaussianDenoiser(red_power(SIZE), 0.2)


def fields_of(num: int, seed: int, spread: float = SPREAD, slope: float = SLOPE) -> tuple[np.ndarray, np.ndarray]:
    """Fields (num, 1, SIZE, SIZE) and the log amplitude of each."""
    rng = np.random.default_rng(seed)
    fields = filtered(rng.normal(size=(num, 1, SIZE, SIZE)), np.sqrt(red_power(SIZE)))
    mean = fields.mean(axis=(1, 2, 3))
    z = mean * SIZE / np.sqrt(red_power(SIZE)[0, 0])
    log_amplitude = -0.5 * (spread**2 + slope**2) + slope * z + spread * rng.normal(size=num)
    contrast = np.exp(0.5 * log_amplitude)[:, None, None, None]
    mean = mean[:, None, None, None]
    return 0.2 + mean + contrast * (fields - mean), log_amplitude


@pytest.mark.usefixtures("x64")
def test_fit_finds_how_amplitudes_vary():
    fields, _ = fields_of(4000, 0)
    fitted = fit_varying_spectrum(jnp.asarray(fields), reference())
    np.testing.assert_allclose(fitted.slope[3:], SLOPE, atol=0.02)
    np.testing.assert_allclose(np.asarray(fitted.covariance)[3:, 3:], SPREAD**2, atol=0.03)
    np.testing.assert_allclose(fitted.mean[3:], common().mean[3:], atol=0.02)


@pytest.mark.usefixtures("x64")
def test_power_that_does_not_vary_is_left_alone():
    fields, _ = fields_of(4000, 1, spread=0.0, slope=0.0)
    fitted = fit_varying_spectrum(jnp.asarray(fields), reference())
    np.testing.assert_allclose(np.diag(fitted.covariance)[3:], 0.0, atol=6e-3)
    np.testing.assert_allclose(fitted.mean, 0.0, atol=0.03)


@pytest.mark.parametrize("s", [1e-3, 0.1, 1.0, 10.0])
@pytest.mark.usefixtures("x64")
def test_amplitude_is_the_most_probable_one(s):
    """Beside the highest posterior density on a grid of the one amplitude that there is."""
    fields, _ = fields_of(8, 2)
    y = fields + s * np.random.default_rng(3).normal(size=fields.shape)
    grid, power, varying = np.linspace(-2.0, 2.0, 4001), red_power(SIZE).ravel(), common()
    for field in y:
        modes = (np.abs(np.fft.fft2(field[0] - 0.2, norm="ortho")) ** 2).ravel()
        known = power[0] / (power[0] + s**2)
        z = known * (field.mean() - 0.2) * SIZE / np.sqrt(power[0])
        variance = SPREAD**2 + (1.0 - known) * SLOPE**2
        total = np.exp(grid)[:, None] * power[1:] + s**2
        log_posterior = -0.5 * np.sum(modes[1:] / total + np.log(total), axis=1)
        log_posterior -= 0.5 * (grid - varying.mean[0] - SLOPE * z) ** 2 / variance
        found = amplitudes_of(varying, reference(), jnp.asarray(field), s**2 * WHITE)
        np.testing.assert_allclose(found.mean, grid[np.argmax(log_posterior)], atol=2e-3)


@pytest.mark.parametrize("s", [0.01, 0.3, 3.0, 30.0])
@pytest.mark.usefixtures("x64")
def test_filter_is_averaged_over_what_is_not_known(s):
    """Beside P / (P + N) and its complement, averaged over the posterior of the one amplitude that there is."""
    spread = 0.8
    fields, _ = fields_of(6, 7, spread, 0.0)
    grid, power, varying = np.linspace(-5.0, 5.0, 2001), red_power(SIZE).ravel(), common(spread, 0.0)
    for field in fields + s * np.random.default_rng(8).normal(size=fields.shape):
        modes = (np.abs(np.fft.fft2(field[0] - 0.2, norm="ortho")) ** 2).ravel()
        total = np.exp(grid)[:, None] * power[1:] + s**2
        log_posterior = -0.5 * np.sum(modes[1:] / total + np.log(total), axis=1)
        log_posterior -= 0.5 * (grid + 0.5 * spread**2) ** 2 / spread**2
        weight = np.exp(log_posterior - log_posterior.max())
        share = weight @ (1.0 - s**2 / total) / weight.sum()
        levels, _ = window_of(varying, reference(), jnp.asarray(field), jnp.asarray(s), WHITE)
        found = np.asarray(levels.signal).ravel()[1:]
        assert np.max(np.abs(np.log(found / share))) < 0.1
        assert np.max(np.abs(np.log((1.0 - found) / (1.0 - share)))) < 0.1


@pytest.mark.usefixtures("x64")
def test_levels_are_those_of_the_field_behind_the_noise():
    fields, log_amplitude = fields_of(16, 4)
    y = fields + 0.1 * np.random.default_rng(5).normal(size=fields.shape)
    for field, expected in zip(y, log_amplitude, strict=True):
        levels, features = window_of(common(), reference(), jnp.asarray(field), jnp.asarray(0.1), WHITE)
        total = np.exp(expected) * red_power(SIZE) + 0.1**2
        np.testing.assert_allclose(levels.total[wavenumber(SIZE) > 1], total[wavenumber(SIZE) > 1], rtol=0.3)
        np.testing.assert_allclose(levels.signal + levels.noise, 1.0, rtol=1e-12)
        np.testing.assert_allclose(features, expected, atol=0.25)


@pytest.mark.slow
def test_fields_that_are_drawn_vary_as_much():
    """The power of small scales scatters as the model says, not as that of fields of one power does."""

    def scatter(spread: float) -> float:
        denoiser = untrained(common(spread, 0.0))
        model = bd.DiffusionModel(denoiser, Cosine(log_snr_max=12.0), WhiteNoise(), (1, SIZE, SIZE))
        draw = jax.jit(jax.vmap(lambda key: draw_prior(key, model, jnp.asarray(NO_CONTEXT))))
        drawn = np.asarray(draw(jax.random.split(jax.random.key(6), 200)), np.float64)
        small = wavenumber(SIZE) > 4
        modes = (np.abs(np.fft.fft2(drawn[:, 0] - 0.2, norm="ortho")) ** 2)[:, small]
        return float(np.log((modes / red_power(SIZE)[small]).mean(axis=1)).std())

    own = np.sqrt(2.0 / np.sum(wavenumber(SIZE) > 4))
    assert scatter(1e-3) == pytest.approx(own, rel=0.15)
    assert scatter(SPREAD) == pytest.approx(np.hypot(own, SPREAD), rel=0.15)


def untrained(spectrum: VaryingSpectrum) -> WienerDenoiser:
    """The filter alone: the gain of its network is zero."""
    config = UNetConfig(3, 1, channels=(8, 8), blocks=(1, 1), embedding=8)
    denoiser = initialise(0, GaussianDenoiser(jnp.asarray(red_power(SIZE), jnp.float32), 0.2), config, (), (), spectrum)
    return replace(denoiser, gain=constant_table(0.0, 16))


def test_spectrum_is_stored_with_the_model(tmp_path):
    model = bd.DiffusionModel(untrained(common()), Cosine(), WhiteNoise(), (1, SIZE, SIZE))
    model.save(tmp_path / "model")
    found = bd.load_model(tmp_path / "model").denoiser
    assert isinstance(found, WienerDenoiser)
    assert isinstance(found.spectra, VaryingSpectrum)
    for name in ("mean", "slope", "covariance"):
        np.testing.assert_array_equal(getattr(found.spectra, name), getattr(common(), name))
    card = tmp_path / "model" / "card.json"
    card.write_text(card.read_text().replace('"varying"', '"fixed"'))
    with pytest.raises(ValueError, match="spectra must be one of mixture, varying, got 'fixed'"):
        bd.load_model(tmp_path / "model")


def test_one_field_does_not_tell_how_spectra_vary():
    with pytest.raises(ValueError, match="1 fields"):
        fit_varying_spectrum(jnp.zeros((1, 1, SIZE, SIZE)), reference())


def test_the_mean_of_a_field_is_in_no_band():
    hats = band_hats((SIZE, SIZE))
    assert (hats[0] == 0.0).all()
    np.testing.assert_allclose(hats[1:].sum(axis=1), 1.0)
