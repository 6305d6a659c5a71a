"""Moves of the parameters that latent fields follow, under a linear likelihood with Gaussian noise.

Given a field, the calibration of the map or the level of its noise is known far better than without it, and draws of
field and parameters in turn creep. Here the field moves with the parameters by what a Gaussian field would do: with
T(theta) the mean of the twin's posterior at theta,

    x' = x + T(theta') - T(theta),

so that what the data say of the field is kept as far as the twin knows it. T depends on data and parameters alone, so
the map from (theta, x) to (theta', x') is undone by the way back and keeps volume, whatever accuracy T is computed to,
and a Metropolis test with the ratio of the joint densities is exact. The prior's part of it, log p(x') - log p(x), is
the line integral of the score, a few denoiser evaluations (as in :mod:`bayesdiff.sampling.interweaving`, whose moves
keep the residual of a field that is observed in noise of the diffusion's kind).

T solves (P^-1 + H) (T - mu) = grad log L(mu) by conjugate gradients, preconditioned by the same with the mean curvature
in place of H, which is diagonal in Fourier space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.distributions import DiffusionPrior
from bayesdiff.distributions.batching import over_batch

from .augmentation import Fields
from .interweaving import NUM_NODES, Proposal, propose, score
from .target import Position

NUM_ITERATIONS = 20

Priors = Mapping[str, DiffusionPrior]


def translate(
    key: jax.Array,
    position: Position,
    fields: Fields,
    proposal: Proposal,
    log_likelihood: Callable[[Position, Fields], jax.Array],
    priors_at: Callable[[Position], Priors],
) -> tuple[Position, Fields, jax.Array]:
    """One Metropolis step of parameters and fields.

    Args:
        key: random key.
        position: of the parameters, unconstrained.
        fields: (..., C, H, W) each.
        proposal: learnt in the warm-up.
        log_likelihood: ``(position, fields)``, everything but the priors of the fields.
        priors_at: the priors of the fields at a position.

    Returns:
        Position and fields after it, and the acceptance probability.
    """
    key_step, key_accept = jax.random.split(key)
    old, unravel = ravel_pytree(position)
    new = unravel(old + propose(key_step, proposal))
    priors = priors_at(position)
    followed = jax.tree.map(
        jnp.subtract,
        twin_mean(lambda x: log_likelihood(new, x), priors_at(new), fields),
        twin_mean(lambda x: log_likelihood(position, x), priors, fields),
    )
    moved = jax.tree.map(jnp.add, fields, followed)
    ratio = log_likelihood(new, moved) - log_likelihood(position, fields) + prior_ratio(priors, fields, followed)
    acceptance = jnp.where(jnp.isfinite(ratio), jnp.exp(jnp.minimum(ratio, 0.0)), 0.0)
    accepted = jax.random.uniform(key_accept, dtype=acceptance.dtype) < acceptance
    choose = lambda a, b: jnp.where(accepted, a, b)  # noqa: E731
    return jax.tree.map(choose, new, position), jax.tree.map(choose, moved, fields), acceptance


def prior_ratio(priors: Priors, fields: Fields, change: Fields) -> jax.Array:
    """Log ratio of densities, log p(x + change) - log p(x), the sum over the fields, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)

    def slope(share: jax.Array) -> jax.Array:
        slopes = [jnp.sum(score(p, fields[name] + share * change[name]) * change[name]) for name, p in priors.items()]
        return jnp.sum(jnp.stack(slopes))

    dtype = jnp.result_type(float)
    return jnp.dot(jnp.asarray(0.5 * weights, dtype), jax.vmap(slope)(jnp.asarray(0.5 * (nodes + 1.0), dtype)))


def twin_mean(log_likelihood: Callable[[Fields], jax.Array], priors: Priors, like: Fields) -> Fields:
    """Mean of the posterior of Gaussian fields with the power and mean of the priors' twins."""

    def over(function: Callable[..., jax.Array], fields: Fields, *more: Mapping[str, jax.Array]) -> Fields:
        return {
            name: over_batch(
                lambda x, context, *rest, prior=prior: function(prior.model.twin_at(context), x, *rest),
                fields[name].shape[:-3],
                [(fields[name], 3), (prior.context, 1), *((m[name], 0) for m in more)],
            )
            for name, prior in priors.items()
        }

    centre = over(lambda twin, x: jnp.broadcast_to(twin.mean, x.shape).astype(x.dtype), like)
    gradient, hessian = jax.linearize(jax.grad(log_likelihood), centre)
    # Signs are a vector whose product with H has the trace for a mean.
    signs = jax.tree.map(lambda x: jax.random.rademacher(jax.random.key(0), x.shape, x.dtype), like)
    image = hessian(signs)
    mean_curvature = {name: jnp.maximum(-jnp.mean(signs[name] * image[name]), 0.0) for name in like}

    def apply(fields: Fields) -> Fields:
        prior_part = over(lambda twin, x: filter_field(x, 1.0 / twin.power), fields)
        return jax.tree.map(jnp.subtract, prior_part, hessian(fields))

    def precondition(fields: Fields) -> Fields:
        return over(lambda twin, x, h: filter_field(x, twin.power / (1.0 + h * twin.power)), fields, mean_curvature)

    solve: Any = cg
    solution, _ = solve(apply, gradient, maxiter=NUM_ITERATIONS, tol=0.0, M=precondition)
    return jax.tree.map(jnp.add, centre, solution)
