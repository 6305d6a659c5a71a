"""Errors that the shipped priors make beside those that they claim: on draws of their own, and on maps.

Both are equal for fields that a prior describes (:func:`bayesdiff.calibration.check_denoiser`). What is made beyond
what is claimed is taken for noise: the level of the noise comes out too high, by about half of that share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from models.denoising.prior import DUST, DUST_SHAPES, MATTER, Kind
from models.draws import BAND_EDGES
from validation.field_calibration import own_field
from validation.figures import Figure
from validation.shipped_calibration import DENOISED

NOISE_LEVELS = (0.05, 0.1, 0.2, 0.5)
NUM, CHUNK, KEY = 64, 8, 47
OWN = "own draws"


def run() -> list[Figure]:
    """The excess by noise level, and a table by Fourier band at the lowest, for every prior and kind of field."""
    figures = []
    kinds = {kind.name: kind for kind in (MATTER, DUST, DUST_SHAPES)}
    for name in dict.fromkeys((DUST.name, *DENOISED)):
        prior = bd.load_pretrained(name)
        fields = {OWN: many(partial(own_field, prior))} | (windows_of(kinds[name]) if name in kinds else {})
        for what, some in fields.items():
            figures += excess(f"{name}, {what}", prior, some)
    return figures


def windows_of(kind: Kind) -> dict[str, np.ndarray]:
    """Windows of the maps that a prior was trained on, and of others."""
    maps = kind.load()
    parts = {"training maps": maps.windows(), "held-out maps": maps.windows(held_out=True)}
    return {what: many(part._replace(standardised=kind.standardised).draw) for what, part in parts.items()}


def many(draw: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """Fields (NUM, C, H, W)."""
    keys = jax.random.split(jax.random.key(KEY), (NUM // CHUNK, CHUNK))
    program = jax.jit(jax.vmap(draw))
    return np.concatenate([np.asarray(program(some)) for some in keys])


def excess(title: str, prior: bd.DiffusionModel, fields: np.ndarray) -> list[Figure]:
    """Figures of one kind of field."""
    figures = []
    for s in NOISE_LEVELS:
        found = bd.calibration.check_denoiser(jax.random.key(KEY), prior, fields, s, edges=BAND_EDGES)
        if s == NOISE_LEVELS[0]:
            table = Table("|k|", *(f"channel {i}" for i in range(len(found.made))), title=f"{title}: made / claimed")
            for k, ratio in zip(found.centers, (found.made / found.claimed).T, strict=True):
                table.add_row(f"{k:.1f}", *(f"{x:.3f}" for x in ratio))
            Console(width=100).print(table)
        name = f"{title}: squared error beyond what is claimed, s = {s:g} [of the noise's power]"
        figures.append(Figure(name, found.excess))
        figures.append(Figure(f"{name}: standard error", found.excess_error, detail=True))
    return figures
