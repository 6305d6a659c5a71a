"""Stan's window adaptation, one iteration at a time.

Step size by dual averaging, inverse mass matrix from the draws of doubling windows (Stan reference manual, "HMC
algorithm parameters"; Hoffman & Gelman 2014, arXiv:1111.4246). BlackJAX's own warm-up runs all its iterations in one
call; here its parts are called one iteration at a time, with the schedule as an array, so that the adaptation is part
of a chain's state and a run can show progress and stop anywhere.

A diagonal matrix is for fields, where thousands of variances are learnt from a hundred draws each. The moments of a
window are averaged over all chains at its end, and no variance is taken to be less than the Fisher estimate, the
deviation of the position over that of the gradient, as nutpie has it: where a chain hardly moves both are small, and
their ratio knows the scale that the draws do not show. In equilibrium it is at most the variance (Cramer-Rao), and for
correlated values it is less, so alone it would make the trajectories along what is correlated too short. With it Stan's
shrinkage of a variance towards 0.001 is not needed, which would widen what is known to better than 0.03.

With a matrix of ones a step is as short as the narrowest value, and Stan's warm-up keeps it for a hundred iterations,
in which most of its gradients go. Here the chains begin with the Fisher estimate of their starting points, of which
every one may differ from the posterior mean by far: the gradient does so in proportion. The first window is short and
is taken by that estimate alone, because its draws come from afar as well. The step size is adapted to the acceptance of
all chains and by a quarter of Stan's gain: with that a rejection late in a window divides the step by ten where nine in
ten are to be accepted, and a short warm-up ends wherever it happens to be, most often far too low.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.mass_matrix import FisherMassMatrixAdaptationState
from blackjax.adaptation.metric_recipes import lookup_recipe
from blackjax.adaptation.step_size import dual_averaging_adaptation
from blackjax.adaptation.window_adaptation import build_schedule
from blackjax.mcmc.hmc import HMCState

_INITIAL_STEP_SIZE = 1.0
_FIRST_WINDOW = 25
_REGULARISATION = 0.2
"""Gamma of the dual averaging, whose gain is its inverse; Stan's is 0.05."""
_OPTIMISM = 2.0
"""Factor by which the step size is tried larger at the beginning of a window; Stan's is 10."""


class AdaptationState(NamedTuple):
    """State of the adaptation, of one chain or of all.

    Attributes:
        averaging: of the step size, by dual averaging.
        metric: moments of the window so far.
        step_size: of the next iteration.
        inverse_mass_matrix: of the next iteration, (size,) or (size, size).
    """

    averaging: Any
    metric: Any
    step_size: jax.Array
    inverse_mass_matrix: jax.Array


class WindowAdaptation(NamedTuple):
    """Pure functions over all chains, which lead every array.

    Attributes:
        init: from positions and gradients as vectors (num_chains, size).
        update: ``(index, state, current, acceptance_rate) -> state`` after iteration ``index`` of the warm-up, which
            left the chains at ``current``; after the last one with the values to keep.
    """

    init: Callable[[jax.Array, jax.Array], AdaptationState]
    update: Callable[[jax.Array, AdaptationState, HMCState, jax.Array], AdaptationState]


def window_adaptation(
    num_warmup: int, target_acceptance: float, dense_mass: bool, over_chains: Callable[[jax.Array], jax.Array]
) -> WindowAdaptation:
    """The adaptation of a warm-up of this length.

    Args:
        num_warmup: iterations.
        target_acceptance: acceptance rate that the step size is adapted to.
        dense_mass: whether the mass matrix is dense; every chain then learns its own.
        over_chains: an array of the chains at hand to that of all chains.
    """
    metric = lookup_recipe("welford_dense" if dense_mass else "fisher_diag").build_core()
    begin, average, finish = (
        dual_averaging_adaptation(target_acceptance) if dense_mass else _steady_averaging(target_acceptance)
    )
    schedule = jnp.asarray(build_schedule(num_warmup) if dense_mass else early_windows(num_warmup), dtype=jnp.int32)
    first_end = int(jnp.argmax(schedule[:, 1])) + 1

    def init_one(vector: jax.Array) -> AdaptationState:
        learnt: Any = metric.init(vector.shape[0])
        step_size = jnp.asarray(_INITIAL_STEP_SIZE, dtype=vector.dtype)
        return AdaptationState(begin(step_size), learnt, step_size, learnt.inverse_mass_matrix)

    def init(vectors: jax.Array, gradients: jax.Array) -> AdaptationState:
        state = jax.vmap(init_one)(vectors)
        if dense_mass:
            return state
        fisher = jnp.std(over_chains(vectors), axis=0) / jnp.std(over_chains(gradients), axis=0)
        inverse = jnp.broadcast_to(_where_known(fisher, jnp.ones_like(fisher)), vectors.shape)
        return state._replace(metric=state.metric._replace(inverse_mass_matrix=inverse), inverse_mass_matrix=inverse)

    def close_one(is_first: jax.Array, state: AdaptationState) -> AdaptationState:
        learnt: Any = metric.final(state.metric)
        step_size = finish(state.averaging)
        if not dense_mass:
            learnt = learnt._replace(inverse_mass_matrix=_variances(state.metric, is_first))
            # The direction that held the step size down does so no more; dual averaging would take long to find out.
            step_size *= jnp.sqrt(jnp.max(state.inverse_mass_matrix / learnt.inverse_mass_matrix))
        averaging = begin(step_size)
        return AdaptationState(averaging, learnt, jnp.exp(averaging.log_step_size), learnt.inverse_mass_matrix)

    def update_one(
        is_slow: jax.Array, state: AdaptationState, current: HMCState, acceptance_rate: jax.Array
    ) -> AdaptationState:
        averaging = average(state.averaging, acceptance_rate)
        learn = partial(metric.update, state.metric, current.position, current.logdensity_grad)
        learnt = jax.lax.cond(is_slow, learn, lambda: state.metric)
        return AdaptationState(averaging, learnt, jnp.exp(averaging.log_step_size), state.inverse_mass_matrix)

    def close(is_first: jax.Array, state: AdaptationState) -> AdaptationState:
        if not dense_mass:
            state = state._replace(metric=_averaged(state.metric, over_chains))
        return jax.vmap(close_one, in_axes=(None, 0))(is_first, state)

    def update(
        index: jax.Array, state: AdaptationState, current: HMCState, acceptance_rate: jax.Array
    ) -> AdaptationState:
        is_slow, is_window_end = schedule[index, 0] == 1, schedule[index, 1] == 1
        if not dense_mass:
            acceptance_rate = jnp.broadcast_to(jnp.mean(over_chains(acceptance_rate)), acceptance_rate.shape)
        new = jax.vmap(update_one, in_axes=(None, 0, 0, 0))(is_slow, state, current, acceptance_rate)
        new = jax.lax.cond(is_window_end, partial(close, index < first_end), lambda state: state, new)
        last = index == num_warmup - 1
        return new._replace(step_size=jnp.where(last, jax.vmap(finish)(new.averaging), new.step_size))

    return WindowAdaptation(init, update)


def early_windows(num_warmup: int) -> list[tuple[int, bool]]:
    """For every iteration whether its draw counts for a diagonal matrix, and whether a window ends with it.

    Windows double from 25 iterations on. The last one ends a third of the warm-up and at most 50 iterations before it.
    """
    end, size = num_warmup - min(50, num_warmup // 3), _FIRST_WINDOW
    ends, last = [], 0
    while last < end:
        # A window that would leave less than its own length takes that too.
        last = last + size if last + 2 * size <= end else end
        ends.append(last)
        size *= 2
    return [(index < end, index + 1 in ends) for index in range(num_warmup)]


def _steady_averaging(target_acceptance: float) -> tuple[Callable, Callable, Callable]:
    """Dual averaging of a step size that many chains share and that is nearly right when it begins."""
    begin, average, finish = dual_averaging_adaptation(target_acceptance, gamma=_REGULARISATION)

    def begin_near(step_size: jax.Array) -> Any:
        return begin(step_size)._replace(mu=jnp.log(_OPTIMISM * step_size))

    return begin_near, average, finish


def _variances(state: FisherMassMatrixAdaptationState, is_first: jax.Array) -> jax.Array:
    """The diagonal matrix that a window's moments call for."""
    block = state.fisher_block
    fisher = jnp.sqrt(block.m2_x / block.m2_g)
    variance = block.m2_x / jnp.maximum(block.count - 1.0, 1.0)
    found = jnp.where(is_first, fisher, jnp.maximum(variance, fisher))
    return _where_known(found, state.inverse_mass_matrix)


def _where_known(found: jax.Array, otherwise: jax.Array) -> jax.Array:
    """A scale, and another where chains or gradients do not differ."""
    return jnp.where(jnp.isfinite(found) & (found > 0.0), found, otherwise)


def _averaged(
    state: FisherMassMatrixAdaptationState, over_chains: Callable[[jax.Array], jax.Array]
) -> FisherMassMatrixAdaptationState:
    """The moments of all chains as those of each: about its own mean, so that it does not matter where a chain is."""

    def average(moment: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.mean(over_chains(moment), axis=0), moment.shape)

    block = state.fisher_block
    return state._replace(fisher_block=block._replace(m2_x=average(block.m2_x), m2_g=average(block.m2_g)))
