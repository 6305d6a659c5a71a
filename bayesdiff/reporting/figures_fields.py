"""Pictures of the separated fields: maps, power spectra and Minkowski functionals of their posterior draws.

A result's ``fields`` group holds draws (chain, draw, channel, height, width) of each component in units of the dust
standard deviation; ``truth`` may hold the true maps (channel, height, width). Every function works without truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from bayesdiff.reporting.parameters import has_group, symbol
from bayesdiff.reporting.style import INK, POSTERIOR, PRIOR, TRUTH, despine, new_figure, styled

Maps = NDArray[np.floating]
_QUANTILES = (0.02275, 0.158655, 0.5, 0.841345, 0.97725)
_FIELD_MAP, _SIGNED_MAP, _SPREAD_MAP = "viridis", "RdBu_r", "cividis"
_UNIT = "dust s.d."
_FUNCTIONALS = ("area fraction", "boundary length [per pixel]", "Euler characteristic [per pixel$^2$]")
_PANEL, _GAP, _BAR = 1.5, 0.1, 0.75
"""Inches: side of a map, gap between maps, room for a colour bar with its ticks and label."""


@dataclass(frozen=True)
class Component:
    """One field of one channel: posterior draws (draws, H, W) and the truth (H, W) where known."""

    name: str
    draws: Maps
    truth: Maps | None

    @property
    def signed(self) -> bool:
        """Whether it is shown with a scale symmetric about zero."""
        return self.name == "cmb"


def components(data: xr.DataTree, channel: int = 0, names: Sequence[str] | None = None) -> list[Component]:
    """The separated fields of a result, dust first, then CMB, then others; instrument noise only if named.

    Raises:
        ValueError: If there is no ``fields`` group, or it lacks a name.
    """
    if not has_group(data, "fields"):
        raise ValueError("the result has no field draws: add them with bayesdiff.draw_fields")
    fields = data["fields"]
    held = [str(name) for name in fields.data_vars]
    if names is None:
        order = {"dust": 0, "cmb": 1}
        names = sorted((n for n in held if n != "instrument_noise"), key=lambda n: order.get(n, 2))
    if missing := [name for name in names if name not in held]:
        raise ValueError(f"no field draws of {', '.join(missing)}; the result has {', '.join(held)}")
    found = []
    for name in names:
        values = np.asarray(fields[name].transpose("chain", "draw", ...).values, dtype=float)
        draws = values.reshape(-1, *values.shape[2:])[:, channel]
        truth = None
        if has_group(data, "truth") and name in data["truth"].data_vars:
            truth = np.asarray(data["truth"][name].values, dtype=float).reshape(values.shape[2:])[channel]
        found.append(Component(name, draws[np.all(np.isfinite(draws), axis=(1, 2))], truth))
    return found


def observed_map(data: xr.DataTree, channel: int = 0) -> Maps | None:
    """The observed map (H, W), or None if the result holds no observed field."""
    if has_group(data, "observed_data"):
        for variable in data["observed_data"].data_vars.values():
            values = np.asarray(variable.values, dtype=float)
            if values.ndim >= 2 and min(values.shape[-2:]) > 1:
                return values.reshape(-1, *values.shape[-2:])[channel]
    return None


@styled
def field_panels(data: xr.DataTree, pixel_arcmin: float, *, channel: int = 0) -> Figure:
    """Maps: the observation, and the truth, posterior mean, two draws and standard deviation of each component.

    The truth, the draws and the mean of a component share one colour scale (symmetric for the CMB); the standard
    deviation has its own. Scales hold 99 % of the pixels of what they show.

    Args:
        data: A result with ``fields`` and, where known, ``truth`` and ``observed_data``.
        pixel_arcmin: Pixel size in arcminutes.
        channel: Channel to show.

    Raises:
        ValueError: If the result has no field draws.
    """
    parts = components(data, channel)
    observed = observed_map(data, channel)
    with_truth = any(part.truth is not None for part in parts)
    num_shared = (1 if with_truth else 0) + 1 + min(2, max(len(part.draws) for part in parts))
    left = 0.7 if observed is None else 0.7 + _PANEL + 0.85
    width = left + num_shared * (_PANEL + _GAP) + _BAR + _PANEL + _BAR
    height = 0.55 + len(parts) * (_PANEL + 0.2) + 0.15
    figure = new_figure(width, height, layout=None)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, y / height, w / width, h / height))

    if observed is not None:
        middle = max(0.5 * (0.55 + height - 0.25 - _PANEL) + 0.2, 1.0)
        panel = place(0.55, middle, _PANEL, _PANEL)
        image = _show(panel, observed, pixel_arcmin, _FIELD_MAP, _limits([observed]))
        panel.set(title="observed", xlabel="degrees", ylabel="degrees")
        bar = place(0.55, middle - 0.62, _PANEL, 0.11)
        figure.colorbar(image, cax=bar, orientation="horizontal", extend="both", label=_UNIT)
    for i, part in enumerate(parts):
        y = 0.55 + (len(parts) - 1 - i) * (_PANEL + 0.2)
        pictures = _pictures(part, with_truth, num_shared)
        shared = [picture for _, picture in pictures[:-1] if picture is not None]
        scales = [_limits(shared, symmetric=part.signed), _limits([part.draws.std(axis=0)])]
        for column, (title, picture) in enumerate(pictures):
            is_spread = column == num_shared
            x = left + column * (_PANEL + _GAP) + (_BAR if is_spread else 0.0)
            if picture is None:
                continue
            axes = place(x, y, _PANEL, _PANEL)
            colours = _SPREAD_MAP if is_spread else _SIGNED_MAP if part.signed else _FIELD_MAP
            image = _show(axes, picture, pixel_arcmin, colours, scales[is_spread])
            axes.tick_params(labelleft=column == 0, labelbottom=part is parts[-1])
            if i == 0 or (title == "true" and parts[0].truth is None):
                axes.set_title(title)
            if part is parts[-1]:
                axes.set_xlabel("degrees")
            if column == int(with_truth and part.truth is None):
                axes.set_ylabel(f"{symbol(part.name)}\ndegrees")
            if column >= num_shared - 1:
                figure.colorbar(image, cax=place(x + _PANEL + 0.07, y, 0.11, _PANEL), extend="both", label=_UNIT)
    return figure


def _pictures(part: Component, with_truth: bool, num_shared: int) -> list[tuple[str, Maps | None]]:
    """Title and map of each panel of a row: truth, mean, draws, and last the standard deviation; None leaves a gap."""
    num_draws = num_shared - 1 - with_truth
    picks = [k * len(part.draws) // num_draws for k in range(num_draws)]
    shown = [("true", part.truth)] if with_truth else []
    shown.append(("posterior mean", part.draws.mean(axis=0)))
    shown += [(f"posterior draw {i + 1}", part.draws[k]) for i, k in enumerate(picks)]
    return [*shown, ("standard deviation", part.draws.std(axis=0))]


def _show(axes: Axes, picture: Maps, pixel_arcmin: float, colours: str, limits: tuple[float, float]) -> AxesImage:
    height, width = (size * pixel_arcmin / 60 for size in picture.shape)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return axes.imshow(
        picture, origin="lower", extent=(0, width, 0, height), cmap=colours, vmin=limits[0], vmax=limits[1],
        interpolation="nearest",
    )  # fmt: skip


def _limits(pictures: Sequence[Maps], *, symmetric: bool = False) -> tuple[float, float]:
    values = np.concatenate([p[np.isfinite(p)].ravel() for p in pictures])
    if not values.size:
        return 0.0, 1.0
    if symmetric:
        top = float(np.quantile(np.abs(values), 0.99)) or 1.0
        return -top, top
    low, high = (float(q) for q in np.quantile(values, [0.005, 0.995]))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _band(axes: Axes, x: Maps, quantiles: Maps) -> None:
    low95, low68, middle, high68, high95 = quantiles
    axes.fill_between(x, low95, high95, color=POSTERIOR, alpha=0.2, lw=0, label="posterior 95 %")
    axes.fill_between(x, low68, high68, color=POSTERIOR, alpha=0.35, lw=0, label="posterior 68 %")
    axes.plot(x, middle, color=POSTERIOR, lw=1.1, label="posterior median")


@styled
def spectra_figure(data: xr.DataTree, pixel_arcmin: float, *, channel: int = 0, max_draws: int = 400) -> Figure:
    """Power spectra of the components: 68 and 95 % posterior bands, the truth where known, and the observed total.

    The upper panels show P(ell) of :func:`bayesdiff.fields.power_spectrum` in its orthonormal convention (unit white
    noise has power 1); the lower ones the ratio to the truth, or to the posterior median where the truth is not known.

    Raises:
        ValueError: If the result has no field draws.
    """
    import jax

    from bayesdiff.fields import power_spectrum

    spectra = jax.jit(lambda maps: power_spectrum(maps, pixel_arcmin=pixel_arcmin))
    parts = components(data, channel)
    observed = observed_map(data, channel)
    figure = new_figure(4.9 * len(parts) + 0.4, 5.0)
    panels = figure.subplots(2, len(parts), squeeze=False, sharex=True, height_ratios=[2.3, 1])
    for part, top, bottom in zip(parts, *panels, strict=True):
        draws = part.draws[:: max(len(part.draws) // max_draws, 1)]
        extra = [entry[None] for entry in (part.truth, observed) if entry is not None]
        spectrum = spectra(np.concatenate([draws, *extra]))
        ell, power = (np.asarray(entry, dtype=float) for entry in spectrum[:2])
        quantiles = np.quantile(power[: len(draws)], _QUANTILES, axis=0)
        _band(top, ell, quantiles)
        reference, against = quantiles[2], "median"
        if part.truth is not None:
            reference, against = power[len(draws)], "truth"
            top.plot(ell, reference, color=TRUTH, ls="--", label="truth")
        if observed is not None:
            top.plot(ell, power[-1], color=PRIOR, lw=1.0, zorder=0, label="observed total")
        _band(bottom, ell, quantiles / np.where(reference > 0, reference, np.nan))
        bottom.axhline(1.0, color=TRUTH if part.truth is not None else INK, ls="--", lw=1.1)
        floor = max(float(np.nanmin(quantiles[0])), 1e-12)
        top.set(xscale="log", yscale="log", title=symbol(part.name), ylabel=f"power [({_UNIT})$^2$ per mode]")
        top.set_ylim(bottom=0.6 * min(floor, float(reference[reference > 0].min(initial=np.inf))))
        bottom.set(xlabel=r"multipole $\ell$", ylabel=f"ratio to {against}", ylim=_ratio_range(quantiles, reference))
        _multipole_ticks(bottom, ell)
        for axes in (top, bottom):
            despine(axes)
    panels[0, 0].legend(loc="lower left")
    return figure


def _ratio_range(quantiles: Maps, reference: Maps) -> tuple[float, float]:
    ratio = quantiles / np.where(reference > 0, reference, np.nan)
    reach = float(np.nanmax(np.abs(ratio[[0, 4]] - 1))) if np.isfinite(ratio).any() else 0.5
    reach = min(max(1.05 * reach, 0.1), 2.0)
    return max(1 - reach, 0.0), 1 + reach


def _multipole_ticks(axes: Axes, ell: Maps) -> None:
    axes.set_xlim(0.9 * ell[0], 1.1 * ell[-1])
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


@styled
def minkowski_figure(data: xr.DataTree, *, channel: int = 0, num_thresholds: int = 25, max_draws: int = 100) -> Figure:
    r"""Minkowski functionals of the components' draws: V0 (area), V1 (boundary), V2 (Euler characteristic).

    Fields are standardised by the mean and standard deviation of the truth, or of all draws where it is not known, so
    that thresholds :math:`\nu` run from -3 to 3 and a wrong amplitude shows.

    Raises:
        ValueError: If the result has no field draws.
    """
    import jax

    from bayesdiff.fields import minkowski_functionals

    parts = components(data, channel)
    thresholds = np.linspace(-3.0, 3.0, num_thresholds)
    minkowski = jax.jit(lambda maps: minkowski_functionals(maps, thresholds))
    figure = new_figure(10.4, 2.45 * len(parts) + 0.5)
    panels = figure.subplots(len(parts), 3, squeeze=False, sharex=True)
    for index, (part, row) in enumerate(zip(parts, panels, strict=True)):
        reference = part.draws if part.truth is None else part.truth
        centre, scale = float(reference.mean()), float(reference.std()) or 1.0
        some = part.draws[:: max(len(part.draws) // max_draws, 1)]
        maps = some if part.truth is None else np.concatenate([some, part.truth[None]])
        functionals = minkowski((maps - centre) / scale)
        values = np.stack([np.asarray(v, dtype=float) for v in functionals], axis=1)
        true = None if part.truth is None else values[-1]
        values = values[: len(some)]
        for order, axes in enumerate(row):
            _band(axes, thresholds, np.quantile(values[:, order], _QUANTILES, axis=0))
            if true is not None:
                axes.plot(thresholds, true[order], color=TRUTH, ls="--", label="truth")
            axes.yaxis.set_major_locator(MaxNLocator(5))
            despine(axes)
            if index == 0:
                axes.set_title(f"$V_{order}$: {_FUNCTIONALS[order]}")
        row[0].set_ylabel(symbol(part.name))
    for axes in panels[-1]:
        axes.set_xlabel(r"threshold $\nu$ [s.d. of the field]")
    panels[0, 0].legend(loc="lower left")
    return figure
