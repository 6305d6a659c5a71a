"""Pictures of foregrounds: draws of a prior beside held-out maps, and the posterior of both fields behind two maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import bayesdiff as bd
from bayesdiff.reporting import Panel, panels_figure
from bayesdiff.reporting.style import new_figure, styled
from models.cib_tsz.mock import PIXEL_ARCMIN
from models.cib_tsz.observation import FREQUENCIES, Observation

CAPTION = (
    "CIB and tSZ effect at 150 GHz in micro-K of CMB temperature, with their amplitudes. Posterior mean, draw and "
    "truth, where it is known, share one colour scale. A mean is smoother than any draw; the draw is what the sky may "
    "look like."
)
SPECTRA_CAPTION = (
    "Power of both fields and their cross-spectrum in bands of multipole: median and central 68 and 95 % of the draws "
    "of the posterior, and the truth where it is known. The cross-spectrum is shown with its sign turned: the tSZ "
    "effect is a decrement where galaxies are bright."
)
EDGES = np.array([0.5, 1.5, 3.0, 5.0, 8.0, 12.0, 16.0, 20.5, 25.6])


def draw_generated(draws: np.ndarray, held_out: np.ndarray, channels: Sequence[str], path: Path, title: str) -> None:
    """Draws of a prior and held-out maps, channel by channel, on one colour scale for each channel.

    Args:
        draws: (num, C, H, W) [micro-K], num at least 4.
        held_out: maps that it has not seen, (num, C, H, W) [micro-K].
        channels: their names.
        path: of the picture.
        title: what is shown.
    """
    columns, rows = 4, len(channels)
    figure = Figure(figsize=(2.0 * 2 * columns + 0.8, 2.2 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for row, name in enumerate(channels):
        low, high = np.quantile(held_out[:, row], [0.003, 0.997])
        image = None
        for half, (kind, maps) in enumerate((("drawn", draws), ("held out", held_out))):
            some = np.linspace(0, len(maps) - 1, columns).astype(int)
            for column, index in enumerate(some):
                axes = grid[row, half * columns + column]
                image = axes.imshow(maps[index, row], origin="lower", vmin=low, vmax=high, cmap="inferno")
                axes.set_xticks([])
                axes.set_yticks([])
                if row == 0:
                    axes.set_title(kind, fontsize=9)
        grid[row, 0].set_ylabel(name)
        assert image is not None
        figure.colorbar(image, ax=grid[row], label="micro-K", shrink=0.85)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def maps_figure(observed: Observation, cib: np.ndarray, tsz: np.ndarray) -> Figure:
    """Both maps and, of both fields, posterior mean, standard deviation, a draw, and the truth or another draw.

    Args:
        observed: the maps, with the truth where it is known.
        cib: draws of the CIB at 150 GHz, (num, 1, H, W) [micro-K], num at least 2.
        tsz: draws of the tSZ effect at 150 GHz, of the same shape.

    Raises:
        ValueError: for fewer than two draws.
    """
    if len(cib) < 2 or len(tsz) < 2:
        raise ValueError(f"a standard deviation takes at least 2 draws, got {min(len(cib), len(tsz))}")
    rows = []
    for index, (name, label, draws) in enumerate((("cib", "CIB", cib), ("tsz", "tSZ", tsz))):
        mean, sd = draws.mean(axis=0)[0], draws.std(axis=0)[0]
        known = None if observed.truth is None else np.asarray(observed.truth[name])[0]
        last = draws[-1, 0] if known is None else known
        low, high = (float(x) for x in np.quantile(np.stack([mean, draws[0, 0], last]), [0.003, 0.997]))
        seen = observed.maps[index] - observed.maps[index].mean()
        reach = float(np.quantile(np.abs(seen), 0.995))
        rows += [
            Panel(f"{FREQUENCIES[index]} GHz map", seen, "RdBu_r", (-reach, reach)),
            Panel(f"{label}, posterior mean", mean, "inferno", (low, high)),
            Panel(f"{label}, s.d.", sd, "cividis", (0.0, float(np.quantile(sd, 0.997)))),
            Panel(f"{label}, a draw", draws[0, 0], "inferno", (low, high)),
            Panel(f"{label}, another draw" if known is None else f"{label}, truth", last, "inferno", (low, high)),
        ]
    return panels_figure(rows, np.ones(observed.maps.shape[-2:]), PIXEL_ARCMIN)


@styled
def spectra_figure(observed: Observation, cib: np.ndarray, tsz: np.ndarray) -> Figure:
    """Auto- and cross-spectra of the draws in bands, with the truth where it is known; arguments as `maps_figure`."""
    figure = new_figure(10.5, 3.2)
    edges = EDGES[EDGES <= cib.shape[-1] / 2]
    truth = observed.truth
    pairs = ((cib, cib, "CIB", 1.0), (tsz, tsz, "tSZ", 1.0), (cib, tsz, "CIB x tSZ, sign turned", -1.0))
    names = (("cib", "cib"), ("tsz", "tsz"), ("cib", "tsz"))
    for axes, (a, b, label, sign), (first, second) in zip(figure.subplots(1, 3), pairs, names, strict=True):
        found = bd.fields.cross_spectrum(a, b, edges=edges)
        ell = np.asarray(found.centers) * 2.0 * np.pi / np.deg2rad(PIXEL_ARCMIN / 60.0) / a.shape[-1]
        # From power per mode to D_ell.
        factor = ell**2 / (2.0 * np.pi) * np.deg2rad(PIXEL_ARCMIN / 60.0) ** 2 * sign
        power = np.asarray(found.power)[:, 0] * factor
        for low, high, alpha in ((0.025, 0.975, 0.2), (0.16, 0.84, 0.35)):
            axes.fill_between(ell, *np.quantile(power, [low, high], axis=0), color="tab:blue", alpha=alpha, linewidth=0)
        axes.plot(ell, np.median(power, axis=0), color="tab:blue", label="posterior")
        if truth is not None:
            one, other = (np.asarray(truth[name], dtype=np.float32) for name in (first, second))
            true = np.asarray(bd.fields.cross_spectrum(one, other, edges=edges).power)[0] * factor
            axes.plot(ell, true, color="black", linestyle="--", label="truth")
        axes.set_title(label)
        axes.set_xlabel(r"multipole $\ell$")
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel(r"$D_\ell$ [$\mu$K$^2$]")
    return figure
