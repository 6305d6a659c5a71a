"""Densities of posterior draws for pictures: smoothed histograms and the levels that enclose a share of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Draws = NDArray[np.floating]
Range = tuple[float, float]
_LEVELS = (0.9545, 0.6827)


def finite_draws(values: Draws) -> Draws:
    """The finite draws, flat; one zero if there is none."""
    kept = values[np.isfinite(values)]
    return kept if kept.size else np.zeros(1)


def smoothed_density(values: Draws, span: Range, bins: int = 128) -> tuple[Draws, Draws]:
    """Density of scalar draws by a Gaussian-smoothed histogram, reflected at the ends of ``span``.

    Args:
        values: Finite draws, any shape.
        span: Range of the histogram; for a bounded prior, its bounds.
        bins: Number of bins.

    Returns:
        Bin centres and density, both (bins,).
    """
    counts, edges = np.histogram(values, bins=bins, range=span, density=True)
    width = (span[1] - span[0]) / bins
    scott = 1.06 * float(np.std(values)) * max(values.size, 1) ** -0.2
    return 0.5 * (edges[1:] + edges[:-1]), gaussian_filter(counts, max(scott / width, 0.6), mode="reflect")


def smoothed_density_2d(x: Draws, y: Draws, spans: tuple[Range, Range], bins: int = 80) -> tuple[Draws, Draws, Draws]:
    """Joint density by a Gaussian-smoothed histogram: centres (bins,), (bins,) and density (bins, bins)."""
    counts, x_edges, y_edges = np.histogram2d(x.ravel(), y.ravel(), bins=bins, range=spans)
    scott = max(x.size, 1) ** (-1 / 6)
    spread = [float(np.std(v)) for v in (x, y)]
    if min(spread) > 0:
        # The conditional spread: the marginal one would blur a narrow degeneracy.
        scott *= float(np.sqrt(max(1 - np.corrcoef(x.ravel(), y.ravel())[0, 1] ** 2, 0.0)))
    widths = [max(scott * sd * bins / (span[1] - span[0]), 0.6) for sd, span in zip(spread, spans, strict=True)]
    centres = [0.5 * (e[1:] + e[:-1]) for e in (x_edges, y_edges)]
    return centres[0], centres[1], gaussian_filter(counts, widths, mode="reflect")


def credible_levels(density: Draws, levels: Sequence[float] = _LEVELS) -> list[float]:
    """Density values whose contours enclose the given shares of the total, increasing."""
    ordered = np.sort(density.ravel())[::-1]
    inside = np.cumsum(ordered)
    if inside[-1] <= 0:
        return []
    thresholds = [float(ordered[np.searchsorted(inside, level * inside[-1])]) for level in levels]
    return [v for i, v in enumerate(thresholds) if v > 0 and (i == 0 or v > thresholds[i - 1])]


def plot_window(values: Draws, truth: float | None, bound: Range | None) -> Range:
    """Range to plot: the draws within five standard deviations and the truth, hardly further than a prior's bounds."""
    low, high = float(values.min()), float(values.max())
    centre, sd = float(values.mean()), float(values.std())
    low, high = max(low, centre - 5 * sd), min(high, centre + 5 * sd)
    if truth is not None and np.isfinite(truth):
        low, high = min(low, truth), max(high, truth)
    pad = 0.12 * (high - low) or 0.01 * max(abs(centre), 1e-6)
    low, high = low - pad, high + pad
    if bound is not None:
        margin = 0.04 * (high - low)
        low, high = max(low, bound[0] - margin), min(high, bound[1] + margin)
    return low, high
