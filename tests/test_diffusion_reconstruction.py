"""Priors that are conditional on maps, against the joint Gaussian field of which all is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.reconstruction import LinearReconstruction, fit_linear_reconstruction
from bayesdiff.networks import wiener
from bayesdiff.networks.tiles import apply_in_tiles
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import initialise
from bayesdiff.windows import PairedFields

SIZE, NUM = 16, 2000


def radius(size: int) -> np.ndarray:
    """|k| in cycles per pixel."""
    frequency = np.fft.fftfreq(size)
    return np.hypot(frequency[:, None], frequency[None, :])


def signal_power(size: int) -> np.ndarray:
    """A red spectrum."""
    return 1.0 / (1.0 + (radius(size) * 10.0) ** 2)


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Fields x with mean 0.5 and two noisy maps of each: 2 x + 1 + n of power 0.3, and x + n of power 0.1."""
    keys = jax.random.split(jax.random.key(0), 3)
    white = [jax.random.normal(key, (NUM, 1, SIZE, SIZE)) for key in keys]
    x = filter_field(white[0], jnp.sqrt(jnp.asarray(signal_power(SIZE))))
    maps = [2.0 * x + 1.0 + 0.3**0.5 * white[1], x + 0.1**0.5 * white[2]]
    return np.asarray(x + 0.5), np.asarray(jnp.concatenate(maps, axis=1))


@pytest.fixture(scope="module")
def linear(pairs) -> LinearReconstruction:
    return fit_linear_reconstruction(*pairs, num_bands=6)


def exact_variance(size: int) -> np.ndarray:
    """Posterior variance per mode: precisions add."""
    return 1.0 / (1.0 / signal_power(size) + 2.0**2 / 0.3 + 1.0 / 0.1)


def test_fit_is_the_wiener_filter_of_both_maps(pairs, linear):
    given = linear.at(jnp.asarray(pairs[1][0]))
    assert np.asarray(given.power) == pytest.approx(exact_variance(SIZE), rel=0.12)
    modes = jax.vmap(lambda c: linear.at(c).mean)(jnp.asarray(pairs[1][:400])) - pairs[0][:400]
    # The error of the reconstruction is that of the exact one.
    error = np.mean(np.abs(np.fft.fft2(modes, norm="ortho")) ** 2, axis=(0, 1))
    ratio = error / exact_variance(SIZE)
    inner = (radius(SIZE) > 0.05) & (radius(SIZE) < 0.45)
    assert ratio[inner].mean() == pytest.approx(1.0, abs=0.03)


def test_bands_hold_on_a_field_of_another_size(linear):
    wide = linear.at(jnp.zeros((2, 48, 48)))
    inner = radius(48) > 1.0 / SIZE
    assert np.asarray(wide.power)[inner] == pytest.approx(exact_variance(48)[inner], rel=0.15)


def model_of(denoiser) -> bd.DiffusionModel:
    return bd.DiffusionModel(denoiser, bd.schedules.Cosine(log_snr_max=12.0), bd.WhiteNoise(), (1, SIZE, SIZE))


def test_given_maps_the_prior_is_the_gaussian_posterior(pairs, linear):
    model = model_of(linear).given(jnp.asarray(pairs[1][0]))
    twin = linear.at(jnp.asarray(pairs[1][0]))
    draws = bd.DiffusionPrior(model).sample(jax.random.key(1), (500,))
    residual = np.asarray(draws - twin.mean)
    power = np.mean(np.abs(np.fft.fft2(residual, norm="ortho")) ** 2, axis=(0, 1))
    assert np.mean(power / np.asarray(twin.power)) == pytest.approx(1.0, abs=4.0 / np.sqrt(500 * SIZE**2 / 2))
    assert np.abs(residual.mean(axis=0)).max() < 5.0 * residual.std() / np.sqrt(500)


def test_untrained_network_is_the_linear_reconstruction(pairs, linear):
    config = UNetConfig(in_channels=6, out_channels=1, channels=(8, 8), blocks=(1, 1), embedding=8, attention=False)
    c = jnp.asarray(pairs[1][0])
    learned, exact = model_of(initialise(0, linear, config)).given(c), model_of(linear).given(c)
    x, bound = jnp.asarray(pairs[0][0]), bd.Elbo(num_times=2, num_noise=1)
    value = bd.NoisyDiffusion(learned, 0.5, log_density=bound).log_prob(x)
    assert float(value) == pytest.approx(float(bd.NoisyDiffusion(exact, 0.5).log_prob(x)), abs=0.05)


def test_new_maps_do_not_compile_again(pairs, linear):
    traces = []

    @jax.jit
    def draw(model, key):
        traces.append(1)
        return bd.DiffusionPrior(model).sample(key)

    model = model_of(linear)
    a, b = (draw(model.given(jnp.asarray(c)), jax.random.key(0)) for c in pairs[1][:2])
    assert len(traces) == 1
    assert not np.allclose(a, b)


def test_storage_keeps_the_reconstruction(pairs, linear, tmp_path):
    c = jnp.asarray(pairs[1][0])
    model_of(linear).save(tmp_path)
    assert bd.load_model(tmp_path).given(c).denoiser.mean == pytest.approx(np.asarray(linear.at(c).mean))


def test_refusals(pairs, linear):
    model = model_of(linear)
    with pytest.raises(ValueError, match=r"model.given\(maps\); got a context of shape \(0,\)"):
        bd.DiffusionPrior(model).sample(jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"conditional on maps \(2, height, width\).*got a context of shape \(1, 16, 16\)"
    ):
        model.given(jnp.zeros((1, SIZE, SIZE)))
    with pytest.raises(ValueError, match="the maps"):
        model.given(jnp.full((2, SIZE, SIZE), jnp.nan))
    with pytest.raises(ValueError, match="needs a model that is conditional on maps"):
        model_of(bd.GaussianDenoiser(jnp.asarray(signal_power(SIZE)))).given(jnp.zeros((2, SIZE, SIZE)))
    with pytest.raises(ValueError, match="every field must have its maps"):
        fit_linear_reconstruction(pairs[0][:10], pairs[1][:9])


def test_fields_and_maps_move_together():
    fields = jax.random.normal(jax.random.key(0), (3, 1, 8, 8))
    pairs = PairedFields(fields, jnp.concatenate([2.0 * fields, fields - 1.0], axis=1))
    choices = jax.vmap(pairs.choose)(jax.random.split(jax.random.key(1), 50))
    assert choices.context == pytest.approx(
        np.asarray(jnp.concatenate([2.0 * choices.field, choices.field - 1.0], axis=1))
    )
    assert len(np.unique(np.asarray(choices.field[:, 0, 0, 0]).round(5))) > 30


def test_tiles_with_the_margin_of_their_reach_are_the_whole():
    kernel = jax.random.normal(jax.random.key(0), (5, 5, 2, 3))

    def network(h):
        padded = jnp.pad(h, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="wrap")
        return jax.lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    h = jax.random.normal(jax.random.key(1), (1, 48, 32, 2))
    whole = network(h)
    tiled = apply_in_tiles(network, h, whole=16, margin=4, largest=16)
    assert tiled == pytest.approx(np.asarray(whole), abs=1e-4)
    short = apply_in_tiles(network, h, whole=16, margin=1, largest=16)
    assert np.abs(short - whole).max() > 0.1
    with pytest.raises(ValueError, match="must be divisible by 8, got 20"):
        apply_in_tiles(network, h[:, :20], whole=16, margin=4, largest=16)


@pytest.mark.slow
def test_a_wide_field_seen_in_tiles_is_nearly_the_whole(monkeypatch):
    """Of the network that ships: norms over a tile are not those over the field, and that is all that differs."""
    model = bd.load_pretrained("dark-matter-64")
    stars = 0.7 * jax.random.normal(jax.random.key(0), (2, 256, 256))
    given, y = model.given(stars), jax.random.normal(jax.random.key(1), (1, 256, 256))
    level, power = jnp.asarray(0.5), jnp.ones((1, 256, 256))
    linear = given.twin_at(given.context_array(None))
    assert linear is not None
    tiled = given.denoiser(y, level, power, stars)
    monkeypatch.setattr(wiener, "LARGEST_WHOLE", 256)
    whole = given.denoiser(y, level, power, stars)
    correction = whole - linear(y, level, power, stars)
    assert 0.0 < float(jnp.std(tiled - whole)) < 0.1 * float(jnp.std(correction))
