"""Latent fields of a result: draws of x, and of the parts of the noise, for kept draws of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.cosmology.gaussian import wiener_separation

from .diffusion_sites import noisy_sites_at, require_noisy_sites
from .programs import compile_once
from .progress import TaskProgress
from .sites import FIELD_DIMS
from .target import BoundModel, Data, Model, build_target

if TYPE_CHECKING:
    import xarray as xr

_CHUNK = 8


def draw_fields(
    key: jax.Array,
    model: Model,
    *model_args: Any,
    data: xr.DataTree | None = None,
    num_draws: int = 200,
    num_steps: int = 20,
    progress: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Draw the fields behind every ``NoisyDiffusion`` site, one set for each of ``num_draws`` kept parameter draws.

    Args:
        key: random key.
        model: the NumPyro model that was sampled.
        *model_args: its arguments; the result may stand last among them instead of in ``data``.
        data: result of :func:`bayesdiff.sample`.
        num_draws: parameter draws used in all, evenly over the chains and along them.
        num_steps: denoiser evaluations of each draw.
        progress: whether to show a progress bar.
        model_kwargs: keyword arguments of the model.

    Returns:
        The result with a group ``fields`` (chain, draw, channel, height, width): x under the name of its diffusion
        model, and y - x split into the components of the noise by a Wiener draw. With several sites the names are
        ``<site>_<name>``.

    Raises:
        ValueError: no result was given, it lacks a latent site of the model, or the model has no NoisyDiffusion site.
    """
    import xarray as xr

    if data is None:
        if not model_args or not isinstance(model_args[-1], xr.DataTree):
            raise ValueError("draw_fields needs the result of sample: draw_fields(key, model, y, data)")
        *rest, data = model_args
        model_args = tuple(rest)
    assert isinstance(data, xr.DataTree)
    key_target, key_draws = jax.random.split(key)
    target = build_target(key_target, model, model_args, model_kwargs)
    require_noisy_sites(key_target, target, "draw_fields")
    posterior = data["posterior"].to_dataset()
    missing = [name for name in target.latent if name not in posterior]
    if missing:
        raise ValueError(f"the result lacks the latent sites {missing}; it has {list(posterior.data_vars)}")
    num_chains, length = posterior.sizes["chain"], posterior.sizes["draw"]
    per_chain = max(1, min(length, num_draws // num_chains))
    kept = np.linspace(0, length - 1, per_chain).round().astype(int)
    values = {
        name: jnp.asarray(posterior[name].values[:, kept].reshape(num_chains * per_chain, *posterior[name].shape[2:]))
        for name in target.latent
    }
    drawn = _draw_all(key_draws, target.functions, target.data, values, num_steps, progress)
    group = xr.Dataset(
        {
            name: (("chain", "draw", *FIELD_DIMS), field.reshape(num_chains, per_chain, *field.shape[1:]))
            for name, field in drawn.items()
        },
        coords={"chain": posterior["chain"].values, "draw": posterior["draw"].values[kept]},
    )
    result = data.copy()
    result["fields"] = xr.DataTree(group)
    return result


def _draw_all(
    key: jax.Array, functions: BoundModel, data: Data, values: dict[str, jax.Array], num_steps: int, progress: bool
) -> dict[str, np.ndarray]:
    total = len(next(iter(values.values())))
    keys = jax.random.split(key, total)
    chunks: list[dict[str, np.ndarray]] = []
    with TaskProgress("fields", total, progress) as bar:
        for first in range(0, total, _CHUNK):
            # A last chunk that is not full is filled up, so that one program serves all.
            rows = np.minimum(np.arange(first, first + _CHUNK), total - 1)
            arguments = (keys[rows], {name: x[rows] for name, x in values.items()}, data)
            program, _ = compile_once(_draw_chunk, (functions, num_steps), *arguments)
            num = min(_CHUNK, total - first)
            chunks.append({name: np.asarray(x)[:num] for name, x in program(*arguments).items()})
            bar.advance(num)
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _draw_chunk(
    functions: BoundModel, num_steps: int, keys: jax.Array, values: dict[str, jax.Array], data: Data
) -> dict[str, jax.Array]:
    def one(key: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        fields: dict[str, jax.Array] = {}
        sites = noisy_sites_at(functions, values, data)
        for index, (site, (fn, y)) in enumerate(sites.items()):
            prefix = f"{site}_" if len(sites) > 1 else ""
            x_key, split_key = jax.random.split(jax.random.fold_in(key, index))
            x = fn.sample_latent(x_key, y, num_steps)
            fields[prefix + fn.model.name] = x
            fields |= {prefix + name: part for name, part in _components(split_key, fn, y - x).items()}
        return fields

    return jax.vmap(one)(keys, values)


def _components(key: jax.Array, fn: Any, residual: jax.Array) -> dict[str, jax.Array]:
    """The noise of one site, split by a Wiener draw where it is a sum."""
    noise = fn.model.noise
    if len(noise.components) < 2:
        return {next(iter(noise.components), "noise"): residual}
    powers = noise.component_powers(fn.context)
    return wiener_separation(key, residual, {name: fn.noise_level**2 * power for name, power in powers.items()})
