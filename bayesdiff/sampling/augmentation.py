"""Draws of latent diffusion fields under a linear likelihood with Gaussian noise, of any mask, weight and operator.

A diffusion prior knows how to draw a field x from y = x + s Sigma^(1/2) n, and from nothing else. A likelihood
L(x) proportional to exp(-(x - m)^T H (x - m) / 2), with a curvature H that is neither stationary nor diagonal, can be
brought to that form exactly: its noise is split in two, and the first part is noise of the diffusion's kind. With
B = tau^2 Sigma, B <= H^-1, the field with the first part of the noise alone,

    z | x ~ N(x + B grad log L(x), B - B H B),

is such that L(x) N(z; x + B grad log L(x), B - B H B) is proportional to N(z; x, B) as a function of x. So

    x | z ~ prior(x) N(z; x, tau^2 Sigma),

which is the reverse process from noise level tau, started at z: draws of z and x in turn leave the posterior as it is.
(For a diagonal H the split is that of Vono, Dobigeon & Chainais 2019, arXiv:1804.05809, made exact; the gradient as
drift is that of Titsias & Papaspiliopoulos 2018, J. R. Stat. Soc. B 80, 749, who accept or reject because they leave
out H.) The largest tau is best: 1 / tau^2 is the largest eigenvalue of Sigma^(1/2) H Sigma^(1/2).

Nothing of H is known but its products with vectors, which are derivatives of the likelihood and cost no evaluation of
the network: the square root of B - B H B is a Chebyshev series in H, the eigenvalue comes from power iteration. Several
fields of one model, each with its diffusion, are one long vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.distributions import DiffusionPrior, NoisyDiffusion
from bayesdiff.distributions.batching import over_batch

Fields = dict[str, jax.Array]
LogLikelihood = Callable[[Fields], jax.Array]

# Of tau^2 times the largest eigenvalue: power iteration finds it from below, and the series converges slowly at one.
SHARE, LARGEST_SHARE = 0.8, 0.97
NUM_POWER_ITERATIONS, DEGREE = 24, 24
LINEARITY = 1e-2


def draw_given_likelihood(
    key: jax.Array,
    priors: Mapping[str, DiffusionPrior],
    log_likelihood: LogLikelihood,
    fields: Fields,
    num_steps: int,
) -> tuple[Fields, jax.Array]:
    """One draw of z and of the fields, see above.

    Args:
        key: random key.
        priors: of every field.
        log_likelihood: of the fields together; quadratic in them.
        fields: where the chain is, (..., C, H, W) each.
        num_steps: denoiser evaluations of the reverse process.

    Returns:
        The new fields, and tau. Where tau would have to be below the range of a diffusion the fields stay.
    """
    key_power, key_noise, key_field = jax.random.split(key, 3)
    gradient, hessian = jax.linearize(jax.grad(log_likelihood), fields)

    def curvature(white: Fields) -> Fields:
        """Sigma^(1/2) H Sigma^(1/2) on a vector of every field."""
        return jax.tree.map(jnp.negative, coloured(priors, hessian(coloured(priors, white))))

    largest = largest_eigenvalue(key_power, curvature, fields)
    low, high = noise_level_range(priors)
    tau = jnp.clip(jnp.sqrt(SHARE / largest), low, high)
    scaled = lambda white: jax.tree.map(lambda x: tau**2 * x, curvature(white))  # noqa: E731
    root = square_root(scaled, white_like(key_noise, fields))
    drift = coloured(priors, coloured(priors, gradient))
    noise = coloured(priors, root)
    z = {name: x + tau**2 * drift[name] + tau * noise[name] for name, x in fields.items()}
    drawn = {
        name: NoisyDiffusion(prior.model, tau, prior.context).sample_latent(
            jax.random.fold_in(key_field, index), z[name], num_steps
        )
        for index, (name, prior) in enumerate(priors.items())
    }
    moves = tau**2 * largest < LARGEST_SHARE
    return {name: jnp.where(moves, drawn[name], x).astype(x.dtype) for name, x in fields.items()}, tau


def noise_level_range(priors: Mapping[str, DiffusionPrior]) -> tuple[float, float]:
    """The noise levels that all of the diffusions cover."""
    low, high = zip(*(prior.model.noise_levels() for prior in priors.values()), strict=True)
    return max(low), min(high)


def coloured(priors: Mapping[str, DiffusionPrior], white: Fields) -> Fields:
    """Sigma^(1/2) on the field of every prior."""

    def one(model: DiffusionModel, field: jax.Array, context: jax.Array) -> jax.Array:
        return filter_field(field, jnp.sqrt(model.noise_power(context)))

    return {
        name: over_batch(
            lambda field, context, model=prior.model: one(model, field, context),
            white[name].shape[:-3],
            [(white[name], 3), (prior.context, 1)],
        )
        for name, prior in priors.items()
    }


def white_like(key: jax.Array, fields: Fields) -> Fields:
    """Unit white noise of the shapes of the fields."""
    return {
        name: jax.random.normal(jax.random.fold_in(key, index), x.shape, x.dtype)
        for index, (name, x) in enumerate(fields.items())
    }


def largest_eigenvalue(key: jax.Array, operator: Callable[[Fields], Fields], like: Fields) -> jax.Array:
    """Of a positive operator, by power iteration: a little too small."""

    def iterate(_: jax.Array, carry: tuple[Fields, jax.Array]) -> tuple[Fields, jax.Array]:
        vector, _ = carry
        image = operator(vector)
        norm = jnp.sqrt(inner(image, image))
        return jax.tree.map(lambda x: x / jnp.maximum(norm, 1e-30), image), norm

    start = white_like(key, like)
    norm = jnp.sqrt(inner(start, start))
    start = jax.tree.map(lambda x: x / norm, start)
    return jax.lax.fori_loop(0, NUM_POWER_ITERATIONS, iterate, (start, jnp.zeros_like(norm)))[1]


def square_root(operator: Callable[[Fields], Fields], vector: Fields) -> Fields:
    """(I - A)^(1/2) on a vector, for an operator A with eigenvalues between 0 and :data:`LARGEST_SHARE`."""
    half = 0.5 * LARGEST_SHARE
    nodes = np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    coefficients = np.polynomial.chebyshev.chebfit(nodes, np.sqrt(1.0 - half * (1.0 + nodes)), DEGREE)

    def scaled(vector: Fields) -> Fields:
        return jax.tree.map(lambda image, x: image / half - x, operator(vector), vector)

    def term(carry: tuple[Fields, Fields, Fields], coefficient: jax.Array) -> tuple[Any, None]:
        before, last, total = carry
        following = jax.tree.map(lambda a, b: 2.0 * a - b, scaled(last), before)
        return (last, following, jax.tree.map(lambda a, b: a + coefficient.astype(a.dtype) * b, total, following)), None

    first = scaled(vector)
    total = jax.tree.map(lambda a, b: coefficients[0] * a + coefficients[1] * b, vector, first)
    (_, _, total), _ = jax.lax.scan(term, (vector, first, total), jnp.asarray(coefficients[2:], jnp.result_type(float)))
    return total


def inner(a: Fields, b: Fields) -> jax.Array:
    """Inner product of two sets of fields."""
    return sum((jnp.vdot(x, y) for x, y in zip(a.values(), b.values(), strict=True)), start=jnp.zeros(()))


def refuse_nonlinear(key: jax.Array, log_likelihood: LogLikelihood, fields: Fields) -> None:
    """Refuse a likelihood whose curvature is not the same everywhere, or not that of a density.

    Raises:
        ValueError: with how much the curvature changes.
    """
    key_there, key_vector = jax.random.split(key)
    vector = white_like(key_vector, fields)
    elsewhere = jax.tree.map(jnp.add, fields, white_like(key_there, fields))
    here, there = (jax.jvp(jax.grad(log_likelihood), (x,), (vector,))[1] for x in (fields, elsewhere))
    change = jax.tree.map(jnp.subtract, here, there)
    relative: Any = jnp.sqrt(inner(change, change) / jnp.maximum(inner(here, here), 1e-30))
    names = ", ".join(repr(name) for name in fields)
    if not relative < LINEARITY:
        raise ValueError(
            f"GibbsDiffusion needs a likelihood linear in the field {names}, with Gaussian noise; the curvature "
            f"of this one changes by {float(relative):.0%} from field to field: use bd.noncentred(model) with "
            "AdjustedMCLMC or NUTS"
        )
