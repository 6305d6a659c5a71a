"""The parameters of a Gibbs sampler given everything else: NUTS steps, adapted anew at several moments of the warm-up.

The conditional of the parameters is far narrower than their marginal posterior and moves with what is given, so its
step size and mass matrix are adapted again each time on what is given at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .chains import Info
from .nuts import guarded_metric
from .target import Position

ConditionalDensity = Callable[[Position], jax.Array]


class _GuardedNUTS:
    """BlackJAX's NUTS, for its warm-up too, with the metric of :func:`bayesdiff.sampling.nuts.guarded_metric`."""

    init = staticmethod(blackjax.nuts.init)

    @staticmethod
    def build_kernel(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        kernel = blackjax.nuts.build_kernel(*args, **kwargs)

        def guarded(key, state, log_density, step_size, inverse_mass_matrix):
            return kernel(key, state, log_density, step_size, guarded_metric(inverse_mass_matrix))

        return guarded


def untuned(position: Position) -> tuple[jax.Array, jax.Array]:
    """Step sizes (num_chains,) and inverse mass matrices (num_chains, size, size) before anything is known."""
    flat = jax.vmap(lambda q: ravel_pytree(q)[0])(position)
    num_chains, size = flat.shape
    return jnp.full(num_chains, 0.1), jnp.broadcast_to(jnp.eye(size), (num_chains, size, size))


def adapt[State: Any](
    key: jax.Array, state: State, log_density: ConditionalDensity, num_steps: int, target_acceptance: float
) -> State:
    """The state of one chain after BlackJAX's window adaptation."""
    warmup = blackjax.window_adaptation(
        _GuardedNUTS,
        log_density,
        is_mass_matrix_diagonal=False,
        initial_step_size=0.1,
        target_acceptance_rate=target_acceptance,
    )
    adapted, _ = warmup.run(key, state.position, num_steps)  # pyright: ignore[reportCallIssue]
    last, parameters = adapted
    return state._replace(position=last.position, **parameters)


def move[State: Any](
    key: jax.Array, state: State, log_density: ConditionalDensity, num_steps: int
) -> tuple[State, Info]:
    """The state of one chain after NUTS steps, and their statistics."""
    nuts = _GuardedNUTS.build_kernel()

    def one(current, key):
        return nuts(key, current, log_density, state.step_size, state.inverse_mass_matrix)

    keys = jax.random.split(key, num_steps)
    last, info = jax.lax.scan(one, _GuardedNUTS.init(state.position, log_density), keys)
    statistics = {
        "acceptance_rate": jnp.mean(info.acceptance_rate),
        "diverging": jnp.any(info.is_divergent),
        "n_steps": jnp.sum(info.num_integration_steps),
        "step_size": state.step_size,
        "lp": last.logdensity,
    }
    return state._replace(position=last.position), statistics
