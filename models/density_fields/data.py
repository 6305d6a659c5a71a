"""Surface densities of dark matter on 64 x 64 pixels of 25 Mpc/h, each with its Omega_m and sigma_8.

The layout is that of the CAMELS Multifield dataset (Villaescusa-Navarro et al. 2022, arXiv:2109.10915): a file of maps
``Maps_Mcdm_<suite>_<set>_z=0.00.npy``, 15 consecutive maps per simulation, and a text file ``params_<set>_<suite>.txt``
with a row per simulation that begins with Omega_m and sigma_8. It reads the sets of :mod:`models.density_fields.sets`
and those of CAMELS, whose 256 x 256 pixels are averaged.

The maps of a simulation share its initial field, so a simulation is in training or held out with all of its maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PARAMETER_BOUNDS = {"Omega_m": (0.1, 0.5), "sigma_8": (0.6, 1.0)}
SIZE = 64
BOX = 25.0
"""Side of a map [Mpc/h]."""
PIXEL = BOX / SIZE
MAPS_PER_SIMULATION = 15
NUM_HELD_OUT = 150
CHUNK = 1500


class DensityMaps(NamedTuple):
    """Surface densities of a set of simulations, and its parameters.

    Attributes:
        surface_density: [(Msun/h) / (Mpc/h)^2], (15 N, size, size) float32; of `load_maps`, mapped into memory.
        parameters: Omega_m and sigma_8 of each simulation, (N, 2).
        maps_per_simulation: consecutive maps of each.
    """

    surface_density: np.ndarray
    parameters: np.ndarray
    maps_per_simulation: int = MAPS_PER_SIMULATION

    @property
    def num_simulations(self) -> int:
        """N."""
        return len(self.parameters)

    @property
    def map_parameters(self) -> np.ndarray:
        """Omega_m and sigma_8 of each map, (15 N, 2)."""
        return np.repeat(self.parameters, self.maps_per_simulation, axis=0)


class Standardisation(NamedTuple):
    """The scale of a network: field = (log10(surface density) - mean) / sd.

    Attributes:
        mean: of log10 of the surface density in (Msun/h) / (Mpc/h)^2, over maps and pixels.
        sd: its standard deviation.
    """

    mean: float
    sd: float

    @classmethod
    def of(cls, surface_density: np.ndarray) -> Standardisation:
        """That of a set of maps (..., size, size), read a part at a time."""
        num, total, square = 0, 0.0, 0.0
        for first in range(0, len(surface_density), CHUNK):
            part = surface_density[first : first + CHUNK]
            check_surface_density(part, first)
            logarithm = np.log10(np.asarray(part, np.float64))
            num, total, square = num + part.size, total + logarithm.sum(), square + np.sum(logarithm**2)
        mean = total / num
        return cls(float(mean), float(np.sqrt(square / num - mean**2)))

    def field(self, surface_density: np.ndarray) -> np.ndarray:
        """The standardised field, float32, of surface densities of any shape.

        Raises:
            ValueError: a surface density is not positive and finite.
        """
        check_surface_density(surface_density)
        return ((np.log10(np.asarray(surface_density, np.float64)) - self.mean) / self.sd).astype(np.float32)

    def surface_density(self, field: Any) -> Any:
        """The surface density [(Msun/h) / (Mpc/h)^2] of a standardised field, a NumPy or JAX array."""
        return 10.0 ** (self.mean + self.sd * field)


def load_maps(folder: Path | str, name: str = "LH", size: int = SIZE, suite: str = "*") -> DensityMaps:
    """Open a set of maps, without reading them.

    Args:
        folder: that has one file of maps and one of parameters of the set.
        name: of the set: ``"LH"``, ``"1P"`` or ``"CV"``.
        size: pixels per side that the maps are to have; finer ones, as those of CAMELS, are averaged (and then read).
        suite: that made them, where the folder has several.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: there are several, the file is truncated or not one of square maps, its pixels cannot be averaged
            to ``size``, or maps and parameters do not fit one another or the box of parameters.
    """
    maps = open_maps(only_file(Path(folder), f"Maps_Mcdm_{suite}_{name}_z=0.00.npy"))
    path = only_file(Path(folder), f"params_{name}_{suite}.txt")
    try:
        rows = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} must be a table of numbers, a row per simulation: {error}") from None
    if rows.shape[1] < 2:
        raise ValueError(f"{path} must have Omega_m and sigma_8 in its first two columns, got {rows.shape[1]} column")
    if len(maps) != MAPS_PER_SIMULATION * len(rows):
        raise ValueError(
            f"{path} must have a row for every {MAPS_PER_SIMULATION} maps: {len(maps) / MAPS_PER_SIMULATION:g} rows "
            f"for {len(maps)} maps, got {len(rows)}"
        )
    check_parameters(rows[:, :2])
    if maps.shape[-1] != size:
        maps = degrade(maps, size)
    return DensityMaps(maps, rows[:, :2])


def split(maps: DensityMaps, num_held_out: int = NUM_HELD_OUT) -> tuple[DensityMaps, DensityMaps]:
    """Training and held-out simulations: the last ``num_held_out``, with all of their maps.

    The order of a Latin hypercube is random, so its last simulations cover the box as all do.

    Raises:
        ValueError: not at least one simulation is left on either side.
    """
    num = maps.num_simulations
    if not 0 < num_held_out < num:
        raise ValueError(f"num_held_out must be between 1 and {num - 1} of the {num} simulations, got {num_held_out}")
    first = num - num_held_out
    cut = first * maps.maps_per_simulation
    return (
        maps._replace(surface_density=maps.surface_density[:cut], parameters=maps.parameters[:first]),
        maps._replace(surface_density=maps.surface_density[cut:], parameters=maps.parameters[first:]),
    )


def degrade(maps: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Average surface densities (N, M, M) over blocks of pixels, (N, size, size) float32, a part at a time.

    Raises:
        ValueError: ``size`` does not divide M.
    """
    _check_square(maps)
    fine = maps.shape[-1]
    if size < 1 or fine % size:
        raise ValueError(f"maps of {fine} x {fine} pixels cannot be averaged to {size} x {size}: {size} must divide "
                         f"{fine}")  # fmt: skip
    factor = fine // size
    coarse = np.empty((len(maps), size, size), np.float32)
    for first in range(0, len(maps), CHUNK):
        part = np.asarray(maps[first : first + CHUNK])
        check_surface_density(part, first)
        coarse[first : first + CHUNK] = part.reshape(-1, size, factor, size, factor).mean((2, 4), dtype=np.float64)
    return coarse


def check_field(field: np.ndarray, pixel: float = PIXEL) -> None:
    """Refuse a map that is not one of those the prior learns: (..., 64, 64) on pixels of 25/64 Mpc/h.

    Args:
        field: surface density or standardised field.
        pixel: side of its pixels [Mpc/h].

    Raises:
        ValueError: another size or pixel, or a value that is not finite.
    """
    shape = np.shape(field)
    if shape[-2:] != (SIZE, SIZE):
        raise ValueError(f"a field must have {SIZE} x {SIZE} pixels, got shape {shape}; degrade() averages finer maps")
    if not np.isclose(pixel, PIXEL, rtol=1e-4):
        raise ValueError(f"pixels must be {PIXEL:.6g} Mpc/h wide, a box of {BOX:g} Mpc/h, got {pixel:.6g} Mpc/h")
    bad = ~np.isfinite(field)
    if bad.any():
        raise ValueError(f"a field must be finite, got {_where(bad)}")


def check_surface_density(surface_density: np.ndarray, first: int = 0) -> None:
    """Refuse surface densities without a logarithm.

    Args:
        surface_density: any shape.
        first: index of its first map among all, for the message.

    Raises:
        ValueError: values that are not finite, or not above zero, with how many and where.
    """
    values = np.asarray(surface_density)
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"surface densities must be finite, got {_where(bad, first)}")
    bad = values <= 0
    if bad.any():
        raise ValueError(f"surface densities must be above zero, to have a logarithm, got {_where(bad, first)}")


def check_parameters(parameters: np.ndarray) -> None:
    """Refuse parameters (N, 2) outside of the box.

    Raises:
        ValueError: which parameter of which simulation.
    """
    for axis, (name, (low, high)) in enumerate(PARAMETER_BOUNDS.items()):
        values = np.asarray(parameters)[:, axis]
        outside = ~((values >= low) & (values <= high))
        if outside.any():
            index = int(np.argmax(outside))
            raise ValueError(
                f"{name} must be in [{low:g}, {high:g}], got {values[index]:g} for simulation {index} and "
                f"{np.count_nonzero(outside)} such values in all"
            )


def _where(bad: np.ndarray, first: int = 0) -> str:
    places = np.argwhere(bad)
    place = [int(i) for i in places[0]]
    if bad.ndim > 2:
        place[0] += first
    return f"{len(places)} values that are not, the first at {tuple(place)}"


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of ``folder`` with such a name.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the maps are expected in the folder {folder}, and there is none")
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{folder} must have a file {pattern}, and has none")
    if len(found) > 1:
        raise ValueError(f"{folder} must have one file {pattern}, got {', '.join(path.name for path in found)}")
    return found[0]


def open_maps(path: Path) -> np.ndarray:
    """Maps (num, size, size) of a file, mapped into memory.

    Raises:
        ValueError: the file is truncated, or not one of square maps.
    """
    try:
        maps = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is truncated or not a .npy file of maps: {error}") from None
    _check_square(maps)
    return maps


def _check_square(maps: np.ndarray) -> None:
    if maps.ndim != 3 or maps.shape[1] != maps.shape[2] or maps.dtype.kind != "f":
        raise ValueError(f"maps must be floats of shape (maps, size, size), got {maps.dtype} {maps.shape}")
