"""Spots on training fields, and the question that a denoiser is asked of a field with spots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.examples import draw_example
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import initialise
from bayesdiff.spots import HEIGHTS, MOST, draw_spots
from bayesdiff.windows import MapWindows
from tests.diffusion_toys import red_power

SIZE, NUM = 16, 400


def test_a_share_of_the_fields_has_a_few_small_spots():
    keys = jax.random.split(jax.random.key(0), NUM)
    spots = np.asarray(jax.vmap(lambda key: draw_spots(key, (2, SIZE, SIZE), 0.3))(keys))
    np.testing.assert_array_equal(spots[:, 0], spots[:, 1])
    some = spots[:, 0].max(axis=(1, 2)) > 0.0
    assert abs(some.mean() - 0.3) < 4.0 * np.sqrt(0.3 * 0.7 / NUM)
    assert spots.min() >= 0.0
    assert HEIGHTS[0] < spots.max() < MOST * HEIGHTS[1]
    bright = np.sum(spots[some, 0] > 0.1 * spots[some, 0].max(axis=(1, 2), keepdims=True), axis=(1, 2))
    assert np.median(bright) < 0.1 * SIZE**2
    assert not np.any(jax.vmap(lambda key: draw_spots(key, (1, SIZE, SIZE), 0.0))(keys))


@pytest.fixture
def question(x64):
    """A function of the share of fields with spots that gives an example, with the expected field put together."""
    maps = jax.random.normal(jax.random.key(1), (2, 1, 4 * SIZE, 4 * SIZE))
    pool = MapWindows(filter_field(maps, jnp.sqrt(jnp.asarray(red_power(4 * SIZE)))), SIZE).pool(jax.random.key(2), 8)
    reference = GaussianDenoiser(jnp.asarray(red_power(SIZE)))
    denoiser = initialise(0, reference, UNetConfig(3, 1, channels=(8, 8), blocks=(1, 1), embedding=8))

    def ask(spots):
        example = draw_example(jax.random.key(3), 0.5, pool, denoiser, Cosine(), WhiteNoise(), spots)
        levels = reference.levels(example.s, example.noise_power)
        filtered = filter_field(example.y, levels.signal)
        return example, filtered + filter_field(example.target, jnp.sqrt(example.variance))

    return ask


def test_a_field_with_spots_is_to_be_told_without_them(question):
    clean, expected = question(0.0)
    spotted, same = question(1.0)
    assert float(jnp.max(spotted.y - clean.y)) > HEIGHTS[0] / 2
    np.testing.assert_allclose(same, expected, atol=1e-8)
    wanted = jnp.mean(filter_field(spotted.target, jnp.sqrt(spotted.weight)) ** 2)
    assert float(wanted) > 1.0
    np.testing.assert_allclose(spotted.importance * wanted, clean.importance, rtol=1e-6)


def test_a_field_that_happens_to_have_none_is_the_old_question(question):
    (clean, _), (without, _) = question(0.0), question(1e-9)
    np.testing.assert_array_equal(clean.y, without.y)
    np.testing.assert_array_equal(clean.target, without.target)
