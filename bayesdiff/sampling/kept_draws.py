"""A function of the parameters evaluated at kept draws of a result, in chunks of one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .programs import compile_once
from .progress import TaskProgress
from .target import Data, Target

if TYPE_CHECKING:
    import xarray as xr

_CHUNK = 8


class KeptDraws(NamedTuple):
    """Some of a posterior's draws, evenly over the chains and along them.

    Attributes:
        values: constrained values of the latent sites, flattened over chains and draws, (num, ...).
        chain: labels of the chains.
        draw: labels of the draws kept in each chain.
    """

    values: dict[str, jax.Array]
    chain: np.ndarray
    draw: np.ndarray


def result_argument(model_args: tuple[Any, ...], data: xr.DataTree | None, who: str) -> tuple[tuple, xr.DataTree]:
    """Arguments of the model and the result, which may stand last among them instead of in ``data``.

    Raises:
        ValueError: no result was given.
    """
    import xarray as xr

    if data is None:
        if not model_args or not isinstance(model_args[-1], xr.DataTree):
            raise ValueError(f"{who} needs the result of sample: {who}(key, model, y, data)")
        return tuple(model_args[:-1]), model_args[-1]
    return tuple(model_args), data


def keep_draws(target: Target, data: xr.DataTree, num_draws: int) -> KeptDraws:
    """``num_draws`` draws in all of the latent sites.

    Raises:
        ValueError: the result lacks a latent site of the model.
    """
    posterior = data["posterior"].to_dataset()
    missing = [name for name in target.latent if name not in posterior]
    if missing:
        raise ValueError(f"the result lacks the latent sites {missing}; it has {list(posterior.data_vars)}")
    num_chains, length = posterior.sizes["chain"], posterior.sizes["draw"]
    per_chain = max(1, min(length, num_draws // num_chains))
    kept = np.linspace(0, length - 1, per_chain).round().astype(int)
    values = {}
    for name in target.latent:
        chosen = posterior[name].transpose("chain", "draw", ...).values[:, kept]
        values[name] = jnp.asarray(chosen.reshape(num_chains * per_chain, *chosen.shape[2:]))
    return KeptDraws(values, posterior["chain"].values, posterior["draw"].values[kept])


def map_draws(
    function: Callable[..., dict[str, jax.Array]],
    static: tuple[Hashable, ...],
    key: jax.Array,
    values: dict[str, jax.Array],
    data: Data,
    label: str,
    progress: bool,
) -> dict[str, np.ndarray]:
    """``function(*static, key, values, data)`` at every draw: a dict of arrays (num, ...)."""
    total = len(next(iter(values.values())))
    keys = jax.random.split(key, total)
    chunks: list[dict[str, np.ndarray]] = []
    with TaskProgress(label, total, progress) as bar:
        for first in range(0, total, _CHUNK):
            # A last chunk that is not full is filled up, so that one program serves all.
            rows = np.minimum(np.arange(first, first + _CHUNK), total - 1)
            arguments = (keys[rows], {name: x[rows] for name, x in values.items()}, data)
            program, _ = compile_once(_chunk, (function, static), *arguments)
            num = min(_CHUNK, total - first)
            chunks.append({name: np.asarray(x)[:num] for name, x in program(*arguments).items()})
            bar.advance(num)
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _chunk(function: Any, static: tuple[Hashable, ...], keys: jax.Array, values: Any, data: Data) -> Any:
    return jax.vmap(lambda key, value: function(*static, key, value, data))(keys, values)
