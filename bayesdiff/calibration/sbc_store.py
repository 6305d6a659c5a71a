"""A calibration study on disk: one file per chunk of simulations, each put in place whole, by a rename.

``study.json`` says what the study is; the chunks come in any order and each stands for itself, so a study that was
killed loses at most the chunk it was at. Every chunk names the study it belongs to and carries a checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bayesdiff.calibration.sbc_records import Records

CARD, INPUTS = "study.json", "inputs.safetensors"
WANTED = "num_wanted"
"""Entry of the card: how many simulations were asked for at most."""
# What makes two studies the same; the rest of the card only informs.
_WORDS = {
    "study": "the study",
    "seed": "the seed",
    "algorithm": "the algorithm",
    "precision": "the precision",
    "num_chains": "the number of chains",
    "num_samples": "the draws of each chain",
    "num_draws": "the draws that are ranked",
    "model_hash": "the model (its source, its sites, or the values it closes over)",
    "quantities_hash": "the quantities",
    "observation_hash": "the observation",
    "simulator_hash": "the simulator of the data",
    "num_reference": "the draws of the reference",
    "chunk_size": "the simulations of a chunk",
}


class Chunks(Protocol):
    """Where finished simulations are kept, by chunk."""

    def read(self, number: int) -> Records | None:
        """Those of a chunk, its first ones; None if there are none."""
        ...

    def write(self, number: int, records: Records) -> None:
        """Keep them, in place of the chunk's former ones."""
        ...


class MemoryChunks:
    """Chunks that last as long as the study."""

    def __init__(self) -> None:
        self._chunks: dict[int, Records] = {}

    def read(self, number: int) -> Records | None:
        """Those of a chunk."""
        return self._chunks.get(number)

    def write(self, number: int, records: Records) -> None:
        """Keep them."""
        self._chunks[number] = records


class StudyStore:
    """The folder of a study, which nobody else writes to while it is open.

    Args:
        path: the folder.

    Attributes:
        card: what the study is; None if it is a new one.

    Raises:
        FileExistsError: there is something else.
        BlockingIOError: another process is writing to it.
    """

    def __init__(self, path: str | Path) -> None:
        # Only a study that is stored needs the sampling package, which reading one does not.
        from bayesdiff.sampling.interrupts import Lock

        self.path = Path(path)
        if self.path.exists() and not (self.path.is_dir() and _is_unused(self.path)):
            read_card(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path)
        # Another process may have begun the study until the lock was ours.
        self.card = None if _is_unused(self.path) else read_card(self.path)

    def begin(self, card: Mapping[str, Any], inputs: Mapping[str, np.ndarray] | None = None) -> None:
        """Say what the study is, and keep arrays that its simulator uses.

        Warns where the packages have other versions than those that made what is there.

        Raises:
            FileExistsError: it holds another one; the message says what differs.
        """
        if self.card is None:
            self.card = dict(card)
            if inputs is not None:
                _put(self.path / INPUTS, save({name: np.ascontiguousarray(x) for name, x in inputs.items()}))
            _put(self.path / CARD, json.dumps(self.card, indent=1).encode())
        elif found := differences(self.card, card):
            raise FileExistsError(
                f"store '{self.path}' holds another study: {'; '.join(found)}. Choose another path, or remove it"
            )
        else:
            if self.card.get("versions") != card.get("versions"):
                text = f"store '{self.path}' was begun with other versions of packages: {self.card.get('versions')}"
                warnings.warn(text, UserWarning, stacklevel=4)
            if self.card.get(WANTED, 0) < card[WANTED]:
                self.card[WANTED] = card[WANTED]
                _put(self.path / CARD, json.dumps(self.card, indent=1).encode())

    def inputs(self) -> dict[str, np.ndarray] | None:
        """The arrays that the simulator uses; None if the study is a new one.

        Raises:
            FileExistsError: it holds a study without any.
        """
        if self.card is None:
            return None
        if not (self.path / INPUTS).exists():
            raise FileExistsError(
                f"store '{self.path}' holds another study: the study was {self.card['study']}. Choose another path, or "
                "remove it"
            )
        return load((self.path / INPUTS).read_bytes())

    def read(self, number: int) -> Records | None:
        """Finished simulations of a chunk."""
        assert self.card is not None
        return read_chunk(self.path, self.card, number)

    def write(self, number: int, records: Records) -> None:
        """Keep the simulations of a chunk."""
        assert self.card is not None
        arrays = {name: np.ascontiguousarray(x) for name, x in records._asdict().items()}
        about = {"study": identity(self.card), "sha256": _digest(arrays)}
        _put(_chunk_file(self.path, number), save(arrays, metadata=about))

    def __enter__(self) -> StudyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let other processes write."""
        self._lock.release()


def _is_unused(folder: Path) -> bool:
    """Whether there is nothing, or what a study left that was killed before it began."""
    return all(file.name == INPUTS or file.suffix == ".partial" for file in folder.iterdir())


def read_card(path: Path) -> dict[str, Any]:
    """What the study in a folder is.

    Raises:
        FileExistsError: there is none.
    """
    try:
        card = json.loads((path / CARD).read_text())
    except (OSError, ValueError):
        card = {}
    if not isinstance(card, dict) or "study" not in card:
        raise FileExistsError(f"'{path}' exists and is no store of a calibration study: choose another path")
    return card


def chunk_numbers(path: Path) -> list[int]:
    """Numbers of the chunks that are there, in order."""
    return sorted(int(file.stem.removeprefix("chunk-")) for file in path.glob("chunk-*.safetensors"))


def read_chunk(path: Path, card: Mapping[str, Any], number: int) -> Records | None:
    """Finished simulations of a chunk; None if there are none.

    Raises:
        ValueError: the file is damaged or belongs to another study.
    """
    file = _chunk_file(path, number)
    if not file.exists():
        return None
    content = file.read_bytes()
    advice = "remove it, and its simulations are done again"
    try:
        arrays = load(content)
        about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"'{file}' is damaged ({error}): {advice}") from error
    if about.get("sha256") != _digest(arrays) or set(arrays) != set(Records._fields):
        raise ValueError(f"'{file}' is damaged, it does not hold what was written: {advice}")
    if about.get("study") != identity(card):
        raise ValueError(f"'{file}' belongs to another study: {advice}")
    return Records(**arrays)


def identity(card: Mapping[str, Any]) -> str:
    """Digest of what makes two studies the same."""
    return hashlib.sha256(json.dumps([card.get(name) for name in (*_WORDS, "settings")]).encode()).hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two studies: a phrase each."""
    found = []
    if stored.get("algorithm") == wanted.get("algorithm"):
        old, new = (x.get("settings", {}) for x in (stored, wanted))
        found += [
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
    for name, words in _WORDS.items():
        old, new = stored.get(name), wanted.get(name)
        if old != new:
            found.append(words if name.endswith("_hash") else f"{words} was {old} and is {new}")
    return found


def _chunk_file(path: Path, number: int) -> Path:
    return path / f"chunk-{number:05d}.safetensors"


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(save({name: arrays[name] for name in sorted(arrays)})).hexdigest()


def _put(file: Path, content: bytes) -> None:
    partial = file.with_name(file.name + ".partial")
    with open(partial, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(partial, file)
