"""Spots on noisy training fields, for denoisers that chains of many draws go by.

A network knows the fields that it was trained on. What it makes of others is chance, and there are always some that it
takes for fields: bright pixels or streaks that no map has are kept, and where nothing is observed a chain of thousands
of draws finds them and does not come back. A denoiser that has seen spots on its training fields, and was asked for the
fields without them, takes them away. On a field without spots the question is the old one, and so is the answer, as
long as spots are unlike anything in a field.

Imports only jax.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

MOST = 3
HEIGHTS, WIDTHS, LENGTHS = (3.0, 30.0), (0.25, 0.8), (1.0, 6.0)
"""Ranges of the height [of the field's unit], the width [pixels, of a Gaussian] and the length over the width."""


def draw_spots(key: jax.Array, shape: tuple[int, ...], share: float) -> jax.Array:
    """What is added to a field (C, H, W), the same in every channel: one to three spots or streaks, or nothing.

    Args:
        key: random key.
        shape: of the field.
        share: of the fields that have spots.
    """
    keys = jax.random.split(key, 8)
    row, column = (n * jax.random.uniform(k, (MOST, 1, 1)) for k, n in zip(keys, shape[-2:], strict=False))
    height, width, length = (
        jax.random.uniform(k, (MOST, 1, 1), minval=low, maxval=high)
        for k, (low, high) in zip(keys[2:], (HEIGHTS, WIDTHS, LENGTHS), strict=False)
    )
    angle = jax.random.uniform(keys[5], (MOST, 1, 1), maxval=jnp.pi)
    down = jnp.arange(shape[-2])[:, None] - row
    right = jnp.arange(shape[-1])[None, :] - column
    along = (jnp.cos(angle) * down + jnp.sin(angle) * right) / (width * length)
    across = (jnp.cos(angle) * right - jnp.sin(angle) * down) / width
    number = jax.random.randint(keys[6], (), 1, MOST + 1) * jax.random.bernoulli(keys[7], share)
    shown = height * (jnp.arange(MOST) < number)[:, None, None]
    return jnp.broadcast_to(jnp.sum(shown * jnp.exp(-0.5 * (along**2 + across**2)), axis=0), shape)
