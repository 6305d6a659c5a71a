"""Observed dark-matter fields: a map of a new simulation, maps from a file, and either of them in white noise."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.refusals import refuse_outside
from models.density_fields.data import (
    BOX,
    MAPS_PER_SIMULATION,
    PARAMETER_BOUNDS,
    SIZE,
    check_surface_density,
    degrade,
)
from models.density_fields.model import NOISE_BOUNDS
from models.density_fields.prior import scale_of

FIRST_SEED = 1_000_000
"""Of the initial fields of observations: no simulation of a training set has one of these seeds."""
UNIT = "the standard deviation of log10 of the surface density of the training maps, about its mean"
MOST_FIELDS = 64
PIXEL_TOLERANCE = 1e-4
MOST_MEAN, LEAST_SD, MOST_SD = 3.0, 1 / 3, 3.0
NOT_INDEPENDENT = (
    f"Maps are taken as independent fields of one cosmology. The {MAPS_PER_SIMULATION} maps of one simulation show the "
    "same box from three sides: from them a joint posterior is too narrow."
)


class DensityFields(NamedTuple):
    """One field or several, in the unit of the prior, and what is known of them.

    Attributes:
        y: (1, H, W), or (num, 1, H, W) of several, float32.
        truth: where it is known, Omega_m and sigma_8, with noise noise_level, and x, the fields without noise.
        description: what it is, a phrase.
        notes: remarks for the reader of a report.
        unit: of y.
    """

    y: np.ndarray
    truth: dict[str, Any] | None
    description: str
    notes: tuple[str, ...] = ()
    unit: str = UNIT


def check_prior(prior: bd.DiffusionModel) -> None:
    """Refuse a diffusion that is no prior of dark-matter fields.

    Raises:
        ValueError: its fields are not square maps of one channel, its context is not (Omega_m, sigma_8), it has no
            Gaussian twin, or its card does not say what its unit is.
    """
    channels, height, width = prior.event_shape
    names = tuple(PARAMETER_BOUNDS)
    if prior.context_names != names or channels != 1 or height != width:
        raise ValueError(
            f"the prior must have fields (1, size, size) and the context {names}, got {prior.event_shape} and "
            f"{prior.context_names}"
        )
    if prior.twin is None:
        raise ValueError("the prior must know its Gaussian twin, and its denoiser has none")
    scale_of(prior)


def pixel_of(prior: bd.DiffusionModel) -> float:
    """Side of a pixel of a prior's fields [Mpc/h], from its card."""
    return float(prior.card.entries.get("pixel_mpc_h", BOX / prior.event_shape[-1]))


def simulate_fields(
    seed: int, prior: bd.DiffusionModel, omega_m: float, sigma_8: float, map_index: int = 0
) -> DensityFields:
    """One map of a new N-body simulation, whose truth is known.

    Args:
        seed: of its initial field.
        prior: for the number of pixels and the unit.
        omega_m: matter density parameter.
        sigma_8: rms of the linear overdensity in spheres of 8 Mpc/h.
        map_index: which of its 15 maps.

    Raises:
        ValueError: a parameter is outside of the prior's box, there is no such map, or JaxPM is not installed.
    """
    truth = {"Omega_m": omega_m, "sigma_8": sigma_8}
    for name, value in truth.items():
        refuse_outside(name, value, *PARAMETER_BOUNDS[name], "its prior")
    if not 0 <= map_index < MAPS_PER_SIMULATION:
        raise ValueError(f"--map-index must be 0 to {MAPS_PER_SIMULATION - 1} of a simulation, got {map_index}")
    size = prior.event_shape[-1]
    if not np.isclose(pixel_of(prior) * size, BOX, rtol=PIXEL_TOLERANCE):
        raise ValueError(
            f"a simulation has a box of {BOX:g} Mpc/h, the prior's fields {pixel_of(prior) * size:g} Mpc/h"
        )
    try:
        from models.density_fields.simulator import Settings, simulate
    except ImportError as error:
        raise ValueError(
            f"a simulated observation needs JaxPM ({error}): pip install 'bayesdiff[simulations]', or give "
            "--observation FILE"
        ) from error
    # A coarse map is that of the full simulation: fewer particles would be another simulation.
    maps = np.asarray(simulate(FIRST_SEED + seed, omega_m, sigma_8, Settings(size=max(size, SIZE))).maps)
    chosen = maps[map_index : map_index + 1]
    field = scale_of(prior).field(chosen if size >= SIZE else degrade(chosen, size))
    what = f"map {map_index} of an N-body simulation, seed {seed}, Omega_m = {omega_m:g}, sigma_8 = {sigma_8:g}"
    note = (
        "The simulation is new: no training simulation has its initial field. The box is 25 Mpc/h, the map a slab of "
        "5 Mpc/h."
    )
    return DensityFields(field, truth, what, (note,))


def read_fields(
    path_spec: str | Path,
    prior: bd.DiffusionModel,
    pixel: float | None = None,
    map_index: int | None = None,
    truth: dict[str, float] | None = None,
) -> DensityFields:
    """Maps of surface density from a file.

    Args:
        path_spec: ``FILE[:array]``, .npy or .npz, (M, M) or (num, M, M) in (Msun/h) / (Mpc/h)^2; M that of the prior's
            fields or a multiple of it, whose pixels are averaged.
        prior: for the number of pixels, their side and the unit.
        pixel: side of the file's pixels [Mpc/h]; where None, the maps are taken to be as wide as the prior's fields.
        map_index: which map of several; all of them by default, as fields of one cosmology.
        truth: Omega_m and sigma_8, where they are known.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file, its shape, its pixels or a value does not fit.
    """
    for name, value in (truth or {}).items():
        refuse_outside(name, value, *PARAMETER_BOUNDS[name], "its prior")
    maps, name = open_array(str(path_spec))
    if maps.ndim not in (2, 3) or maps.shape[-1] != maps.shape[-2] or maps.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must hold numbers of shape (size, size) or (maps, size, size), got {maps.dtype} {maps.shape}"
        )
    size, fine, wanted = prior.event_shape[-1], maps.shape[-1], pixel_of(prior)
    if fine % size or not fine:
        raise ValueError(f"{name} must have {size} x {size} pixels, or a multiple to be averaged, got {fine} x {fine}")
    finer = wanted * size / fine
    if pixel is not None and not np.isclose(pixel, finer, rtol=PIXEL_TOLERANCE):
        raise ValueError(
            f"{fine} x {fine} pixels must be {finer:.6g} Mpc/h wide, for a map of {wanted * size:g} Mpc/h, got "
            f"{pixel:.6g} Mpc/h"
        )
    maps, picked = _choose(maps, name, map_index)
    check_surface_density(maps)
    fields = scale_of(prior).field(degrade(np.asarray(maps, np.float64), size) if fine != size else maps)[:, None]
    if (fields.std(axis=(1, 2, 3)) == 0).any():
        raise ValueError(f"{name} must vary from pixel to pixel, and one of its maps does not")
    _refuse_unlike_training(name, fields)
    notes = [_unit_note(name, fine, size, pixel)]
    several = len(fields) > 1
    notes += [NOT_INDEPENDENT] if several else []
    what = f"{len(fields)} maps of {name}" if several else f"{picked}{name}"
    return DensityFields(fields if several else fields[0], truth or None, what, tuple(notes))


def add_noise(seed: int, observed: DensityFields, level: float) -> DensityFields:
    """The same fields in white noise.

    Args:
        seed: of the noise.
        observed: fields without noise.
        level: standard deviation of the noise, in units of the prior.

    Raises:
        ValueError: the level is outside of its prior.
    """
    refuse_outside("--noise-level", level, *NOISE_BOUNDS, "its prior")
    noise = np.random.default_rng([seed, 1]).normal(size=observed.y.shape)
    truth = {**(observed.truth or {}), "noise_level": level, "x": observed.y}
    return DensityFields(
        (observed.y + level * noise).astype(np.float32),
        truth,
        f"{observed.description}, in white noise of {level:g} standard deviations",
        (*observed.notes, "The noise was added here; its level is inferred as an unknown, the field integrated out."),
    )


def _choose(maps: np.ndarray, name: str, map_index: int | None) -> tuple[np.ndarray, str]:
    """Maps (num, M, M), and in words which."""
    if maps.ndim == 2:
        if map_index not in (None, 0):
            raise ValueError(f"--map-index must be 0 of {name}, which holds one map, got {map_index}")
        return maps[None], "map "
    if map_index is not None:
        if not 0 <= map_index < len(maps):
            raise ValueError(f"--map-index must be 0 to {len(maps) - 1} of {name}, got {map_index}")
        return maps[map_index : map_index + 1], f"map {map_index} of "
    if not 0 < len(maps) <= MOST_FIELDS:
        raise ValueError(
            f"{name} must hold 1 to {MOST_FIELDS} maps of one cosmology, got {len(maps)}: choose one by --map-index"
        )
    return maps, "map "


def _unit_note(name: str, fine: int, size: int, pixel: float | None) -> str:
    averaged = "" if fine == size else f", {fine} x {fine} pixels averaged to {size} x {size}"
    width = " The side of its pixels was not given and not checked." if pixel is None else ""
    return f"{name} was taken as surface density in (Msun/h) / (Mpc/h)^2{averaged}.{width}"


def _refuse_unlike_training(name: str, fields: np.ndarray) -> None:
    """Refuse maps (num, 1, H, W) that no training map is near to, as those in another unit are not."""
    for index, field in enumerate(fields):
        mean, sd = float(field.mean()), float(field.std())
        if abs(mean) > MOST_MEAN or not LEAST_SD < sd < MOST_SD:
            raise ValueError(
                f"maps of {name} must be in (Msun/h) / (Mpc/h)^2, like those that the prior was trained on: of their "
                f"logarithm, in standard deviations, the mean must be within {MOST_MEAN:g} of theirs and the standard "
                f"deviation {LEAST_SD:.2g} to {MOST_SD:g}, got {mean:.3g} and {sd:.3g} for map {index}"
            )


def open_array(spec: str) -> tuple[np.ndarray, str]:
    """An array, mapped into memory where it can be, and its name."""
    head, colon, tail = spec.rpartition(":")
    named = bool(colon) and not Path(spec).exists() and "/" not in tail and "\\" not in tail
    path, array = (Path(head), tail) if named else (Path(spec), None)
    if not path.is_file():
        raise FileNotFoundError(f"no file '{path}'")
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path} must be a .npy or .npz file, got {path.suffix or 'no suffix'!r}")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            arrays = {None: found}
        else:
            with found:
                arrays = {key: found[key] for key in found.files if array in (None, key)}
                names = found.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read (truncated, or not what its name says): {error}") from error
    if None in arrays:
        if array is not None:
            raise ValueError(f"{path} holds one array without a name, got the name {array!r}: leave ':{array}' out")
        return arrays[None], path.name
    if len(arrays) != 1:
        raise ValueError(f"{path} holds the arrays {', '.join(names) or 'none'}: say which, as {path}:NAME")
    key, values = arrays.popitem()
    return values, f"{path.name}:{key}"
