"""Reverse-time sampling, from pure noise (t = 1) or from the diffusion time t* of an observation.

Started at t* from an observation y = x + s Sigma^(1/2) n the reverse SDE draws from the posterior of x given y; started
at t = 1 it draws from the prior. Both samplers work with y = z / alpha, so a change of s needs no rescaling of the
observation.

* :func:`reverse_sde` is ancestral sampling on a grid of noise levels. Given x, the step from s to s' < s is Gaussian
  with mean c y + (1 - c) x, c = (s'/s)^2, and covariance s'^2 (1 - c) Sigma (Ho et al. 2020, arXiv:2006.11239, eq. 7,
  in this notation). x is replaced by D(y) plus a Gaussian with the mean posterior variance of x given y, the optimal
  reverse variance of Bao et al. (2022, arXiv:2201.06503), where the denoiser knows it: the twin's is exact, so the twin
  is sampled exactly in any number of steps.
* :func:`probability_flow` integrates the flow of :mod:`bayesdiff.diffusion.flow` with Heun's second-order method.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.flow import LOWEST_NOISE_LEVEL, integrate, push, reference_of, velocity
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel

LAST_NOISE_LEVEL = 0.02


def reverse_sde(
    key: jax.Array,
    model: DiffusionModel,
    y: jax.Array,
    s: jax.Array,
    context: jax.Array,
    num_steps: int = 16,
    last: float = LAST_NOISE_LEVEL,
) -> jax.Array:
    """Draw x given y = x + s Sigma^(1/2) n.

    Args:
        key: random key.
        model: the diffusion.
        y: observation, (C, H, W).
        s: its noise level, a scalar.
        context: conditioning scalars, (num_context,).
        num_steps: evaluations of the denoiser.
        last: noise level of the last evaluation; below it x is drawn in one step.

    Returns:
        One draw, (C, H, W).
    """
    noise_power = model.noise_power(context)
    y = jnp.asarray(y, jnp.result_type(y, s))
    lowest = jnp.minimum(jnp.maximum(last, model.noise_levels()[0]), 0.5 * s)
    fractions = jnp.linspace(0.0, 1.0, num_steps)
    levels = jnp.exp(jnp.log(s) + fractions * (jnp.log(lowest) - jnp.log(s))).astype(y.dtype)
    following = jnp.append(levels[1:], 0.0)

    def step(y, inputs):
        key, s, s_next = inputs
        c = (s_next / s) ** 2
        variance = s_next**2 * (1.0 - c) * noise_power + (1.0 - c) ** 2 * _posterior_variance(model, y, s, noise_power)
        noise = filter_field(jax.random.normal(key, y.shape, y.dtype), jnp.sqrt(variance))
        denoised = model.denoiser(y, s, noise_power, context)
        return (c * y + (1.0 - c) * denoised + noise).astype(y.dtype), None

    x, _ = jax.lax.scan(step, y, (jax.random.split(key, num_steps), levels, following))
    return x


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
    reference = reference_of(model, None)
    noise_power = model.noise_power(context)
    lowest = model.noise_levels()[0]
    stop = jnp.maximum(lowest if end is None else end, LOWEST_NOISE_LEVEL)
    u = reference.whiten(y, s, noise_power)
    u = integrate(velocity(model, reference, noise_power, context), u, jnp.log(s), jnp.log(stop), num_steps)
    return reference.unwhiten(u, jnp.asarray(0.0) if end is None else stop, noise_power)


def draw_prior(key: jax.Array, model: DiffusionModel, context: jax.Array, num_steps: int = 24) -> jax.Array:
    """Draw x from the prior by the probability flow from t = 1, (C, H, W)."""
    return push(model, jax.random.normal(key, model.event_shape), context, num_steps)


def _posterior_variance(model: DiffusionModel, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
    """Mean of |F(x - D)|^2 per mode, zero where the denoiser does not know it."""
    if isinstance(model.denoiser, GaussianDenoiser):
        return s**2 * noise_power * model.denoiser.levels(s, noise_power).signal
    if hasattr(model.denoiser, "posterior_variance"):
        return model.denoiser.posterior_variance(y, s, noise_power)  # type: ignore[attr-defined]
    return jnp.zeros_like(noise_power)
