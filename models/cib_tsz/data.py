"""The set of mocks on disk, and the training and held-out maps of the priors.

A set is a folder of files ``mock_0000.npy``, each the channels of one mock (:mod:`models.cib_tsz.mock`), and of
``settings.json``, which says of which seed and by which recipe. Mocks that are there are not made again. The last
sixth of a set is held out: mocks are independent of one another, so that maps are split by mock. Maps are periodic;
patches of 64 x 64 are cut from them, and are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayesdiff.fields.inputs import refuse_bad_values
from models.cib_tsz import emission, halos, mock, pressure, treatment
from models.draws import disjoint
from models.shared_data import read_arrays

FOLDER = Path("build/cib_tsz")
SETTINGS = "settings.json"
NUM_MOCKS, SEED = 384, 0
HELD_OUT_SHARE = 1.0 / 6.0
PATCH_SIZE = 64


class Foregrounds(NamedTuple):
    """Maps of some channels, split by mock.

    Attributes:
        training: periodic maps, or patches, (num, C, n, n) [micro-K].
        held_out: the same of other mocks.
        channels: their names, in order.
    """

    training: np.ndarray
    held_out: np.ndarray
    channels: tuple[str, ...]

    def patches(self, held_out: bool = True) -> np.ndarray:
        """The disjoint patches (num, C, 64, 64) of the maps held out, or of those of the training."""
        maps = self.held_out if held_out else self.training
        columns = [disjoint(maps[:, [c]], PATCH_SIZE) for c in range(maps.shape[1])]
        return np.concatenate(columns, axis=1)


def recipe() -> dict[str, object]:
    """What the mocks of a set depend on."""
    constants = {
        name: value
        for module in (mock, halos, emission, pressure, treatment)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float | tuple)
    }
    return json.loads(json.dumps(constants))


def generate(num: int = NUM_MOCKS, folder: Path = FOLDER, seed: int = SEED, say: Callable[[str], None] = print) -> None:
    """Make the mocks of a set that are not there yet; it may be interrupted and started again.

    Args:
        num: of mocks.
        folder: of the set.
        seed: of all random numbers; mock i is the same in every set of this seed.
        say: is told of progress now and then.

    Raises:
        ValueError: the folder holds a set of another seed or recipe.
        ModuleNotFoundError: colossus is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "channels": list(mock.CHANNELS), "recipe": recipe()}
    path = folder / SETTINGS
    if path.exists() and json.loads(path.read_text()) != settings:
        raise ValueError(f"{folder} must hold mocks of seed {seed} and of this recipe, got others: see {path}")
    path.write_text(json.dumps(settings, indent=1))
    for index in range(num):
        target = _file(folder, index)
        if not target.exists():
            partial = target.with_suffix(".partial")
            with open(partial, "wb") as file:
                np.save(file, mock.simulate(seed, index))
            partial.rename(target)
        if (index + 1) % 32 == 0 or index + 1 == num:
            say(f"{index + 1} of {num} mocks")


def load(channels: Sequence[str], folder: Path = FOLDER) -> Foregrounds:
    """The maps of a set, or of a file of patches.

    Args:
        channels: of :data:`models.cib_tsz.mock.CHANNELS`, in the order wanted.
        folder: of the set; or a file of :func:`models.cib_tsz.agora.write_patches`.

    Raises:
        FileNotFoundError: there is no set, or one of fewer than six mocks.
        ValueError: an unknown channel, or a mock that is damaged; a file of other channels, of another order or of
            other pixels, or with holes.
    """
    if folder.is_file():
        return _load_file(channels, folder)
    unknown = [name for name in channels if name not in mock.CHANNELS]
    if unknown:
        raise ValueError(f"channels must be among {', '.join(mock.CHANNELS)}, got {', '.join(unknown)}")
    paths = sorted(folder.glob("mock_*.npy"))
    if len(paths) < 6:
        raise FileNotFoundError(
            f"{folder} must hold at least 6 mocks, got {len(paths)}: run 'python -m models mock' (minutes on one core)"
        )
    wanted = [mock.CHANNELS.index(name) for name in channels]
    maps = []
    for path in paths:
        fields = np.load(path, allow_pickle=False)
        if fields.shape != (len(mock.CHANNELS), mock.SIZE, mock.SIZE) or not np.isfinite(fields).all():
            raise ValueError(f"{path} must hold finite maps {(len(mock.CHANNELS), mock.SIZE, mock.SIZE)}, got others")
        maps.append(fields[wanted])
    return _split(np.stack(maps), channels)


def _load_file(channels: Sequence[str], path: Path) -> Foregrounds:
    found = read_arrays(path)
    missing = [name for name in ("patches", "channels", "pixel_arcmin") if name not in found]
    if missing:
        raise ValueError(f"{path} must hold patches, channels and pixel_arcmin, got {', '.join(found) or 'nothing'}")
    names, patches = tuple(found["channels"].tolist()), found["patches"]
    if names != tuple(channels):
        raise ValueError(f"{path} must have the channels {', '.join(channels)} in this order, got {', '.join(names)}")
    if float(found["pixel_arcmin"]) != mock.PIXEL_ARCMIN:
        raise ValueError(f"pixels of {path} must be of {mock.PIXEL_ARCMIN} arcmin, got {float(found['pixel_arcmin'])}")
    if patches.ndim != 4 or patches.shape[1:] != (len(names), PATCH_SIZE, PATCH_SIZE) or len(patches) < 6:
        expected = ("at least 6", len(names), PATCH_SIZE, PATCH_SIZE)
        raise ValueError(f"patches of {path} must have shape {expected}, got {patches.shape}")
    refuse_bad_values(f"patches of {path}", patches)
    return _split(patches, channels)


def _split(maps: np.ndarray, channels: Sequence[str]) -> Foregrounds:
    kept = len(maps) - max(1, round(len(maps) * HELD_OUT_SHARE))
    return Foregrounds(maps[:kept], maps[kept:], tuple(channels))


def _file(folder: Path, index: int) -> Path:
    return folder / f"mock_{index:04d}.npy"
