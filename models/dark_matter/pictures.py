"""Pictures of stars, true dark matter and what is reconstructed of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import bayesdiff as bd
from models.dark_matter.prior import scales_of
from models.density_fields.data import PIXEL


def draw_reconstructions(
    reconstruction: bd.DiffusionModel,
    recipes: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    path: Path,
    index: int = 0,
) -> None:
    """Stars, true field, a draw, posterior mean and standard deviation, a row for each recipe.

    Args:
        reconstruction: whose card has the scales.
        recipes: stars (num, H, W), true fields (num, 1, H, W) and draws (num, draws, 1, H, W) of each recipe.
        path: of the picture.
        index: of the field that is shown.
    """
    from matplotlib.figure import Figure

    scale = scales_of(reconstruction).density
    figure = Figure(figsize=(13.0, 2.9 * len(recipes)), layout="constrained")
    axes = figure.subplots(len(recipes), 5, squeeze=False)
    for row, (name, (stars, fields, draws)) in zip(axes, recipes.items(), strict=True):
        true, drawn = (scale.mean + scale.sd * x for x in (fields[index, 0], draws[index, :, 0]))
        limits = {"vmin": float(true.min()), "vmax": float(true.max()), "cmap": "magma"}
        pictures: list[tuple[str, np.ndarray, dict[str, Any]]] = [
            (f"stars '{name}', log10(1 + mass)", np.log10(1.0 + stars[index]), {"cmap": "cividis"}),
            ("dark matter, true", true, limits),
            ("a draw", drawn[0], limits),
        ]
        if len(drawn) > 1:
            pictures.append(("posterior mean", drawn.mean(axis=0), limits))
            pictures.append(("posterior standard deviation", drawn.std(axis=0), {"vmin": 0.0, "cmap": "viridis"}))
        for axis in row:
            axis.set_axis_off()
        for axis, (title, picture, settings) in zip(row, pictures, strict=False):
            axis.set_axis_on()
            extent = (0.0, picture.shape[1] * PIXEL, 0.0, picture.shape[0] * PIXEL)
            image = axis.imshow(picture, origin="lower", extent=extent, **settings)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("Mpc/h", fontsize=8)
            figure.colorbar(image, ax=axis, shrink=0.8)
    figure.suptitle("Dark matter: log10 of the surface density in (Msun/h) / (Mpc/h)^2")
    _save(figure, path)


def draw_wide(stars: np.ndarray, field: np.ndarray, drawn: np.ndarray, path: Path) -> None:
    """A wide field: stars, true and drawn dark matter, standardised, (H, W) each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.0, 5.2), layout="constrained")
    low, high = float(field.min()), float(field.max())
    panels = (("stars, log10(1 + mass)", np.log10(1.0 + stars), {"cmap": "cividis"}),
              ("dark matter, true", field, {"vmin": low, "vmax": high, "cmap": "magma"}),
              ("a draw", drawn, {"vmin": low, "vmax": high, "cmap": "magma"}))  # fmt: skip
    for axis, (title, picture, settings) in zip(figure.subplots(1, 3), panels, strict=True):
        image = axis.imshow(picture, origin="lower", **settings)
        axis.set_title(title)
        axis.set_xlabel("pixels")
        figure.colorbar(image, ax=axis, shrink=0.8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
