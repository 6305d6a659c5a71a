"""Draws of latent diffusion fields under any differentiable likelihood, without a gradient of the network.

A diffusion prior knows how to draw a field x from y = x + s Sigma^(1/2) n, and from nothing else. A likelihood
L(x) proportional to exp(-(x - m)^T H (x - m) / 2), with a curvature H that is neither stationary nor diagonal, can be
brought to that form exactly: its noise is split in two, and the first part is noise of the diffusion's kind. With
B = tau^2 Sigma, B <= H^-1, the field with the first part of the noise alone,

    z | x ~ N(x + B grad log L(x), B - B H B),

is such that L(x) N(z; x + B grad log L(x), B - B H B) is proportional to N(z; x, B) as a function of x. So

    x | z ~ prior(x) N(z; x, tau^2 Sigma),

which is the reverse process from noise level tau, started at z: draws of z and x in turn leave the posterior as it is.
(For a diagonal H the split is that of Vono, Dobigeon & Chainais 2019, arXiv:1804.05809, made exact.) The largest tau is
best: 1 / tau^2 is the largest eigenvalue of Sigma^(1/2) H Sigma^(1/2).

Where log L is not quadratic, H is its curvature at a fixed field and the draw x' is a proposal, accepted with

    min(1, L(x') q(z | x') N(z; x, B) / (L(x) q(z | x) N(z; x', B)))

with q the density of z above: what is not known, the prior's density, cancels. This is the auxiliary gradient sampler
of Titsias & Papaspiliopoulos (2018, J. R. Stat. Soc. B 80, 749) with a diffusion in the place of their Gaussian prior,
and with H.

Nothing of H is known but its products with vectors, which are derivatives of the likelihood and cost no evaluation of
the network: functions of it are Chebyshev series, the eigenvalue comes from power iteration. Several fields of one
model, each with its diffusion, are one long vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.distributions import DiffusionPrior, NoisyDiffusion
from bayesdiff.distributions.batching import over_batch

Fields = dict[str, jax.Array]
LogLikelihood = Callable[[Fields], jax.Array]

# Of tau^2 times the largest eigenvalue, which power iteration finds a little too small: what is aimed at, and what the
# series below reach to.
SHARE, LARGEST_SHARE = 0.8, 0.95
NUM_POWER_ITERATIONS, DEGREE = 24, 32
LINEARITY = 1e-3


class Draw(NamedTuple):
    """A draw of the fields.

    Attributes:
        fields: the new ones, or the old ones where they were not accepted.
        level: tau.
        acceptance: its probability; 1 for a likelihood that is linear and Gaussian.
    """

    fields: Fields
    level: jax.Array
    acceptance: jax.Array


def draw_given_likelihood(
    key: jax.Array,
    priors: Mapping[str, DiffusionPrior],
    log_likelihood: LogLikelihood,
    fields: Fields,
    num_steps: int,
    reference: Fields | None = None,
    share: jax.Array | float = SHARE,
) -> Draw:
    """One draw of z and of the fields, see above.

    Args:
        key: random key.
        priors: of every field.
        log_likelihood: of the fields together.
        fields: where the chain is, (..., C, H, W) each.
        num_steps: denoiser evaluations of the reverse process.
        reference: fields at which the curvature is taken; None for a likelihood that is quadratic in the fields, whose
            draws need no test.
        share: of the largest noise that is split off, as a variance; at most :data:`SHARE`.

    Returns:
        The draw. Where tau would have to be below the range of a diffusion the fields stay.
    """
    key_power, key_noise, key_field, key_accept = jax.random.split(key, 4)
    gradient = jax.grad(log_likelihood)
    slope, hessian = jax.linearize(gradient, fields if reference is None else reference)
    slope = slope if reference is None else gradient(fields)

    def curvature(white: Fields) -> Fields:
        """Sigma^(1/2) H Sigma^(1/2) on a vector of every field."""
        return jax.tree.map(jnp.negative, coloured(priors, hessian(coloured(priors, white))))

    largest = largest_eigenvalue(key_power, curvature, fields)
    low, high = noise_level_range(priors)
    tau = jnp.clip(jnp.sqrt(share / largest), low, high)

    def scaled(white: Fields) -> Fields:
        return jax.tree.map(lambda x: tau**2 * x, curvature(white))

    # In white vectors, B^(-1/2) times the fields.
    noise = operator_function(_root, scaled, white_like(key_noise, fields))
    drift = coloured(priors, slope)
    change = coloured(priors, jax.tree.map(lambda d, n: tau**2 * d + tau * n, drift, noise))
    z = jax.tree.map(jnp.add, fields, change)
    drawn = {
        name: NoisyDiffusion(prior.model, tau, prior.context).sample_latent(
            jax.random.fold_in(key_field, index), z[name], num_steps
        )
        for index, (name, prior) in enumerate(priors.items())
    }
    accepted, acceptance = tau**2 * largest < LARGEST_SHARE, jnp.ones(())
    if reference is not None:

        def log_weight(x: Fields) -> jax.Array:
            """Log of L(x) q(z | x) / N(z; x, B)."""
            away = coloured(priors, jax.tree.map(lambda a, b: (a - b) / tau, z, x), -0.5)
            left = jax.tree.map(lambda a, g: a - tau * g, away, coloured(priors, gradient(x)))
            solved = operator_function(_inverse, scaled, left)
            return log_likelihood(x) - 0.5 * inner(left, solved) + 0.5 * inner(away, away)

        ratio = log_weight(drawn) - log_weight(fields)
        acceptance = jnp.where(jnp.isfinite(ratio) & accepted, jnp.exp(jnp.minimum(ratio, 0.0)), 0.0)
        accepted = jax.random.uniform(key_accept, dtype=acceptance.dtype) < acceptance
    moved = {name: jnp.where(accepted, drawn[name], x).astype(x.dtype) for name, x in fields.items()}
    return Draw(moved, tau, acceptance)


def noise_level_range(priors: Mapping[str, DiffusionPrior]) -> tuple[float, float]:
    """The noise levels that all of the diffusions cover."""
    low, high = zip(*(prior.model.noise_levels() for prior in priors.values()), strict=True)
    return max(low), min(high)


def coloured(priors: Mapping[str, DiffusionPrior], white: Fields, power: float = 0.5) -> Fields:
    """Sigma^(1/2), or another power of Sigma, on the field of every prior."""

    def one(model: DiffusionModel, field: jax.Array, context: jax.Array) -> jax.Array:
        return filter_field(field, model.noise_power(context) ** power)

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
    """Of a symmetric operator, in size, by power iteration: a little too small."""

    def iterate(_: jax.Array, carry: tuple[Fields, jax.Array]) -> tuple[Fields, jax.Array]:
        vector, _ = carry
        image = operator(vector)
        norm = jnp.sqrt(inner(image, image))
        return jax.tree.map(lambda x: x / jnp.maximum(norm, 1e-30), image), norm

    start = white_like(key, like)
    norm = jnp.sqrt(inner(start, start))
    start = jax.tree.map(lambda x: x / norm, start)
    return jax.lax.fori_loop(0, NUM_POWER_ITERATIONS, iterate, (start, jnp.zeros_like(norm)))[1]


def operator_function(
    function: Callable[[np.ndarray], np.ndarray], operator: Callable[[Fields], Fields], vector: Fields
) -> Fields:
    """f(A) on a vector, for a symmetric A with eigenvalues between minus and plus :data:`LARGEST_SHARE`."""
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    coefficients = np.polynomial.chebyshev.chebfit(nodes, function(LARGEST_SHARE * nodes), DEGREE)

    def scaled(vector: Fields) -> Fields:
        return jax.tree.map(lambda image: image / LARGEST_SHARE, operator(vector))

    def term(carry: tuple[Fields, Fields, Fields], coefficient: jax.Array) -> tuple[Any, None]:
        before, last, total = carry
        following = jax.tree.map(lambda a, b: 2.0 * a - b, scaled(last), before)
        return (last, following, jax.tree.map(lambda a, b: a + coefficient.astype(a.dtype) * b, total, following)), None

    first = scaled(vector)
    total = jax.tree.map(lambda a, b: coefficients[0] * a + coefficients[1] * b, vector, first)
    (_, _, total), _ = jax.lax.scan(term, (vector, first, total), jnp.asarray(coefficients[2:], jnp.result_type(float)))
    return total


def _root(eigenvalue: np.ndarray) -> np.ndarray:
    return np.sqrt(1.0 - eigenvalue)


def _inverse(eigenvalue: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 - eigenvalue)


def inner(a: Fields, b: Fields) -> jax.Array:
    """Inner product of two sets of fields."""
    return sum((jnp.vdot(x, y) for x, y in zip(a.values(), b.values(), strict=True)), start=jnp.zeros(()))


def is_linear(key: jax.Array, log_likelihood: LogLikelihood, fields: Fields) -> bool:
    """Whether a likelihood is that of linear observations in Gaussian noise: its curvature is the same everywhere."""
    key_there, key_vector = jax.random.split(key)
    vector = white_like(key_vector, fields)
    elsewhere = jax.tree.map(jnp.add, fields, white_like(key_there, fields))
    here, there = (jax.jvp(jax.grad(log_likelihood), (x,), (vector,))[1] for x in (fields, elsewhere))
    change = inner(*(2 * [jax.tree.map(jnp.subtract, here, there)]))
    return bool(jnp.sqrt(change / jnp.maximum(inner(here, here), 1e-30)) < LINEARITY)
