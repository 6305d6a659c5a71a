"""An unconstrained position as one vector.

A trajectory adds, scales and compares positions and momenta at every gradient. With one array per site each of these is
a small operation per site, which on a small model costs more than the density; on one vector it is a single one. The
density alone sees the sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .target import Position


@dataclass(frozen=True)
class Layout:
    """Where the values of each site stand in the vector.

    Attributes:
        shapes: name and unconstrained shape of every latent site, in the order of the vector.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, latent_shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of these sites, by name."""
        return cls(tuple(sorted(latent_shapes.items())))

    def flatten(self, position: Position) -> jax.Array:
        """One position as a vector (size,)."""
        return jnp.concatenate([position[name].reshape(-1) for name, _ in self.shapes])

    def unflatten(self, vector: jax.Array) -> Position:
        """The position that a vector (size,) stands for."""
        position, first = {}, 0
        for name, shape in self.shapes:
            last = first + math.prod(shape)
            position[name] = vector[first:last].reshape(shape)
            first = last
        return position
