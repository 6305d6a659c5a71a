"""Gibbs sampling of parameters and field: diffusion posterior sampling for the one, NUTS for the other.

For y = x + s Sigma_phi^(1/2) n with x from a diffusion prior, iterate (Heurtel-Depeiges et al. 2024, arXiv:2402.19455)

1. x | y, phi, s: the reverse SDE from the diffusion time t* of s, started at y;
2. phi, s | x, y: several NUTS steps on prior x N(y - x; 0, s^2 Sigma_phi), which depends on x only through the power
   of y - x summed over modes of equal |k|, computed once per iteration;
3. phi, s | (y - x) / (s Sigma_phi^(1/2)), y: Metropolis steps that the field follows.

The conditional of (phi, s) is far narrower than the marginal posterior and moves with the residual, so its step size
and mass matrix are adapted again at several iterations of the warm-up, each time on the residual of that moment. The
log density that NUTS starts from is that of the new residual, never a stale one. Where s is much better known given the
field than without it these two creep, and a third step moves parameters and field together
(:mod:`bayesdiff.sampling.interweaving`). The chain is exact up to the accuracy of denoiser and solver.

On a CPU the parameters of one chain move after those of another, as the chains of NUTS do: together they would all take
as long as the one with the longest trajectories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer.util import potential_energy

from .chains import Info, Kernel, Prepared, chain_keys
from .diffusion_sites import group_power, latent_priors, noisy_sites, require_noisy_sites, with_residual_power
from .field_gibbs import prepare_fields
from .interweaving import Fields, Proposal, first_proposal, learn, shift, whitened_residuals
from .parameter_steps import adapt, move, untuned
from .start import Start
from .target import BoundModel, Data, Position, Target


class GibbsState(NamedTuple):
    """Positions of the chains (num_chains, ...) and the tuning of their steps."""

    position: Position
    step_size: jax.Array
    inverse_mass_matrix: jax.Array
    proposal: Proposal


@dataclass(frozen=True)
class GibbsDiffusion:
    """Gibbs sampler over fields and parameters: of ``NoisyDiffusion`` sites, or of latent ``DiffusionPrior`` sites.

    Latent fields must be observed linearly (masked, weighted, filtered, summed) in Gaussian noise, whose level may be
    unknown; see :mod:`bayesdiff.sampling.field_gibbs`, also for what is not to be inferred with a learned prior.

    Attributes:
        num_warmup: iterations before the first draw.
        num_diffusion_steps: denoiser evaluations of each field draw.
        num_field_steps: how often a latent field is drawn anew per iteration; one that is observed in noise of its
            diffusion does not depend on the last, and is drawn once.
        num_parameter_steps: NUTS steps on the parameters per iteration.
        num_shifts: Metropolis steps per iteration that take the field along, of four denoiser evaluations each; 0
            leaves them out, and so does a latent field whose prior is a network.
        num_adaptations: how often NUTS is adapted, evenly over the warm-up.
        adaptation_steps: steps of BlackJAX's window adaptation each time.
        target_acceptance: acceptance rate that the step size is adapted to.
    """

    num_warmup: int = 100
    num_diffusion_steps: int = 24
    num_field_steps: int = 4
    num_parameter_steps: int = 5
    num_shifts: int = 4
    num_adaptations: int = 4
    adaptation_steps: int = 200
    target_acceptance: float = 0.8

    def __post_init__(self) -> None:
        for name in ("num_diffusion_steps", "num_field_steps", "num_parameter_steps", "num_adaptations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_shifts < 0:
            raise ValueError(f"num_shifts must not be negative, got {self.num_shifts}")
        if self.num_warmup < self.num_adaptations:
            raise ValueError(
                f"num_warmup must be at least num_adaptations={self.num_adaptations}, got {self.num_warmup}"
            )

    def prepare(self, key: jax.Array, target: Target, num_chains: int, progress: bool) -> Prepared:
        """The kernel for this target.

        Raises:
            ValueError: the model has neither a NoisyDiffusion site nor a latent DiffusionPrior site, or both; the prior
                of a field depends on the parameters; or a latent field is not observed linearly in Gaussian noise.
        """
        del num_chains, progress
        position = target.functions.draw_prior(key, target.data)
        latent = tuple(latent_priors(target.functions, position, target.data))
        if latent and noisy_sites(target.functions, position, target.data):
            raise ValueError(
                f"GibbsDiffusion samples latent fields or observed mixtures, not both in one model: it has the field "
                f"{latent[0]!r} and a NoisyDiffusion site; use bd.noncentred(model) with AdjustedMCLMC or NUTS"
            )
        if latent:
            return prepare_fields(self, key, target)
        for name, fn in require_noisy_sites(key, target, "GibbsDiffusion").items():
            if fn.model.prior_depends_on_context:
                raise ValueError(
                    f"GibbsDiffusion cannot sample site {name!r}: the prior of its field depends on the context "
                    f"{fn.model.context_names}, whose density given the field is not known; use MarginalSurrogate"
                )
        # The marginal density is never needed: the chains start at prior draws whatever it is there.
        startable = target.with_density(target.functions.log_prior, target.data)
        return Prepared(gibbs_kernel(self, target.functions), startable)


@lru_cache(maxsize=16)
def gibbs_kernel(settings: GibbsDiffusion, functions: BoundModel) -> Kernel:
    """Gibbs kernel over all chains; the same object for the same arguments."""
    in_turn = jax.default_backend() == "cpu"
    spacing = settings.num_warmup // settings.num_adaptations

    def log_density(position: Position, powers: Any, data: Data) -> jax.Array:
        args, kwargs = functions.arguments(data)
        given_field = with_residual_power(functions.model, powers)
        return -jnp.asarray(potential_energy(given_field, args, kwargs, position), dtype=float)

    def draw_fields(key: jax.Array, position: Position, data: Data) -> tuple[Fields, Fields]:
        fields, powers = {}, {}
        for index, (name, (fn, y)) in enumerate(noisy_sites(functions, position, data).items()):
            fields[name] = fn.sample_latent(jax.random.fold_in(key, index), y, settings.num_diffusion_steps)
            powers[name] = group_power(fn.model, y - fields[name])
        return fields, powers

    def init(key: jax.Array, start: Start, data: Data) -> GibbsState:
        return GibbsState(start.position, *untuned(start.position), jax.vmap(first_proposal)(start.position))

    def tune(key: jax.Array, state: GibbsState, powers: Any, data: Data) -> GibbsState:
        given = partial(log_density, powers=powers, data=data)
        return adapt(key, state, given, settings.adaptation_steps, settings.target_acceptance)

    def move_parameters(key: jax.Array, state: GibbsState, powers: Any, data: Data) -> tuple[GibbsState, Info]:
        return move(key, state, partial(log_density, powers=powers, data=data), settings.num_parameter_steps)

    def shift_all(key: jax.Array, state: GibbsState, fields: Fields, warming: jax.Array, data: Data) -> GibbsState:
        white = whitened_residuals(functions, state.position, fields, data)

        def one(carry: tuple[Position, Proposal], key: jax.Array) -> tuple[tuple[Position, Proposal], None]:
            position, acceptance = shift(key, carry[0], white, carry[1], functions, data)
            learnt = learn(carry[1], position, acceptance)
            return (position, jax.tree.map(lambda a, b: jnp.where(warming, a, b), learnt, carry[1])), None

        keys = jax.random.split(key, settings.num_shifts)
        (position, proposal), _ = jax.lax.scan(one, (state.position, state.proposal), keys)
        return state._replace(position=position, proposal=proposal)

    def each(function: Callable[..., Any], chains: tuple[Any, ...], data: Data) -> Any:
        if in_turn:
            return jax.lax.map(lambda chain: function(*chain, data), chains)
        return jax.vmap(lambda *chain: function(*chain, data))(*chains)

    def step(key: jax.Array, index: jax.Array, state: GibbsState, data: Data) -> tuple[GibbsState, Info]:
        keys = chain_keys(key, state.step_size.shape[0])
        split = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 4))(keys), 1, 0)
        field_keys, adapt_keys, move_keys, shift_keys = split
        fields, powers = jax.vmap(draw_fields, in_axes=(0, 0, None))(field_keys, state.position, data)
        adapting = (index < settings.num_warmup) & (index % spacing == 0)

        def adapted() -> GibbsState:
            new = each(tune, (adapt_keys, state, powers), data)
            return jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)

        state = jax.lax.cond(adapting, adapted, lambda: state)
        state, statistics = each(move_parameters, (move_keys, state, powers), data)
        # The statistics are those of the parameters given the field; the shifts have none of their own.
        if settings.num_shifts:
            warming = index < settings.num_warmup
            state = jax.vmap(shift_all, in_axes=(0, 0, 0, None, None))(shift_keys, state, fields, warming, data)
        return state, statistics

    return Kernel(init, step, lambda state: state.position, settings.num_warmup, independent=True, in_turn=in_turn)
