"""Random orientations of fields whose prior has no preferred direction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.diffusion.orientation import Orientation, random_orientation
from bayesdiff.distributions import NoisyDiffusion
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import initialise
from tests.diffusion_toys import even_power, twin_model

ORIENTATIONS = [Orientation(*map(jnp.asarray, coins)) for coins in product((False, True), repeat=3)]


@pytest.mark.parametrize("shape", [(6, 6), (4, 6)])
@pytest.mark.usefixtures("x64")
def test_a_field_is_turned_back_and_has_the_turned_power(shape):
    field = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)))
    turned = [orientation.turn(field) for orientation in ORIENTATIONS]
    for orientation, there in zip(ORIENTATIONS, turned, strict=True):
        np.testing.assert_array_equal(orientation.back(there), field)
        np.testing.assert_allclose(orientation.turn_power(mode_power(field)), mode_power(there), atol=1e-12)
    different = {np.asarray(there).tobytes() for there in turned}
    assert len(different) == (8 if shape[0] == shape[1] else 4)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Lopsided:
    """The denoiser of a Gaussian field, with an error that grows to the right; ``symmetric`` says it has none."""

    reference: GaussianDenoiser
    symmetric: bool

    def __call__(self, y, s, noise_power, context):
        return self.reference(y, s, noise_power, context) + jnp.linspace(-1.0, 1.0, y.shape[-1])


def test_an_error_of_one_orientation_does_not_add_up():
    twin = twin_model(8, mean=0.0)
    y, num = jnp.zeros((400, 1, 8, 8)), 400

    def mean_by_column(symmetric):
        model = replace(twin, denoiser=Lopsided(twin.denoiser, symmetric))
        draws = NoisyDiffusion(model, 0.5, (1.0, -0.5)).sample_latent(jax.random.key(1), y, 4)
        return np.asarray(draws).mean(axis=(0, 1, 2)), np.asarray(draws).mean(axis=(1, 2)).std(axis=0) / np.sqrt(num)

    lopsided, error = mean_by_column(symmetric=False)
    assert lopsided[-1] - lopsided[0] > 1.0
    level, error = mean_by_column(symmetric=True)
    assert np.all(np.abs(level) < 4.5 * error)


def test_only_a_prior_without_a_preferred_direction_is_turned():
    keys = jax.random.split(jax.random.key(2), 40)
    anisotropic = GaussianDenoiser(jnp.asarray(even_power(3, (8, 8))))
    assert not np.any(jax.vmap(lambda key: jnp.stack(random_orientation(key, anisotropic)))(keys))
    config = UNetConfig(3, 1, channels=(8, 8), blocks=(1, 1), embedding=8)
    learned = initialise(0, anisotropic, config)
    coins = np.asarray(jax.vmap(lambda key: jnp.stack(random_orientation(key, learned)))(keys))
    assert len(np.unique(coins, axis=0)) == 8
