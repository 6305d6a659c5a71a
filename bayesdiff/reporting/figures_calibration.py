"""Pictures of a calibration study: where the truth lies among the draws of the posterior.

The grey bands are those of a calibrated posterior. Bands of distribution functions hold the whole curve, exactly for
discrete ranks; those of histograms and of coverage hold each bin or level by itself.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from bayesdiff.calibration.coverage import central_coverage
from bayesdiff.calibration.ecdf import ecdf_band, rank_ecdf
from bayesdiff.reporting.parameters import symbol
from bayesdiff.reporting.style import CHAINS, INK, POSTERIOR, PRIOR, TRUTH, despine, new_figure, styled

if TYPE_CHECKING:
    from bayesdiff.calibration import FieldChecks, Sbc, Tarp

BAND = "#e3e3e3"
_LEVEL = 0.95
_COLUMNS = 4


@styled
def ecdf_figure(study: Sbc) -> Figure:
    """Distribution function of every quantity's ranks less that of uniform ranks, in the band that holds it whole."""
    ranks, num_draws = study.ranks[study.ranked], study.num_draws
    band = ecdf_band(len(ranks), num_draws, _LEVEL)
    figure, panels = _grid(len(study.names), 2.1)
    reach = 1.15 * max(
        np.abs(rank_ecdf(ranks, num_draws) - band.points[:, None]).max(), (band.upper - band.points).max()
    )
    for name, curve, p_value, axes in zip(
        study.names, rank_ecdf(ranks, num_draws).T, study.tests.per_quantity, panels, strict=False
    ):
        axes.fill_between(band.points, band.lower - band.points, band.upper - band.points, color=BAND, lw=0)
        axes.axhline(0.0, color=PRIOR, lw=0.9)
        outside = (curve < band.lower) | (curve > band.upper)
        axes.plot(band.points, curve - band.points, color=POSTERIOR)
        axes.plot(band.points[outside], (curve - band.points)[outside], ".", color=TRUTH, ms=4)
        axes.set(xlim=(0, 1), ylim=(-reach, reach), xticks=[0, 0.5, 1])
        axes.set_title(f"{symbol(name)}: p = {p_value:.2g}")
        despine(axes)
    figure.supxlabel("fractional rank of the truth", fontsize=9)
    figure.supylabel("ECDF − expected", fontsize=9)
    return figure


@styled
def rank_histogram_figure(study: Sbc, bins: int = 20) -> Figure:
    """Histogram of every quantity's ranks; the band holds 95 % of the bins of uniform ranks."""
    ranks, num_ranks = study.ranks[study.ranked], study.num_draws + 1
    # Bins hold whole ranks: equally many, if that leaves enough of them, else each is divided by its own.
    most = min(bins, num_ranks)
    equal = max(d for d in range(1, most + 1) if num_ranks % d == 0)
    bins = equal if 2 * equal >= most else most
    edges = np.arange(bins + 1) * num_ranks // bins
    share = np.diff(edges) / num_ranks
    low, high = (binom.ppf(q, len(ranks), share) / (len(ranks) * share) for q in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    figure, panels = _grid(len(study.names), 1.9)
    for name, values, axes in zip(study.names, ranks.T, panels, strict=False):
        number, _ = np.histogram(values, bins=edges - 0.5)
        axes.stairs(high, edges / num_ranks, baseline=low, fill=True, color=BAND, lw=0)
        axes.axhline(1.0, color=PRIOR, lw=0.9)
        axes.stairs(number / (len(ranks) * share), edges / num_ranks, fill=True, color=POSTERIOR, alpha=0.75)
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], title=symbol(name))
        despine(axes)
    figure.supxlabel("fractional rank of the truth", fontsize=9)
    figure.supylabel("density", fontsize=9)
    return figure


@styled
def coverage_figure(study: Sbc) -> Figure:
    """How often central intervals of every level hold the truth, against the level."""
    curve = central_coverage(study.ranks[study.ranked], study.num_draws, np.arange(0.02, 0.99, 0.02))
    figure, panels = _grid(len(study.names), 2.4)
    for index, (name, axes) in enumerate(zip(study.names, panels, strict=False)):
        axes.fill_between(curve.levels, curve.lower, curve.upper, color=BAND, lw=0)
        _diagonal(axes)
        axes.plot(curve.levels, curve.coverage[:, index], color=POSTERIOR)
        axes.set_title(f"{symbol(name)}: p = {curve.p_value[index]:.2g}")
    figure.supxlabel("probability of the central interval", fontsize=9)
    figure.supylabel("truths inside", fontsize=9)
    return figure


@styled
def tarp_figure(study: Sbc) -> Figure:
    """Expected coverage of the joint posterior of all quantities, by distances from the truths of other simulations.

    Raises:
        ValueError: there is none (`Sbc.joint`).
    """
    if study.joint is None:
        raise ValueError("TARP needs two simulations or more whose truths differ")
    return _tarp(study.joint)


@styled
def field_tarp_figure(checks: FieldChecks) -> Figure:
    """Expected coverage of whole fields."""
    return _tarp(checks.tarp)


@styled
def field_bands_figure(checks: FieldChecks) -> Figure:
    """How often central intervals hold the true Fourier coefficients, less what they say, by |k|: a panel a channel."""
    bands = checks.bands
    figure, panels = _grid(len(bands.coverage.observed), 2.6)
    reach = 1.15 * float(np.max(np.abs(bands.coverage.observed - bands.levels) + 2 * bands.coverage.standard_error))
    for channel, axes in enumerate(panels):
        axes.axhline(0.0, color=PRIOR, lw=0.9)
        for level, colour, excess, error in zip(
            bands.levels,
            itertools.cycle(CHAINS),
            (bands.coverage.observed[channel] - bands.levels).T,
            bands.coverage.standard_error[channel].T,
            strict=False,
        ):
            axes.errorbar(
                bands.centers, excess, 2 * error, fmt="o-", ms=3, lw=1, capsize=2, color=colour, label=f"{level:.0%}"
            )
        axes.set(xscale="log", ylim=(-reach, reach))
        axes.set_xticks(bands.centers, [f"{k:.3g}" for k in bands.centers])
        axes.tick_params(axis="x", rotation=90)
        axes.minorticks_off()
        if len(panels) > 1:
            axes.set_title(checks.channels[channel])
        despine(axes)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("|k|", fontsize=9)
    figure.supylabel("truths inside − nominal", fontsize=9)
    return figure


def _tarp(measured: Tarp) -> Figure:
    figure = new_figure(4.2, 3.9)
    axes = figure.subplots()
    _diagonal(axes)
    axes.fill_between(measured.levels, measured.lower, measured.upper, color=POSTERIOR, alpha=0.2, lw=0)
    axes.plot(measured.levels, measured.coverage, color=POSTERIOR)
    axes.set(xlabel="credibility level", ylabel="expected coverage")
    axes.set_title(f"p = {measured.p_value:.2g}; area {measured.area:+.3f} (p = {measured.area_p_value:.2g})")
    return figure


@styled
def z_contraction_figure(study: Sbc) -> Figure:
    """Every simulation's error in posterior standard deviations against what the data added to the prior."""
    figure, panels = _grid(len(study.names), 2.3)
    failed = np.isin(np.arange(study.num_simulations), study.failed)
    for index, (name, axes) in enumerate(zip(study.names, panels, strict=False)):
        z, contraction = study.z[:, index], study.contraction[:, index]
        axes.axhspan(-2.0, 2.0, color=BAND, lw=0)
        axes.axhline(0.0, color=PRIOR, lw=0.9)
        known = np.isfinite(z) & np.isfinite(contraction)
        for chosen, colour, marker in ((~failed & known, POSTERIOR, "."), (failed & known, TRUTH, "x")):
            axes.plot(contraction[chosen], z[chosen], marker, color=colour, ms=4, alpha=0.7, mew=1)
        reach = max(3.2, 1.1 * float(np.max(np.abs(z[known]), initial=0.0)))
        axes.set(ylim=(-reach, reach))
        # Well measured parameters have contractions of many digits, whose labels would overlap.
        axes.locator_params(axis="x", nbins=3)
        mean = f"{np.abs(z[known]).mean():.2f}" if known.any() else "unknown"
        axes.set_title(f"{symbol(name)}: mean |z| = {mean}")
        despine(axes)
    figure.supxlabel("contraction, 1 − posterior variance / variance of the truths", fontsize=9)
    figure.supylabel("z = (mean − truth) / sd", fontsize=9)
    return figure


def _grid(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``number`` panels in rows of four at most."""
    columns = min(number, _COLUMNS)
    rows = math.ceil(number / columns)
    figure = new_figure(max(2.6 * columns, 4.2), height * rows + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, panels[:number]


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=INK, lw=0.7, ls=":")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    despine(axes)
