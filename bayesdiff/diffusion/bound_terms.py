"""The variational bound in the three terms of a variational diffusion model (Kingma et al. 2021, arXiv:2107.00630).

In continuous time, with gamma = 2 log s minus the log-SNR and d values in a field,

    -log p(x) <=  KL[ q(y_1 | x) || N(0, (1 + s_1^2) Sigma) ]               prior
                + E[ -log N(x; y_0, s_0^2 Sigma) ]                           reconstruction
                + 1/2 integral E |Sigma^(-1/2) (x - D(y))|^2 / s^2 d gamma   diffusion

with y = x + s Sigma^(1/2) n, s_0 and s_1 the ends of the schedule. For inference use :class:`bayesdiff.Elbo`, which is
this bound from any starting time, without the two end terms' cancellation; these terms are what the literature reports.

The integrand is estimated with stratified, antithetic noise. Where the model has a twin, the twin's integrand under the
same noise is subtracted and its expectation,

    sum_k [ b^2 |F(x - mu)|^2 / (s^2 S) + a^2 ],

added: a control variate, which leaves no variance when the model is its twin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import scaled_score
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import colour
from bayesdiff.diffusion.refusals import refuse_shape


class BoundTerms(NamedTuple):
    """Terms of the bound on -log p(x) [nat].

    Attributes:
        prior: divergence of the last noisy field from pure noise.
        reconstruction: of the field from the first noisy one.
        diffusion: of all steps between.
        error: standard error of ``diffusion``.
    """

    prior: jax.Array
    reconstruction: jax.Array
    diffusion: jax.Array
    error: jax.Array

    @property
    def log_density(self) -> jax.Array:
        """The bound on log p(x)."""
        return -(self.prior + self.reconstruction + self.diffusion)


def bound_terms(
    key: jax.Array, model: DiffusionModel, x: jax.Array, context=None, num_times: int = 128, num_noise: int = 4
) -> BoundTerms:
    """The terms of the bound for one field.

    Args:
        key: random key of the noise.
        model: the diffusion.
        x: field, (C, H, W).
        context: conditioning scalars, as for :class:`bayesdiff.DiffusionPrior`.
        num_times: strata in log s.
        num_noise: independent antithetic pairs of noise per stratum, at least two.

    Raises:
        ValueError: a wrong shape or context, or fewer than two pairs.
    """
    refuse_shape("x", x, model.event_shape)
    if x.ndim != 3 or num_noise < 2:
        raise ValueError(f"one field and at least two pairs of noise are needed, got {x.shape} and {num_noise}")
    context = model.context_array(context)
    power = jnp.broadcast_to(model.noise_power(context), x.shape)
    low, high = (jnp.asarray(level, x.dtype) for level in model.noise_levels())
    size, log_det = x.size, jnp.sum(jnp.log(power))
    square = jnp.sum(mode_power(x) / power)
    prior = 0.5 * (size * jnp.log1p(1.0 / high**2) + (size * high**2 + square) / (1.0 + high**2) - size)
    reconstruction = 0.5 * (size * (jnp.log(2.0 * jnp.pi * low**2) + 1.0) + log_det)
    span = jnp.log(high) - jnp.log(low)
    integrand = _integrand(model, x, power, context)

    def at_stratum(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        stratum, key = inputs
        time_key, noise_key = jax.random.split(key)
        s = low * jnp.exp(span * (stratum + jax.random.uniform(time_key, (), x.dtype)) / num_times)
        return integrand(noise_key, s)

    strata = jnp.tile(jnp.arange(num_times, dtype=x.dtype), num_noise)
    values = jax.lax.map(at_stratum, (strata, jax.random.split(key, num_noise * num_times)), batch_size=4)
    per_draw = span * jnp.mean(values.reshape(num_noise, num_times), axis=1)
    error = jnp.std(per_draw, ddof=1) / jnp.sqrt(num_noise)
    return BoundTerms(prior, reconstruction, jnp.mean(per_draw), error)


def bound_slopes(
    key: jax.Array, model: DiffusionModel, x: jax.Array, gamma_min: jax.Array, gamma_max: jax.Array, context=None
) -> jax.Array:
    """How the bound on -log p(x) changes with the ends of the schedule, the only part of it that the bound knows.

    Args:
        key: random key of the noise, an antithetic pair at each end.
        model: the diffusion; its own schedule is not used.
        x: field, (C, H, W).
        gamma_min: lower end of gamma = 2 log s.
        gamma_max: upper end.
        context: conditioning scalars, as for :class:`bayesdiff.DiffusionPrior`.

    Returns:
        Derivatives by ``gamma_min`` and ``gamma_max`` [nat], shape (2,). No noise is lost at a lower end of minus
        infinity, none is missing at an upper one of infinity: there both are zero.
    """
    refuse_shape("x", x, model.event_shape)
    context = model.context_array(context)
    power = jnp.broadcast_to(model.noise_power(context), x.shape)
    square = jnp.sum(mode_power(x) / power)
    integrand = _integrand(model, x, power, context)
    first, last = (
        integrand(k, jnp.exp(0.5 * gamma))
        for k, gamma in zip(jax.random.split(key), (gamma_min, gamma_max), strict=True)
    )
    level = jnp.exp(gamma_max)
    of_prior = -0.5 * (x.size + level * square) / (1.0 + level) ** 2
    return jnp.stack([0.5 * (x.size - first), 0.5 * last + of_prior])


def _integrand(
    model: DiffusionModel, x: jax.Array, power: jax.Array, context: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """E |Sigma^(-1/2) (x - D(y))|^2 / s^2, a function of a key and a noise level."""
    twin = model.twin_at(context)

    def integrand(key: jax.Array, s: jax.Array) -> jax.Array:
        white = jax.random.normal(key, x.shape, x.dtype)

        def error(sign: float) -> jax.Array:
            noise = sign * white
            y = x + s * colour(noise, power)
            value = jnp.sum((noise + scaled_score(model.denoiser, y, s, power, context)) ** 2)
            if twin is None:
                return value
            return value - jnp.sum((noise + scaled_score(twin, y, s, power, context)) ** 2)

        value = 0.5 * (error(1.0) + error(-1.0))
        if twin is None:
            return value
        levels = twin.levels(s, power)
        expected = levels.noise**2 * mode_power(x - twin.mean) / (s**2 * power) + levels.signal**2
        return value + jnp.sum(jnp.broadcast_to(expected, x.shape))

    return integrand
