"""Rows of maps, each with its own title, colours and scale, and the outline of what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from bayesdiff.reporting.style import INK, new_figure, styled


class Panel(NamedTuple):
    """One map (H, W) and how it is shown.

    Attributes:
        title: above it.
        values: the map.
        colours: name of a Matplotlib colour map.
        limits: of the colour scale.
        masked: whether the pixels that were not observed are left blank.
    """

    title: str
    values: np.ndarray
    colours: str
    limits: tuple[float, float]
    masked: bool = False


@styled
def panels_figure(panels: Sequence[Panel], mask: np.ndarray, pixel_arcmin: float) -> Figure:
    """Two rows of maps.

    Args:
        panels: an even number of them, row by row.
        mask: 1 where a pixel was observed, else 0, (H, W).
        pixel_arcmin: side of a pixel [arcmin].

    Raises:
        ValueError: their number is odd.
    """
    if len(panels) % 2 or not panels:
        raise ValueError(f"two rows take an even number of panels, got {len(panels)}")
    columns = len(panels) // 2
    figure = new_figure(2.75 * columns, 5.3)
    mask = np.asarray(mask, dtype=bool)
    height, width = (size * pixel_arcmin / 60.0 for size in mask.shape)
    extent = (0.0, width, 0.0, height)
    for index, (panel, axes) in enumerate(zip(panels, figure.subplots(2, columns).ravel(), strict=True)):
        shown = np.where(mask, panel.values, np.nan) if panel.masked else panel.values
        low, high = panel.limits
        image = axes.imshow(
            shown, origin="lower", extent=extent, cmap=panel.colours, vmin=low, vmax=high, interpolation="nearest"
        )
        if not panel.masked and mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=INK, linewidths=0.5, extent=extent, origin="lower")
        axes.set_title(panel.title)
        axes.tick_params(labelleft=index % columns == 0, labelbottom=index >= columns)
        if index % columns == 0:
            axes.set_ylabel("degrees")
        if index >= columns:
            axes.set_xlabel("degrees")
        figure.colorbar(image, ax=axes, extend="both", shrink=0.85)
    return figure
