"""Pools of training windows: their target is unbiased, less scattered, and rare windows are seen more often."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.noise import colour
from bayesdiff.windows import MapWindows, WindowPool, WithDraws, draw_pool
from tests.diffusion_toys import filtered, red_power

SIZE = 8
POOL = 24


def pool_of(fields: jax.Array) -> WindowPool:
    probability = jnp.full(len(fields), 1.0 / len(fields))
    return WindowPool(fields, jnp.fft.fft2(fields, norm="ortho"), probability)


@pytest.mark.slow
def test_target_of_a_pool_is_the_posterior_mean_with_less_scatter(x64):
    # Few windows on purpose: the target is unbiased for any number. Its truth is the Wiener filter.
    power, noise_power = jnp.asarray(red_power(SIZE)), jnp.asarray(red_power(SIZE, -1.0))
    gaussian = GaussianDenoiser(power)
    for s, smaller in ((0.5, 1.001), (2.0, 0.9), (8.0, 0.3)):

        def errors(key, s=s):
            cut, choose, white = jax.random.split(key, 3)
            fields = colour(jax.random.normal(cut, (POOL, 1, SIZE, SIZE)), power)
            pool = pool_of(fields)
            x = pool.choose(choose).field
            y = x + s * colour(jax.random.normal(white, x.shape), noise_power)
            truth = gaussian(y, jnp.asarray(s), noise_power, jnp.zeros(0))
            pooled = pool.posterior_mean(y, jnp.asarray(s), noise_power)
            # Regression of the target on y sees its product with functions of y, here y itself.
            return jnp.vdot(pooled - truth, y), jnp.sum((pooled - truth) ** 2), jnp.sum((x - truth) ** 2)

        product, pooled_scatter, single_scatter = jax.vmap(errors)(jax.random.split(jax.random.key(3), 6000))
        assert abs(product.mean()) < 4.0 * product.std() / np.sqrt(6000)
        assert pooled_scatter.mean() < smaller * single_scatter.mean()


def test_nearly_noiseless_target_is_the_window_itself():
    fields = jnp.asarray(
        filtered(np.random.default_rng(0).normal(size=(16, 1, SIZE, SIZE)), np.sqrt(red_power(SIZE))), jnp.float32
    )
    y = fields[5] + 0.007 * jax.random.normal(jax.random.key(0), fields[5].shape)
    target = pool_of(fields).posterior_mean(y, jnp.asarray(0.007), jnp.ones((SIZE, SIZE)))
    np.testing.assert_array_equal(target, fields[5])


def test_windows_of_contrast_are_chosen_more_often_and_means_stay():
    bright = np.ones((4, 1, 32, 32), np.float32)
    bright[0] = 6.0
    maps = jnp.asarray(bright * np.random.default_rng(1).normal(size=bright.shape).astype(np.float32))
    windows = MapWindows(maps, SIZE)

    def one(key):
        pool_key, choose = jax.random.split(key)
        x, weight, _ = draw_pool(pool_key, windows, 16).choose(choose)
        power = jnp.mean(x**2)
        return power, weight, power > 8.0

    power, weight, is_bright = map(np.asarray, jax.vmap(one)(jax.random.split(jax.random.key(4), 8000)))
    assert is_bright.mean() > 0.45
    assert abs(weight.mean() - 1.0) < 4.0 * weight.std() / np.sqrt(8000)
    truth = float(jnp.mean(maps**2))
    weighted = weight * power
    assert abs(weighted.mean() - truth) < 4.0 * weighted.std() / np.sqrt(8000) + 0.02 * truth
    assert weighted.std() < np.asarray(power).std()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_a_pool_are_draws(share: float):
    maps = MapWindows(jax.random.normal(jax.random.key(0), (2, 1, 3 * SIZE, 3 * SIZE)), SIZE)
    draws = MapWindows(50.0 + jax.random.normal(jax.random.key(1), (5, 1, SIZE, SIZE)), SIZE, (False, False))
    pool = WithDraws(maps, draws, share).pool(jax.random.key(2), POOL)
    own = np.asarray(pool.fields.mean(axis=(1, 2, 3)) > 25.0)
    assert own.sum() == POOL * share
    np.testing.assert_allclose([pool.probability.sum(), pool.probability[own].sum()], [1.0, share], rtol=1e-5)
    np.testing.assert_allclose(pool.modes, np.fft.fft2(pool.fields, norm="ortho"), atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_pool_without_maps_or_without_draws_is_refused(share: float):
    maps = MapWindows(jnp.ones((1, 1, SIZE, SIZE)), SIZE)
    with pytest.raises(ValueError, match="share must leave maps and draws"):
        WithDraws(maps, maps, share).pool(jax.random.key(0), POOL)
