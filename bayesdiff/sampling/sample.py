"""``sample``: from a NumPyro model, data and an algorithm to a DataTree of draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from .chains import Algorithm, run_chains
from .direct import DirectAlgorithm, run_directly
from .nuts import NUTS
from .progress import BlockReport
from .target import Model, build_target

if TYPE_CHECKING:
    import xarray as xr

_DEFAULT = NUTS()


def sample(
    key: jax.Array,
    model: Model,
    *model_args: Any,
    algorithm: Algorithm | DirectAlgorithm = _DEFAULT,
    num_chains: int = 4,
    num_samples: int = 1000,
    store: str | Path | None = None,
    progress: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[BlockReport], None] | None = None,
) -> xr.DataTree:
    """Sample the posterior of a NumPyro model.

    The same key gives the same draws. Interrupting the run (Ctrl-C) during sampling returns the draws made so far, with
    the attribute ``status`` "interrupted" and a warning.

    Args:
        key: random key.
        model: NumPyro model with continuous latent sites and at least one observed site.
        *model_args: its arguments, data included.
        algorithm: settings of the algorithm, e.g. ``NUTS(num_warmup=1000)``.
        num_chains: number of chains, run together in one program.
        num_samples: draws of each chain after its warm-up.
        store: path of a Zarr store to which draws are appended as they come; it must not exist.
        progress: whether to show progress bars.
        model_kwargs: keyword arguments of the model.
        callback: called with a report after every block of steps; may raise KeyboardInterrupt to stop.

    Returns:
        DataTree with groups ``posterior`` (chain, draw, ...), ``sample_stats`` and ``observed_data``, and attributes
        that say how to redo the run.

    Raises:
        ValueError: the model or its data do not fit; the message names the site.
        FileExistsError: the store exists already.
    """
    from .results import run_attributes, timing_attributes, to_datatree
    from .store import DrawStore

    key = _typed(key)
    key_target, key_prepare, key_run = jax.random.split(key, 3)
    clock = time.perf_counter()
    target = build_target(key_target, model, model_args, model_kwargs)
    if isinstance(algorithm, DirectAlgorithm):
        return run_directly(key, key_run, algorithm, target, num_chains, num_samples, store, progress)
    prepared = algorithm.prepare(key_prepare, target, num_chains, progress)
    preparation_seconds = time.perf_counter() - clock
    attributes = run_attributes(key, algorithm, prepared.target, prepared.attributes, num_chains, num_samples)
    sink = None if store is None else DrawStore(store, prepared.target, attributes)
    run = run_chains(
        key_run,
        prepared,
        num_chains,
        num_samples,
        label=type(algorithm).__name__,
        sink=sink,
        progress=progress,
        callback=callback,
    )
    timing = timing_attributes(run, preparation_seconds)
    if sink is not None:
        sink.finish(timing)
    return to_datatree(run, prepared.target, attributes | timing)


def _typed(key: jax.Array) -> jax.Array:
    """A new-style key from a new-style or a raw one."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a JAX random key, e.g. jax.random.key(0), got {type(key).__name__}")
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
