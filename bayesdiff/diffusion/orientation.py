"""Random orientations, for priors of fields without a preferred direction.

A network that was trained on fields in all orientations knows that their law has none, but only about: in each
orientation it errs a little otherwise. A chain that asks it thousands of times in one and the same follows one and the
same error, out of the fields that it has learnt. Asked in a random orientation each time, it is right on the average
over orientations; what it costs is a copy of the field.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Orientation(NamedTuple):
    """One of the symmetries of the grid, those of the rectangle or of the square, as three booleans.

    Attributes:
        upside_down: rows in reverse order.
        mirrored: columns in reverse order.
        swapped: rows and columns exchanged, after the others.
    """

    upside_down: jax.Array
    mirrored: jax.Array
    swapped: jax.Array

    def turn(self, field: jax.Array) -> jax.Array:
        """A field (..., H, W) in this orientation."""
        return self._swap(self._reverse(field))

    def back(self, field: jax.Array) -> jax.Array:
        """Undo :meth:`turn`."""
        return self._reverse(self._swap(field))

    def turn_power(self, power: jax.Array) -> jax.Array:
        """The power per mode (..., H, W) of fields in this orientation."""
        rows = jnp.where(self.upside_down, jnp.roll(power[..., ::-1, :], 1, axis=-2), power)
        return self._swap(jnp.where(self.mirrored, jnp.roll(rows[..., ::-1], 1, axis=-1), rows))

    def _reverse(self, field: jax.Array) -> jax.Array:
        field = jnp.where(self.upside_down, field[..., ::-1, :], field)
        return jnp.where(self.mirrored, field[..., ::-1], field)

    def _swap(self, field: jax.Array) -> jax.Array:
        if field.shape[-1] != field.shape[-2]:
            return field
        return jnp.where(self.swapped, jnp.swapaxes(field, -1, -2), field)


def random_orientation(key: jax.Array, denoiser: Any) -> Orientation:
    """A random one where the denoiser's prior has no preferred direction, ``denoiser.symmetric``, else none."""
    coins = jax.random.bernoulli(key, 0.5, (3,)) & getattr(denoiser, "symmetric", False)
    return Orientation(*coins)
