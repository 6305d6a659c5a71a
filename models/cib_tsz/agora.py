"""Patches of the Agora simulations, or of other HEALPix maps, where a user has them.

Agora (Omori 2022, arXiv:2212.07420) has full-sky maps of the CIB [Jy/sr] and of Compton y at NSIDE 8192. A patch is cut
by gnomonic projection, nearest pixel, on a grid finer than the prior's and wider than the patch, its masked pixels are
filled and it is low-passed as mocks are (:mod:`models.cib_tsz.treatment`), and the middle of it is kept. The command
``python -m models agora`` writes patches to a file that ``python -m models train cib_tsz --maps FILE`` learns from, or
``cib``. Sources are found in the map, clusters come from a catalogue.

A map is refused unless its file says what it is: RING ordering, the coordinates and the unit asked for. Pixels that
are UNSEEN or not finite are holes; a patch with a hole is refused unless a mask covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.cib_tsz.data import PATCH_SIZE
from models.cib_tsz.emission import jy_per_kelvin, tsz_kelvin
from models.cib_tsz.halos import ARCMIN, angle_500
from models.cib_tsz.mock import FLUX_CUT, PIXEL_ARCMIN
from models.cib_tsz.treatment import CLUSTER_MASS, degrade, low_pass, mask_radius

UNITS = ("Jy/sr", "MJy/sr", "K_CMB", "muK_CMB", "y")
_SPELLINGS = {
    "uk_cmb": "muK_CMB",
    "muk_cmb": "muK_CMB",
    "uk": "muK_CMB",
    "muk": "muK_CMB",
    "k_cmb": "K_CMB",
    "k": "K_CMB",
}
_SPELLINGS |= {"jy/sr": "Jy/sr", "jysr-1": "Jy/sr", "mjy/sr": "MJy/sr", "mjysr-1": "MJy/sr", "y": "y", "compton-y": "y"}
_SYSTEMS = {"C": "C", "CEL": "C", "CELESTIAL": "C", "EQU": "C", "EQUATORIAL": "C", "ICRS": "C"}
_SYSTEMS |= {"G": "G", "GAL": "G", "GALACTIC": "G", "E": "E", "ECL": "E", "ECLIPTIC": "E"}
CATALOGUE = ("longitude", "latitude", "m500", "redshift")
"""Columns of a catalogue of clusters: degrees, in the coordinates of the maps, and solar masses."""
OVERSAMPLING, MARGIN = 4, 8
"""Fine pixels to a side of one of the patch; pixels around it that are cut as well."""


class SkyMap(NamedTuple):
    """A HEALPix map in RING ordering.

    Attributes:
        values: [micro-K of CMB temperature], (12 NSIDE^2,); holes are NaN.
        nside: NSIDE.
        coordinates: C (celestial), G (Galactic) or E (ecliptic).
    """

    values: np.ndarray
    nside: int
    coordinates: str


def read_map(
    path: Path, unit: str, frequency_ghz: float, coordinates: str = "C", coordinates_if_unsaid: str | None = None
) -> SkyMap:
    """Read a HEALPix map and bring it to micro-K of CMB temperature.

    Args:
        path: FITS file.
        unit: of its values, one of :data:`UNITS`.
        frequency_ghz: at which the map is, or at which the tSZ effect of a map of Compton y is wanted [GHz].
        coordinates: that it must be in.
        coordinates_if_unsaid: that it is taken to be in where its header has no COORDSYS.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown unit, or a map in another ordering, coordinates or unit than asked for.
        ModuleNotFoundError: healpy is not installed.
    """
    healpy = _healpy()
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file '{path}'")
    values, header = healpy.read_map(path, nest=None, h=True, dtype=np.float64)
    said = {key: str(value).strip() for key, value in header}
    if said.get("ORDERING", "").upper() != "RING":
        raise ValueError(f"ORDERING of {path} must be RING, got {said.get('ORDERING') or 'none'}")
    declared = said.get("COORDSYS", "").upper()
    found = _SYSTEMS.get(declared, declared) or coordinates_if_unsaid
    if found != coordinates:
        raise ValueError(f"COORDSYS of {path} must be {coordinates}, got {found or 'none'}")
    declared = said.get("TUNIT1", "")
    if declared and _SPELLINGS.get(declared.lower().replace(" ", ""), declared) != unit:
        raise ValueError(f"the unit of {path} must be {unit}, got {declared}")
    hole = ~np.isfinite(values) | (values == healpy.UNSEEN)
    kelvin = {
        "Jy/sr": 1.0 / jy_per_kelvin(frequency_ghz),
        "MJy/sr": 1e6 / jy_per_kelvin(frequency_ghz),
        "K_CMB": 1.0,
        "muK_CMB": 1e-6,
        "y": tsz_kelvin(frequency_ghz),
    }[unit]
    return SkyMap(np.where(hole, np.nan, 1e6 * kelvin * values), healpy.get_nside(values), coordinates)


def source_mask(sky: SkyMap, frequency_ghz: float = 150.0, flux_cut: float = FLUX_CUT) -> np.ndarray:
    """Pixels brighter than a flux [Jy], a mask of single pixels as the published one, (12 NSIDE^2,)."""
    area = 4.0 * np.pi / (12 * sky.nside**2)
    return np.nan_to_num(sky.values) * 1e-6 * jy_per_kelvin(frequency_ghz) * area > flux_cut


def read_clusters(path: Path) -> np.ndarray:
    """A catalogue of clusters, the columns `CATALOGUE` of a CSV file with a header, (N, 4).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a value is not finite or none of its kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file '{path}'")
    with open(path, encoding="utf-8") as file:
        names = [name.strip() for name in file.readline().split(",")]
    missing = [name for name in CATALOGUE if name not in names]
    if missing:
        raise ValueError(f"{path} must have the columns {', '.join(CATALOGUE)}, got {', '.join(names)}")
    columns = [names.index(name) for name in CATALOGUE]
    catalogue = np.loadtxt(path, delimiter=",", skiprows=1, usecols=columns, ndmin=2)
    if not np.isfinite(catalogue).all():
        raise ValueError(f"{path} must have finite values, got {np.sum(~np.isfinite(catalogue))} that are not")
    wrong = (np.abs(catalogue[:, 1]) > 90.0) | (catalogue[:, 3] <= 0.0)
    if wrong.any():
        raise ValueError(
            f"{path} must have latitudes of -90 to 90 degrees and redshifts above 0, got {wrong.sum()} without, "
            f"the first in row {np.flatnonzero(wrong)[0]}"
        )
    return catalogue


def cluster_mask(nside: int, clusters: np.ndarray) -> np.ndarray:
    """Discs about massive clusters (N, 4) of `read_clusters`, as wide as published, (12 NSIDE^2,)."""
    healpy, mask = _healpy(), np.zeros(12 * nside**2, dtype=bool)
    for longitude, latitude, m500, redshift in clusters[clusters[:, 2] >= CLUSTER_MASS]:
        radius = mask_radius(m500, angle_500(m500, redshift) / ARCMIN) * ARCMIN
        mask[healpy.query_disc(nside, healpy.ang2vec(longitude, latitude, lonlat=True), radius)] = True
    return mask


def patch_centres(separation: float, lowest_latitude: float = 0.0) -> np.ndarray:
    """Longitudes and latitudes of patches that tile the sphere, (num, 2) [degrees].

    Args:
        separation: of neighbours [degrees].
        lowest_latitude: least distance from the equator [degrees], to stay off a Galactic plane.
    """
    rows = np.arange(-90.0 + separation, 90.0, separation)
    centres = []
    for latitude in rows[np.abs(rows) >= lowest_latitude]:
        number = max(1, int(360.0 * np.cos(np.radians(latitude)) / separation))
        centres += [(360.0 * i / number, latitude) for i in range(number)]
    return np.array(centres)


def cut_patches(
    maps: Sequence[SkyMap],
    centres: np.ndarray,
    size: int = PATCH_SIZE,
    pixel_arcmin: float = PIXEL_ARCMIN,
    mask: np.ndarray | None = None,
    seed: int = 0,
    fills: Sequence[int] | None = None,
) -> np.ndarray:
    """Flat patches of several maps of one sky, filled and low-passed, (num, C, size, size) float32 [micro-K].

    Args:
        maps: one per channel, of one NSIDE and in one coordinate system.
        centres: longitude and latitude of each patch [degrees], (num, 2).
        size: pixels on a side.
        pixel_arcmin: side of a pixel [arcmin].
        mask: HEALPix pixels that are filled with Gaussian values of the mean and standard deviation of the map's
            others, true or false, (12 NSIDE^2,).
        seed: of these values.
        fills: which set of unit values each channel takes; by default one of its own. Frequencies of the CIB share
            theirs, as in a mock, and would else lose their correlation there.

    Raises:
        ValueError: the maps, the mask or the fills do not belong together, their pixels are larger than those of the
            patches, or a patch has holes.
    """
    nside = _common(maps, mask, pixel_arcmin)
    rng = np.random.default_rng(seed)
    fills = range(len(maps)) if fills is None else fills
    if len(fills) != len(maps):
        raise ValueError(f"fills must have a number for each of {len(maps)} maps, got {len(fills)}")
    seen = [sky.values if mask is None else sky.values[~mask] for sky in maps]
    moments = [(float(np.nanmean(values)), float(np.nanstd(values))) for values in seen]
    side, fine = (size + 2 * MARGIN) * OVERSAMPLING, pixel_arcmin / OVERSAMPLING
    patches = []
    for longitude, latitude in np.atleast_2d(centres):
        pixels = _pixels(nside, longitude, latitude, side, fine * ARCMIN)
        filled = np.zeros(pixels.shape, dtype=bool) if mask is None else mask[pixels]
        white = {number: rng.normal(size=pixels.shape) for number in sorted(set(fills))}
        channels = []
        for sky, (mean, sd), number in zip(maps, moments, fills, strict=True):
            values = np.where(filled, mean + sd * white[number], sky.values[pixels])
            holes = np.isnan(values).sum()
            if holes:
                raise ValueError(
                    f"maps must have no holes, got {holes} of {values.size} pixels without a value in the patch at "
                    f"longitude {longitude:g}, latitude {latitude:g}: leave it out or cover them by the mask"
                )
            channels.append(values)
        coarse = degrade(low_pass(np.stack(channels), fine * ARCMIN), OVERSAMPLING)
        patches.append(coarse[:, MARGIN : MARGIN + size, MARGIN : MARGIN + size])
    return np.stack(patches).astype(np.float32)


def write_patches(path: Path, patches: np.ndarray, channels: Sequence[str], pixel_arcmin: float = PIXEL_ARCMIN) -> None:
    """Write patches (num, C, H, W) [micro-K] and the names of their channels, for ``--maps``.

    Raises:
        ValueError: the number of channels does not match.
    """
    if patches.ndim != 4 or patches.shape[1] != len(channels):
        raise ValueError(
            f"patches must have shape (num, {len(channels)}, H, W), a channel per name, got {patches.shape}"
        )
    np.savez(path, patches=patches.astype(np.float32), channels=np.array(channels), pixel_arcmin=pixel_arcmin)


def _pixels(nside: int, longitude: float, latitude: float, side: int, pixel: float) -> np.ndarray:
    """HEALPix pixels under a gnomonic grid, (side, side): rows to the north, columns to growing longitude."""
    offset = (np.arange(side) + 0.5 - 0.5 * side) * pixel
    lon, lat = np.radians([longitude, latitude])
    centre = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.cross(centre, east)
    vectors = centre + offset[None, :, None] * east + offset[:, None, None] * north
    return _healpy().vec2pix(nside, *np.moveaxis(vectors, -1, 0))


def _common(maps: Sequence[SkyMap], mask: np.ndarray | None, pixel_arcmin: float) -> int:
    kinds = {(sky.nside, sky.coordinates) for sky in maps}
    if len(kinds) != 1:
        found = ", ".join(f"NSIDE {nside} in {system}" for nside, system in sorted(kinds)) or "none"
        raise ValueError(f"maps must be of one NSIDE and in one coordinate system, got {found}")
    nside = maps[0].nside
    if mask is not None and mask.shape != (12 * nside**2,):
        raise ValueError(f"mask must have the {12 * nside**2} pixels of the maps, got {mask.shape}")
    native = float(np.degrees(_healpy().nside2resol(nside)) * 60.0)
    if native > pixel_arcmin:
        raise ValueError(
            f"pixels of the maps must be no larger than those of the patches, {pixel_arcmin:g} arcmin, got "
            f"{native:.2f} arcmin at NSIDE {nside}"
        )
    return nside


def _healpy() -> Any:
    try:
        import healpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("HEALPix maps need healpy: pip install 'bayesdiff[simulations]'") from error
    return healpy
