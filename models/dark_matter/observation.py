"""Stars that dark matter is reconstructed from: of a new simulation, or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayesdiff.diffusion.refusals import refuse_outside
from models.dark_matter.data import StellarScale, check_stars
from models.density_fields.data import MAPS_PER_SIMULATION, PARAMETER_BOUNDS, PIXEL
from models.density_fields.observation import FIRST_SEED, open_array

FARTHEST = 8.0
"""Mean stellar mass of a pixel over that of the training, at most, or the inverse: maps differ by half of that."""
STEP = 8
"""Sides of maps are multiples of this, for the network's levels."""


class Stars(NamedTuple):
    """What is observed.

    Attributes:
        stars: stellar mass per pixel in units of the mean mass of a galaxy, (H, W).
        density: true surface density [(Msun/h) / (Mpc/h)^2], where it is known.
        parameters: true Omega_m and sigma_8, where they are known.
        description: where they come from.
    """

    stars: np.ndarray
    density: np.ndarray | None
    parameters: dict[str, float] | None
    description: str


def simulate_stars(seed: int, omega_m: float, sigma_8: float, recipe: str = "power", map_index: int = 0) -> Stars:
    """One slab of a new N-body simulation with stars by a recipe of :mod:`models.dark_matter.stars`.

    Raises:
        ValueError: a parameter outside the box, no such recipe or slab, or JaxPM is not installed.
    """
    for name, value in zip(PARAMETER_BOUNDS, (omega_m, sigma_8), strict=True):
        refuse_outside(name, value, *PARAMETER_BOUNDS[name], "the box of the training simulations")
    if not 0 <= map_index < MAPS_PER_SIMULATION:
        raise ValueError(f"--map-index must be 0 to {MAPS_PER_SIMULATION - 1} of a simulation, got {map_index}")
    try:
        from models.dark_matter.stars import RECIPES, paint
        from models.density_fields.simulator import simulate
    except ImportError as error:
        raise ValueError(
            f"a simulated observation needs JaxPM ({error}): pip install 'bayesdiff[simulations]', or give --stars FILE"
        ) from error
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    density = np.asarray(simulate(FIRST_SEED + seed, omega_m, sigma_8).maps)[map_index]
    painted = paint(FIRST_SEED + seed, omega_m, sigma_8)
    stars = painted.maps[list(RECIPES).index(recipe), map_index]
    what = f"stars by the recipe '{recipe}' in map {map_index} of an N-body simulation, seed {seed}, Omega_m = "
    truth = {"Omega_m": omega_m, "sigma_8": sigma_8}
    return Stars(stars, density, truth, f"{what}{omega_m:g}, sigma_8 = {sigma_8:g}")


def read_stars(spec: str | Path, scale: StellarScale, pixel: float = PIXEL) -> Stars:
    """A map of stellar mass from a file; one without a single star is accepted, and its description says so.

    Args:
        spec: ``FILE[:array]``, .npy or .npz, (H, W), in the unit of the maps that the reconstruction was trained on.
        scale: of these.
        pixel: side of its pixels [Mpc/h].

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: its shape, its pixels, its unit or a value does not fit.
    """
    stars, name = open_array(str(spec))
    if stars.ndim != 2 or any(size % STEP for size in stars.shape) or stars.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be one map of numbers whose sides are multiples of {STEP} pixels, got {stars.dtype} "
            f"{stars.shape}"
        )
    if not np.isclose(pixel, PIXEL, rtol=1e-3):
        raise ValueError(f"pixels must be {PIXEL:.6g} Mpc/h wide, as those of the training, got {pixel:.6g} Mpc/h")
    stars = np.asarray(stars, np.float32)
    check_stars(stars)
    ratio = float(stars.mean(dtype=np.float64)) / scale.unit
    if ratio and not 1.0 / FARTHEST < ratio < FARTHEST:
        raise ValueError(
            f"{name} must be in the unit and on the pixels of the maps that the reconstruction was trained on, with a "
            f"mean of {scale.unit:.3g} to a factor of {FARTHEST:g}; it has {ratio * scale.unit:.3g}"
        )
    what = f"stars of {name}, {stars.shape[0]} x {stars.shape[1]} pixels"
    return Stars(stars, None, None, what if ratio else f"{what}, which has not a single star")
