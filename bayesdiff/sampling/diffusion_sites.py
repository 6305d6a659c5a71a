"""The diffusion sites of a NumPyro model, as the engines of this package see them.

A site y ~ NoisyDiffusion can be read in three ways without a change to the model: with another estimator of its log
density (:func:`with_log_density`, also of a site x ~ DiffusionPrior), with its field as a latent block
(:func:`with_residual_power`), or as the distribution itself at given parameters (:func:`noisy_sites`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import Distribution, ExpandedDistribution, ImproperUniform, constraints
from numpyro.infer.util import constrain_fn
from numpyro.primitives import Messenger

from bayesdiff.diffusion.densities import LogDensity
from bayesdiff.diffusion.fourier import RadialModes, mode_power
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.distributions import DiffusionPrior, NoisyDiffusion
from bayesdiff.distributions.batching import over_batch

from .target import BoundModel, Data, Model, Position, Target


class _ReplaceSites(Messenger):
    """Replace every observed site of some kind by ``change(name, distribution, value)``."""

    def __init__(self, fn: Model, kind: Any, change: Callable[[str, Any, Any], tuple[Distribution, Any]]):
        super().__init__(fn)
        self.kind, self.change = kind, change

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or not msg["is_observed"]:
            return
        fn = msg["fn"]
        if isinstance(fn, self.kind):
            msg["fn"], msg["value"] = self.change(msg["name"], fn, msg["value"])
        elif isinstance(unexpanded(fn), self.kind):
            changed, msg["value"] = self.change(msg["name"], unexpanded(fn), msg["value"])
            msg["fn"] = changed.expand(fn.batch_shape)


def unexpanded(fn: Distribution) -> Distribution:
    """The distribution itself, where a plate has expanded it."""
    return fn.base_dist if isinstance(fn, ExpandedDistribution) else fn


def with_log_density(model: Model, log_density: LogDensity) -> Model:
    """The model with the estimator of every observed site of a diffusion replaced."""

    def change(name: str, fn: NoisyDiffusion | DiffusionPrior, value: Any) -> tuple[Distribution, Any]:
        if isinstance(fn, DiffusionPrior):
            return DiffusionPrior(fn.model, fn.context, log_density), value
        return NoisyDiffusion(fn.model, fn.noise_level, fn.context, log_density), value

    return _ReplaceSites(model, (NoisyDiffusion, DiffusionPrior), change)


def with_residual_power(model: Model, powers: Mapping[str, jax.Array]) -> Model:
    """The model given the fields: each site becomes the power of its residual y - x, all that the parameters see."""

    def change(name: str, fn: NoisyDiffusion, value: Any) -> tuple[Distribution, Any]:
        return ResidualPower(fn.model, fn.noise_level, fn.context), powers[name]

    return _ReplaceSites(model, NoisyDiffusion, change)


class ResidualPower(Distribution):
    """The complete-data likelihood N(y - x; 0, s^2 Sigma) as a density of the residual's grouped power.

    The residual enters only through |FFT(y - x)|^2, and for an isotropic Sigma only through its sum over modes of
    equal |k|.
    """

    arg_constraints = {"noise_level": constraints.positive, "context": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative, 2)  # pyright: ignore[reportAssignmentType]

    def __init__(self, model: DiffusionModel, noise_level: jax.Array, context: jax.Array):
        self.model, self.noise_level, self.context = model, noise_level, context
        groups = group_power(model, jnp.zeros(model.event_shape)).shape
        super().__init__(jnp.broadcast_shapes(noise_level.shape, context.shape[:-1]), groups, validate_args=False)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density up to no constant: log N(y - x; 0, s^2 Sigma)."""
        batch = jnp.broadcast_shapes(jnp.shape(value)[:-2], self.batch_shape)
        return over_batch(self._one, batch, [(value, 2), (self.noise_level, 0), (self.context, 1)])

    def _one(self, power: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        event_shape = self.model.event_shape
        total = s**2 * jnp.broadcast_to(self.model.noise_power(context), event_shape)
        counts: Any = 1.0
        if self.model.noise.isotropic:
            modes = RadialModes(event_shape[-2:])
            total, counts = modes.representative(total), jnp.asarray(modes.counts, dtype=power.dtype)
        else:
            total = total.reshape(event_shape[0], -1)
        return -0.5 * jnp.sum(power / total + counts * jnp.log(2.0 * jnp.pi * total))


def group_power(model: DiffusionModel, residual: jax.Array) -> jax.Array:
    """|FFT|^2 of residual fields (..., C, H, W), summed over equal |k| where Sigma is isotropic: (..., C, groups)."""
    power = mode_power(residual)
    if model.noise.isotropic:
        return RadialModes(model.event_shape[-2:]).total(power)
    return power.reshape(*power.shape[:-2], -1)


def noisy_sites(functions: BoundModel, position: Position, data: Data) -> dict[str, tuple[NoisyDiffusion, jax.Array]]:
    """Distribution and observed value of every NoisyDiffusion site, at one unconstrained position."""
    args, kwargs = functions.arguments(data)
    values = constrain_fn(functions.model, args, kwargs, position)
    return noisy_sites_at(functions, values, data)


def noisy_sites_at(
    functions: BoundModel, values: Mapping[str, jax.Array], data: Data
) -> dict[str, tuple[NoisyDiffusion, jax.Array]]:
    """The same at constrained values of the latent sites."""
    args, kwargs = functions.arguments(data)
    trace = handlers.trace(handlers.substitute(functions.model, data=dict(values))).get_trace(*args, **kwargs)
    observed = {name: site for name, site in trace.items() if site["type"] == "sample" and site["is_observed"]}
    found = {name: (unexpanded(site["fn"]), jnp.asarray(site["value"])) for name, site in observed.items()}
    return {name: (fn, y) for name, (fn, y) in found.items() if isinstance(fn, NoisyDiffusion)}


def latent_priors(functions: BoundModel, position: Position, data: Data) -> dict[str, DiffusionPrior]:
    """The distribution of every latent DiffusionPrior site, at one unconstrained position."""
    kinds = functions.distributions(position, data)
    found = {name: unexpanded(kinds[name]) for name in functions.latent}
    return {name: fn for name, fn in found.items() if isinstance(fn, DiffusionPrior)}


class _WithoutPriors(Messenger):
    """Give latent sites of these names a flat density."""

    def __init__(self, fn: Model, names: tuple[str, ...]):
        super().__init__(fn)
        self.names = names

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            fn = msg["fn"]
            msg["fn"] = ImproperUniform(fn.support, fn.batch_shape, fn.event_shape)


def without_priors(model: Model, names: tuple[str, ...]) -> Model:
    """The model whose latent fields have no density of their own."""
    return _WithoutPriors(model, names)


class _WithLikelihoodPower(Messenger):
    """Raise the density of every observed site to a power."""

    def __init__(self, fn: Model, power: jax.Array | float):
        super().__init__(fn)
        self.power = power

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["is_observed"]:
            msg["scale"] = self.power if msg.get("scale") is None else self.power * msg["scale"]


def with_likelihood_power(model: Model, power: jax.Array | float) -> Model:
    """The model with its likelihood raised to a power, and its priors as they are."""
    return _WithLikelihoodPower(model, power)


def require_noisy_sites(key: jax.Array, target: Target, who: str) -> dict[str, NoisyDiffusion]:
    """The NoisyDiffusion sites of a target at one prior draw.

    Raises:
        ValueError: there is none, with what the model observes instead.
    """
    position = target.functions.draw_prior(key, target.data)
    sites = noisy_sites(target.functions, position, target.data)
    if not sites:
        kinds = target.functions.distributions(position, target.data)
        seen = ", ".join(f"{name} ~ {type(kinds[name]).__name__}" for name in target.functions.observed)
        raise ValueError(f"{who} needs an observed site with a NoisyDiffusion distribution; the model observes {seen}")
    return {name: fn for name, (fn, _) in sites.items()}


def observed_diffusions(key: jax.Array, target: Target) -> dict[str, NoisyDiffusion | DiffusionPrior]:
    """Every observed site whose density is that of a diffusion, by name, at one prior draw."""
    position = target.functions.draw_prior(key, target.data)
    kinds = target.functions.distributions(position, target.data)
    sites = {name: unexpanded(kinds[name]) for name in target.functions.observed}
    return {name: fn for name, fn in sites.items() if isinstance(fn, NoisyDiffusion | DiffusionPrior)}
