"""Held-out simulations as data sets of known truth: the dark matter of slabs, and how their stars are shown."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

import bayesdiff as bd
from models.dark_matter.data import Pairs
from models.dark_matter.prior import scales_of

NUM_SLABS = 4


class HeldOut(NamedTuple):
    """Slabs that no network has seen, as many of each simulation.

    Attributes:
        fields: standardised log10 of the surface density, (num, 1, H, W).
        maps: of their stars on the scale of a reconstruction, (num, 2, H, W).
        density: surface density [(Msun/h) / (Mpc/h)^2], (num, 1, H, W).
    """

    fields: jax.Array
    maps: jax.Array
    density: jax.Array

    @classmethod
    def of(cls, reconstruction: bd.DiffusionModel, pairs: Pairs, num: int = NUM_SLABS) -> HeldOut:
        """``num`` slabs of every simulation of held-out pairs.

        Raises:
            ValueError: the model is no reconstruction of dark matter.
        """
        scales = scales_of(reconstruction)
        density, stars, _ = pairs.first_of_each(num)
        return cls(
            jnp.asarray(scales.density.field(density)[:, None]),
            jnp.asarray(scales.stars.maps(stars)),
            jnp.asarray(density[:, None], dtype=float),
        )

    def draw(self, key: jax.Array) -> dict[str, jax.Array]:
        """One of them, by the sites of :func:`~models.dark_matter.model.make_model_of_stars`."""
        index = jax.random.randint(key, (), 0, len(self.fields))
        return {"x": self.fields[index], "surface_density": self.density[index], "stars": self.maps[index]}
