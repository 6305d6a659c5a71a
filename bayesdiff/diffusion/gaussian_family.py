"""Gaussian fields whose mean and power depend on parameters: the twin of a conditional prior.

The log of the power is linear in products of two sets of functions: hats in log |k|, one of them for k = 0 alone, and
Legendre polynomials up to a total degree in the context x mapped to [-1, 1]:

    log P(k; theta) = sum_bj c_bj h_b(log |k|) phi_j(x),        mu(theta) = sum_j m_j phi_j(x).

At every context this is a Gaussian field with all its closed forms, and the posterior of theta given such a field is
what a power spectrum can tell. :func:`fit_gaussian_family` is maximum likelihood (Whittle) on fields of many contexts:
a gamma regression with logarithmic link, whose Fisher information does not depend on the coefficients and is a product
of one matrix over contexts and one over modes, so that scoring steps are two small solves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser, scaled_score
from bayesdiff.diffusion.fourier import RadialModes, mode_power

NUM_SCORING_STEPS = 30


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GaussianFamily:
    """The exact denoiser of stationary Gaussian fields of one channel, given the context.

    Attributes:
        log_power: coefficients c, shape (bands, terms); the first band is the mode k = 0.
        mean: coefficients m, shape (terms,).
        context_low: lower ends of the context's range, shape (num_context,).
        context_high: upper ends.
        shape: (H, W) of the fields.
        degree: highest total degree in the context.
    """

    log_power: jax.Array
    mean: jax.Array
    context_low: jax.Array
    context_high: jax.Array
    shape: tuple[int, int] = field(metadata={"static": True})
    degree: int = field(metadata={"static": True})

    def at(self, context: jax.Array) -> GaussianDenoiser:
        """The Gaussian field at one context (num_context,)."""
        terms = polynomial_terms(context, self.context_low, self.context_high, self.degree)
        hats = jnp.asarray(_hats(self.shape, self.log_power.shape[0]), dtype=self.log_power.dtype)
        modes = RadialModes(self.shape)
        power = jnp.exp(hats @ (self.log_power @ terms))[modes.group].reshape(self.shape)
        return GaussianDenoiser(power, self.mean @ terms)

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """The Wiener filter at this context."""
        return self.at(context)(y, s, noise_power, context)

    def scaled_score(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """As :func:`bayesdiff.diffusion.denoiser.scaled_score`."""
        return scaled_score(self.at(context), y, s, noise_power, context)

    def posterior_variance(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E |F(x - D)|^2 per mode."""
        del y
        return s**2 * noise_power * self.at(context).levels(s, noise_power).signal


def fit_gaussian_family(
    fields: np.ndarray,
    contexts: np.ndarray,
    context_low: tuple[float, ...],
    context_high: tuple[float, ...],
    degree: int = 3,
    num_bands: int = 16,
) -> GaussianFamily:
    """Fit mean and power of fields that have a context each.

    Args:
        fields: shape (N, 1, H, W), periodic.
        contexts: shape (N, num_context).
        context_low: lower ends of the context's range.
        context_high: upper ends.
        degree: of the polynomials in the context.
        num_bands: hats in log |k| beyond the mode k = 0; fewer where the modes of a small field do not tell them apart.

    Raises:
        ValueError: for fields of several channels, other numbers of contexts, contexts outside their range, or fewer
            fields than terms.
    """
    low, high = np.asarray(context_low, dtype=np.float64), np.asarray(context_high, dtype=np.float64)
    if fields.ndim != 4 or fields.shape[1] != 1:
        raise ValueError(f"fields must have shape (N, 1, H, W), got {fields.shape}")
    if contexts.shape != (len(fields), len(low)):
        raise ValueError(f"contexts must have shape {(len(fields), len(low))}, got {contexts.shape}")
    if (contexts < low).any() or (contexts > high).any():
        raise ValueError(f"contexts must lie between {low} and {high}")
    shape = (fields.shape[-2], fields.shape[-1])
    evaluate = jax.vmap(lambda c: polynomial_terms(c, low, high, degree))
    terms = np.asarray(evaluate(jnp.asarray(contexts)), dtype=np.float64)
    if len(fields) < 2 * terms.shape[1]:
        raise ValueError(f"{terms.shape[1]} terms cannot be fitted to {len(fields)} fields")
    average = fields.mean(axis=(1, 2, 3), dtype=np.float64)
    mean = np.linalg.lstsq(terms, average, rcond=None)[0]
    modes, hats = RadialModes(shape), _resolved_hats(shape, num_bands + 1)
    power = _mean_group_power(fields, modes)
    # The mode k = 0 is about the mean of its context; all others do not know of it.
    power[:, 0] = (average - terms @ mean) ** 2 * shape[0] * shape[1]
    counts = modes.counts.astype(np.float64)
    over_modes = np.linalg.inv((hats * counts[:, None]).T @ hats)
    over_contexts = np.linalg.inv(terms.T @ terms)
    log_mean = np.log(power.mean(axis=0))
    coefficients = np.zeros((hats.shape[1], terms.shape[1]))
    coefficients[:, 0] = over_modes @ hats.T @ (counts * log_mean)
    for _ in range(NUM_SCORING_STEPS):
        excess = counts * (power * np.exp(-(terms @ coefficients.T) @ hats.T) - 1.0)
        coefficients += over_modes @ (hats.T @ excess.T @ terms) @ over_contexts
    return GaussianFamily(
        jnp.asarray(coefficients, dtype=float),
        jnp.asarray(mean, dtype=float),
        jnp.asarray(low, dtype=float),
        jnp.asarray(high, dtype=float),
        shape,
        degree,
    )


def _mean_group_power(fields: np.ndarray, modes: RadialModes) -> np.ndarray:
    """|fft2|^2 averaged over modes of equal |k|, (N, groups)."""
    total = jax.jit(lambda x: modes.total(mode_power(x))[:, 0] / modes.counts)
    parts = np.array_split(fields, -(-len(fields) // 256))
    return np.concatenate([np.asarray(total(part), np.float64) for part in parts])


def polynomial_terms(context: jax.Array, low, high, degree: int) -> jax.Array:
    """Products of Legendre polynomials up to a total degree, the constant first, shape (terms,)."""
    x = (2.0 * context - low - high) / (high - low)
    one = [jnp.ones_like(x), x]
    for n in range(1, degree):
        one.append(((2 * n + 1) * x * one[n] - n * one[n - 1]) / (n + 1))
    powers = [p for p in product(range(degree + 1), repeat=x.shape[-1]) if sum(p) <= degree]
    factors = jnp.stack(one)
    return jnp.stack([jnp.prod(factors[np.array(p), np.arange(len(p))]) for p in sorted(powers, key=sum)])


def _resolved_hats(shape: tuple[int, int], num: int) -> np.ndarray:
    """:func:`_hats`, at most ``num`` and as many as the modes of the grid determine."""
    for fewer in range(num, 3, -1):
        hats = _hats(shape, fewer)
        if np.linalg.matrix_rank(hats, tol=0.1) == fewer:
            return hats
    return _hats(shape, 3)


def _hats(shape: tuple[int, int], num: int) -> np.ndarray:
    """Hats in log |k| from the fundamental to the corner of the grid at each group of modes, (groups, num)."""
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    radius = np.hypot(rows[:, None], columns[None, :]).ravel()[RadialModes(shape).first]
    position = np.log(np.maximum(radius, 1.0 / max(shape)) * max(shape))
    position = position / np.log(np.hypot(0.5, 0.5) * max(shape)) * (num - 2)
    hats = np.maximum(1.0 - np.abs(position[:, None] - np.arange(num - 1)), 0.0)
    zero = radius == 0.0
    return np.column_stack([zero, np.where(zero[:, None], 0.0, hats)])
