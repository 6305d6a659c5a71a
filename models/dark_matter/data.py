"""Pairs of a dark-matter map and the map of the stars in it, in the layout of the CAMELS Multifield dataset.

``Maps_Mcdm_*_LH_z=0.00.npy`` and ``Maps_Mstar_*_LH_z=0.00.npy`` of one suite hold the same slabs in the same order, 15
of each simulation, with a row of parameters per simulation. That is how :mod:`models.dark_matter.sets` writes them, and
CAMELS (Villaescusa-Navarro et al. 2022, arXiv:2109.10915) its IllustrisTNG, SIMBA and Astrid maps.

A network is shown stars as two maps: the logarithm of their mass per pixel, and that of the mass smoothed over two
pixels, because most pixels are empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.fields import gaussian_smooth
from bayesdiff.windows import PairedFields
from models.density_fields.data import (
    MAPS_PER_SIMULATION,
    NUM_HELD_OUT,
    SIZE,
    DensityMaps,
    Standardisation,
    load_maps,
    only_file,
    open_maps,
    split,
)

SMOOTHING_PIXELS = 2.0
CHUNK = 1500


class StellarScale(NamedTuple):
    """How a network is shown stars: (log(1 + stars / unit) - mean) / sd of the pixel and of its surroundings.

    Attributes:
        unit: mean stellar mass of a pixel.
        mean: of the two logarithms over the training maps.
        sd: of both.
    """

    unit: float
    mean: tuple[float, float]
    sd: tuple[float, float]

    @classmethod
    def of(cls, stars: np.ndarray) -> StellarScale:
        """That of maps (N, H, W).

        Raises:
            ValueError: there is not a single star in them.
        """
        unit = float(np.mean(stars, dtype=np.float64))
        if not unit > 0:
            raise ValueError(f"training maps must have stars, got a mean stellar mass of {unit:g}")
        logs = _logarithms(stars, unit)
        mean, sd = logs.mean(axis=(0, 2, 3), dtype=np.float64), logs.std(axis=(0, 2, 3), dtype=np.float64)
        return cls(unit, (float(mean[0]), float(mean[1])), (float(sd[0]), float(sd[1])))

    def maps(self, stars: np.ndarray) -> np.ndarray:
        """The maps that a network is given, (..., 2, H, W) float32, of stellar masses (..., H, W).

        A map without a single star is a map like another: it says that there is little mass.

        Raises:
            ValueError: a mass is negative or not finite, or a map has fewer than two axes.
        """
        check_stars(stars)
        stars = np.asarray(stars)
        logs = _logarithms(stars.reshape(-1, *stars.shape[-2:]), self.unit)
        mean, sd = (np.array(values)[:, None, None] for values in (self.mean, self.sd))
        return ((logs - mean) / sd).astype(np.float32).reshape(*stars.shape[:-2], 2, *stars.shape[-2:])


def _logarithms(stars: np.ndarray, unit: float) -> np.ndarray:
    @jax.jit
    def logs(part: jax.Array) -> jax.Array:
        ratio = part / unit
        smooth = jnp.maximum(gaussian_smooth(ratio, SMOOTHING_PIXELS), 0.0)
        return jnp.log1p(jnp.stack([ratio, smooth], axis=1))

    parts = np.array_split(stars, -(-len(stars) // CHUNK))
    return np.concatenate([np.asarray(logs(jnp.asarray(part, dtype=float))) for part in parts])


def check_stars(stars: np.ndarray, size: int | None = None) -> None:
    """Refuse what is not a map of stellar mass.

    Args:
        stars: (..., H, W).
        size: its side in pixels, where that matters.

    Raises:
        ValueError: negative or other than finite masses, or another size.
    """
    stars = np.asarray(stars)
    if stars.ndim < 2:
        raise ValueError(f"a map of stars must have at least two axes, got shape {stars.shape}")
    if size is not None and stars.shape[-2:] != (size, size):
        raise ValueError(f"a map of stars must have {size} x {size} pixels as its dark matter, got {stars.shape[-2:]}")
    bad = ~(np.isfinite(stars) & (stars >= 0))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"stellar masses must be finite and not negative, got {np.count_nonzero(bad)} that are not, the first at "
            f"{place}"
        )


class Pairs(NamedTuple):
    """Dark matter and stars of one suite.

    Attributes:
        density: surface densities and parameters of the simulations.
        stars: stellar mass per pixel, (15 N, size, size), in any unit.
    """

    density: DensityMaps
    stars: np.ndarray

    def split(self, num_held_out: int = NUM_HELD_OUT) -> tuple[Pairs, Pairs]:
        """Training and held-out simulations, as :func:`models.density_fields.data.split`."""
        parts = split(self.density, num_held_out)
        cut = len(parts[0].surface_density)
        return Pairs(parts[0], self.stars[:cut]), Pairs(parts[1], self.stars[cut:])

    def first_of_each(self, num: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Surface density, stars and parameters of ``num`` slabs, spread over the three axes, of each simulation."""
        which = np.linspace(0, MAPS_PER_SIMULATION, num, endpoint=False).astype(int)
        index = (np.arange(self.density.num_simulations)[:, None] * MAPS_PER_SIMULATION + which).ravel()
        return (
            np.asarray(self.density.surface_density[index]),
            np.asarray(self.stars[index]),
            self.density.map_parameters[index],
        )


def load_pairs(folder: Path | str, suite: str = "JaxPM-power", size: int = SIZE) -> Pairs:
    """Open dark matter and stars of a suite, without reading them.

    Args:
        folder: that has ``Maps_Mstar_<suite>_LH_z=0.00.npy``, the dark matter of the same suite and its parameters.
        suite: that made both, e.g. IllustrisTNG. What follows a hyphen is a recipe, which the dark matter has not.
        size: pixels per side; finer maps are averaged.

    Raises:
        FileNotFoundError: a file is missing; ``python -m models simulate`` and its ``--stars`` make those of JaxPM.
        ValueError: dark matter and stars are not map for map of one resolution.
    """
    density = load_maps(folder, "LH", size, suite.partition("-")[0])
    stars = open_maps(only_file(Path(folder), f"Maps_Mstar_{suite}_LH_z=0.00.npy"))
    if len(stars) != len(density.surface_density):
        raise ValueError(
            f"there must be a map of stars for every map of dark matter, got {len(stars)} for "
            f"{len(density.surface_density)}"
        )
    if stars.shape[-1] % size:
        raise ValueError(f"maps of stars of {stars.shape[-1]} pixels cannot be averaged to {size}")
    if stars.shape[-1] != size:
        factor = stars.shape[-1] // size
        stars = stars.reshape(len(stars), size, factor, size, factor).mean((2, 4), dtype=np.float32)
    return Pairs(density, stars)


class Scales(NamedTuple):
    """Those of dark matter and of stars."""

    density: Standardisation
    stars: StellarScale

    @classmethod
    def of(cls, pairs: Pairs) -> Scales:
        """Those of training pairs."""
        return cls(Standardisation.of(pairs.density.surface_density), StellarScale.of(pairs.stars))

    def paired(self, pairs: Pairs) -> PairedFields:
        """What a network is trained on."""
        fields = self.density.field(pairs.density.surface_density)[:, None]
        return PairedFields(jnp.asarray(fields), jnp.asarray(self.stars.maps(pairs.stars)))
