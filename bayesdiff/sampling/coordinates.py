"""Coordinates of the parameters in which a smooth log density is smooth up to the edges of its prior.

Chains move in unconstrained space, where an edge of a bounded prior lies at infinity and a posterior that reaches it
has a long tail. A correction to the likelihood is a smooth function of the parameters themselves, so it is
interpolated in these: bounded sites as they are, in units of their range, the others unconstrained.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .target import Position, Target


@dataclass(frozen=True)
class Coordinates:
    """Map from unconstrained positions to coordinates.

    Attributes:
        bounded: names of the sites with a fixed, bounded support.
    """

    bounded: frozenset[str]

    def __call__(self, position: Position) -> jax.Array:
        """Coordinates (d,) of one position, in the order of its flattened values."""
        return ravel_pytree({name: jax.nn.sigmoid(q) if name in self.bounded else q for name, q in position.items()})[0]


def coordinates_of(key: jax.Array, target: Target) -> Coordinates:
    """The coordinates of a target's parameters; ``key`` makes the two prior draws at which supports are compared."""
    bounded = None
    for draw in jax.random.split(key):
        position = target.functions.draw_prior(draw, target.data)
        kinds = target.functions.distributions(position, target.data)
        ends = {name: _ends(kinds[name].support) for name in target.latent}
        found = {(name, *pair) for name, pair in ends.items() if np.isfinite(pair).all()}
        bounded = found if bounded is None else bounded & found
    assert bounded is not None
    return Coordinates(frozenset(name for name, _, _ in bounded))


def _ends(support: object) -> tuple[float, float]:
    ends = getattr(support, "lower_bound", -np.inf), getattr(support, "upper_bound", np.inf)
    if any(jnp.ndim(end) for end in ends):
        return -np.inf, np.inf
    return float(ends[0]), float(ends[1])
