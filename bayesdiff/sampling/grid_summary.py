"""What a gridded density says: marginals, highest-density regions, and contours by Delta chi^2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtri

from .grid_cells import Cells, integrate

if TYPE_CHECKING:
    import xarray as xr

PROBABILITIES = (0.68, 0.95)
# The probabilities of one and two standard deviations, whose Delta chi^2 is 1.00 and 4.00, in two dimensions 2.30
# and 6.18.
_SIGMAS = (0.6827, 0.9545)
_MARGINAL_POINTS = 101
# Parts into which an interval between two points is cut where masses are sorted by density.
_PARTS = {1: 32, 2: 4}


def place_points(cells: Cells, axis: int, num: int) -> np.ndarray:
    """Positions (num,) along an axis, dense where the marginal density is high, over all that holds mass."""
    edges, mass = _histogram(cells, axis)
    width = np.diff(edges)
    height = mass / width
    kept = np.flatnonzero(height > 1e-9 * height.max())
    kept = slice(kept[0], kept[-1] + 1)
    edges, width, height = edges[kept.start : kept.stop + 1], width[kept], height[kept]
    # The cube root is what linear interpolation asks for, up to a curvature; a fifth is spread evenly.
    crowd = width * np.cbrt(height)
    crowd = 0.8 * crowd / crowd.sum() + 0.2 * width / width.sum()
    return np.interp(np.linspace(0.0, 1.0, num), np.concatenate([[0.0], np.cumsum(crowd)]), edges)


def grid_dataset(cells: Cells, names: Sequence[str], axes: Sequence[np.ndarray]) -> xr.Dataset:
    """The log density of prior times likelihood, and the density normalised by the evidence, on a product grid."""
    import xarray as xr

    log_density = integrate(cells, axes)
    return xr.Dataset(
        {"log_density": (names, log_density), "density": (names, np.exp(log_density - cells.log_total))},
        coords=dict(zip(names, axes, strict=True)),
    )


def marginals_dataset(cells: Cells, names: Sequence[str]) -> xr.Dataset:
    """Marginals of every site and of every pair.

    ``density_<site>`` and ``cdf_<site>`` (site), ``regions_<site>`` (probability, interval, bound): the intervals of
    highest density that hold 68 and 95 %, as many as there are, the rest NaN; ``density_<site>_<site>``.
    """
    import xarray as xr

    points = [place_points(cells, axis, _MARGINAL_POINTS) for axis in range(len(names))]
    variables: dict[str, tuple[Sequence[str], np.ndarray]] = {}
    regions: dict[str, list[np.ndarray]] = {}
    for axis, name in enumerate(names):
        density = _marginal(cells, points, (axis,))
        cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(points[axis]))])
        variables[f"density_{name}"] = ((name,), density)
        variables[f"cdf_{name}"] = ((name,), cumulative / cumulative[-1])
        levels = highest_density_levels([points[axis]], density, PROBABILITIES)
        regions[name] = [intervals_above(points[axis], density, level) for level in levels]
    count = max(len(intervals) for both in regions.values() for intervals in both)
    for name, both in regions.items():
        variables[f"regions_{name}"] = (("probability", "interval", "bound"), _padded(both, count))
    for first, second in combinations(range(len(names)), 2):
        pair = (names[first], names[second])
        variables[f"density_{pair[0]}_{pair[1]}"] = (pair, _marginal(cells, points, (first, second)))
    coords = dict(zip(names, points, strict=True)) | {"probability": list(PROBABILITIES), "bound": ["low", "high"]}
    return xr.Dataset(variables, coords=coords)


def grid_contours(data: xr.DataTree, *names: str, profile: bool = False) -> xr.Dataset:
    """Regions of one or two parameters of a `Grid` result, as they are drawn in the literature.

    Delta chi^2 = -2 log(p / max p), where p is the marginal density, or with ``profile`` the density maximised over the
    other parameters. Regions by Delta chi^2 lie below 1.00 and 4.00 for one parameter, 2.30 and 6.18 for two: they hold
    68.27 and 95.45 % of a Gaussian, whatever they hold of this density. Regions of highest density hold these
    probabilities of this density. Both are drawn from one array:

        c = bd.grid_contours(data, "H0", "sigma")
        plt.contour(c.H0, c.sigma, c.delta_chi2.T, levels=c.delta_chi2_level)

    Args:
        data: result of :func:`bayesdiff.sample` with `Grid`.
        *names: one or two of its parameters.
        profile: maximise over the other parameters, on the points of the group ``grid``, instead of integrating.

    Returns:
        ``delta_chi2`` on the axes of the parameters, ``delta_chi2_level`` (probability); for marginals
        ``highest_density_level`` (probability), the Delta chi^2 around the highest density. For one parameter also
        ``delta_chi2_region`` (probability, interval, bound), the intervals below the level, filled up with NaN.

    Raises:
        ValueError: the result is not that of a grid, or lacks a parameter, or there are not one or two.
    """
    import xarray as xr

    if "marginals" not in data.children or "grid" not in data.children:
        raise ValueError(f"grid_contours needs a result of Grid; this one has the groups {list(data.children)}")
    grid = data["grid"].to_dataset()["density"]
    unknown = [name for name in names if name not in grid.dims]
    if unknown or len(names) not in (1, 2) or len(set(names)) < len(names):
        raise ValueError(f"grid_contours takes one or two of {list(grid.dims)}, got {list(names)}")
    if profile:
        density = grid.max([dim for dim in grid.dims if dim not in names])
    else:
        marginals = data["marginals"].to_dataset()
        density = next(x for x in marginals.values() if set(x.dims) == set(names) and str(x.name).startswith("density"))
    density = density.transpose(*names)
    top = float(density.max())
    axes = [density[name].values for name in names]
    levels = chdtri(len(names), 1.0 - np.array(_SIGMAS))
    with np.errstate(divide="ignore"):
        variables: dict[str, tuple[Sequence[str], np.ndarray]] = {
            "delta_chi2": (names, -2.0 * np.log(density.values / top)),
            "delta_chi2_level": (("probability",), levels),
        }
    if not profile:
        heights = highest_density_levels(axes, density.values, _SIGMAS)
        variables["highest_density_level"] = (("probability",), -2.0 * np.log(heights / top))
    if len(names) == 1:
        found = [intervals_above(axes[0], density.values, top * np.exp(-0.5 * level)) for level in levels]
        count = max(map(len, found))
        variables["delta_chi2_region"] = (("probability", "interval", "bound"), _padded(found, count))
    coords = dict(zip(names, axes, strict=True)) | {"probability": list(_SIGMAS)}
    return xr.Dataset(variables, coords=coords)


def highest_density_levels(
    axes: Sequence[np.ndarray], density: np.ndarray, probabilities: Sequence[float]
) -> np.ndarray:
    """Densities (len(probabilities),) above which these parts of the mass lie, in one or two dimensions."""
    widths = []
    for axis, points in enumerate(axes):
        parts = _PARTS[len(axes)]
        index = (np.arange(parts * (len(points) - 1)) + 0.5) / parts
        below, part = index.astype(int), index % 1.0
        part = part.reshape([-1 if a == axis else 1 for a in range(len(axes))])
        density = density.take(below, axis) * (1.0 - part) + density.take(below + 1, axis) * part
        widths.append(np.repeat(np.diff(points) / parts, parts))
    mass = density * (widths[0] if len(axes) == 1 else np.outer(*widths))
    order = np.argsort(-density, axis=None)
    held = np.cumsum(mass.ravel()[order])
    return np.interp(probabilities, held / held[-1], density.ravel()[order])


def intervals_above(x: np.ndarray, density: np.ndarray, level: float) -> np.ndarray:
    """Intervals (n, 2) of x in which a density, linear between the points, is above a level."""
    above = np.concatenate([[False], density > level, [False]])
    starts, stops = np.flatnonzero(~above[:-1] & above[1:]), np.flatnonzero(above[:-1] & ~above[1:])
    ends = [(int(i), int(j) - 1) for i, j in zip(starts, stops, strict=True)]
    return np.array([[_crossing(x, density, level, i, i - 1), _crossing(x, density, level, j, j + 1)] for i, j in ends])


def _crossing(x: np.ndarray, density: np.ndarray, level: float, inside: int, outside: int) -> float:
    if outside < 0 or outside == len(x):
        return float(x[inside])
    part = (density[inside] - level) / (density[inside] - density[outside])
    return float(x[inside] + part * (x[outside] - x[inside]))


def _marginal(cells: Cells, points: Sequence[np.ndarray], kept: tuple[int, ...]) -> np.ndarray:
    log_density = integrate(cells, [x if axis in kept else None for axis, x in enumerate(points)])
    return np.exp(log_density - cells.log_total)


def _histogram(cells: Cells, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (n + 1,) along an axis and the mass between them (n,)."""
    cells = cells.select(cells.log_mass > cells.log_total - 30.0)
    count = cells.log_profile.shape[-1]
    weights = np.polynomial.legendre.leggauss(count)[1]
    unit = np.concatenate([[0.0], np.cumsum(0.5 * weights)])
    unit[-1] = 1.0
    bounds = cells.low[:, axis, None] * (1.0 - unit) + cells.high[:, axis, None] * unit
    cumulative = np.cumsum(np.exp(cells.log_profile[:, axis] - cells.log_total), axis=1)
    edges = np.unique(bounds)
    total = np.zeros(len(edges))
    for x, y in zip(bounds, cumulative, strict=True):
        total += np.interp(edges, x, np.concatenate([[0.0], y]))
    return edges, np.diff(total)


def _padded(intervals: Sequence[np.ndarray], count: int) -> np.ndarray:
    out = np.full((len(intervals), count, 2), np.nan)
    for row, found in zip(out, intervals, strict=True):
        row[: len(found)] = found
    return out
