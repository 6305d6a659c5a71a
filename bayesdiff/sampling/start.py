"""Where the chains start: draws from the prior at which the density and its gradient are finite."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer.util import compute_log_probs

from .programs import compile_once
from .target import BoundModel, Data, Density, Position, Target

_MAX_TRIES = 100


class Start(NamedTuple):
    """Positions (num_chains, ...), log densities (num_chains,) and gradients (num_chains, ...) of all chains."""

    position: Position
    log_density: jax.Array
    gradient: Position


def find_start(key: jax.Array, target: Target, num_chains: int) -> tuple[Start, float]:
    """Starting points of the chains, and the seconds spent on compiling the density.

    A chain whose prior draw has a density or gradient that is not finite is drawn again, up to 100 times.

    Raises:
        ValueError: a chain found no such point; the message names the sites that are the cause.
    """
    if num_chains < 1:
        raise ValueError(f"num_chains must be at least 1, got {num_chains}")
    start, seconds = None, 0.0
    for attempt in range(_MAX_TRIES):
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, attempt), jnp.arange(num_chains))
        draw, more = compile_once(_draw_prior, (target.functions,), keys, target.data)
        seconds += more
        position = draw(keys, target.data)
        proposal, more = evaluate(target.density, position, target.density_data)
        seconds += more
        start = proposal if start is None else _keep(_is_finite(start), start, proposal)
        if bool(_is_finite(start).all()):
            return start, seconds
    assert start is not None
    raise ValueError(_explain(target, start))


def shape_of_start(target: Target, num_chains: int) -> Start:
    """Shapes and dtypes of a starting point; nothing is computed."""
    position = {
        name: jax.ShapeDtypeStruct((num_chains, *shape), jnp.result_type(float))
        for name, shape in target.latent_shapes.items()
    }
    values = jax.eval_shape(partial(_value_and_grad, target.density), position, target.density_data)
    return Start(position, *values)  # pyright: ignore[reportArgumentType]


def evaluate(density: Density, position: Position, data: Data) -> tuple[Start, float]:
    """Density and gradient at positions (num_chains, ...), and the seconds spent on compiling them."""
    program, seconds = compile_once(_value_and_grad, (density,), position, data)
    return Start(position, *program(position, data)), seconds


def _draw_prior(functions: BoundModel, keys: jax.Array, data: Data) -> Position:
    return jax.vmap(functions.draw_prior, in_axes=(0, None))(keys, data)


def _value_and_grad(density: Density, position: Position, data: Data) -> tuple[jax.Array, Position]:
    return jax.vmap(jax.value_and_grad(density), in_axes=(0, None))(position, data)


def _is_finite(start: Start) -> jax.Array:
    num_chains = start.log_density.shape[0]
    parts = [jnp.isfinite(leaf.reshape(num_chains, -1)).all(axis=1) for leaf in jax.tree.leaves(start)]
    return jnp.stack(parts).all(axis=0)


def _keep(keep: jax.Array, old: Start, new: Start) -> Start:
    return jax.tree.map(lambda a, b: jnp.where(keep.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), old, new)


def _explain(target: Target, start: Start) -> str:
    chain = int(jnp.argmin(_is_finite(start)))
    functions = target.functions
    args, kwargs = functions.arguments(target.data)
    values = functions.constrain({name: x[chain] for name, x in start.position.items()}, target.data)
    log_probs, _ = compute_log_probs(functions.model, args, kwargs, values)
    causes = [f"site '{name}' has log density {float(x)}" for name, x in log_probs.items() if not jnp.isfinite(x)]
    causes += [
        f"the gradient with respect to site '{name}' is not finite"
        for name, x in start.gradient.items()
        if not jnp.isfinite(x[chain]).all()
    ]
    return f"no finite log density and gradient at {_MAX_TRIES} draws from the prior: " + "; ".join(causes)
