"""Trained priors that come with the package, each a folder with weights and a card (provenance, measured quality)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from bayesdiff.diffusion.model import DiffusionModel, load_model

_FOLDER = Path(__file__).parent


def list_pretrained() -> tuple[str, ...]:
    """Names that :func:`load_pretrained` knows."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/card.json")))


@lru_cache(maxsize=8)
def load_pretrained(name: str) -> DiffusionModel:
    """A trained prior by its name, e.g. ``"dust-cmb-64"``; the same object at every call.

    Raises:
        ValueError: if there is none of this name; the message lists those there are.
    """
    if name not in list_pretrained():
        raise ValueError(f"no pretrained model {name!r}; there are {', '.join(list_pretrained()) or 'none'}")
    return load_model(_FOLDER / name)
