"""Pictures of the chains: traces and rank histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from bayesdiff.reporting.densities import finite_draws, plot_window, smoothed_density
from bayesdiff.reporting.parameters import axis_label, chosen_draws, diagnose, has_group, scalar_truth, symbol
from bayesdiff.reporting.style import CHAINS, INK, PRIOR, TRUTH, despine, new_figure, styled

_MAX_CHAINS = 8


@styled
def trace_figure(
    data: xr.DataTree, parameters: Sequence[str] | None = None, truth: Mapping[str, float] | None = None
) -> Figure:
    """Traces of every chain (right) beside the densities that each gives on its own (left); ticks mark divergences."""
    draws = chosen_draws(data, parameters)
    known = scalar_truth(data, truth)
    diverging = None
    if has_group(data, "sample_stats") and "diverging" in data["sample_stats"].data_vars:
        diverging = np.asarray(data["sample_stats"]["diverging"].transpose("chain", "draw", ...).values, dtype=bool)
    figure = new_figure(10.4, 1.65 * len(draws) + 0.6)
    panels = figure.subplots(len(draws), 2, squeeze=False, width_ratios=[1, 3.4])
    for (name, values), (left, right) in zip(draws.items(), panels, strict=True):
        finite = finite_draws(values)
        window = plot_window(finite, known.get(name), None)
        for i, chain in enumerate(values):
            colour = CHAINS[i % len(CHAINS)]
            left.plot(*smoothed_density(finite_draws(chain), window, bins=96), color=colour, lw=1.0)
            right.plot(chain, color=colour, lw=0.55, alpha=0.85)
        if diverging is not None and diverging.shape == values.shape and diverging.any():
            at = np.flatnonzero(diverging.any(axis=0))
            right.plot(at, np.full(at.size, 0.03), "|", color=INK, ms=7, transform=right.get_xaxis_transform())
        if name in known:
            left.axvline(known[name], color=TRUTH, ls="--", lw=1.1)
            right.axhline(known[name], color=TRUTH, ls="--", lw=1.1)
        left.set(xlabel=axis_label(name), xlim=window)
        left.set_ylim(bottom=0)
        left.xaxis.set_major_locator(MaxNLocator(4))
        despine(left, left=True)
        right.set(ylabel=axis_label(name), xlim=(0, max(values.shape[1] - 1, 1)))
        right.yaxis.set_major_locator(MaxNLocator(4))
        despine(right)
        right.tick_params(labelbottom=right is panels[-1, 1])
    panels[-1, 1].set_xlabel("draw")
    handles = [Line2D([], [], color=CHAINS[i], label=f"chain {i}") for i in range(min(len(values), _MAX_CHAINS))]
    if any(name in known for name in draws):
        handles.append(Line2D([], [], color=TRUTH, ls="--", label="truth"))
    if diverging is not None and diverging.any():
        handles.append(Line2D([], [], color=INK, ls="", marker="|", ms=7, label="divergent"))
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure


@styled
def rank_figure(data: xr.DataTree, parameters: Sequence[str] | None = None, bins: int = 20) -> Figure:
    """Histograms, chain by chain, of the ranks of its draws among the draws of all chains.

    Chains that sample one distribution have flat histograms. The grey band holds 95 % of the bins of flat,
    independent draws as many as a chain has effective draws. At most eight chains are drawn.
    """
    draws = chosen_draws(data, parameters)
    chains, length = next(iter(draws.values())).shape
    shown, bins = min(chains, _MAX_CHAINS), max(min(bins, length // 5), 2)
    figure = new_figure(10.4, 1.5 * len(draws) + 0.6)
    panels = figure.subplots(len(draws), shown, squeeze=False, sharex=True, sharey="row")
    for index, (name, values) in enumerate(draws.items()):
        row = panels[index]
        ranks = (rankdata(values, method="average").reshape(values.shape) - 0.5) / values.size
        # Each chain by itself: chains that disagree have few effective draws together, which would widen the band.
        bulk = float(np.median([diagnose(chain[None]).ess_bulk for chain in values]))
        effective = min(bulk, length) if np.isfinite(bulk) else length
        half = 1.96 * np.sqrt((bins - 1) / effective)
        for i, axes in enumerate(row):
            axes.axhspan(max(1 - half, 0), 1 + half, color="#e3e3e3", lw=0)
            axes.axhline(1.0, color=PRIOR, lw=0.9)
            density, edges = np.histogram(ranks[i], bins=bins, range=(0, 1), density=True)
            axes.stairs(density, edges, fill=True, color=CHAINS[i % len(CHAINS)], alpha=0.75)
            axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
            axes.hlines([max(1 - half, 0), 1 + half], 0, 1, color=INK, lw=0.6, ls=":")
            despine(axes)
            if index == 0:
                axes.set_title(f"chain {i}")
        row[0].set_ylim(0, max(1.15 * row[0].dataLim.ymax, 1.1 * (1 + half)))
        row[0].set_ylabel(symbol(name))
    more = f" (first {shown} of {chains} chains)" if shown < chains else ""
    figure.supxlabel(f"fractional rank among the draws of all chains{more}", fontsize=9)
    return figure
