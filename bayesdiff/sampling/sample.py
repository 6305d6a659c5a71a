"""``sample``: from a NumPyro model, data and an algorithm to a DataTree of draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from bayesdiff import devices

from .chains import Algorithm, ChainRun, Prepared, Restorable, run_chains
from .direct import DirectAlgorithm, run_directly
from .identity import describe_run
from .nuts import NUTS
from .progress import BlockReport
from .selection import DrawGroup, select
from .state_file import pack, unpack
from .target import Model, Target, build_target

if TYPE_CHECKING:
    import xarray as xr

    from .store import DrawStore

_DEFAULT = NUTS()


def sample(
    key: jax.Array,
    model: Model,
    *model_args: Any,
    algorithm: Algorithm | DirectAlgorithm = _DEFAULT,
    num_chains: int = 4,
    num_samples: int = 1000,
    store: str | Path | None = None,
    keep: str | Sequence[str] | None = None,
    thin: int | Mapping[str, int] = 1,
    progress: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[BlockReport], None] | None = None,
) -> xr.DataTree:
    """Sample the posterior of a NumPyro model.

    The same key gives the same draws. Interrupting the run (Ctrl-C) during sampling returns the draws made so far, with
    the attribute ``status`` "interrupted" and a warning.

    With a ``store`` the run survives whatever ends the process: the same call continues it, from the warm-up on, and
    its draws are bit by bit those of a run that was not interrupted. A store that is complete is returned without
    sampling; with a larger ``num_samples`` it is extended. Memory does not grow with the number of draws, because the
    result reads them from the store when they are looked at (``.load()`` reads all). An algorithm without chains
    (``Grid``) writes its result when it is complete, to a store that must not exist.

    The chains are spread over all devices that JAX sees, as many as divide their number. The draws do not depend on
    the number of devices, to rounding; chains amplify rounding, so that long ones agree in distribution only.

    Args:
        key: random key.
        model: NumPyro model with continuous latent sites and at least one observed site.
        *model_args: its arguments, data included.
        algorithm: settings of the algorithm, e.g. ``NUTS(num_warmup=1000)``.
        num_chains: number of chains, run together in one program.
        num_samples: draws of each chain after its warm-up.
        store: path of a Zarr store to which draws, statistics and the state of the chains are appended as they come.
        keep: names of the sites to keep; by default all.
        thin: keep draws 0, ``thin``, 2 ``thin``, ... of all sites, or by name of some: ``thin={"x": 10}``. A site
            thinned more than others stands in a group of its own, ``posterior_every_10``.
        progress: whether to show progress bars.
        model_kwargs: keyword arguments of the model.
        callback: called with a report after every block of steps; may raise KeyboardInterrupt to stop.

    Returns:
        DataTree with groups ``posterior`` (chain, draw, ...), ``sample_stats`` and ``observed_data``, and attributes
        that say how to redo the run.

    Raises:
        ValueError: the model or its data do not fit; the message names the site. Or the store is damaged.
        FileExistsError: the store holds something else or another run, or more draws than are asked for; the message
            says what differs, and nothing is touched.
        BlockingIOError: another process is writing to the store.
    """
    key = typed_key(key)
    key_target, key_prepare, key_run = jax.random.split(key, 3)
    clock = time.perf_counter()
    target = build_target(key_target, model, model_args, model_kwargs)
    if isinstance(algorithm, DirectAlgorithm):
        if keep is not None or thin != 1:
            raise ValueError(f"keep and thin are for chains, and {type(algorithm).__name__} makes none")
        return run_directly(key, key_run, algorithm, target, num_chains, num_samples, store, progress)
    run = _Run(key, key_prepare, key_run, algorithm, target, num_chains, num_samples, select(target, keep, thin), clock)
    if store is None:
        return _in_memory(run, progress, callback)
    return _in_store(run, store, progress, callback)


class _Run(NamedTuple):
    """What `sample` was asked to do."""

    key: jax.Array
    key_prepare: jax.Array
    key_run: jax.Array
    algorithm: Algorithm
    target: Target
    num_chains: int
    num_samples: int
    groups: tuple[DrawGroup, ...]
    clock: float

    def attributes(self, prepared: Prepared) -> dict[str, Any]:
        """Root attributes that are known when the preparation is done."""
        from .results import run_attributes

        kept = {**prepared.attributes, "preparation_seconds": time.perf_counter() - self.clock}
        return run_attributes(
            self.key, self.algorithm, prepared.target, kept, self.num_chains, self.num_samples, self.groups
        )

    def chains(self, prepared: Prepared, progress: bool, callback: Any, **store: Any) -> ChainRun:
        """Run the chains."""
        label = type(self.algorithm).__name__
        return run_chains(
            self.key_run,
            prepared,
            self.num_chains,
            self.num_samples,
            label=label,
            groups=self.groups,
            progress=progress,
            callback=callback,
            **store,
        )


def _in_memory(run: _Run, progress: bool, callback: Any) -> xr.DataTree:
    from .results import to_datatree

    prepared = run.algorithm.prepare(run.key_prepare, run.target, run.num_chains, progress)
    attributes = run.attributes(prepared)
    chains = run.chains(prepared, progress, callback)
    attributes |= {"status": chains.status, **chains.seconds}
    return to_datatree(chains, prepared.target, attributes, run.groups)


def _in_store(run: _Run, path: str | Path, progress: bool, callback: Any) -> xr.DataTree:
    from .store import DrawStore, open_store

    wanted = describe_run(run.key, run.algorithm, run.target, run.num_chains, run.num_samples, run.groups)
    with DrawStore(path, wanted, run.groups) as store:
        if store.num_draws > run.num_samples:
            raise FileExistsError(
                f"store '{path}' holds {store.num_draws} draws of each chain, more than num_samples={run.num_samples}"
            )
        if store.num_draws == run.num_samples:
            store.settle(wanted["settings"])
            devices.wait_for_all("store settled")
            return open_store(path)
        prepared = _prepare(run, store, progress)
        packed = pack(prepared.target.density_data) if isinstance(run.algorithm, Restorable) else None
        store.begin(prepared.target, run.attributes(prepared), prepared.kernel.num_warmup, packed)
        chains = run.chains(prepared, progress, callback, sink=store, saved=store.saved)
        store.commit(chains.status)
    devices.wait_for_all("store written")
    return open_store(path)


def _prepare(run: _Run, store: DrawStore, progress: bool) -> Prepared:
    """What is to be run, with what an earlier process computed for it."""
    if store.prepared is None or not isinstance(run.algorithm, Restorable):
        return run.algorithm.prepare(run.key_prepare, run.target, run.num_chains, progress)
    outline = run.algorithm.outline(run.target, run.num_chains)
    target = outline.target
    return replace(outline, target=target.with_density(target.density, unpack(store.prepared, target.density_data)))


def typed_key(key: jax.Array) -> jax.Array:
    """A new-style key from a new-style or a raw one."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a JAX random key, e.g. jax.random.key(0), got {type(key).__name__}")
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
