"""Examples for training a Wiener-preconditioned denoiser and for measuring it.

Imports only jax.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import Noise, colour
from bayesdiff.diffusion.schedules import Schedule, noise_level
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.spots import draw_spots
from bayesdiff.windows import TrainingPool


class Example(NamedTuple):
    """A noisy window and what the network should make of it.

    Attributes:
        y: x + s Sigma^(1/2) n, with spots where there are any, (C, H, W).
        s: noise level.
        noise_power: of Sigma, (C, H, W).
        context: of the field and of Sigma.
        target: V^(-1/2) F(E[x | y] - D_W), the expectation as the pool gives it, as a field (C, H, W).
        white: V^(-1/2) F(x - D_W).
        variance: V per mode.
        importance: one over how much more often than others the window is chosen, and over the square of the target
            where spots make that more than 1.
        contrast: of the window as y shows it, relative to the mean: its weight among windows.
        weight: signal fraction of each mode over its mean: its weight among modes.
    """

    y: jax.Array
    s: jax.Array
    noise_power: jax.Array
    context: jax.Array
    target: jax.Array
    white: jax.Array
    variance: jax.Array
    importance: jax.Array
    contrast: jax.Array
    weight: jax.Array


def draw_example(
    key: jax.Array,
    t: jax.Array,
    pool: TrainingPool,
    denoiser: WienerDenoiser,
    schedule: Schedule,
    noise: Noise,
    spots: float = 0.0,
) -> Example:
    """A random field in random noise at diffusion time t; of its own context, where it has none of a random one.

    A share ``spots`` of the fields have spots, which the target has not (:mod:`bayesdiff.spots`).
    """
    cut, parameters, normal = jax.random.split(key, 3)
    x, importance, context = pool.choose(cut)
    if context is None:
        context = jax.random.uniform(
            parameters, denoiser.context_low.shape, minval=denoiser.context_low, maxval=denoiser.context_high
        )
    noise_power = noise.power(context, x.shape)
    s = noise_level(schedule, t)
    y = x + s * colour(jax.random.normal(normal, x.shape), noise_power)
    expected = pool.expectation(x, y, s, noise_power)
    if spots:
        y = y + draw_spots(jax.random.fold_in(key, 1), y.shape, spots)
    reference = denoiser.reference.at(context)
    levels, features = denoiser.spectra(reference, y, s, noise_power)
    filtered = reference.mean + filter_field(y - reference.mean, levels.signal)
    variance = s**2 * noise_power * levels.signal
    target, white = (filter_field(field - filtered, 1.0 / jnp.sqrt(variance)) for field in (expected, x))
    contrast = jnp.exp(0.5 * jnp.mean(features))
    weight = levels.signal / jnp.mean(levels.signal)
    if spots:
        importance = importance / jnp.maximum(jnp.mean(filter_field(target, jnp.sqrt(weight)) ** 2), 1.0)
    return Example(y, s, noise_power, context, target, white, variance, importance, contrast, weight)
