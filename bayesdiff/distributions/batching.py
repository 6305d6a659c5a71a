"""Batches of fields and parameters over functions written for one field."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.model import DiffusionModel


def over_batch(function: Callable, batch_shape: tuple[int, ...], arguments: list[tuple[jax.Array, int]]) -> jax.Array:
    """Apply ``function`` to each element of a batch.

    Args:
        function: takes the arguments without batch axes, returns an array.
        batch_shape: the common batch shape.
        arguments: pairs (array, number of its own axes); leading axes broadcast to ``batch_shape``.
    """
    if not batch_shape:
        return function(*(array for array, _ in arguments))
    flat = []
    for array, own in arguments:
        event = array.shape[array.ndim - own :]
        flat.append(jnp.broadcast_to(array, (*batch_shape, *event)).reshape(math.prod(batch_shape), *event))
    result = jax.vmap(function)(*flat)
    return result.reshape(*batch_shape, *result.shape[1:])


def key_argument(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, int]:
    """One random key per element of a batch, for :func:`over_batch` (raw keys have an axis of their own)."""
    keys = jax.random.split(key, shape) if shape else key
    return keys, 0 if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else 1


def inside_or_centre(model: DiffusionModel, context: jax.Array, inside: jax.Array) -> jax.Array:
    """The context where it is inside the trained range, else the centre of that range, where gradients are finite."""
    if model.context_bounds is None or not model.context_names:
        return context
    centre = jnp.asarray(np.mean(model.context_bounds, axis=1), dtype=context.dtype)
    return jnp.where(inside[..., None], context, centre)
