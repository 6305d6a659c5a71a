"""Where the maps are that the studies share: in ``shared/data`` beside the checkout, never in it."""

from __future__ import annotations

from pathlib import Path


def data_folder(file: str) -> Path:
    """The folder of shared maps.

    Raises:
        FileNotFoundError: ``file`` is not in it.
    """
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not (folder / file).exists():
        raise FileNotFoundError(f"the maps of the study are expected in {folder}, and {file} is not there")
    return folder
