"""Refusals of bad input: what was expected and what came, said once and in the same words everywhere.

Values are only looked at when they are concrete; under ``jit`` or ``grad`` the callers turn an impossible parameter
into NaN or minus infinity, so that nothing is extrapolated silently there either.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

EDGE = 1e-6


def is_concrete(value) -> bool:
    """Whether every array in ``value`` has a known value, so that it can be checked."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def inside(value, low, high) -> jax.Array:
    """Whether traced or concrete values lie in [low, high], to float32 rounding of the ends; false for NaN."""
    value = jnp.asarray(value)
    return (value >= low - EDGE * abs(low)) & (value <= high + EDGE * abs(high))


def refuse_outside(name: str, value, low: float, high: float, what: str) -> None:
    """Raise ValueError unless all of a concrete ``value`` lies in [low, high] (to float32 rounding)."""
    if not is_concrete(value):
        return
    array = np.asarray(value, dtype=np.float64)
    bad = ~((array >= low - EDGE * abs(low)) & (array <= high + EDGE * abs(high)))
    if bad.any():
        raise ValueError(
            f"{name} must lie in [{low:g}, {high:g}] ({what}), got {np.atleast_1d(array)[np.atleast_1d(bad)][0]:g}"
        )


def refuse_shape(name: str, array, event_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the trailing axes of ``array`` are ``event_shape``."""
    shape = np.shape(array)
    if shape[len(shape) - len(event_shape) :] != tuple(event_shape) or len(shape) < len(event_shape):
        raise ValueError(f"{name} must have shape (..., {', '.join(map(str, event_shape))}), got {tuple(shape)}")


def refuse_non_finite(name: str, array) -> None:
    """Raise ValueError when a concrete ``array`` holds NaN or infinity, saying how many and where the first is."""
    if not is_concrete(array):
        return
    bad = ~np.isfinite(np.asarray(array, dtype=np.float64))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be finite, got {int(bad.sum())} NaN or infinite values, the first at index {first}"
        )
