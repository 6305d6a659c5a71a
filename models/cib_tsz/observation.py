"""Maps at 95 and 150 GHz: CMB, CIB and tSZ of unknown amplitudes, and white noise.

Maps are of CMB temperature [micro-K] on pixels of 2 arcmin, beams deconvolved. The CMB and the noise are known by their
power alone and are integrated out (:mod:`models.cib_tsz.model`); the CMB's comes from CAMB, because the emulator of
:mod:`bayesdiff.cosmology` ends at ell = 2,500. The mean of a map is not observed.

The CIB at 95 GHz is taken as that at 150 GHz times one number. In the mocks the two correlate to 0.998; simulated
observations have the mocks' own CIB at 95 GHz, so that what this leaves out is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.cosmology.camb_table import FIXED
from bayesdiff.cosmology.flat_sky import patch_multipoles
from bayesdiff.fields.inputs import refuse_bad_values
from models.cib_tsz.data import FOLDER, PATCH_SIZE, load
from models.cib_tsz.emission import tsz_kelvin
from models.cib_tsz.halos import ARCMIN
from models.cib_tsz.mock import PIXEL_ARCMIN
from models.shared_data import read_arrays

FREQUENCIES = (95, 150)
FIELDS = ("cib_150", "tsz_150")
NOISE = (5.4, 4.4)
"""Depth at each frequency [micro-K arcmin], that of two years of SPT-3G (Camphuis et al. 2025, arXiv:2506.20707)."""
CIB_RATIO = 0.384
"""CIB at 95 GHz over that at 150 GHz, both in CMB temperature: the regression of the mocks."""
RESPONSE = np.array([[CIB_RATIO, tsz_kelvin(95) / tsz_kelvin(150)], [1.0, 1.0]])
"""Of each frequency (rows) to the CIB and the tSZ effect at 150 GHz (columns)."""
H0, OMEGA_B = 67.4, 0.0224
CMB_LMAX = 8000


class Observation(NamedTuple):
    """Two maps and what is known of them.

    Attributes:
        maps: at 95 and 150 GHz, (2, H, W) float32 [micro-K].
        noise: depth of each [micro-K arcmin].
        description: what they are, a phrase.
        truth: ``cib`` and ``tsz`` (1, H, W) at 150 GHz with their amplitudes [micro-K], and ``A_cib`` and ``A_tsz``,
            where they are known.
    """

    maps: np.ndarray
    noise: tuple[float, float]
    description: str
    truth: Mapping[str, np.ndarray] | None = None


def cmb_power(size: int = PATCH_SIZE, pixel_arcmin: float = PIXEL_ARCMIN) -> np.ndarray:
    """Power of the lensed CMB in every mode of a patch, orthonormal, (size, size) [micro-K^2]; zero at k = 0.

    Raises:
        ModuleNotFoundError: CAMB is not installed.
    """
    ell = patch_multipoles((size, size), pixel_arcmin)
    power = np.interp(ell, np.arange(CMB_LMAX + 1), cmb_spectrum()) / (pixel_arcmin * ARCMIN) ** 2
    power[0, 0] = 0.0
    return power


@lru_cache(maxsize=1)
def cmb_spectrum(path: Path = FOLDER / "cmb_spectrum.npy") -> np.ndarray:
    """Lensed C_ell [micro-K^2] for ell = 0 to 8,000, by CAMB, which takes half a minute and so is kept at ``path``.

    Raises:
        ModuleNotFoundError: CAMB is not installed.
    """
    if path.exists():
        return np.load(path, allow_pickle=False)
    try:
        import camb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the CMB of these maps needs CAMB: pip install 'bayesdiff[cosmology]'") from error
    params = camb.set_params(H0=H0, ombh2=OMEGA_B, lmax=CMB_LMAX + 500, **FIXED)  # pyright: ignore[reportArgumentType]
    spectrum = camb.get_results(params).get_lensed_scalar_cls(lmax=CMB_LMAX, CMB_unit="muK", raw_cl=True)[:, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, spectrum)
    return spectrum


def noise_power(noise: tuple[float, float], pixel_arcmin: float = PIXEL_ARCMIN) -> np.ndarray:
    """Variance of the noise of a pixel at each frequency, (2,) [micro-K^2].

    Raises:
        ValueError: a depth is not positive.
    """
    depth = np.asarray(noise, dtype=float)
    if depth.shape != (2,) or not (np.isfinite(depth) & (depth > 0)).all():
        raise ValueError(f"noise must be two positive depths [micro-K arcmin], at 95 and 150 GHz, got {noise}")
    return (depth / pixel_arcmin) ** 2


def observe(
    key: jax.Array,
    foregrounds: np.ndarray,
    amplitudes: tuple[float, float] = (1.0, 1.0),
    noise: tuple[float, float] = NOISE,
    cmb: np.ndarray | None = None,
    description: str = "simulated maps",
) -> Observation:
    """Maps of known foregrounds.

    Args:
        key: of CMB and noise.
        foregrounds: CIB at 95 and at 150 GHz and tSZ at 150 GHz, (3, H, W) [micro-K].
        amplitudes: of CIB and tSZ.
        noise: depths [micro-K arcmin].
        cmb: power of the CMB (H, W), by default :func:`cmb_power`.
        description: what they are.

    Raises:
        ValueError: the shape does not fit, or a depth is not positive.
    """
    if foregrounds.ndim != 3 or len(foregrounds) != 3:
        raise ValueError(f"foregrounds must be CIB at 95 and 150 GHz and tSZ, (3, H, W), got {foregrounds.shape}")
    cib_95, cib, tsz = np.asarray(foregrounds, dtype=np.float64)
    cmb = cmb_power(len(cib)) if cmb is None else cmb
    of_cmb, of_noise = jax.random.split(key)
    white = np.fft.fft2(np.asarray(jax.random.normal(of_cmb, cib.shape)))
    sky = np.real(np.fft.ifft2(white * np.sqrt(cmb)))
    sd = np.sqrt(noise_power(noise))[:, None, None]
    a_cib, a_tsz = amplitudes
    signal = np.stack([a_cib * cib_95, a_cib * cib]) + RESPONSE[:, 1, None, None] * a_tsz * tsz
    maps = sky + signal + sd * np.asarray(jax.random.normal(of_noise, (2, *cib.shape)))
    truth = {"A_cib": np.asarray(a_cib), "A_tsz": np.asarray(a_tsz), "cib": a_cib * cib[None], "tsz": a_tsz * tsz[None]}
    return Observation(maps.astype(np.float32), noise, description, truth)


def observe_held_out(
    index: int,
    amplitudes: tuple[float, float] = (1.0, 1.0),
    noise: tuple[float, float] = NOISE,
    seed: int = 0,
    folder: Path = FOLDER,
) -> Observation:
    """A patch of a mock that no prior was trained on, in CMB and noise.

    Args:
        index: of the patch, among those held out.
        amplitudes: of CIB and tSZ.
        noise: depths [micro-K arcmin].
        seed: of CMB and noise.
        folder: of the mocks.

    Raises:
        FileNotFoundError: there are no mocks.
        ValueError: there are fewer patches.
    """
    patches = load(("cib_95", *FIELDS), folder).patches()
    if not 0 <= index < len(patches):
        raise ValueError(f"the patch must be one of {len(patches)}, from 0 to {len(patches) - 1}, got {index}")
    key = jax.random.fold_in(jax.random.key(seed), index)
    return observe(key, patches[index], amplitudes, noise, description=f"held-out mock, patch {index}")


def read_observation(path: Path, size: int = PATCH_SIZE) -> Observation:
    """Maps from an ``.npz`` file with ``maps`` (2, H, W) [micro-K], ``frequencies`` (95, 150) and ``noise``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or no ``.npz``, an entry is missing, the frequencies are others or in another
            order, the maps are of another shape, have holes, or a depth is not positive.
    """
    found = read_arrays(path)
    if not {"maps", "frequencies", "noise"} <= set(found):
        raise ValueError(f"{path} must hold maps, frequencies and noise, got {', '.join(found) or 'nothing'}")
    maps, frequencies, noise = found["maps"], found["frequencies"], found["noise"]
    if frequencies.shape != (2,) or not np.array_equal(frequencies, FREQUENCIES):
        raise ValueError(f"frequencies must be {FREQUENCIES} GHz in this order, got {tuple(frequencies.tolist())}")
    if maps.shape != (2, size, size):
        raise ValueError(
            f"maps must have shape {(2, size, size)}, two frequencies of the prior's patch, got {maps.shape}"
        )
    refuse_bad_values("maps", maps)
    depths = tuple(float(x) for x in np.atleast_1d(noise))
    noise_power(depths)  # pyright: ignore[reportArgumentType]
    return Observation(maps.astype(np.float32), depths, path.name)  # pyright: ignore[reportArgumentType]


def residuals(observed: Observation, cib: np.ndarray, tsz: np.ndarray) -> jax.Array:
    """Maps less the foregrounds, (..., 2, H, W): CMB and noise; of fields (..., 1, H, W) with their amplitudes."""
    foregrounds = jnp.concatenate([jnp.asarray(cib), jnp.asarray(tsz)], axis=-3)
    return jnp.asarray(observed.maps) - mix(foregrounds)


def mix(foregrounds: jax.Array) -> jax.Array:
    """Both frequencies (..., 2, H, W) of CIB and tSZ at 150 GHz, (..., 2, H, W)."""
    return jnp.einsum("fc,...chw->...fhw", jnp.asarray(RESPONSE, foregrounds.dtype), foregrounds)
