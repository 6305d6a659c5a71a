"""Moves of the parameters that take the field along: the other half of Gibbs sampling.

Given the field x, the parameters of the noise see y - x. That fixes an amplitude to one part in the square root of the
number of modes; where the field hides most of the noise, y alone says far less, and draws of field and parameters in
turn creep. Here the whitened residual n = Sigma_phi^(-1/2) (y - x) / s stays as it is, and the field moves with the
parameters,

    x(theta) = y - s Sigma_phi^(1/2) n,     p(theta | n, y)  proportional to  p(theta) p(x(theta)),

which binds the parameters to the field's prior instead of to the noise. One kind of move is fast where the other is
slow, and in turn they are faster than either (interweaving; Yu & Meng 2011, J. Comput. Graph. Stat. 20, 531).

The moves are Metropolis steps along straight lines of unconstrained parameters. A diffusion has no density of x that
could be evaluated, but its score at the smallest noise level of its schedule, and log p(x1) - log p(x0) is the integral
of score . dx along the line: a few denoiser evaluations by Gauss and Legendre. The shape of the proposals is the
covariance of the chain's own draws, their size is adapted to the acceptance (Andrieu & Thoms 2008, Stat. Comput. 18,
343, algorithm 4), both in the warm-up only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer.util import potential_energy

from bayesdiff.diffusion.denoiser import scaled_score
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import colour
from bayesdiff.distributions import DiffusionPrior, NoisyDiffusion
from bayesdiff.distributions.batching import over_batch

from .diffusion_sites import noisy_sites
from .target import BoundModel, Data, Position

ACCEPTANCE = 0.3
NUM_NODES = 4
_FIRST_SD = 0.1
_DECAY = 0.6

Fields = dict[str, jax.Array]


class Proposal(NamedTuple):
    """What the proposals of one chain are, learnt in its warm-up.

    Attributes:
        mean: of the chain so far, (size,).
        covariance: of the chain so far, (size, size).
        log_scale: logarithm of the proposals' size over it.
        count: moves that this was learnt from.
    """

    mean: jax.Array
    covariance: jax.Array
    log_scale: jax.Array
    count: jax.Array


def first_proposal(position: Position) -> Proposal:
    """Before anything is known."""
    vector = ravel_pytree(position)[0]
    size, dtype = vector.shape[0], vector.dtype
    return Proposal(vector, _FIRST_SD**2 * jnp.eye(size, dtype=dtype), jnp.zeros((), dtype), jnp.zeros((), dtype))


def whitened_residuals(functions: BoundModel, position: Position, fields: Fields, data: Data) -> Fields:
    """The whitened residual n of every site, given its field."""

    def one(residual: jax.Array, s: jax.Array, power: jax.Array) -> jax.Array:
        return filter_field(residual, 1.0 / (s * jnp.sqrt(power)))

    sites = noisy_sites(functions, position, data)
    return {name: _over(fn, one, y - fields[name], fn.noise_level) for name, (fn, y) in sites.items()}


def shift(
    key: jax.Array, position: Position, white: Fields, proposal: Proposal, functions: BoundModel, data: Data
) -> tuple[Position, jax.Array]:
    """One Metropolis step of the parameters at fixed whitened residuals.

    Returns:
        The position after it, and the acceptance probability.
    """
    key_step, key_accept = jax.random.split(key)
    old, unravel = ravel_pytree(position)
    step = propose(key_step, proposal)
    ratio = log_ratio(functions, unravel(old), unravel(old + step), white, data)
    acceptance = jnp.where(jnp.isfinite(ratio), jnp.exp(jnp.minimum(ratio, 0.0)), 0.0)
    accepted = jax.random.uniform(key_accept, dtype=acceptance.dtype) < acceptance
    return unravel(jnp.where(accepted, old + step, old)), acceptance


def propose(key: jax.Array, proposal: Proposal) -> jax.Array:
    """A step of the parameters, (size,)."""
    size, dtype = len(proposal.mean), proposal.mean.dtype
    factor = jnp.linalg.cholesky(proposal.covariance + 1e-10 * jnp.eye(size, dtype=dtype))
    return jnp.exp(proposal.log_scale) * (factor @ jax.random.normal(key, (size,), dtype))


def learn(proposal: Proposal, position: Position, acceptance: jax.Array) -> Proposal:
    """The proposal after one more move."""
    vector = ravel_pytree(position)[0]
    weight = jnp.minimum(0.5, (proposal.count + 1.0) ** -_DECAY)
    away = vector - proposal.mean
    return Proposal(
        proposal.mean + weight * away,
        (1.0 - weight) * proposal.covariance + weight * away[:, None] * away[None, :],
        proposal.log_scale + weight * (acceptance - ACCEPTANCE).astype(vector.dtype),
        proposal.count + 1.0,
    )


def log_ratio(functions: BoundModel, old: Position, new: Position, white: Fields, data: Data) -> jax.Array:
    """Difference log p(new | n, y) - log p(old | n, y), a scalar; NaN where the model does not reach."""
    sites = noisy_sites(functions, jax.tree.map(lambda a, b: 0.5 * (a + b), old, new), data)

    def fields(share: jax.Array) -> Fields:
        position = jax.tree.map(lambda a, b: a + share * (b - a), old, new)
        there = noisy_sites(functions, position, data)
        return {name: y - _over(fn, _coloured, white[name], fn.noise_level) for name, (fn, y) in there.items()}

    def slope(share: jax.Array) -> jax.Array:
        x, change = jax.jvp(fields, (share,), (jnp.ones_like(share),))
        return sum((jnp.sum(score(sites[name][0], x[name]) * change[name]) for name in x), start=jnp.zeros(()))

    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    dtype = jnp.result_type(float)
    slopes = jax.vmap(slope)(jnp.asarray(0.5 * (nodes + 1.0), dtype))
    ratio = jnp.dot(jnp.asarray(0.5 * weights, dtype), slopes)
    rest = _log_rest(functions, new, list(sites), data) - _log_rest(functions, old, list(sites), data)
    return jnp.where(_inside(functions, new, data), ratio + rest, jnp.nan)


def score(fn: NoisyDiffusion | DiffusionPrior, x: jax.Array) -> jax.Array:
    """Score of the prior of fields (..., C, H, W) at the smallest noise level, in the noise of ``fn``'s context."""
    model = fn.model
    s = jnp.asarray(model.noise_levels()[0], x.dtype)

    def one(x: jax.Array, context: jax.Array) -> jax.Array:
        power = model.noise_power(context)
        return filter_field(scaled_score(model.denoiser, x, s, power, context), 1.0 / (s * jnp.sqrt(power)))

    return over_batch(one, x.shape[:-3], [(x, 3), (fn.context, 1)])


def _coloured(white: jax.Array, s: jax.Array, power: jax.Array) -> jax.Array:
    return s * colour(white, power)


def _over(fn: NoisyDiffusion, function, field: jax.Array, s: jax.Array) -> jax.Array:
    """``function(field, s, noise power)`` over the batch of a site."""
    one = lambda field, s, context: function(field, s, fn.model.noise_power(context))  # noqa: E731
    return over_batch(one, field.shape[:-3], [(field, 3), (s, 0), (fn.context, 1)])


def _log_rest(functions: BoundModel, position: Position, sites: Sequence[str], data: Data) -> jax.Array:
    """Log joint density of everything but the diffusions."""
    args, kwargs = functions.arguments(data)
    others = handlers.block(functions.model, hide=list(sites))
    return -jnp.asarray(potential_energy(others, args, kwargs, position), dtype=float)


def _inside(functions: BoundModel, position: Position, data: Data) -> jax.Array:
    """Whether noise levels and contexts are in the range of their models."""
    inside = [jnp.all(fn.inside) for fn, _ in noisy_sites(functions, position, data).values()]
    return jnp.all(jnp.stack(inside))
