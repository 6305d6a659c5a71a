"""A convolutional network on a periodic field larger than those it was trained on, tile by tile.

Every tile is seen with a margin of its surroundings, which is cut off again, so memory is that of one tile and the
normalisations of the network average over an area like that of its training. What a network does beyond its margin is
lost; a margin of its reach loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

LARGEST_TILE, MARGIN = 128, 32
LARGEST_WHOLE = LARGEST_TILE + 2 * MARGIN
STEP = 8
"""Sides of tiles are multiples of this, so that networks of up to four levels can halve them."""


def apply_in_tiles(
    network: Callable[[jax.Array], jax.Array],
    h: jax.Array,
    whole: int = LARGEST_WHOLE,
    margin: int = MARGIN,
    largest: int = LARGEST_TILE,
) -> jax.Array:
    """Apply ``network`` to a periodic field (1, H, W, channels), in tiles where it is larger than ``whole``.

    Args:
        network: of fields (1, h, w, channels), of any h and w divisible by 8.
        h: the field.
        whole: side in pixels up to which a field is seen as it is, across its periodic edges.
        margin: pixels around every tile that the network sees beside it.
        largest: side of a tile without its margin.

    Raises:
        ValueError: H or W is large and has no divisor that a tile could have.
    """
    height, width = h.shape[1:3]
    if max(height, width) <= whole:
        return network(h)
    rows, columns = _side(height, largest), _side(width, largest)
    padded = jnp.pad(h, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="wrap")
    corners = jnp.stack(
        jnp.meshgrid(jnp.arange(0, height, rows), jnp.arange(0, width, columns), indexing="ij"), axis=-1
    ).reshape(-1, 2)

    def one(corner: jax.Array) -> jax.Array:
        size = (1, rows + 2 * margin, columns + 2 * margin, h.shape[-1])
        tile = jax.lax.dynamic_slice(padded, (0, corner[0], corner[1], 0), size)
        return network(tile)[0, margin : margin + rows, margin : margin + columns]

    tiles = jax.lax.map(one, corners)
    tiles = tiles.reshape(height // rows, width // columns, rows, columns, -1).swapaxes(1, 2)
    return tiles.reshape(1, height, width, -1)


def _side(length: int, largest: int) -> int:
    """The largest side of equal tiles."""
    for side in range(largest // STEP * STEP, 0, -STEP):
        if length % side == 0:
            return side
    raise ValueError(f"a field of more than {largest} pixels must be divisible by {STEP}, got {length}")
