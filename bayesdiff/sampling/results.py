"""From draws to an ``xarray.DataTree`` in ArviZ form, with the attributes that say how to redo the run.

Groups: ``posterior`` (chain, draw, ...) in constrained space, ``sample_stats`` (chain, draw), ``observed_data``, and
``posterior_every_<n>`` for sites of which only every n-th draw is kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import xarray as xr

from bayesdiff import __version__

from .chains import ChainRun
from .identity import describe_run
from .selection import ALL_DRAWS, STATISTICS, DrawGroup
from .target import Target

_PACKAGES = ("jax", "numpyro", "blackjax", "xarray", "numpy")


def to_datatree(
    run: ChainRun, target: Target, attributes: Mapping[str, Any], groups: tuple[DrawGroup, ...] = ALL_DRAWS
) -> xr.DataTree:
    """Result of a run.

    Args:
        run: draws (chain, draw, ...) and statistics.
        target: names the dimensions and holds the observed values.
        attributes: root attributes, see `run_attributes`.
        groups: which draws are kept.
    """
    every = {group.name: group.every for group in groups}
    tree = {name: draws_dataset(values, target.dims, 0, every.get(name, 1)) for name, values in run.groups.items()}
    order = ("posterior", *(name for name in every if name != "posterior"), STATISTICS)
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs=dict(attributes)),
            **{name: tree[name] for name in order},
            "observed_data": observed_dataset(target),
        }
    )


def draws_dataset(
    draws: Mapping[str, np.ndarray], dims: Mapping[str, tuple[str, ...]], first: int = 0, every: int = 1
) -> xr.Dataset:
    """Arrays (chain, draw, ...) as a dataset; the draws are labelled ``first``, ``first + every``, ..."""
    shapes = {name: x.shape[2:] for name, x in draws.items()}
    names = _consistent(shapes, dims)
    num_chains, num_draws = next(iter(draws.values())).shape[:2]
    return xr.Dataset(
        {name: (("chain", "draw", *names[name]), x) for name, x in draws.items()},
        coords={"chain": np.arange(num_chains), "draw": np.arange(first, first + every * num_draws, every)},
    )


def observed_dataset(target: Target) -> xr.Dataset:
    """The observed sites' values; a site of three dimensions is a field (channel, height, width)."""
    names = _consistent({name: x.shape for name, x in target.observed.items()}, target.dims)
    return xr.Dataset({name: (names[name], x) for name, x in target.observed.items()})


def run_attributes(
    key: jax.Array,
    algorithm: Any,
    target: Target,
    attributes: Mapping[str, Any],
    num_chains: int,
    num_samples: int,
    groups: tuple[DrawGroup, ...] = (),
) -> dict[str, Any]:
    """What it takes to redo a run, as attributes that Zarr and netCDF can hold (strings and numbers)."""
    return {
        **describe_run(key, algorithm, target, num_chains, num_samples, groups),
        "versions": json.dumps(package_versions()),
        **attributes,
    }


def package_versions() -> dict[str, str]:
    """Versions of what decides the draws."""
    return {"bayesdiff": __version__, "python": sys.version.split()[0], **{p: version(p) for p in _PACKAGES}}


def _consistent(
    shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Dimension names of each variable; a name already in use with another size gets the variable's as a prefix."""
    sizes: dict[str, int] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, shape in shapes.items():
        own = dims.get(name, ())
        if len(own) != len(shape):
            own = tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        own = tuple(d if sizes.get(d, n) == n else f"{name}_{d}" for d, n in zip(own, shape, strict=True))
        sizes |= dict(zip(own, shape, strict=True))
        names[name] = own
    return names
