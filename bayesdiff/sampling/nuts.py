"""Hamiltonian Monte Carlo by BlackJAX: NUTS and HMC, all chains in one program.

Step size and mass matrix are those of Stan's window adaptation (`bayesdiff.sampling.adaptation`).

On a CPU the chains of NUTS move one after the other inside the program: chains that move together all take as long as
the one with the longest trajectory, about a third more than their mean, and a core gains nothing from it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import blackjax
import jax
import jax.numpy as jnp
from blackjax.mcmc.hmc import HMCState
from blackjax.mcmc.metrics import Metric, gaussian_euclidean

from .adaptation import AdaptationState, window_adaptation
from .chains import Info, Kernel, Prepared, chain_keys, over_chains
from .layout import Layout
from .start import Start
from .target import Data, Density, Position, Target

_MIN_WARMUP = 20
_MAX_DENSE = 500
_NO_CHAIN = 2**31


class Adaptation(Protocol):
    """The settings that the window adaptation needs."""

    @property
    def num_warmup(self) -> int:
        """Iterations of adaptation."""
        ...

    @property
    def target_acceptance(self) -> float:
        """Acceptance rate that the step size is adapted to."""
        ...

    @property
    def dense_mass(self) -> bool:
        """Whether the inverse mass matrix is dense."""
        ...


class ChainState(NamedTuple):
    """State of one chain: position with its density and gradient, and the adaptation, frozen after the warm-up."""

    current: HMCState
    adaptation: AdaptationState


@dataclass(frozen=True)
class NUTS:
    """No-U-turn sampler (Hoffman & Gelman 2014, arXiv:1111.4246; multinomial version of Betancourt 2017).

    Attributes:
        num_warmup: iterations of adaptation before the first draw, at least 20.
        target_acceptance: acceptance rate that the step size is adapted to, in (0, 1).
        max_tree_depth: at most ``2 ** max_tree_depth - 1`` gradients per iteration.
        dense_mass: whether the mass matrix is dense (parameters) or diagonal (fields with hundreds of values).
    """

    num_warmup: int = 500
    target_acceptance: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = True

    def __post_init__(self) -> None:
        check_adaptation(self.num_warmup, self.target_acceptance)
        if self.max_tree_depth < 1:
            raise ValueError(f"max_tree_depth must be at least 1, got {self.max_tree_depth}")

    def prepare(self, key: jax.Array, target: Target, num_chains: int, progress: bool) -> Prepared:
        """The kernel for this target's density."""
        del key, num_chains, progress
        _warn_if_large(self.dense_mass, target)
        return Prepared(nuts_kernel(self, target.density, Layout.of(target.latent_shapes)), target)


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901).

    The number of leapfrog steps is drawn for every iteration, because trajectories of one length may close on
    themselves and return every chain to where it was (section 3.2 there).

    Attributes:
        num_warmup: iterations of adaptation before the first draw, at least 20.
        target_acceptance: acceptance rate that the step size is adapted to, in (0, 1).
        num_integration_steps: largest number of gradients per iteration; each iteration draws one from 1 to it.
        dense_mass: whether the mass matrix is dense (parameters) or diagonal (fields with hundreds of values).
    """

    num_warmup: int = 500
    target_acceptance: float = 0.8
    num_integration_steps: int = 10
    dense_mass: bool = True

    def __post_init__(self) -> None:
        check_adaptation(self.num_warmup, self.target_acceptance)
        if self.num_integration_steps < 1:
            raise ValueError(f"num_integration_steps must be at least 1, got {self.num_integration_steps}")

    def prepare(self, key: jax.Array, target: Target, num_chains: int, progress: bool) -> Prepared:
        """The kernel for this target's density."""
        del key, num_chains, progress
        _warn_if_large(self.dense_mass, target)
        return Prepared(hmc_kernel(self, target.density, Layout.of(target.latent_shapes)), target)


@lru_cache(maxsize=16)
def nuts_kernel(settings: NUTS, density: Density, layout: Layout) -> Kernel:
    """NUTS kernel over all chains for ``density(position, data)``; the same object for the same arguments."""
    transition = _euclidean(partial(blackjax.nuts.build_kernel(), max_num_doublings=settings.max_tree_depth))

    def vary(key: jax.Array, warming: jax.Array) -> dict[str, Any]:
        del key, warming
        return {}

    def describe(info: Any) -> Info:
        steps = {"n_steps": info.num_integration_steps, "tree_depth": info.num_trajectory_expansions}
        return {"energy": info.energy, **steps}

    in_turn = jax.default_backend() == "cpu"
    return adaptive_kernel(density, layout, transition, vary, describe, settings, in_turn=in_turn)


@lru_cache(maxsize=16)
def hmc_kernel(settings: HMC, density: Density, layout: Layout) -> Kernel:
    """HMC kernel over all chains for ``density(position, data)``; the same object for the same arguments."""

    def vary(key: jax.Array, warming: jax.Array) -> dict[str, Any]:
        del warming
        return {"num_integration_steps": jax.random.randint(key, (), 1, settings.num_integration_steps + 1)}

    def describe(info: Any) -> Info:
        return {"energy": info.energy, "n_steps": jnp.int32(info.num_integration_steps)}

    return adaptive_kernel(density, layout, _euclidean(blackjax.hmc.build_kernel()), vary, describe, settings)


def guarded_metric(inverse_mass_matrix: jax.Array) -> Metric:
    """BlackJAX's Euclidean metric whose kinetic energy is infinite where it overflows.

    A step that is far too large leaves a momentum whose quadratic form overflows in float32, with a dense matrix to
    minus infinity as readily as to plus; BlackJAX would take that for a wonderful proposal and the chain would be lost.
    A diagonal matrix adds up what is positive and needs no guard.
    """
    metric = gaussian_euclidean(inverse_mass_matrix)
    if jnp.ndim(inverse_mass_matrix) < 2:
        return metric

    def kinetic_energy(momentum: Any, position: Any = None) -> jax.Array:
        energy = jnp.asarray(metric.kinetic_energy(momentum, position=position))
        return jnp.where(energy > -1.0, energy, jnp.inf)

    return metric._replace(kinetic_energy=kinetic_energy)


def _euclidean(transition: Callable[..., Any]) -> Callable[..., Any]:
    """A BlackJAX transition that takes the inverse mass matrix as an array and meets it with `guarded_metric`."""

    def move(*args: Any, inverse_mass_matrix: jax.Array, **kwargs: Any) -> Any:
        return transition(*args, inverse_mass_matrix=guarded_metric(inverse_mass_matrix), **kwargs)

    return move


def adaptive_kernel(
    density: Density,
    layout: Layout,
    transition: Callable[..., Any],
    vary: Callable[[jax.Array, jax.Array], dict[str, Any]],
    describe: Callable[[Any], Info],
    settings: Adaptation,
    in_turn: bool = False,
) -> Kernel:
    """All chains of a Metropolis-adjusted transition under Stan's window adaptation.

    Args:
        density: log density ``(position, data)``.
        layout: of its positions, which the transition sees as vectors.
        transition: ``(key, HMCState, log_density, step_size=, inverse_mass_matrix=, **varied) -> (HMCState, info)`` of
            one chain; ``info`` has ``acceptance_rate`` and ``is_divergent``.
        vary: from the key of an iteration, and whether it is of the warm-up, what all chains share in it.
        describe: statistics of one chain from its ``info``, beyond those of every such kernel.
        settings: of the adaptation.
        in_turn: whether the chains of a device move one after the other, for transitions of unequal length where
            nothing is gained from moving them together; the longest would hold up the others.
    """
    num_warmup = settings.num_warmup
    adaptation = window_adaptation(num_warmup, settings.target_acceptance, settings.dense_mass, over_chains)

    def log_density(vector: jax.Array, data: Data) -> jax.Array:
        return density(layout.unflatten(vector), data)

    def init(key: jax.Array, start: Start, data: Data) -> ChainState:
        del key, data
        vectors, gradients = (jax.vmap(layout.flatten)(x) for x in (start.position, start.gradient))
        current: Any = (vectors, start.log_density, gradients)
        return ChainState(HMCState(*current), adaptation.init(vectors, gradients))

    def step(key: jax.Array, index: jax.Array, state: ChainState, data: Data) -> tuple[ChainState, Info]:
        # Drawn once for all chains, which run in lockstep anyway.
        varied = vary(jax.random.fold_in(key, _NO_CHAIN), index < num_warmup)

        def move(key: jax.Array, current: HMCState, step_size: jax.Array, inverse_mass_matrix: jax.Array) -> Any:
            return transition(
                key,
                current,
                partial(log_density, data=data),
                step_size=step_size,
                inverse_mass_matrix=inverse_mass_matrix,
                **varied,
            )

        keys = chain_keys(key, jnp.shape(state.current.logdensity)[0])
        each = (keys, state.current, state.adaptation.step_size, state.adaptation.inverse_mass_matrix)
        if in_turn:
            current, info = jax.lax.map(lambda chain: move(*chain), each)
        else:
            current, info = jax.vmap(move)(*each)
        info_of_step = {
            "acceptance_rate": info.acceptance_rate,
            "diverging": info.is_divergent,
            "step_size": state.adaptation.step_size,
            "lp": current.logdensity,
            **jax.vmap(describe)(info),
        }

        def adapted(_: jax.Array, old: AdaptationState) -> AdaptationState:
            new = adaptation.update(index, old, current, info.acceptance_rate)
            return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)

        # A loop of one pass or none leaves the arrays where they are; a condition copies them at every draw.
        tuning = jax.lax.fori_loop(0, jnp.int32(index < num_warmup), adapted, state.adaptation)
        return ChainState(current, tuning), info_of_step

    def position(state: ChainState) -> Position:
        return jax.vmap(layout.unflatten)(jnp.asarray(state.current.position))

    return Kernel(init, step, position, num_warmup, independent=True, in_turn=in_turn)


def check_adaptation(num_warmup: int, target_acceptance: float) -> None:
    """Raise ValueError for settings with which the window adaptation cannot work."""
    if num_warmup < _MIN_WARMUP:
        raise ValueError(f"num_warmup must be at least {_MIN_WARMUP} to adapt the mass matrix, got {num_warmup}")
    if not 0.0 < target_acceptance < 1.0:
        raise ValueError(f"target_acceptance must be between 0 and 1, got {target_acceptance}")


def _warn_if_large(dense_mass: bool, target: Target) -> None:
    size = sum(math.prod(shape) for shape in target.latent_shapes.values())
    if dense_mass and size > _MAX_DENSE:
        warnings.warn(
            f"a dense mass matrix for {size} unconstrained values adapts slowly and costs their square: "
            "consider dense_mass=False",
            UserWarning,
            stacklevel=2,
        )
