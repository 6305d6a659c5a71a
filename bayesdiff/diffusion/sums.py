"""Sums over the pixels of a field whose result is right to the last bit it has room for.

A log density of a 256 x 256 field is a sum of 65,536 terms near 10^5, where float32 resolves 0.008; posteriors are made
of differences of order one. A plain float32 sum loses a few hundredths more. Pairwise summation that carries its
rounding errors (Knuth's two-sum) loses none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_jvp
def accurate_sum(terms: jax.Array) -> jax.Array:
    """Sum over the last three axes, rounded once."""
    total = terms.reshape(*terms.shape[:-3], -1)
    error = jnp.zeros_like(total)
    while total.shape[-1] > 1:
        if total.shape[-1] % 2:
            pad = [(0, 0)] * (total.ndim - 1) + [(0, 1)]
            total, error = jnp.pad(total, pad), jnp.pad(error, pad)
        half = total.shape[-1] // 2
        a, b = total[..., :half], total[..., half:]
        total = a + b
        b_seen = total - a
        error = error[..., :half] + error[..., half:] + ((a - (total - b_seen)) + (b - b_seen))
    return (total + error)[..., 0]


@accurate_sum.defjvp
def _accurate_sum_jvp(primals, tangents):
    return accurate_sum(*primals), jnp.sum(tangents[0], axis=(-3, -2, -1))
