"""Maps from files: reading them, and cutting standardised patches at the pixel size of a model.

A map is averaged exactly over the model's pixels, and the whole of it is standardised: its mean is subtracted and it
is divided by its standard deviation, as the training maps were. A patch of it then has neither zero mean nor unit
variance, which is what the prior has learned. No sign is ever flipped.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayesdiff.fields.patches import regrid
from models.dust_cmb.data import PATCH_SIZE, PIXEL_ARCMIN

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz")
BLANK = 1e29
"""Values beyond this mark masked pixels (HEALPix writes -1.6375e30)."""
PIXEL_TOLERANCE = 1e-3


class MapFile(NamedTuple):
    """An array from a file.

    Attributes:
        values: as stored, in the file's unit, float64.
        name: of the array, with the file's name.
        pixel_arcmin: side of a pixel where the file says it (a FITS header), else None.
    """

    values: np.ndarray
    name: str
    pixel_arcmin: float | None = None


class Patches(NamedTuple):
    """All disjoint patches of a map, standardised by the whole map.

    Attributes:
        fields: (rows, columns, 1, size, size) float32.
        mean: of the whole map after averaging, in its own unit.
        sd: standard deviation of it, the unit of the fields.
        shape: of the whole map after averaging.
    """

    fields: np.ndarray
    mean: float
    sd: float
    shape: tuple[int, int]

    def choose(self, patch: int | tuple[int, int]) -> np.ndarray:
        """One patch (1, size, size), by its row and column or by its number along the rows, counted from 0.

        Raises:
            ValueError: there is no such patch.
        """
        rows, columns = self.fields.shape[:2]
        row, column = divmod(patch, columns) if isinstance(patch, int) else patch
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(
                f"patch must be a number from 0 to {rows * columns - 1} (the map holds {rows} x {columns} disjoint "
                f"patches), got {patch}"
            )
        return self.fields[row, column]


def read_map(path_spec: str | Path) -> MapFile:
    """Read an array from ``FILE[:array]``.

    Args:
        path_spec: a ``.npy`` file, a ``.npz`` file (with the name of the array, unless it holds one only) or a FITS
            file (with the name of an HDU; by default the first that holds a two-dimensional image).

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it cannot be read, is of another kind, or has no such array; the message names those it has.
    """
    path, array = _split(str(path_spec))
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    kind = path.name.lower()
    if not kind.endswith((".npy", ".npz", *FITS_SUFFIXES)):
        raise ValueError(f"{path} must be a .npy, .npz or FITS file, got {path.suffix or 'no suffix'!r}")
    try:
        if kind.endswith(".npy"):
            found = _read_npy(path, array)
        elif kind.endswith(".npz"):
            found = _read_npz(path, array)
        else:
            found = _read_fits(path, array)
    except _Unfit as unfit:
        raise ValueError(str(unfit)) from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error, Warning) as error:
        raise ValueError(f"{path} cannot be read (truncated, or not what its name says): {error}") from error
    if not (np.issubdtype(found.values.dtype, np.floating) or np.issubdtype(found.values.dtype, np.integer)):
        raise ValueError(f"{found.name} must hold real numbers, got {found.values.dtype}")
    return found._replace(values=found.values.astype(np.float64))


class _Unfit(Exception):
    """A file that can be read, but does not hold what was asked for."""


def _split(spec: str) -> tuple[Path, str | None]:
    """Path and array name; a colon that belongs to an existing file's name is none of ours."""
    head, colon, tail = spec.rpartition(":")
    if not colon or Path(spec).exists() or "/" in tail or "\\" in tail:
        return Path(spec), None
    return Path(head), tail


def _read_npy(path: Path, array: str | None) -> MapFile:
    if array is not None:
        raise _Unfit(f"{path} holds one array without a name, got the name {array!r}: leave ':{array}' out")
    with path.open("rb") as stream:
        return MapFile(np.load(stream, allow_pickle=False), path.name)


def _read_npz(path: Path, array: str | None) -> MapFile:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        names = list(file.files)
        if array is None and len(names) == 1:
            array = names[0]
        if array is None:
            raise _Unfit(
                f"{path} holds the arrays {', '.join(names)}: say which, e.g. {path}:{names[0] if names else 'NAME'}"
            )
        if array not in names:
            raise _Unfit(f"{path} has no array {array!r}: it holds {', '.join(names) or 'none'}")
        return MapFile(file[array], f"{path.name}:{array}")


def _read_fits(path: Path, array: str | None) -> MapFile:
    try:
        from astropy.io import fits
    except ImportError as error:
        raise _Unfit("reading FITS needs astropy: pip install 'bayesdiff[cosmology]'") from error
    with path.open("rb") as stream, warnings.catch_warnings(), fits.open(stream, memmap=False) as hdus:
        warnings.filterwarnings("error", message=".*truncated")
        units: list[Any] = list(hdus)
        images = [hdu for hdu in units if getattr(hdu, "is_image", False) and _plane_shape(hdu.shape)]
        names = [hdu.name or str(units.index(hdu)) for hdu in images]
        if not images:
            raise _Unfit(f"{path} holds no two-dimensional image (HEALPix maps must be projected first)")
        if array is None:
            array = names[0]
        if array not in names:
            raise _Unfit(f"{path} has no image {array!r}: it holds {', '.join(names)}")
        hdu: Any = images[names.index(array)]
        values = np.asarray(hdu.data).reshape(_plane_shape(hdu.shape) or hdu.shape)
        return MapFile(values.astype(values.dtype.newbyteorder("=")), f"{path.name}:{array}", _header_pixel(hdu.header))


def _plane_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of an image, leading axes of length one left out; None where it is no plane."""
    return (shape[-2], shape[-1]) if len(shape) >= 2 and np.prod(shape[:-2], dtype=int) == 1 else None


def _header_pixel(header: Any) -> float | None:
    """Pixel side [arcmin] that a FITS header gives in degrees, None where it gives none or pixels are not square."""
    sides = []
    for axis in (1, 2):
        if str(header.get(f"CUNIT{axis}", "deg")).strip().lower() not in ("deg", "degree", "degrees"):
            return None
        side = header.get(f"CDELT{axis}")
        if side is None and f"CD{axis}_{axis}" in header:
            side = np.hypot(header.get(f"CD1_{axis}", 0.0), header.get(f"CD2_{axis}", 0.0))
        sides.append(abs(float(side)) * 60.0 if side is not None else 0.0)
    equal = min(sides) > 0 and abs(sides[0] / sides[1] - 1.0) < PIXEL_TOLERANCE
    return sides[0] if equal else None


def refuse_bad_pixels(name: str, values: np.ndarray) -> None:
    """Raise ValueError when pixels are NaN, infinite or marked as masked, saying how many and where the first is."""
    bad = ~np.isfinite(values)
    masked = np.abs(values, where=~bad, out=np.zeros(values.shape)) > BLANK
    for found, what in ((bad, "NaN or infinite"), (masked, "masked (blank)")):
        if found.any():
            first = tuple(int(i) for i in np.argwhere(found)[0])
            raise ValueError(
                f"every pixel of {name} must be finite and unmasked, got {int(found.sum())} {what} of {values.size}, "
                f"the first at {first}"
            )


def cut_patches(
    values: np.ndarray,
    pixel_arcmin_in: float,
    size: int = PATCH_SIZE,
    pixel_arcmin: float = PIXEL_ARCMIN,
    name: str = "the map",
) -> Patches:
    """Average a map over the model's pixels, standardise the whole of it, and cut it into disjoint patches.

    What does not fill a pixel or a patch is left out at the edges, the same on opposite sides.

    Args:
        values: the map (height, width), of any shape that holds a patch, in any unit.
        pixel_arcmin_in: side of its pixels [arcmin], at most ``pixel_arcmin``.
        size: side of a patch in pixels of the model.
        pixel_arcmin: side of a pixel of the model [arcmin].
        name: of the map, for messages.

    Raises:
        ValueError: the map is no plane, too small or constant, its pixels are larger than the model's, or one is NaN,
            infinite or masked.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"{name} must have shape (height, width), got {values.shape}")
    if not (np.isfinite(pixel_arcmin_in) and pixel_arcmin_in > 0):
        raise ValueError(f"the pixel size of {name} must be positive [arcmin], got {pixel_arcmin_in}")
    factor = pixel_arcmin / pixel_arcmin_in
    if abs(factor - 1.0) < PIXEL_TOLERANCE:
        factor = 1.0
    if factor < 1.0:
        raise ValueError(
            f"the pixels of {name} must be at most those of the model, {pixel_arcmin:g} arcmin, got "
            f"{pixel_arcmin_in:g} arcmin: a coarse map holds nothing on the smallest scales of the prior"
        )
    refuse_bad_pixels(name, values)
    if min(values.shape) / factor < size - 1e-9:
        needed = int(np.ceil(size * factor - 1e-9))
        raise ValueError(
            f"a patch of {size} x {size} pixels of {pixel_arcmin:g} arcmin needs a map of at least {needed} x {needed} "
            f"pixels of {pixel_arcmin_in:g} arcmin, got {values.shape[0]} x {values.shape[1]} in {name}"
        )
    coarse = regrid(values, factor)
    mean, sd = float(coarse.mean()), float(coarse.std())
    if not sd > 1e-12 * max(abs(mean), np.abs(coarse).max(initial=0.0), 1e-300):
        raise ValueError(f"{name} must vary from pixel to pixel, got {mean:g} in all of them")
    rows, columns = (length // size for length in coarse.shape)
    top, left = ((length % size) // 2 for length in coarse.shape)
    block = (coarse[top : top + rows * size, left : left + columns * size] - mean) / sd
    fields = block.reshape(rows, size, columns, size).transpose(0, 2, 1, 3)[:, :, None]
    return Patches(fields.astype(np.float32), mean, sd, (coarse.shape[0], coarse.shape[1]))
