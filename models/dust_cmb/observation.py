"""Observations of the study: simulated mixtures, mixtures around a real dust map, and mixtures from a file.

A mixture is y = dust + sigma (CMB + instrument noise), in units of the dust standard deviation. The CMB has unit
variance, so sigma is its rms; the components of the noise are those of the model that separates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.cosmology import simulate_gaussian
from bayesdiff.diffusion.refusals import refuse_outside
from models.dust_cmb.maps import PIXEL_TOLERANCE, cut_patches, read_map, refuse_bad_pixels
from models.dust_cmb.model import PRIOR_BOUNDS

FIDUCIAL = {"H0": 67.4, "omega_b": 0.0224, "sigma": 0.6}
"""Planck's cosmology, and a CMB somewhat weaker than the dust."""
PRIOR_UNIT = "that of the maps the prior was trained on"


@dataclass(frozen=True, eq=False)
class Observation:
    """A mixed map and what is known of it.

    Attributes:
        y: (1, H, W) float32, in units of the dust standard deviation.
        truth: where it is known, the scalars H0 [km/s/Mpc], omega_b, sigma and t_star, and the fields dust, cmb and
            instrument_noise (1, H, W).
        description: what it is, a phrase.
        notes: remarks for the reader of the report.
        unit: what one dust standard deviation is.
    """

    y: np.ndarray
    truth: dict[str, Any] | None
    description: str
    notes: tuple[str, ...] = ()
    unit: str = PRIOR_UNIT


def check_dust_model(dust_model: bd.DiffusionModel) -> None:
    """Raise ValueError unless a diffusion can serve as the dust prior of the study."""
    components = getattr(dust_model.noise, "components", {})
    channels, height, width = dust_model.event_shape
    if dust_model.context_names != ("H0", "omega_b") or "cmb" not in components or channels != 1 or height != width:
        raise ValueError(
            "the dust prior must have square fields (1, size, size), the context ('H0', 'omega_b') and a noise with a "
            f"component 'cmb', got {dust_model.event_shape}, {dust_model.context_names} and {tuple(components)}"
        )


def model_pixel_arcmin(dust_model: bd.DiffusionModel) -> float:
    """Side of a pixel of the model [arcmin], which the power of its CMB knows, or its card.

    Raises:
        ValueError: neither says it.
    """
    components: Any = getattr(dust_model.noise, "components", {})
    known = components["cmb"].pixel_arcmin if "cmb" in components else dust_model.card.entries.get("pixel_arcmin")
    if known is None:
        raise ValueError("the card of a dust prior in other noise than the CMB must say pixel_arcmin, got none")
    return float(known)


def simulate_from_prior(
    key: jax.Array,
    dust_model: bd.DiffusionModel,
    H0: float = FIDUCIAL["H0"],
    omega_b: float = FIDUCIAL["omega_b"],
    sigma: float = FIDUCIAL["sigma"],
) -> Observation:
    """A mixture at a known truth whose dust is a draw of the prior itself, so that only the inference can be wrong.

    Args:
        key: random key.
        dust_model: dust prior.
        H0: Hubble constant [km/s/Mpc].
        omega_b: physical baryon density.
        sigma: rms of the CMB, in units of the dust standard deviation.

    Raises:
        ValueError: a parameter is outside the prior's range.
    """
    check_dust_model(dust_model)
    _refuse_parameters(dust_model, H0, omega_b, sigma)
    dust_key, mix_key = jax.random.split(key)
    dust = _draw_dust(dust_key, dust_model, dust_model.context_array((H0, omega_b)))
    return mix(
        mix_key,
        np.asarray(dust),
        dust_model,
        H0,
        omega_b,
        sigma,
        description="simulated mixture of dust from the prior, CMB and noise",
        notes=("The dust of this mixture is a draw of the prior; CMB and instrument noise are simulated.",),
    )


@jax.jit
def _draw_dust(key: jax.Array, dust_model: bd.DiffusionModel, context: jax.Array) -> jax.Array:
    return bd.DiffusionPrior(dust_model, context).sample(key)


def mix(
    key: jax.Array,
    dust: np.ndarray,
    dust_model: bd.DiffusionModel,
    H0: float = FIDUCIAL["H0"],
    omega_b: float = FIDUCIAL["omega_b"],
    sigma: float = FIDUCIAL["sigma"],
    *,
    description: str = "given dust with simulated CMB and noise",
    notes: tuple[str, ...] = (),
    unit: str = PRIOR_UNIT,
) -> Observation:
    """Add a simulated CMB and instrument noise to a dust patch.

    Args:
        key: random key.
        dust: (H, W) or (1, H, W), in units of the dust standard deviation.
        dust_model: dust prior, whose noise has the components that are simulated.
        H0: Hubble constant [km/s/Mpc].
        omega_b: physical baryon density.
        sigma: rms of the CMB, in units of the dust standard deviation.
        description: what the mixture is.
        notes: remarks for the report.
        unit: what one dust standard deviation is.

    Raises:
        ValueError: the patch does not fit the model or holds NaN or infinity, or a parameter is outside the prior's
            range.
    """
    check_dust_model(dust_model)
    _refuse_parameters(dust_model, H0, omega_b, sigma)
    dust = _checked_field("the dust", dust, dust_model)
    noise: Any = dust_model.noise
    powers = noise.component_powers(dust_model.context_array((H0, omega_b)))
    keys = jax.random.split(key, len(powers))
    parts = {
        name: sigma * np.asarray(simulate_gaussian(part_key, power, dust_model.event_shape), dtype=np.float32)
        for part_key, (name, power) in zip(keys, powers.items(), strict=True)
    }
    truth = {"H0": float(H0), "omega_b": float(omega_b), "sigma": float(sigma)}
    t_star = float(dust_model.schedule.time_of_noise_level(jnp.asarray(sigma)))
    y = dust + sum(parts.values())
    return Observation(
        y.astype(np.float32), truth | {"t_star": t_star, dust_model.name: dust} | parts, description, notes, unit
    )


def observe_map(
    key: jax.Array,
    path_spec: str | Path,
    dust_model: bd.DiffusionModel,
    pixel_arcmin: float | None,
    patch: int | tuple[int, int] = 0,
    H0: float = FIDUCIAL["H0"],
    omega_b: float = FIDUCIAL["omega_b"],
    sigma: float = FIDUCIAL["sigma"],
) -> Observation:
    """A mixture around one patch of a dust map from a file, see :func:`models.dust_cmb.maps.cut_patches`.

    Args:
        key: random key of the simulated part.
        path_spec: ``FILE[:array]``.
        dust_model: dust prior.
        pixel_arcmin: side of a pixel of the map [arcmin]; None where a FITS header says it.
        patch: which of the disjoint patches, by number or by (row, column).
        H0: Hubble constant [km/s/Mpc] of the simulated part.
        omega_b: physical baryon density of the simulated part.
        sigma: rms of the simulated CMB, in units of the dust standard deviation.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file, the map or a parameter does not fit; the message says what was expected and what was got.
    """
    _refuse_parameters(dust_model, H0, omega_b, sigma)
    found = read_patch(path_spec, dust_model, pixel_arcmin, patch)
    about = (
        "CMB and instrument noise are simulated, so their truth is known. That the prior describes this dust is an "
        "assumption."
    )
    return mix(
        key,
        found.dust,
        dust_model,
        H0,
        omega_b,
        sigma,
        description=f"{found.description}, with simulated CMB and noise",
        notes=(found.note, about),
        unit=found.unit,
    )


class DustPatch(NamedTuple):
    """A patch of a dust map.

    Attributes:
        dust: (1, H, W), in units of the map's standard deviation about its mean.
        description: what it is, a phrase.
        note: how it was made, for the reader of a report.
        unit: what its unit is.
    """

    dust: np.ndarray
    description: str
    note: str
    unit: str


def read_patch(
    path_spec: str | Path,
    dust_model: bd.DiffusionModel,
    pixel_arcmin: float | None,
    patch: int | tuple[int, int] = 0,
) -> DustPatch:
    """One patch of a dust map from a file, of the size and pixels of the prior; see :func:`observe_map`."""
    size, model_pixel = dust_model.event_shape[-1], model_pixel_arcmin(dust_model)
    found = read_map(path_spec)
    if pixel_arcmin is None and found.pixel_arcmin is None:
        raise ValueError(f"the pixel size of {found.name} is needed, and the file does not say it: give --pixel-arcmin")
    if pixel_arcmin is None:
        pixel_arcmin = found.pixel_arcmin
    elif found.pixel_arcmin is not None and abs(found.pixel_arcmin / pixel_arcmin - 1.0) > 0.01:
        raise ValueError(
            f"the pixel size of {found.name} must be the {found.pixel_arcmin:.4g} arcmin of its header, got "
            f"{pixel_arcmin:g} arcmin"
        )
    assert pixel_arcmin is not None
    patches = cut_patches(found.values, pixel_arcmin, size, model_pixel, found.name)
    rows, columns = patches.fields.shape[:2]
    dust = patches.choose(patch)
    (height, width), (new_height, new_width) = found.values.shape, patches.shape
    note = (
        f"The dust is patch {patch} of {rows * columns} disjoint ones of {found.name}, averaged from {height} x "
        f"{width} pixels of {pixel_arcmin:g} arcmin to {new_height} x {new_width} of {model_pixel:g} arcmin. The mean "
        f"of that map, {patches.mean:.4g} in its own unit, was subtracted, and its standard deviation, "
        f"{patches.sd:.4g}, is the unit here; in it this patch has mean {dust.mean():.2f} and standard deviation "
        f"{dust.std():.2f}."
    )
    unit = f"{patches.sd:.4g} in the unit of {found.name}"
    return DustPatch(dust, f"dust of {found.name}, patch {patch}", note, unit)


def read_observation(
    path_spec: str | Path, dust_model: bd.DiffusionModel, pixel_arcmin: float | None = None
) -> Observation:
    """A mixture from a file, as it is.

    Args:
        path_spec: ``FILE[:array]`` with shape (H, W) or (1, H, W) of the model, in units of the dust standard
            deviation.
        dust_model: dust prior.
        pixel_arcmin: side of its pixels [arcmin], which must be the model's; not checked where it is None and the file
            does not say it.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file, its shape, its pixel size or a pixel does not fit.
    """
    found = read_map(path_spec)
    model_pixel = model_pixel_arcmin(dust_model)
    for size, tolerance in ((pixel_arcmin, PIXEL_TOLERANCE), (found.pixel_arcmin, 0.01)):
        if size is not None and not abs(size / model_pixel - 1.0) < tolerance:
            raise ValueError(
                f"the pixels of {found.name} must be those of the model, {model_pixel:g} arcmin, got {size:g} arcmin"
            )
    y = _checked_field(found.name, found.values, dust_model)
    if not y.std() > 0:
        raise ValueError(f"{found.name} must vary from pixel to pixel, got {y.flat[0]:g} in all of them")
    notes = ["This mixture was taken as it is, in units of the dust standard deviation; its truth is not known."]
    largest = float(np.hypot(3.0, PRIOR_BOUNDS["sigma"][1]))
    if not 0.1 < y.std() < largest:
        notes.append(
            f"Its standard deviation is {y.std():.3g}, and between 0.1 and {largest:.1f} is expected: check that its "
            "unit is the dust standard deviation of a large map."
        )
    return Observation(y, None, f"mixture {found.name}", tuple(notes))


def _checked_field(name: str, values: np.ndarray, dust_model: bd.DiffusionModel) -> np.ndarray:
    """A field (1, H, W) in float32, refused unless it fits the model and every pixel is there."""
    shape = dust_model.event_shape
    if np.shape(values) not in (shape, shape[1:]):
        raise ValueError(f"{name} must have shape {shape[1:]} or {shape}, got {np.shape(values)}")
    values = np.asarray(values, dtype=np.float64).reshape(shape)
    refuse_bad_pixels(name, values)
    return values.astype(np.float32)


def _refuse_parameters(dust_model: bd.DiffusionModel, H0: float, omega_b: float, sigma: float) -> None:
    given = {"H0": H0, "omega_b": omega_b, "sigma": sigma}
    for name, bounds in PRIOR_BOUNDS.items():
        refuse_outside(name, given[name], *bounds, "its prior")
    dust_model.context_array((H0, omega_b))
    refuse_outside("sigma", sigma, *dust_model.noise_levels(), "the noise levels of the schedule")
