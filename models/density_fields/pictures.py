"""Pictures of an inference from dark-matter fields: the maps, their power spectrum, and every estimator's contours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from bayesdiff.reporting.densities import credible_levels, plot_window, smoothed_density, smoothed_density_2d
from bayesdiff.reporting.parameters import axis_label, symbol
from bayesdiff.reporting.style import CHAINS, INK, POSTERIOR, PRIOR, TRUTH, despine, new_figure, styled
from models.density_fields.data import PARAMETER_BOUNDS

FIELDS_CAPTION = (
    "All maps share one colour scale; arrows mark values beyond it (1 % of the pixels). A predictive draw is a new "
    "field of the prior at parameters of the posterior: it should look like the observed one, and nowhere equal it."
)
NOISY_FIELDS_CAPTION = (
    "All maps share one colour scale; arrows mark values beyond it (1 % of the pixels). The draws are fields that may "
    "lie behind the noise, at parameters of the posterior."
)
SPECTRUM_CAPTION = (
    "The bands hold 68 and 95 % of the spectra of Gaussian fields of the emulated power (the twin) at parameters of "
    "the posterior, their own scatter from field to field included. Below: over the median of the band."
)
CONTOURS_CAPTION = (
    "Contours hold 68 % (thick) and 95 % (thin) of each posterior; the recommended one is filled. A calibrated 95 % "
    "contour misses the truth in one field of twenty; one that is narrower than that of another estimator is better "
    "only if it is calibrated. Baselines are dashed."
)
_OTHERS = (*(colour for colour in CHAINS if colour not in (POSTERIOR, TRUTH)), "#7b3fa0", INK)
_QUANTILES = (0.02275, 0.158655, 0.5, 0.841345, 0.97725)
_PANEL, _MOST_COLUMNS = 2.35, 4


@styled
def fields_figure(maps: Sequence[tuple[str, np.ndarray]], pixel: float) -> Figure:
    """Maps (title, (H, W)) of log10 surface density in (Msun/h) / (Mpc/h)^2, with one colour bar.

    Args:
        maps: what is shown, row by row.
        pixel: side of a pixel [Mpc/h].
    """
    columns = min(len(maps), _MOST_COLUMNS)
    rows = -(-len(maps) // columns)
    figure = new_figure(_PANEL * columns + 1.5, (_PANEL + 0.45) * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False)
    low, high = (float(x) for x in np.quantile(np.stack([values for _, values in maps]), [0.005, 0.995]))
    image = None
    for index, axes in enumerate(panels.ravel()):
        if index >= len(maps):
            axes.set_axis_off()
            continue
        title, values = maps[index]
        height, width = (size * pixel for size in values.shape)
        image = axes.imshow(
            values, origin="lower", extent=(0, width, 0, height), cmap="magma", vmin=low, vmax=high,
            interpolation="nearest",
        )  # fmt: skip
        axes.set_title(title)
        last = index + columns >= len(maps)
        axes.tick_params(labelleft=index % columns == 0, labelbottom=last)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
        if index % columns == 0:
            axes.set_ylabel("Mpc/h")
        if last:
            axes.set_xlabel("Mpc/h")
    assert image is not None
    label = r"$\log_{10}\,\Sigma$ [(M$_\odot$/h) / (Mpc/h)$^2$]"
    figure.colorbar(image, ax=panels, extend="both", label=label, shrink=0.85, fraction=0.05, pad=0.02)
    return figure


class Spectra(NamedTuple):
    """Binned power of log10 surface density.

    Attributes:
        k: wavenumber of the bins [h/Mpc], (bins,).
        observed: power [(Mpc/h)^2], averaged over the observed fields, (bins,).
        twin: of Gaussian fields at posterior draws, (num, bins).
        drawn: of draws of the prior itself, (num, bins), num may be 0.
    """

    k: np.ndarray
    observed: np.ndarray
    twin: np.ndarray
    drawn: np.ndarray


@styled
def spectrum_figure(spectra: Spectra) -> Figure:
    """Power spectrum of the observed field over the band of the twin at the posterior, and their ratio."""
    figure = new_figure(6.6, 5.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    quantiles = np.quantile(spectra.twin, _QUANTILES, axis=0)
    for axes, scale in ((top, 1.0), (bottom, quantiles[2])):
        low95, low68, middle, high68, high95 = quantiles / scale
        axes.fill_between(spectra.k, low95, high95, color=POSTERIOR, alpha=0.18, lw=0, label="twin, 95 %")
        axes.fill_between(spectra.k, low68, high68, color=POSTERIOR, alpha=0.32, lw=0, label="twin, 68 %")
        axes.plot(spectra.k, middle, color=POSTERIOR, lw=1.0, label="twin, median")
        for index, drawn in enumerate(spectra.drawn):
            label = "draw of the prior" if index == 0 else None
            axes.plot(spectra.k, drawn / scale, color=_OTHERS[0], lw=1.0, label=label)
        axes.plot(spectra.k, spectra.observed / scale, color=INK, lw=1.4, marker=".", ms=4, label="observed")
        despine(axes)
    top.set(yscale="log", ylabel=r"power of $\log_{10}\Sigma$ [(Mpc/h)$^2$]")
    top.legend(loc="lower left")
    bottom.set(
        xscale="log", xlabel="k [h/Mpc]", ylabel="ratio to median", xlim=(0.92 * spectra.k[0], 1.08 * spectra.k[-1])
    )
    bottom.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bottom.xaxis.set_major_formatter(ScalarFormatter())
    bottom.xaxis.set_minor_formatter(NullFormatter())
    shown = np.concatenate(
        [quantiles / quantiles[2], spectra.observed[None] / quantiles[2], spectra.drawn / quantiles[2]]
    )
    bottom.set_ylim(max(0.0, float(shown.min()) - 0.1), min(float(shown.max()) + 0.1, 4.0))
    return figure


@styled
def contours_figure(posteriors: Mapping[str, Mapping[str, np.ndarray]], truth: Mapping[str, float]) -> Figure:
    """The joint posterior of Omega_m and sigma_8 by every estimator, in one panel, with its marginals.

    Args:
        posteriors: draws of any shape by parameter, by what the estimator is called; the first is filled.
        truth: Omega_m and sigma_8, where they are known.
    """
    names = tuple(PARAMETER_BOUNDS)
    draws = {label: [np.ravel(found[name]) for name in names] for label, found in posteriors.items()}
    windows = []
    for axis, name in enumerate(names):
        every = [plot_window(pair[axis], truth.get(name), PARAMETER_BOUNDS[name]) for pair in draws.values()]
        windows.append((min(low for low, _ in every), max(high for _, high in every)))
    figure = new_figure(7.4, 7.3 + 0.16 * len(draws))
    grid = figure.add_gridspec(2, 2, width_ratios=[4, 1], height_ratios=[1, 4])
    joint = figure.add_subplot(grid[1, 0])
    sides = figure.add_subplot(grid[0, 0], sharex=joint), figure.add_subplot(grid[1, 1], sharey=joint)
    handles = []
    for index, (label, pair) in enumerate(draws.items()):
        colour = POSTERIOR if index == 0 else _OTHERS[(index - 1) % len(_OTHERS)]
        style = "--" if "baseline" in label else "-"
        _draw_posterior(joint, sides, pair, colour, style, filled=index == 0)
        handles.append(
            Line2D([], [], color=colour, ls=style, lw=2.2 if index else 5, alpha=1 if index else 0.6, label=label)
        )
    if all(name in truth for name in names):
        joint.plot(*(truth[name] for name in names), marker="*", ms=13, color=TRUTH, mec="white", mew=0.8, zorder=9)
        joint.axvline(truth[names[0]], color=TRUTH, lw=0.9, zorder=1)
        joint.axhline(truth[names[1]], color=TRUTH, lw=0.9, zorder=1)
        sides[0].axvline(truth[names[0]], color=TRUTH, lw=0.9)
        sides[1].axhline(truth[names[1]], color=TRUTH, lw=0.9)
        handles.append(Line2D([], [], color=TRUTH, marker="*", ms=10, lw=0.9, label="truth"))
    for line, bounds in ((joint.axvline, PARAMETER_BOUNDS[names[0]]), (joint.axhline, PARAMETER_BOUNDS[names[1]])):
        for edge in bounds:
            line(edge, color=PRIOR, lw=1.2, ls=":")
    joint.set(xlim=windows[0], ylim=windows[1], xlabel=axis_label(names[0]), ylabel=axis_label(names[1]))
    for axes in (joint, *sides):
        despine(axes)
    sides[0].tick_params(labelbottom=False)
    sides[0].set_yticks([])
    sides[0].set_ylim(bottom=0)
    sides[0].set_ylabel(f"density of {symbol(names[0])}")
    sides[1].tick_params(labelleft=False)
    sides[1].set_xticks([])
    sides[1].set_xlim(left=0)
    sides[1].set_xlabel(f"density of {symbol(names[1])}")
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=8.0)
    return figure


def _draw_posterior(
    joint: Axes, sides: tuple[Axes, Axes], pair: list[np.ndarray], colour: str, style: str, *, filled: bool
) -> None:
    """Contours, and each marginal at unit height, of one estimator."""
    spans = []
    for values, (low, high) in zip(pair, PARAMETER_BOUNDS.values(), strict=True):
        window = plot_window(values, None, (low, high))
        spans.append((max(window[0], low), min(window[1], high)))
    if min(np.ptp(values) for values in pair) > 0:
        x, y, density = smoothed_density_2d(pair[0], pair[1], (spans[0], spans[1]))
        levels = credible_levels(density)
        if len(levels) == 2 and filled:
            joint.contourf(x, y, density.T, [*levels, np.inf], colors=[colour], alpha=0.22)
            joint.contourf(x, y, density.T, [levels[1], np.inf], colors=[colour], alpha=0.3)
        if len(levels) == 2:
            joint.contour(x, y, density.T, levels, colors=colour, linewidths=[0.9, 1.9], linestyles=style)
    for axis, axes in enumerate(sides):
        x, density = smoothed_density(pair[axis], spans[axis])
        line = (x, density / density.max()) if axis == 0 else (density / density.max(), x)
        axes.plot(*line, color=colour, ls=style, lw=1.4)
