"""Where the maps are that the studies share, beside the checkout and never in it; how files of arrays are read."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np


def data_folder(file: str) -> Path:
    """The folder of shared maps.

    Raises:
        FileNotFoundError: ``file`` is not in it.
    """
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not (folder / file).exists():
        raise FileNotFoundError(f"the maps of the study are expected in {folder}, and {file} is not there")
    return folder


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a ``.npz`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, or no ``.npz`` file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file '{path}'")
    try:
        # Opened here: of a truncated archive NumPy would leave it open.
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise ValueError("it holds one array without a name")
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read (truncated, or no .npz file): {error}") from error
