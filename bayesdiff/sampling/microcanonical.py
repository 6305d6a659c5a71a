"""The adjusted microcanonical sampler by BlackJAX, for fields of hundreds to many thousands of values.

Trajectories follow isokinetic dynamics: the velocity u has length 1 and is turned by the gradient g of the log density,
dx/dt = u, du/dt = (I - u u^T) g / (d - 1), so that the speed does not depend on how deep a chain is in the typical set
and the energy error per value falls with the dimension d. A Metropolis test on the change of log density plus the log
Jacobian of the velocity map makes the result exact (Robnik, Cohn-Gordon & Seljak 2025, arXiv:2503.01707; the dynamics
and their integrator: Robnik et al. 2023, arXiv:2212.08549). The velocity is drawn anew at every iteration and the
number of steps at random, as Hamiltonian Monte Carlo does.

Lengths are in the units of Hamiltonian Monte Carlo: in d dimensions a typical momentum has length d^(1/2), so a step
epsilon or a trajectory time T there is d^(1/2) epsilon or d^(1/2) T along the unit velocity here. The step size and the
diagonal preconditioner come from the same window adaptation as those of NUTS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from blackjax.mcmc.adjusted_mclmc import adjusted_mclmc_proposal
from blackjax.mcmc.adjusted_mclmc_dynamic import make_random_trajectory_length_fn
from blackjax.mcmc.hmc import HMCState
from blackjax.mcmc.integrators import IntegratorState, isokinetic_mclachlan
from blackjax.util import generate_unit_vector

from .chains import Info, Kernel, Prepared
from .layout import Layout
from .nuts import adaptive_kernel, check_adaptation
from .target import Density, Target

_LONGEST_WARMUP = 10


@dataclass(frozen=True)
class AdjustedMCLMC:
    """Metropolis-adjusted microcanonical sampler (Robnik, Cohn-Gordon & Seljak 2025, arXiv:2503.01707).

    For smooth posteriors of many values, such as a non-centred field. Its acceptance rate is best held high, because a
    long trajectory is lost at a rejection; unlike NUTS it does not find the length of its trajectories, so give a
    ``trajectory_length`` of several where the posterior is much wider along some direction than its single values are.

    Attributes:
        num_warmup: iterations of adaptation before the first draw, at least 20.
        target_acceptance: acceptance rate that the step size is adapted to, in (0, 1).
        trajectory_length: mean length of a trajectory in posterior standard deviations (after the preconditioner).
            Lengths are uniform between nothing and twice the mean.
        max_integration_steps: upper limit on the steps of an iteration, two gradients each; at most 10 in the
            warm-up.

    Raises:
        ValueError: for settings outside these ranges; at the start of a run for a model of a single unconstrained
            value, where a velocity of fixed length has no direction to turn to.
    """

    num_warmup: int = 500
    target_acceptance: float = 0.9
    trajectory_length: float = 1.5
    max_integration_steps: int = 128

    def __post_init__(self) -> None:
        check_adaptation(self.num_warmup, self.target_acceptance)
        if not (math.isfinite(self.trajectory_length) and self.trajectory_length > 0.0):
            raise ValueError(f"trajectory_length must be positive, got {self.trajectory_length}")
        if self.max_integration_steps < 1:
            raise ValueError(f"max_integration_steps must be at least 1, got {self.max_integration_steps}")

    @property
    def dense_mass(self) -> bool:
        """The isokinetic dynamics are preconditioned value by value."""
        return False

    def prepare(self, key: jax.Array, target: Target, num_chains: int, progress: bool) -> Prepared:
        """The kernel for this target's density."""
        del key, num_chains, progress
        size = sum(math.prod(shape) for shape in target.latent_shapes.values())
        if size < 2:
            raise ValueError(f"AdjustedMCLMC needs at least 2 unconstrained values, the model has {size}: use NUTS()")
        return Prepared(microcanonical_kernel(self, target.density, Layout.of(target.latent_shapes)), target)


@lru_cache(maxsize=16)
def microcanonical_kernel(settings: AdjustedMCLMC, density: Density, layout: Layout) -> Kernel:
    """Microcanonical kernel over all chains for ``density(position, data)``; the same object for the same arguments."""
    draw_num_steps = make_random_trajectory_length_fn(random_trajectory_length=True)

    def transition(
        key: jax.Array,
        state: HMCState,
        log_density: Any,
        *,
        step_size: jax.Array,
        inverse_mass_matrix: jax.Array,
        length_key: jax.Array,
        longest: jax.Array,
    ) -> tuple[HMCState, Any]:
        # The mean number is known at the end of the warm-up, so it does not depend on where a chain is.
        num_steps: Any = draw_num_steps(length_key, jnp.maximum(settings.trajectory_length / step_size, 1.0))
        num_steps = jnp.minimum(num_steps, longest)
        integrate = isokinetic_mclachlan(log_density, inverse_mass_matrix)
        propose = adjusted_mclmc_proposal(
            # A velocity that is drawn anew at every iteration needs no refreshment on the way.
            lambda state, step_size, refreshment, key: integrate(state, step_size),
            step_size * jnp.sqrt(1.0 * inverse_mass_matrix.shape[0]),
            jnp.inf,
            num_steps,
        )
        velocity_key, accept_key = jax.random.split(key)
        velocity = generate_unit_vector(velocity_key, state.position)
        current: Any = (state.position, velocity, state.logdensity, state.logdensity_grad)
        new, info, _ = propose(accept_key, IntegratorState(*current))
        reached: Any = (new.position, new.logdensity, new.logdensity_grad)
        return HMCState(*reached), info

    def vary(key: jax.Array, warming: jax.Array) -> dict[str, Any]:
        # The step size is far too small for a while, and trajectories of full length would cost the most where they
        # are worth the least.
        most = settings.max_integration_steps
        return {"length_key": key, "longest": jnp.where(warming, min(_LONGEST_WARMUP, most), most)}

    def describe(info: Any) -> Info:
        return {"n_steps": jnp.int32(info.num_integration_steps)}

    return adaptive_kernel(density, layout, transition, vary, describe, settings)
