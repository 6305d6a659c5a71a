"""Pictures of stars, of the dark matter behind them, and of what is reconstructed of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from bayesdiff.fields import cross_spectrum, power_spectrum
from bayesdiff.reporting.style import INK, POSTERIOR, TRUTH, despine, new_figure, styled
from models.density_fields.data import PIXEL

MAPS_CAPTION = (
    "Log10 of the surface density in (Msun/h) / (Mpc/h)^2; truth, draws and mean share one colour scale. A posterior "
    "mean is smoother than any draw. Circles are the regions whose mass is in the table."
)
SPECTRA_CAPTION = (
    "Left: power of the log10 surface density, with the band of 95 % of the draws. Right: correlation of draws, and of "
    "their mean, with the truth where it is known, else of the draws with one another."
)
_PANEL = 2.5


class Reconstruction(NamedTuple):
    """One field and its reconstruction.

    Attributes:
        stars: stellar mass per pixel, (H, W).
        draws: of log10 of the surface density, (num, H, W).
        truth: of it, where it is known.
        title: of its row of pictures.
    """

    stars: np.ndarray
    draws: np.ndarray
    truth: np.ndarray | None = None
    title: str = ""


@styled
def maps_figure(rows: Sequence[Reconstruction], regions: Sequence[np.ndarray] = (), pixel: float = PIXEL) -> Figure:
    """A row of maps for each reconstruction: stars, truth, a draw, posterior mean and standard deviation.

    Args:
        rows: what is shown.
        regions: (H, W) of bool, whose outlines are drawn on the mean.
        pixel: side of a pixel [Mpc/h].
    """
    figure = new_figure(5 * _PANEL + 1.2, (_PANEL + 0.4) * len(rows) + 0.3)
    panels = figure.subplots(len(rows), 5, squeeze=False)
    for axes, row in zip(panels, rows, strict=True):
        reference = row.draws[0] if row.truth is None else row.truth
        low, high = (float(x) for x in np.quantile(reference, [0.002, 0.998]))
        shared = {"vmin": low, "vmax": high, "cmap": "magma"}
        several = len(row.draws) > 1
        pictures = [
            (f"{row.title} stars\nlog10(1 + mass)", np.log10(1.0 + row.stars), {"cmap": "cividis"}),
            ("dark matter, true", row.truth, shared),
            ("a draw", row.draws[0], shared),
            ("posterior mean", row.draws.mean(axis=0) if several else None, shared),
            ("standard deviation", row.draws.std(axis=0) if several else None, {"cmap": "viridis", "vmin": 0.0}),
        ]
        for axis, (title, values, settings) in zip(axes, pictures, strict=True):
            if values is None:
                axis.set_axis_off()
                continue
            height, width = (size * pixel for size in values.shape)
            image = axis.imshow(
                values, origin="lower", extent=(0, width, 0, height), interpolation="nearest", **settings
            )
            axis.set_title(title)
            axis.set_xlabel("Mpc/h")
            figure.colorbar(image, ax=axis, shrink=0.75)
            if title == "posterior mean":
                for region in regions:
                    centres = (np.arange(size) + 0.5 for size in region.shape[::-1])
                    x, y = (place * pixel for place in centres)
                    axis.contour(x, y, region.astype(float), levels=[0.5], colors="white", linewidths=0.8)
    return figure


@styled
def spectra_figure(row: Reconstruction, pixel: float = PIXEL) -> Figure:
    """Power of draws beside the truth's, and correlations R(k).

    Args:
        row: with several draws.
        pixel: side of a pixel [Mpc/h].
    """
    draws, mean = row.draws[:, None], row.draws.mean(axis=0)[None, None]
    other = np.roll(draws, 1, axis=0) if row.truth is None else row.truth[None, None]
    spectrum = power_spectrum(draws)
    fundamental = 2.0 * np.pi / (pixel * max(row.stars.shape))
    k, power = np.asarray(spectrum.centers) * fundamental, np.asarray(spectrum.power)[:, 0] * pixel**2
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    low, middle, high = np.quantile(power, [0.025, 0.5, 0.975], axis=0)
    left.fill_between(k, low, high, color=POSTERIOR, alpha=0.3, lw=0, label="draws, 95 %")
    left.plot(k, middle, color=POSTERIOR)
    if row.truth is not None:
        true = np.asarray(power_spectrum(other).power)[0, 0] * pixel**2
        left.plot(k, true, color=TRUTH, label="truth")
    left.set(xscale="log", yscale="log", xlabel="k [h/Mpc]", ylabel="power [(Mpc/h)$^2$]")
    left.legend()
    correlations = _correlation(draws, other)
    low, middle, high = np.quantile(correlations, [0.025, 0.5, 0.975], axis=0)
    right.fill_between(k, low, high, color=POSTERIOR, alpha=0.3, lw=0)
    right.plot(k, middle, color=POSTERIOR, label="draws" if row.truth is not None else "draws, among themselves")
    if row.truth is not None:
        right.plot(k, _correlation(mean, other)[0], color=INK, label="posterior mean")
    right.set(xscale="log", xlabel="k [h/Mpc]", ylabel="R(k)", ylim=(0.0, 1.02))
    right.legend()
    for axis in (left, right):
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        despine(axis)
    return figure


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cross, one, other = (np.asarray(cross_spectrum(*pair).power)[:, 0] for pair in ((a, b), (a, a), (b, b)))
    return cross / np.sqrt(one * other)
