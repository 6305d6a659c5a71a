"""From draws to an ``xarray.DataTree`` in ArviZ form, with the attributes that say how to redo the run.

Groups: ``posterior`` (chain, draw, ...) in constrained space, ``sample_stats`` (chain, draw), ``observed_data``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
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
from .target import Target

_PACKAGES = ("jax", "numpyro", "blackjax", "xarray", "numpy")


def to_datatree(run: ChainRun, target: Target, attributes: Mapping[str, Any]) -> xr.DataTree:
    """Result of a run.

    Args:
        run: draws (chain, draw, ...) and statistics.
        target: names the dimensions and holds the observed values.
        attributes: root attributes, see `run_attributes`.
    """
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs=dict(attributes)),
            "posterior": draws_dataset(run.posterior, target.dims),
            "sample_stats": draws_dataset(run.sample_stats, {}),
            "observed_data": observed_dataset(target),
        }
    )


def draws_dataset(draws: Mapping[str, np.ndarray], dims: Mapping[str, tuple[str, ...]], first: int = 0) -> xr.Dataset:
    """Arrays (chain, draw, ...) as a dataset whose draws are labelled from ``first`` on."""
    shapes = {name: x.shape[2:] for name, x in draws.items()}
    names = _consistent(shapes, dims)
    num_chains, num_draws = next(iter(draws.values())).shape[:2]
    return xr.Dataset(
        {name: (("chain", "draw", *names[name]), x) for name, x in draws.items()},
        coords={"chain": np.arange(num_chains), "draw": np.arange(first, first + num_draws)},
    )


def observed_dataset(target: Target) -> xr.Dataset:
    """The observed sites' values; a site of three dimensions is a field (channel, height, width)."""
    names = _consistent({name: x.shape for name, x in target.observed.items()}, target.dims)
    return xr.Dataset({name: (names[name], x) for name, x in target.observed.items()})


def run_attributes(
    key: jax.Array, algorithm: Any, target: Target, attributes: Mapping[str, Any], num_chains: int, num_samples: int
) -> dict[str, Any]:
    """What it takes to redo a run, as attributes that Zarr and netCDF can hold (strings and numbers)."""
    settings = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    versions = {"bayesdiff": __version__, "python": sys.version.split()[0], **{p: version(p) for p in _PACKAGES}}
    settings |= {"num_chains": num_chains, "num_samples": num_samples}
    return {
        "algorithm": type(algorithm).__name__,
        "settings": json.dumps(settings, default=repr),
        "seed": json.dumps(np.asarray(jax.random.key_data(key)).tolist()),
        "versions": json.dumps(versions),
        "model_hash": model_hash(target),
        **attributes,
    }


def timing_attributes(run: ChainRun, preparation_seconds: float) -> dict[str, Any]:
    """Status of a run and where its time went: ``sampling_seconds`` are the draws after the warm-up."""
    return {
        "status": run.status,
        "preparation_seconds": preparation_seconds,
        "compile_seconds": run.compile_seconds,
        "warmup_seconds": run.warmup_seconds,
        "sampling_seconds": run.sampling_seconds,
    }


def model_hash(target: Target) -> str:
    """SHA-256 of the model's source, its sites and the observed values."""
    digest = hashlib.sha256()
    try:
        digest.update(inspect.getsource(inspect.unwrap(target.functions.model)).encode())
    except (OSError, TypeError):
        digest.update(repr(type(target.functions.model)).encode())
    digest.update(target.description.encode())
    for name, value in target.observed.items():
        digest.update(name.encode() + str((value.dtype, value.shape)).encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


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
