"""Corner plot of a posterior: every parameter, every pair of them, the prior in grey and the truth as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from bayesdiff.reporting.densities import (
    Draws,
    Range,
    credible_levels,
    finite_draws,
    plot_window,
    smoothed_density,
    smoothed_density_2d,
)
from bayesdiff.reporting.parameters import axis_label, chosen_draws, scalar_truth, symbol
from bayesdiff.reporting.style import POSTERIOR, PRIOR, TRUTH, despine, new_figure, styled


@styled
def corner_figure(
    data: xr.DataTree,
    parameters: Sequence[str] | None = None,
    prior_draws: Mapping[str, ArrayLike] | None = None,
    truth: Mapping[str, float] | None = None,
    *,
    bounds: Mapping[str, Range] | None = None,
) -> Figure:
    """Corner plot: posterior densities and 68 and 95 % regions, with the prior in grey and the truth as lines.

    The panels zoom in on the posterior. What lies outside the prior's box is hatched, and small panels at the upper
    right show each posterior over the whole range of its prior.

    Args:
        data: A result with a ``posterior`` group.
        parameters: Names of scalars to draw; by default at most eight that vary and do not repeat another.
        prior_draws: Draws from the prior, name to array of any shape.
        truth: True values; by default those of the ``truth`` group.
        bounds: Prior ranges (low, high); by default the ranges of ``prior_draws``.

    Raises:
        ValueError: If a parameter is not in the posterior.
    """
    draws = {name: finite_draws(values) for name, values in chosen_draws(data, parameters).items()}
    known = scalar_truth(data, truth)
    priors = {n: finite_draws(np.asarray(v, dtype=float)) for n, v in (prior_draws or {}).items() if n in draws}
    box = {n: (float(v.min()), float(v.max())) for n, v in priors.items() if v.size}
    box.update({n: (float(b[0]), float(b[1])) for n, b in (bounds or {}).items() if n in draws})
    names = list(draws)
    count = len(names)
    windows = {n: plot_window(draws[n], known.get(n), box.get(n)) for n in names}
    size = max(2.45 * count, 3.4) if count < 5 else 1.75 * count
    figure = new_figure(size + 0.4, size + 0.4)
    grid = figure.add_gridspec(count, count)
    for row, y_name in enumerate(names):
        for column, x_name in enumerate(names[: row + 1]):
            axes = figure.add_subplot(grid[row, column])
            if row == column:
                _draw_marginal(axes, draws[x_name], windows[x_name], priors.get(x_name), box.get(x_name))
            else:
                spans = _inside(windows[x_name], box.get(x_name)), _inside(windows[y_name], box.get(y_name))
                _draw_joint(axes, draws[x_name], draws[y_name], (windows[x_name], windows[y_name]), spans)
                _mark_outside(axes, box.get(y_name), windows[y_name], vertical=True)
                if y_name in known:
                    axes.axhline(known[y_name], color=TRUTH, lw=1.1)
            _mark_outside(axes, box.get(x_name), windows[x_name])
            if x_name in known:
                axes.axvline(known[x_name], color=TRUTH, lw=1.1)
            _corner_ticks(axes, row, column, count, x_name, y_name)
    if count > 1 and box:
        _draw_overview(figure, grid[0, count - 1], draws, priors, box, known)
    _corner_legend(figure, bool(box), any(n in known for n in names))
    return figure


def _draw_marginal(axes: Axes, values: Draws, window: Range, prior: Draws | None, box: Range | None) -> None:
    x, density = smoothed_density(values, _inside(window, box))
    axes.fill_between(x, density, color=POSTERIOR, alpha=0.22, lw=0)
    axes.plot(x, density, color=POSTERIOR)
    if prior is not None and prior.size > 1 and box is not None:
        axes.plot(*smoothed_density(prior, box, bins=40), color=PRIOR, lw=1.6)
    axes.set_xlim(window)
    axes.set_ylim(0, 1.12 * float(density.max()) or 1.0)


def _inside(window: Range, box: Range | None) -> Range:
    inner = (max(window[0], box[0]), min(window[1], box[1])) if box else window
    return inner if inner[1] > inner[0] else window


def _draw_joint(axes: Axes, x: Draws, y: Draws, windows: tuple[Range, Range], spans: tuple[Range, Range]) -> None:
    axes.set_xlim(windows[0])
    axes.set_ylim(windows[1])
    size = min(x.size, y.size)
    step = max(size // 1500, 1)
    axes.plot(x[:size:step], y[:size:step], ",", color=POSTERIOR, alpha=0.5, rasterized=True)
    a, b, density = smoothed_density_2d(x[:size], y[:size], spans)
    levels = credible_levels(density)
    if len(levels) == 2:
        axes.contourf(a, b, density.T, [*levels, np.inf], colors=[POSTERIOR], alpha=0.22)
        axes.contourf(a, b, density.T, [levels[1], np.inf], colors=[POSTERIOR], alpha=0.3)
        axes.contour(a, b, density.T, levels, colors=POSTERIOR, linewidths=1.0)


def _mark_outside(axes: Axes, box: Range | None, window: Range, *, vertical: bool = False) -> None:
    span = axes.axhspan if vertical else axes.axvspan
    for low, high in ((window[0], box[0]), (box[1], window[1])) if box else ():
        if high > low:
            span(low, high, facecolor="#ececec", edgecolor=PRIOR, hatch="////", lw=0, zorder=3)
            (axes.axhline if vertical else axes.axvline)(
                high if high != window[1] else low, color=PRIOR, lw=1.2, zorder=3
            )


def _corner_ticks(axes: Axes, row: int, column: int, count: int, x_name: str, y_name: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axes.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axes.tick_params(axis="x", labelrotation=35 if count > 3 else 0, labelbottom=row == count - 1)
    if row == count - 1:
        axes.set_xlabel(axis_label(x_name))
    if row == column:
        despine(axes, left=True)
    else:
        axes.tick_params(axis="y", labelleft=column == 0)
        if column == 0:
            axes.set_ylabel(axis_label(y_name))


def _draw_overview(
    figure: Figure,
    where: SubplotSpec,
    draws: Mapping[str, Draws],
    priors: Mapping[str, Draws],
    box: Mapping[str, Range],
    known: Mapping[str, float],
) -> None:
    inner = where.subgridspec(len(draws), 1)
    for i, (name, values) in enumerate(draws.items()):
        axes = figure.add_subplot(inner[i])
        despine(axes, left=True)
        axes.tick_params(labelsize=7, length=2, pad=1)
        axes.set_ylabel(symbol(name), rotation=0, ha="right", va="center", fontsize=8)
        if name not in box:
            axes.set_axis_off()
            continue
        x, density = smoothed_density(values, box[name], bins=240)
        axes.fill_between(x, density / max(float(density.max()), 1e-300), color=POSTERIOR, alpha=0.6, lw=0)
        if name in priors and priors[name].size > 1:
            x, density = smoothed_density(priors[name], box[name], bins=40)
            axes.fill_between(x, 0.35 * density / density.max(), color=PRIOR, alpha=0.6, lw=0, zorder=0)
        if name in known:
            axes.axvline(known[name], color=TRUTH, lw=1.0)
        axes.set_xlim(box[name])
        axes.set_ylim(0, 1.1)
        axes.set_xticks(box[name], [f"{edge:.3g}" for edge in box[name]])
        for text, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            text.set_horizontalalignment(side)
        if i == 0:
            axes.set_title("over the prior's range", fontsize=8)


def _corner_legend(figure: Figure, with_prior: bool, with_truth: bool) -> None:
    handles: list[Line2D | Patch] = [Patch(facecolor=POSTERIOR, alpha=0.5, label="posterior (68 and 95 %)")]
    if with_prior:
        handles.append(Line2D([], [], color=PRIOR, lw=2, label="prior"))
    if with_truth:
        handles.append(Line2D([], [], color=TRUTH, label="truth"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
