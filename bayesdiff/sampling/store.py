"""Draws on disk as they come: a Zarr store that ``xarray.open_datatree(path, consolidated=False)`` reads at any time.

The status is "interrupted" until the run is complete, so that a process that was killed leaves the truth behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import xarray as xr
import zarr

from .chains import Block
from .results import draws_dataset, observed_dataset
from .target import Target

_CHUNK_DRAWS = 100


class DrawStore:
    """Appends blocks of draws to a Zarr store.

    Raises:
        FileExistsError: something is already there; nothing is overwritten.
    """

    def __init__(self, path: str | Path, target: Target, attributes: Mapping[str, Any]) -> None:
        self._path = Path(path)
        if self._path.exists():
            raise FileExistsError(f"store '{self._path}' exists already: choose another path or remove it")
        self._target = target
        self._drawn = 0
        root = xr.Dataset(attrs={**attributes, "status": "interrupted"})
        tree = xr.DataTree.from_dict({"/": root, "observed_data": observed_dataset(target)})
        tree.to_zarr(self._path, mode="w-", consolidated=False)

    def append(self, block: Block) -> None:
        """Write a block; a Ctrl-C that comes meanwhile takes effect afterwards."""
        groups = {
            "posterior": draws_dataset(block.posterior, self._target.dims, self._drawn),
            "sample_stats": draws_dataset(block.sample_stats, {}, self._drawn),
        }
        with _uninterrupted():
            for group, dataset in groups.items():
                if self._drawn:
                    dataset.to_zarr(self._path, group=group, mode="a", append_dim="draw", consolidated=False)
                else:
                    encoding = {name: {"chunks": _chunks(dataset[name])} for name in dataset.variables}
                    dataset.to_zarr(self._path, group=group, mode="a", encoding=encoding, consolidated=False)
            self._drawn += dataset.sizes["draw"]

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write the root attributes that are known at the end."""
        zarr.open_group(self._path, mode="r+").attrs.update(dict(attributes))


def _chunks(variable: xr.DataArray) -> tuple[int, ...]:
    return tuple(_CHUNK_DRAWS if dim == "draw" else size for dim, size in variable.sizes.items())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back KeyboardInterrupt until the block of code is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[tuple[int, FrameType | None]] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending and callable(previous):
        previous(*pending[0])
