"""How the report's pictures look: one palette that colour-blind readers can tell apart, one set of sizes.

Matplotlib is used through its objects only (``Figure``, no pyplot), so no window, backend or global figure list is
touched; the settings below hold inside the decorated functions and nowhere else.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

POSTERIOR = "#0072b2"
TRUTH = "#d55e00"
PRIOR = "#9a9a9a"
INK = "#222222"
CHAINS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d1f", "#5b5b5b")
"""Okabe and Ito's palette, chain after chain."""
PIXELS_PER_INCH = 130

_SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.3,
    "mathtext.fontset": "dejavusans",
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
}


def styled[**P](draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a function that builds a figure with the report's settings, restored afterwards."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure, in inches, on the Agg canvas."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, dpi: int = PIXELS_PER_INCH) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def despine(axes: Axes, *, left: bool = False) -> None:
    """Take away the top and right edge (and, if asked, the left one with its ticks)."""
    axes.spines[["top", "right"]].set_visible(False)
    if left:
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
