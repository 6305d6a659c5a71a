"""Latent fields of a result: draws of x, and of the parts of the noise, for kept draws of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.cosmology.gaussian import wiener_separation
from bayesdiff.distributions import NoisyDiffusion
from bayesdiff.distributions.batching import key_argument, over_batch

from .diffusion_sites import noisy_sites_at, require_noisy_sites
from .kept_draws import keep_draws, map_draws, result_argument
from .sites import FIELD_DIMS
from .target import BoundModel, Data, Model, Target, build_target

if TYPE_CHECKING:
    import xarray as xr


def draw_fields(
    key: jax.Array,
    model: Model,
    *model_args: Any,
    data: xr.DataTree | None = None,
    num_draws: int = 200,
    num_steps: int = 24,
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
        ``<site>_<name>``; the axes of a plate come before the channel.

    Raises:
        ValueError: no result was given, it lacks a latent site of the model, or the model has no NoisyDiffusion site.
    """
    model_args, data = result_argument(model_args, data, "draw_fields")
    key_target, key_draws = jax.random.split(key)
    target = build_target(key_target, model, model_args, model_kwargs)
    require_noisy_sites(key_target, target, "draw_fields")
    return fields_of(key_draws, target, data, num_draws, num_steps, progress)


def fields_of(
    key: jax.Array, target: Target, data: xr.DataTree, num_draws: int = 200, num_steps: int = 24, progress: bool = True
) -> xr.DataTree:
    """:func:`draw_fields` of a target; compiled once for all data of one target."""
    import xarray as xr

    kept = keep_draws(target, data, num_draws)
    drawn = map_draws(_fields, (target.functions, num_steps), key, kept.values, target.data, "fields", progress)
    shape = (len(kept.chain), len(kept.draw))
    group = xr.Dataset(
        {
            name: (("chain", "draw", *batch_dims(name, field[0]), *FIELD_DIMS), field.reshape(*shape, *field.shape[1:]))
            for name, field in drawn.items()
        },
        coords={"chain": kept.chain, "draw": kept.draw},
    )
    result = data.copy()
    result["fields"] = xr.DataTree(group)
    return result


def batch_dims(name: str, field: np.ndarray) -> tuple[str, ...]:
    """Dimensions of the fields of a site that has several, as ArviZ names them."""
    return tuple(f"{name}_dim_{i}" for i in range(field.ndim - len(FIELD_DIMS)))


def _fields(
    functions: BoundModel, num_steps: int, key: jax.Array, values: dict[str, jax.Array], data: Data
) -> dict[str, jax.Array]:
    """All fields of one draw of the parameters."""
    fields: dict[str, jax.Array] = {}
    sites = noisy_sites_at(functions, values, data)
    for index, (site, (fn, y)) in enumerate(sites.items()):
        prefix = f"{site}_" if len(sites) > 1 else ""
        x_key, split_key = jax.random.split(jax.random.fold_in(key, index))
        x = fn.sample_latent(x_key, y, num_steps)
        fields[prefix + fn.model.name] = x
        fields |= {prefix + name: part for name, part in _components(split_key, fn, y - x).items()}
    return fields


def _components(key: jax.Array, fn: NoisyDiffusion, residual: jax.Array) -> dict[str, jax.Array]:
    """The noise of one site, split by a Wiener draw where it is a sum."""
    noise: Any = fn.model.noise
    names, batch = tuple(noise.components), residual.shape[:-3]
    if len(names) < 2:
        return {next(iter(names), "noise"): residual}

    def split(key: jax.Array, residual: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        powers = {name: s**2 * power for name, power in noise.component_powers(context).items()}
        parts = wiener_separation(key, residual, powers)
        return jnp.stack([parts[name] for name in names])

    arguments = [key_argument(key, batch), (residual, 3), (fn.noise_level, 0), (fn.context, 1)]
    parts = over_batch(split, batch, arguments)
    return {name: parts[..., index, :, :, :] for index, name in enumerate(names)}
