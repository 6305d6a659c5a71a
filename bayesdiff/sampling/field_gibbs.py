"""Gibbs sampling of a model whose diffusion fields are latent sites.

In turn

1. the fields given the parameters, by noise of the diffusion's kind and the reverse process from it
   (:mod:`bayesdiff.sampling.augmentation`), which costs no gradient of the network: exact draws for linear
   observations in Gaussian noise, proposals with a Metropolis test for any other likelihood;
2. the parameters given the fields, by NUTS, which costs no network at all;
3. parameters and fields together, the fields following what the data and the Gaussian twin make of the parameters
   (:mod:`bayesdiff.sampling.translations`), because given the field a calibration or a noise level hardly moves.

The third needs the density of a field, and is left out where a network is all that knows it: in the sum of what
thousands of modes say of a common factor the errors of a network add up, to tens of times the scatter of an exact score
(study ``masked_map``). Without it a parameter that scales a learned field, such as a calibration, creeps, and it drifts
with the same errors: fix it, or learn the prior of standardised fields and make their amplitude a parameter, so that it
is the product of the two that the data tell. Fields that are observed and noise levels are held by the data.

The chains start at draws of the prior, and in the first half of the warm-up the likelihood comes in by degrees, raised
to a power that rises to 1. While it is weak the noise that is split off is large, and a chain goes over between modes
that it could not leave later (simulated annealing by the likelihood, as in Neal 2001, Stat. Comput. 11, 125). The
priors of the parameters are whole all the time: a power of them would send the chains far into their tails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer.util import potential_energy

from bayesdiff.diffusion.denoiser import is_gaussian
from bayesdiff.distributions import DiffusionPrior

from .augmentation import SHARE, Draw, Fields, draw_given_likelihood, is_linear
from .chains import Info, Kernel, Prepared, chain_keys
from .diffusion_sites import latent_priors, with_likelihood_power, without_priors
from .interweaving import Proposal, first_proposal, learn
from .parameter_steps import adapt, move, untuned
from .start import Start
from .target import BoundModel, Data, Position, Target
from .translations import translate

if TYPE_CHECKING:
    from .gibbs import GibbsDiffusion


FIELD_ACCEPTANCE, DECAY = 0.6, 0.6
FIRST_POWER, RISING = 1e-3, 0.5
"""Power of the likelihood at the start of the warm-up, and the share of the warm-up in which it rises to 1."""


class FieldTuning(NamedTuple):
    """What the proposals of the fields of one chain are, learnt in its warm-up; unused for a linear likelihood.

    Attributes:
        reference: a running mean of the fields, where the curvature is taken.
        log_share: logarithm of the share of the noise that is split off.
        count: draws that this was learnt from.
    """

    reference: Fields
    log_share: jax.Array
    count: jax.Array


class FieldGibbsState(NamedTuple):
    """Parameters and fields of the chains (num_chains, ...) and the tuning of their steps."""

    position: Position
    fields: Fields
    tuning: FieldTuning
    step_size: jax.Array
    inverse_mass_matrix: jax.Array
    proposal: Proposal


def prepare_fields(settings: GibbsDiffusion, key: jax.Array, target: Target) -> Prepared:
    """The kernel for a target with latent ``DiffusionPrior`` sites.

    Raises:
        ValueError: the prior of a field depends on the parameters.
    """
    functions, data = target.functions, target.data
    positions = [functions.draw_prior(k, data) for k in jax.random.split(key, 2)]
    priors, others = (latent_priors(functions, position, data) for position in positions)
    names = tuple(priors)
    for name, prior in priors.items():
        moved = jnp.any(prior.context != others[name].context)
        if prior.model.prior_depends_on_context and moved:
            raise ValueError(
                f"GibbsDiffusion cannot sample site {name!r}: the prior of the field depends on the context "
                f"{prior.model.context_names}, whose density given the field is not known; use "
                "bd.noncentred(model) with AdjustedMCLMC or NUTS"
            )
    rest, fields = split(positions[0], names)
    linear = is_linear(key, lambda x: log_likelihood(functions, names, rest, x, data), fields)
    startable = target.with_density(density_without(functions, names), data)
    if not all(is_gaussian(prior.model.denoiser) for prior in priors.values()):
        settings = replace(settings, num_shifts=0)
    return Prepared(field_gibbs_kernel(settings, functions, names, linear), startable)


def split(position: Position, names: tuple[str, ...]) -> tuple[Position, Fields]:
    """Parameters, and fields."""
    rest = {name: x for name, x in position.items() if name not in names}
    return rest, {name: position[name] for name in names}


def log_likelihood(
    functions: BoundModel,
    names: tuple[str, ...],
    parameters: Position,
    fields: Fields,
    data: Data,
    power: jax.Array | float = 1.0,
) -> jax.Array:
    """Log joint density of everything but the priors of the fields, the likelihood raised to a power: a scalar."""
    args, kwargs = functions.arguments(data)
    others = with_likelihood_power(without_priors(functions.model, names), power)
    return -jnp.asarray(potential_energy(others, args, kwargs, {**parameters, **fields}), dtype=float)


@lru_cache(maxsize=16)
def density_without(functions: BoundModel, names: tuple[str, ...]) -> Callable[[Position, Data], jax.Array]:
    """:func:`log_likelihood` as a density of the position, which is never that of a network."""

    def density(position: Position, data: Data) -> jax.Array:
        return log_likelihood(functions, names, *split(position, names), data)

    return density


def likelihood_power(index: jax.Array, num_warmup: int) -> jax.Array:
    """Power that the likelihood has in an iteration: it rises geometrically in the warm-up, and is 1 after it."""
    progress = jnp.minimum((index + 1.0) / max(RISING * num_warmup, 1.0), 1.0)
    return FIRST_POWER ** (1.0 - progress)


def tune_fields(tuning: FieldTuning, draw: Draw) -> FieldTuning:
    """The tuning after one more draw: a mean that forgets the first draws, and a share for the acceptance rate."""
    weight = (tuning.count + 2.0) ** -DECAY
    reference = jax.tree.map(lambda a, b: a + weight * (b - a), tuning.reference, draw.fields)
    log_share = tuning.log_share + weight * (draw.acceptance - FIELD_ACCEPTANCE)
    return FieldTuning(reference, jnp.minimum(log_share, jnp.log(SHARE)), tuning.count + 1.0)


@lru_cache(maxsize=16)
def field_gibbs_kernel(settings: GibbsDiffusion, functions: BoundModel, names: tuple[str, ...], linear: bool) -> Kernel:
    """Gibbs kernel over all chains; the same object for the same arguments."""
    in_turn = jax.default_backend() == "cpu"
    spacing = settings.num_warmup // settings.num_adaptations

    def tempered(position: Position, fields: Fields, data: Data, power: jax.Array) -> jax.Array:
        return log_likelihood(functions, names, position, fields, data, power)

    def priors_at(position: Position, fields: Fields, data: Data) -> dict[str, DiffusionPrior]:
        return latent_priors(functions, {**position, **fields}, data)

    def draw_fields(
        key: jax.Array, state: FieldGibbsState, warming: jax.Array, data: Data, power: jax.Array
    ) -> tuple[FieldGibbsState, Info]:
        priors = priors_at(state.position, state.fields, data)
        likelihood = partial(tempered, state.position, data=data, power=power)

        def once(carry: tuple[Fields, FieldTuning], key: jax.Array) -> tuple[tuple[Fields, FieldTuning], Info]:
            fields, tuning = carry
            proposals = {} if linear else {"reference": tuning.reference, "share": jnp.exp(tuning.log_share)}
            draw = draw_given_likelihood(key, priors, likelihood, fields, settings.num_diffusion_steps, **proposals)
            learnt = tune_fields(tuning, draw)
            tuning = jax.tree.map(lambda a, b: jnp.where(warming, a, b).astype(b.dtype), learnt, tuning)
            return (draw.fields, tuning), {"field_noise_level": draw.level, "field_acceptance_rate": draw.acceptance}

        keys = jax.random.split(key, settings.num_field_steps)
        (fields, tuning), info = jax.lax.scan(once, (state.fields, state.tuning), keys)
        return state._replace(fields=fields, tuning=tuning), jax.tree.map(jnp.mean, info)

    def init(key: jax.Array, start: Start, data: Data) -> FieldGibbsState:
        rest, fields = split(start.position, names)
        num_chains = len(start.log_density)
        tuning = FieldTuning(fields, jnp.full(num_chains, jnp.log(SHARE)), jnp.zeros(num_chains))
        if not rest:
            nothing = jnp.zeros((num_chains, 0))
            return FieldGibbsState(rest, fields, tuning, nothing, nothing, jax.vmap(first_proposal)({"": nothing}))
        return FieldGibbsState(rest, fields, tuning, *untuned(rest), jax.vmap(first_proposal)(rest))

    def tune(key: jax.Array, state: FieldGibbsState, data: Data, power: jax.Array) -> FieldGibbsState:
        given = partial(tempered, fields=state.fields, data=data, power=power)
        return adapt(key, state, given, settings.adaptation_steps, settings.target_acceptance)

    def move_parameters(
        key: jax.Array, state: FieldGibbsState, data: Data, power: jax.Array
    ) -> tuple[FieldGibbsState, Info]:
        given = partial(tempered, fields=state.fields, data=data, power=power)
        return move(key, state, given, settings.num_parameter_steps)

    def shift_all(
        key: jax.Array, state: FieldGibbsState, warming: jax.Array, data: Data, power: jax.Array
    ) -> FieldGibbsState:
        def one(
            carry: tuple[Position, Fields, Proposal], key: jax.Array
        ) -> tuple[tuple[Position, Fields, Proposal], None]:
            position, fields, proposal = carry
            likelihood = partial(tempered, data=data, power=power)
            priors = partial(priors_at, fields=fields, data=data)
            position, fields, acceptance = translate(key, position, fields, proposal, likelihood, priors)
            learnt = learn(proposal, position, acceptance)
            return (position, fields, jax.tree.map(lambda a, b: jnp.where(warming, a, b), learnt, proposal)), None

        keys = jax.random.split(key, settings.num_shifts)
        carry, _ = jax.lax.scan(one, (state.position, state.fields, state.proposal), keys)
        position, fields, proposal = carry
        return state._replace(position=position, fields=fields, proposal=proposal)

    def each(function: Callable[..., Any], chains: tuple[Any, ...], *common: Any) -> Any:
        if in_turn:
            return jax.lax.map(lambda chain: function(*chain, *common), chains)
        return jax.vmap(lambda *chain: function(*chain, *common))(*chains)

    def step(key: jax.Array, index: jax.Array, state: FieldGibbsState, data: Data) -> tuple[FieldGibbsState, Info]:
        num_chains = jax.tree.leaves(state.fields)[0].shape[0]
        split_keys = jax.vmap(lambda k: jax.random.split(k, 4))(chain_keys(key, num_chains))
        field_keys, adapt_keys, move_keys, shift_keys = jnp.moveaxis(split_keys, 1, 0)
        warming = index < settings.num_warmup
        power = likelihood_power(index, settings.num_warmup)
        over_chains = (0, 0, None, None, None)
        state, statistics = jax.vmap(draw_fields, in_axes=over_chains)(field_keys, state, warming, data, power)
        if not state.position:
            return state, statistics
        adapting = warming & (index % spacing == 0)

        def adapted() -> FieldGibbsState:
            new = each(tune, (adapt_keys, state), data, power)
            return jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)

        state = jax.lax.cond(adapting, adapted, lambda: state)
        state, of_nuts = each(move_parameters, (move_keys, state), data, power)
        if settings.num_shifts:
            state = jax.vmap(shift_all, in_axes=over_chains)(shift_keys, state, warming, data, power)
        return state, statistics | of_nuts

    def position(state: FieldGibbsState) -> Position:
        return {**state.position, **state.fields}

    return Kernel(init, step, position, settings.num_warmup, independent=True, in_turn=in_turn)
