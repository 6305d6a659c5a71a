"""Reverse-time sampling, from pure noise (t = 1) or from the diffusion time t* of an observation.

Started at t* from an observation y = x + s Sigma^(1/2) n the reverse SDE draws from the posterior of x given y; started
at t = 1 it draws from the prior. Both samplers work with y = z / alpha, so a change of s needs no rescaling of the
observation.

* :func:`reverse_sde` is ancestral sampling on a grid of noise levels. Given x, the step from s to s' < s is Gaussian
  with mean c y + (1 - c) x, c = (s'/s)^2, and covariance s'^2 (1 - c) Sigma (Ho et al. 2020, arXiv:2006.11239, eq. 7,
  in this notation). x is replaced by D(y) plus a Gaussian of its mean posterior covariance s^2 Sigma A, which the twin
  knows and a trained denoiser has measured (the optimal reverse variance of Bao et al. 2022, arXiv:2201.06503). The
  mean of such a step is exact, for D is a martingale of the reverse process, but the covariance is that of a typical
  field. The one of this field is s^2 Sigma dD/dy, and the next evaluation shows it for nothing: where the step's noise
  e moved D by more than A e, it moves the field by w times the excess as well. With

      w = (1 - c) / 2 / (c + (1 - c) A)

  the covariance is right to first order in dD/dy - A, and the scheme of second weak order, still at one evaluation of
  the denoiser per step. For the twin there is no excess: it is sampled exactly in any number of steps. Each call goes
  by a random orientation of the field, if the prior has no preferred one (:mod:`bayesdiff.diffusion.orientation`).
* :func:`probability_flow` integrates the flow of :mod:`bayesdiff.diffusion.flow` with Heun's second-order method.

Draws, of the prior or of a posterior, go by the denoiser's generator, which densities do not ask: the posterior of what
the reverse process drew is the same process begun at the observation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import GaussianDenoiser, generator
from bayesdiff.diffusion.flow import LOWEST_NOISE_LEVEL, carry, integrate, reference_of, velocity
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.orientation import random_orientation

# A draw that ends above it has a Gaussian texture there, which no field has and functionals of smooth regions show.
LAST_NOISE_LEVEL = 0.005
# Of c + (1 - c) A, in long steps: there the noise tells little of the denoiser's slope.
SMALLEST_SHARE = 0.5


class _Expected(NamedTuple):
    """What a step was made of: the denoised field, and the noise that was added to the mean."""

    denoised: jax.Array
    noise: jax.Array


def reverse_sde(
    key: jax.Array,
    model: DiffusionModel,
    y: jax.Array,
    s: jax.Array,
    context: jax.Array,
    num_steps: int = 24,
    last: float = LAST_NOISE_LEVEL,
) -> jax.Array:
    """Draw x given y = x + s Sigma^(1/2) n, by the denoiser's generator.

    Args:
        key: random key.
        model: the diffusion.
        y: observation, (C, H, W).
        s: its noise level, a scalar.
        context: conditioning scalars, (num_context,).
        num_steps: evaluations of the denoiser.
        last: noise level of the last evaluation, or the schedule's lowest if that is higher; below it x is drawn in one
            step.

    Returns:
        One draw, (C, H, W).
    """
    model = replace(model, denoiser=generator(model.denoiser))
    key, key_orientation = jax.random.split(key)
    orientation = random_orientation(key_orientation, model.denoiser)
    noise_power = orientation.turn_power(model.noise_power(context))
    dtype = jnp.result_type(y, s)
    y = orientation.turn(jnp.asarray(y, dtype))
    lowest = jnp.minimum(jnp.maximum(last, model.noise_levels()[0]), 0.5 * s)
    fractions = jnp.linspace(0.0, 1.0, num_steps)
    levels = jnp.exp(jnp.log(s) + fractions * (jnp.log(lowest) - jnp.log(s))).astype(y.dtype)
    following = jnp.append(levels[1:], 0.0)

    def step(carry, inputs):
        y, expected, weight = carry
        key, s, s_next = inputs
        gain = _gain(model, y, s, noise_power, context)
        # What the last step's noise did to the denoiser beyond what a Gaussian field of covariance A would show.
        excess = model.denoiser(y, s, noise_power, context) - expected.denoised - filter_field(expected.noise, gain)
        shift = filter_field(excess, weight)
        y = y + shift
        denoised = expected.denoised + filter_field(expected.noise + shift, gain) + excess
        c = (s_next / s) ** 2
        variance = noise_power * (s_next**2 * (1.0 - c) + (1.0 - c) ** 2 * s**2 * gain)
        noise = filter_field(jax.random.normal(key, y.shape, y.dtype), jnp.sqrt(variance))
        weight = 0.5 * (1.0 - c) / jnp.maximum(c + (1.0 - c) * gain, SMALLEST_SHARE)
        return jax.tree.map(
            lambda new: new.astype(dtype),
            (c * y + (1.0 - c) * denoised + noise, _Expected(denoised, noise), weight),
        ), None

    nothing = jnp.zeros_like(y)
    (x, _, _), _ = jax.lax.scan(
        step, (y, _Expected(nothing, nothing), nothing), (jax.random.split(key, num_steps), levels, following)
    )
    return orientation.back(x)


def probability_flow(
    model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array, num_steps: int = 12, end: float | None = None
) -> jax.Array:
    """Carry y from noise level s to level ``end`` (the schedule's lowest by default) along the probability flow.

    Args:
        model: the diffusion.
        y: field at noise level s, (C, H, W).
        s: its noise level.
        context: conditioning scalars, (num_context,).
        num_steps: Heun steps, two evaluations of the denoiser each.
        end: noise level to stop at.

    Returns:
        The field at noise level ``end``; from the lowest level, its denoised limit.
    """
    reference = reference_of(model, None, context)
    noise_power = model.noise_power(context)
    lowest = model.noise_levels()[0]
    stop = jnp.maximum(lowest if end is None else end, LOWEST_NOISE_LEVEL)
    u = reference.whiten(y, s, noise_power)
    u = integrate(velocity(model.denoiser, reference, noise_power, context), u, jnp.log(s), jnp.log(stop), num_steps)
    return reference.unwhiten(u, jnp.asarray(0.0) if end is None else stop, noise_power)


def draw_prior(key: jax.Array, model: DiffusionModel, context: jax.Array, num_evaluations: int = 30) -> jax.Array:
    """Draw x from the prior by the probability flow from t = 1, (C, H, W), in so many evaluations of the denoiser."""
    return carry(model, jax.random.normal(key, model.event_shape), context, num_evaluations)


def ancestral_draw(
    key: jax.Array,
    model: DiffusionModel,
    context: jax.Array,
    num_steps: int = 120,
    last: float = LOWEST_NOISE_LEVEL,
) -> jax.Array:
    """Draw x from the prior by :func:`reverse_sde` from t = 1, (C, H, W).

    The flow and the reverse process of a denoiser that is learned have laws that differ a little. Draws from posteriors
    are those of the reverse process. It goes to the schedule's lowest noise level, below which nothing is known.

    Args:
        key: random key.
        model: the diffusion.
        context: conditioning scalars, (num_context,).
        num_steps: evaluations of the denoiser.
        last: as of :func:`reverse_sde`.
    """
    key_noise, key = jax.random.split(key)
    s = jnp.asarray(model.noise_levels()[-1])
    noise = filter_field(jax.random.normal(key_noise, model.event_shape), jnp.sqrt(model.noise_power(context)))
    return reverse_sde(key, model, s * noise, s, context, num_steps, last)


def _gain(model: DiffusionModel, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
    """A, the mean of |F(x - D)|^2 over s^2 Sigma per mode, (C, H, W); zero where the denoiser does not know it."""
    if isinstance(model.denoiser, GaussianDenoiser):
        gain = model.denoiser.levels(s, noise_power).signal
    elif hasattr(model.denoiser, "posterior_variance"):
        variance = model.denoiser.posterior_variance(y, s, noise_power, context)  # type: ignore[attr-defined]
        gain = variance / (s**2 * noise_power)
    else:
        gain = jnp.zeros(())
    return jnp.broadcast_to(gain, y.shape)
