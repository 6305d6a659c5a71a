"""The axes of a grid: which sites they stand for, between which bounds, with how many points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .grid_cells import NODES
from .target import Target

MAX_DIMENSION = 4
MAX_POINTS = 20_000_000


class Axis(NamedTuple):
    """One axis of a grid.

    Attributes:
        name: the latent site.
        low: lower end.
        high: upper end.
        num: number of points.
        points: the points, where they were given one by one.
        open_ends: whether the site's support goes on beyond (low, high).
    """

    name: str
    low: float
    high: float
    num: int
    points: np.ndarray | None
    open_ends: tuple[bool, bool]


def read_axes(points: Mapping[str, Any], key: jax.Array, target: Target) -> list[Axis]:
    """Axes of the latent sites of a target, in the order of ``points``.

    Args:
        points: number of points, (low, high, number) or the points themselves, by site.
        key: makes the prior draws at which the supports are read.
        target: the model.

    Raises:
        ValueError: the sites and the axes do not fit together; the message says which and why.
    """
    _refuse_sites(points, target)
    supports = _supports(key, target)
    axes = [_axis(name, entry, supports[name]) for name, entry in points.items()]
    size = int(np.prod([float(axis.num) for axis in axes]))
    if size > MAX_POINTS:
        raise ValueError(f"Grid holds at most {MAX_POINTS} points, {' x '.join(str(a.num) for a in axes)} are {size}")
    return axes


def _refuse_sites(points: Mapping[str, Any], target: Target) -> None:
    for name, shape in target.latent_shapes.items():
        if shape:
            raise ValueError(
                f"Grid takes scalar sites, latent site '{name}' has shape {shape}: integrate a field out, e.g. with "
                "NoisyDiffusion, or sample it with NUTS"
            )
    if len(target.latent) > MAX_DIMENSION:
        raise ValueError(
            f"Grid takes at most {MAX_DIMENSION} dimensions, the model has {len(target.latent)} latent sites: "
            f"{', '.join(target.latent)}; use NUTS"
        )
    for name in points:
        if name not in target.latent:
            raise ValueError(f"Grid has an axis for '{name}', but the latent sites are {', '.join(target.latent)}")
    for name in target.latent:
        if name not in points:
            raise ValueError(f"latent site '{name}' has no axis: give Grid its points, e.g. {{'{name}': 40, ...}}")


def _supports(key: jax.Array, target: Target) -> dict[str, tuple[float, float]]:
    """Ends of each latent site's support, which must be the same at two draws from the prior."""
    seen: list[dict[str, tuple[float, float]]] = []
    for draw_key in jax.random.split(key):
        position = target.functions.draw_prior(draw_key, target.data)
        kinds = target.functions.distributions(position, target.data)
        seen.append({name: _ends(kinds[name].support) for name in target.latent})
    for name, ends in seen[0].items():
        if ends != seen[1][name]:
            raise ValueError(
                f"the support of site '{name}' depends on other sites, so the density is cut within the grid: write "
                f"'{name}' as a function of a site with a fixed support"
            )
    return seen[0]


def _ends(support: Any) -> tuple[float, float]:
    return float(getattr(support, "lower_bound", -np.inf)), float(getattr(support, "upper_bound", np.inf))


def _axis(name: str, entry: Any, support: tuple[float, float]) -> Axis:
    given, ends, num = None, support, entry
    if isinstance(entry, tuple) and len(entry) == 3 and _is_count(entry[2]):
        ends, num = (float(entry[0]), float(entry[1])), entry[2]
    elif isinstance(entry, Sequence | np.ndarray):
        given = np.asarray(entry, dtype=float)
        if given.ndim != 1 or len(given) < NODES or not (np.isfinite(given).all() and (np.diff(given) > 0).all()):
            raise ValueError(f"the points of axis '{name}' must be at least {NODES} finite, increasing numbers")
        ends, num = (float(given[0]), float(given[-1])), len(given)
    if not _is_count(num) or num < NODES:
        raise ValueError(f"axis '{name}' needs at least {NODES} points, got {num!r}")
    advice = f"give the axis its bounds, e.g. {{'{name}': (low, high, {num})}}"
    if not np.isfinite(ends).all():
        raise ValueError(f"the support of site '{name}' is not bounded, it is {ends}: {advice}")
    if not ends[0] < ends[1]:
        raise ValueError(f"axis '{name}' must run from a lower to a higher value, got {ends}")
    # The support is read in the model's precision.
    slack = 1e-6 * (ends[1] - ends[0])
    if ends[0] < support[0] - slack or ends[1] > support[1] + slack:
        raise ValueError(f"axis '{name}' runs over {ends}, beyond the support {support} of the site")
    open_ends = (bool(ends[0] > support[0] + slack), bool(ends[1] < support[1] - slack))
    return Axis(name, *ends, int(num), given, open_ends)


def _is_count(num: Any) -> bool:
    return isinstance(num, int | np.integer) and not isinstance(num, bool)
