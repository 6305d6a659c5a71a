"""Draws and sampler state on disk as they come: a Zarr store that survives a kill at any moment.

A commit writes the new draws behind the old ones, then the state into the one of two places that is not in use, and
last replaces the root's ``zarr.json``, in one rename. That file holds the consolidated metadata, with the length of
every array, and says which state belongs to them; so a reader (``xarray.open_datatree(path)``) and a run that
continues see the last commit, whole, whatever came after it. What a killed process wrote beyond it is cut off when the
run continues.

Commits are a second or more apart, and never take more than a twentieth of the time. The status is "interrupted" until
the run is complete, so that a process that was killed leaves the truth behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from bayesdiff import devices

from .chains import Block, Checkpoint, Saved
from .identity import differences
from .interrupts import Lock, uninterrupted
from .results import draws_dataset, observed_dataset
from .selection import STATISTICS, DrawGroup
from .state_file import pack
from .target import Target

COMMIT_SECONDS = 1.0
COMMIT_SHARE = 0.05
_PENDING_BYTES = 2**24
_CHUNK_DRAWS, _CHUNK_BYTES = 100, 2**22
_STATE, _PREPARED = "sampler_state", "prepared"
_SLOTS = ("a", "b")
_SECONDS = ("preparation_seconds", "compile_seconds", "warmup_seconds", "sampling_seconds")


def open_store(path: str | Path, consolidated: bool | None = None) -> xr.DataTree:
    """The draws of a store, read from it only when they are looked at; ``consolidated`` as in xarray."""
    data = xr.open_datatree(path, engine="zarr", consolidated=consolidated)
    for name, group in data.children.items():
        # A folder lists its arrays in any order; tables and pictures show them in this one.
        data[name].dataset = group.to_dataset()[sorted(map(str, group.data_vars))]
    return data


class DrawStore:
    """A store to which blocks of draws are appended; of several processes only the first writes.

    Args:
        path: where it is, or will be once there is a state to keep.
        run: what the run is, see `describe_run`.
        groups: which draws are kept.

    Attributes:
        saved: where to continue; None for a new run.
        prepared: what the algorithm computed before it began, packed; None if there is nothing.

    Raises:
        FileExistsError: there is something else, or another run; nothing of it is touched. The message says what
            differs.
        OSError: its folder cannot be made or written to.
        ValueError: the store is damaged.
        BlockingIOError: another process is writing to it.
    """

    def __init__(self, path: str | Path, run: Mapping[str, str], groups: tuple[DrawGroup, ...]) -> None:
        self._path = Path(path)
        self._groups = {group.name: group.every for group in groups} | {STATISTICS: 1}
        self._pending: list[Block] = []
        self._pending_bytes = 0
        self._unwritten = False
        self._latest: Checkpoint | None = None
        self._attributes: dict[str, Any] = {}
        self._spent = dict.fromkeys(_SECONDS, 0.0)
        self._committed, self._commit_seconds = -np.inf, 0.0
        self._slot = _SLOTS[0]
        self._target: Target | None = None
        self._lock: Lock | None = None
        self.saved: Saved | None = None
        self.prepared: bytes | None = None
        self._num_warmup = 0
        if self._path.exists():
            self._open(run)
        elif devices.is_first_process():
            _require_room(self._path.parent)
        devices.wait_for_all("store opened")

    def _open(self, run: Mapping[str, str]) -> None:
        attributes = _read_root(self._path)["attributes"]
        if found := differences(attributes, run):
            raise FileExistsError(
                f"store '{self._path}' holds another run: {'; '.join(found)}. Choose another path, or remove it"
            )
        self._attributes = dict(attributes)
        self._spent |= {name: float(attributes.get(name, 0.0)) for name in _SECONDS}
        progress = json.loads(attributes["progress"])
        self._num_warmup, self._slot = progress["num_warmup"], progress["state"]
        self.saved = Saved(progress["iteration"], _read_bytes(self._path, self._slot, progress["sha256"]))
        if progress["prepared_sha256"]:
            self.prepared = _read_bytes(self._path, _PREPARED, progress["prepared_sha256"])

    @property
    def num_draws(self) -> int:
        """Draws of each chain that the store holds, before thinning."""
        return 0 if self.saved is None else max(0, self.saved.iteration - self._num_warmup)

    @property
    def complete(self) -> bool:
        """Whether it holds all the draws that were asked for when it was last written."""
        return self._attributes.get("status") == "complete"

    @property
    def iteration(self) -> int:
        """Iterations of the last checkpoint."""
        return self._latest.iteration if self._latest else self.saved.iteration if self.saved else 0

    def settle(self, settings: str) -> None:
        """Say that nothing is missing for these settings."""
        if devices.is_first_process() and not (self.complete and self._attributes["settings"] == settings):
            self._lock_unchanged()
            _write_root(self._path, self._attributes | {"settings": settings, "status": "complete"})

    def begin(
        self, target: Target, attributes: Mapping[str, Any], num_warmup: int, prepared: bytes | None = None
    ) -> None:
        """Get ready to write.

        Args:
            target: names the dimensions and holds the observed values.
            attributes: root attributes; those of a run that continues are kept, its length apart.
            num_warmup: iterations before the first draw.
            prepared: packed result of an expensive preparation.
        """
        self._target, self._num_warmup = target, num_warmup
        if self.saved is None:
            self._attributes, self.prepared = dict(attributes), prepared
        else:
            _warn_of_versions(self._attributes["versions"], str(attributes["versions"]))
            self._attributes["settings"] = attributes["settings"]
            if devices.is_first_process():
                self._lock_unchanged()
                self._cut()
        self._spent["preparation_seconds"] += float(attributes["preparation_seconds"])

    def append(self, block: Block, checkpoint: Checkpoint) -> None:
        """Keep a block; it is on disk a second later, or when the run ends. A Ctrl-C meanwhile takes effect after."""
        with uninterrupted():
            if block:
                self._pending.append(block)
                self._pending_bytes += sum(x.nbytes for draws in block.values() for x in draws.values())
            self._latest, self._unwritten = checkpoint, True
            pause = max(COMMIT_SECONDS, self._commit_seconds / COMMIT_SHARE)
            if time.monotonic() - self._committed >= pause or self._pending_bytes > _PENDING_BYTES:
                self.commit()

    def commit(self, status: str = "interrupted") -> None:
        """Write what is pending, and the status."""
        if devices.is_first_process() and self._latest is not None:
            with uninterrupted():
                clock = time.monotonic()
                self._commit(self._latest, status)
                self._committed = time.monotonic()
                self._commit_seconds = self._committed - clock
        self._unwritten = False
        self._pending.clear()
        self._pending_bytes = 0

    def __enter__(self) -> DrawStore:
        return self

    def __exit__(self, *error: object) -> None:
        """Write what is pending, and let other processes write."""
        try:
            if self._unwritten:
                self.commit()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _commit(self, checkpoint: Checkpoint, status: str) -> None:
        state = pack(checkpoint.state)
        slot = _SLOTS[1 - _SLOTS.index(self._slot)]
        seconds = {name: self._spent[name] + checkpoint.seconds.get(name, 0.0) for name in _SECONDS}
        progress = {
            "iteration": checkpoint.iteration,
            "num_warmup": self._num_warmup,
            "state": slot,
            "sha256": hashlib.sha256(state).hexdigest(),
            "prepared_sha256": hashlib.sha256(self.prepared).hexdigest() if self.prepared else "",
        }
        self._attributes |= {**seconds, "status": status, "progress": json.dumps(progress)}
        if self._path.exists():
            self._append_draws()
            _write_bytes(self._path, slot, state)
            _write_root(self._path, self._attributes)
        else:
            self._create(slot, state)
        self._slot = slot

    def _create(self, slot: str, state: bytes) -> None:
        """A new store appears whole, by a rename."""
        assert self._target is not None
        partial = self._path.with_name(self._path.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        # A lock is the folder's, whatever its name, and so stays when it is renamed.
        self._lock = Lock(partial)
        _empty(partial)
        tree = xr.DataTree.from_dict({"observed_data": observed_dataset(self._target)})
        tree.to_zarr(partial, mode="a", consolidated=False)
        zarr.open_group(partial, mode="r+", use_consolidated=False).create_group(_STATE)
        _write_bytes(partial, slot, state)
        if self.prepared:
            _write_bytes(partial, _PREPARED, self.prepared)
        _write_root(partial, self._attributes)
        partial.rename(self._path)

    def _append_draws(self) -> None:
        assert self._target is not None
        names = {name: None for block in self._pending for name in block}
        for name in names:
            parts = [block[name] for block in self._pending if name in block]
            values = {site: np.concatenate([part[site] for part in parts], axis=1) for site in parts[0]}
            every = self._groups[name]
            if not (self._path / name / "zarr.json").exists():
                dataset = draws_dataset(values, self._target.dims, 0, every)
                encoding = {site: {"chunks": _chunks(dataset[site])} for site in dataset.variables}
                dataset.to_zarr(self._path, group=name, mode="w", encoding=encoding, consolidated=False)
                continue
            group = zarr.open_group(self._path, path=name, mode="r+", use_consolidated=False)
            drawn: Any = group["draw"]
            held = drawn.shape[0]
            num = next(iter(values.values())).shape[1]
            values["draw"] = np.arange(held, held + num)[None] * every
            for site, new in values.items():
                array: Any = group[site]
                axis = 0 if site == "draw" else 1
                array.resize((*array.shape[:axis], held + num, *array.shape[axis + 1 :]))
                array[(slice(None),) * axis + (slice(held, held + num),)] = new[0] if site == "draw" else new

    def _lock_unchanged(self) -> None:
        self._lock = Lock(self._path)
        if _read_root(self._path)["attributes"]["progress"] != self._attributes["progress"]:
            raise BlockingIOError(f"another process has written to '{self._path}' meanwhile: call again")

    def _cut(self) -> None:
        """Remove what a killed process wrote after its last commit."""
        listed = _read_root(self._path)["consolidated_metadata"]["metadata"]
        for leftover in self._path.rglob("*.partial"):
            leftover.unlink()
        for name in self._groups:
            if name not in listed:
                shutil.rmtree(self._path / name, ignore_errors=True)
                continue
            group = zarr.open_group(self._path, path=name, mode="r+", use_consolidated=False)
            for site, array in group.arrays():
                array.resize(tuple(listed[f"{name}/{site}"]["shape"]))


def _require_room(folder: Path) -> None:
    """Raise OSError before anything is computed, rather than when it is to be written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the store cannot be written: '{folder}' is read-only")


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _read_root(path: Path) -> dict[str, Any]:
    try:
        root = json.loads((path / "zarr.json").read_text())
    except (OSError, ValueError):
        root = {}
    if "progress" not in root.get("attributes", {}):
        raise FileExistsError(
            f"'{path}' exists already and is no store of a run that can continue: choose another path or remove it"
        )
    return root


def _write_root(path: Path, attributes: Mapping[str, Any]) -> None:
    """The root's metadata with those of all groups and arrays: the rename is the commit."""
    nodes = {}
    for file in (*path.glob("*/zarr.json"), *path.glob("*/*/zarr.json")):
        name = file.parent.relative_to(path).as_posix()
        if not name.startswith(_STATE):
            nodes[name] = json.loads(file.read_text())
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes},
    }
    # In the folder of an array, where nothing lists it should the process die here.
    partial = path / _STATE / json.loads(attributes["progress"])["state"] / "root.partial"
    partial.write_text(json.dumps(root))
    os.replace(partial, path / "zarr.json")


def _write_bytes(path: Path, name: str, content: bytes) -> None:
    """A safetensors file as an array of bytes, uncompressed, so that it is found as it is in its only chunk."""
    array = zarr.create_array(
        store=path,
        name=f"{_STATE}/{name}",
        shape=(len(content),),
        chunks=(len(content),),
        dtype="uint8",
        compressors=None,
        dimension_names=(f"{name}_byte",),
        overwrite=True,
        attributes={"content": "safetensors"},
    )
    array[:] = np.frombuffer(content, dtype=np.uint8)


def _read_bytes(path: Path, name: str, sha256: str) -> bytes:
    try:
        array: Any = zarr.open_array(path, path=f"{_STATE}/{name}", mode="r")
        content = np.asarray(array[:]).tobytes()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"store '{path}' is damaged: its sampler state cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"store '{path}' is damaged: its sampler state is not the one that was written")
    return content


def _warn_of_versions(stored: str, current: str) -> None:
    old, new = json.loads(stored), json.loads(current)
    changed = [f"{name} {old.get(name)} -> {version}" for name, version in new.items() if old.get(name) != version]
    if changed:
        warnings.warn(
            f"the run was begun with other versions, and its draws may differ by rounding: {', '.join(changed)}",
            UserWarning,
            stacklevel=4,
        )


def _chunks(variable: xr.DataArray) -> tuple[int, ...]:
    """A hundred draws in a chunk, fewer of large fields: a chunk is written again whenever draws are added to it."""
    others = int(np.prod([size for dim, size in variable.sizes.items() if dim != "draw"]))
    draws = max(1, min(_CHUNK_DRAWS, _CHUNK_BYTES // max(1, others * variable.dtype.itemsize)))
    return tuple(draws if dim == "draw" else size for dim, size in variable.sizes.items())
