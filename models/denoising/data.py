"""Maps of the unconditional priors, standardised by their training part and split by map.

Matter: ln(1 + delta) of 24 independent Quijote boxes (Villaescusa-Navarro et al. 2020, arXiv:1909.05273), 256 x 256 and
periodic; the last five boxes are held out. Dust: intensity of an MHD simulation, split as in
:mod:`models.dust_cmb.data`. Windows of 64 x 64 are cut from both, and are not periodic.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bayesdiff.windows import MapWindows
from models.draws import disjoint
from models.dust_cmb.data import load_dust_maps
from models.shared_data import data_folder

SIZE = 64
MATTER_FILE = "lss_quijote_ln1pdelta.npz"
NUM_HELD_OUT_BOXES = 5


class Maps(NamedTuple):
    """Standardised maps.

    Attributes:
        training: (maps, 1, rows, columns).
        held_out: maps, or parts of them, kept out of training.
        periodic: whether windows of both may wrap around in rows and in columns.
        mean: of the training maps before they were standardised.
        sd: their standard deviation.
    """

    training: np.ndarray
    held_out: np.ndarray
    periodic: tuple[bool, bool]
    mean: float
    sd: float

    def windows(self, held_out: bool = False) -> MapWindows:
        """Random windows of the training maps, or of those held out."""
        return MapWindows(jnp.asarray(self.held_out if held_out else self.training), SIZE, self.periodic)

    def patches(self, held_out: bool = True) -> np.ndarray:
        """The disjoint patches (num, 1, 64, 64) of the maps held out, or of those of the training."""
        return disjoint(self.held_out if held_out else self.training, SIZE)


def load_matter(folder: Path | None = None) -> Maps:
    """The Quijote maps.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: a map is not finite: ln(1 + delta) of an empty pixel.
    """
    with np.load((folder or data_folder(MATTER_FILE)) / MATTER_FILE, allow_pickle=False) as file:
        maps = file["maps"].astype(np.float64)[:, None]
    if not np.isfinite(maps).all():
        raise ValueError(f"{MATTER_FILE} must be finite, got {np.sum(~np.isfinite(maps))} pixels that are not")
    training, held_out = maps[:-NUM_HELD_OUT_BOXES], maps[-NUM_HELD_OUT_BOXES:]
    mean, sd = float(training.mean()), float(training.std())
    training, held_out = (((x - mean) / sd).astype(np.float32) for x in (training, held_out))
    return Maps(training, held_out, (True, True), mean, sd)


def load_dust(folder: Path | None = None) -> Maps:
    """The dust maps, which come standardised."""
    maps = load_dust_maps(folder)
    return Maps(maps.training, maps.held_out, (False, True), 0.0, 1.0)
