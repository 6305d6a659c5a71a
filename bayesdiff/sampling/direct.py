"""Algorithms that need no chains: they hand over draws of their own, as the groups of a DataTree."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax

from .target import Target

if TYPE_CHECKING:
    import xarray as xr


@runtime_checkable
class DirectAlgorithm(Protocol):
    """Settings of such an algorithm: a frozen dataclass with this method."""

    def run(self, key: jax.Array, target: Target, num_chains: int, num_samples: int, progress: bool) -> xr.DataTree:
        """Groups ``posterior`` (chain, draw, ...), ``sample_stats`` and ``observed_data`` at least.

        The attributes of the root are kept with those that say how to redo the run.
        """
        ...


def run_directly(
    key: jax.Array,
    key_run: jax.Array,
    algorithm: DirectAlgorithm,
    target: Target,
    num_chains: int,
    num_samples: int,
    store: str | Path | None,
    progress: bool,
) -> xr.DataTree:
    """Result of an algorithm without chains; it is written to ``store`` when it is complete.

    ``key`` is the one that the caller was given and is kept with the result; ``key_run`` is used.

    Raises:
        FileExistsError: the store exists already.
        ValueError: no chains or no draws are asked for.
    """
    from .results import run_attributes

    if store is not None and Path(store).exists():
        raise FileExistsError(f"store '{store}' exists already: choose another path or remove it")
    if min(num_chains, num_samples) < 1:
        raise ValueError(f"num_chains and num_samples must be at least 1, got {num_chains} and {num_samples}")
    clock = time.perf_counter()
    result = algorithm.run(key_run, target, num_chains, num_samples, progress)
    attributes = run_attributes(
        key, algorithm, target, {str(k): v for k, v in result.attrs.items()}, num_chains, num_samples
    )
    result.attrs = {**attributes, "status": "complete", "sampling_seconds": time.perf_counter() - clock}
    if store is not None:
        result.to_zarr(store, mode="w-", consolidated=False)
    return result
