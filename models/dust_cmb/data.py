"""Dust maps of the study: the simulated training maps, their held-out region, and patches of real maps.

Training uses the two intensity maps of an MHD simulation (512 x 512, periodic). Rows 256 to 383 of both are held out;
what is left, rows 384 to 511 and 0 to 255, is contiguous because the maps are periodic. Both maps are standardised by
the mean and standard deviation of their training rows, so the unit of every field is the dust standard deviation of a
map.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.shared_data import data_folder

PATCH_SIZE = 64
PIXEL_ARCMIN = 8.0
TRAINING_MAPS = ("I_1", "I_2")
HELD_OUT_ROWS = (256, 384)
DATA_FILE = "dust_mhd_sim.npz"


class DustMaps(NamedTuple):
    """Standardised simulated dust.

    Attributes:
        training: rows kept for training, (maps, 1, 384, 512), periodic in columns only.
        held_out: rows kept out of it, (maps, 1, 128, 512), periodic in columns only.
    """

    training: np.ndarray
    held_out: np.ndarray


def load_dust_maps(folder: Path | None = None) -> DustMaps:
    """Read, split and standardise the simulated dust maps."""
    with np.load((folder or data_folder(DATA_FILE)) / DATA_FILE, allow_pickle=False) as file:
        maps = np.stack([file[name].astype(np.float64) for name in TRAINING_MAPS])[:, None]
    first, last = HELD_OUT_ROWS
    training = np.concatenate([maps[:, :, last:], maps[:, :, :first]], axis=2)
    mean = training.mean(axis=(2, 3), keepdims=True)
    sd = training.std(axis=(2, 3), keepdims=True)
    held_out = (maps[:, :, first:last] - mean) / sd
    return DustMaps(((training - mean) / sd).astype(np.float32), held_out.astype(np.float32))


def held_out_patches(num: int, folder: Path | None = None) -> np.ndarray:
    """``num`` held-out patches (num, 1, 64, 64): the 32 disjoint ones first, then ones shifted by half a patch."""
    held_out = load_dust_maps(folder).held_out
    corners = [(m, r, c) for m in range(2) for r in (0, 64) for c in range(0, 512, 64)]
    corners = [corners[i] for i in np.random.default_rng(0).permutation(len(corners))]
    corners += [(m, 32, c) for c in range(32, 512, 64) for m in range(2)]
    if num > len(corners):
        raise ValueError(f"there are {len(corners)} held-out patches, {num} were asked for")
    patches = [
        np.take(held_out[m, :, r : r + 64], np.arange(c, c + 64), axis=-1, mode="wrap") for m, r, c in corners[:num]
    ]
    return np.stack(patches)
