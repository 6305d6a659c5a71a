"""A NumPyro model as a log density: the place where NumPyro meets the samplers.

A sampler needs three functions of an unconstrained position q (a dict with one array per latent site) and of the data d
(the floating-point arrays among the model's arguments):

* ``log_density(q, d)`` = log p(theta(q), d) + log |d theta / d q|, the joint density with the Jacobian of the
  bijections that NumPyro assigns to the supports;
* ``constrain(q, d)``, the latent and deterministic sites at theta(q);
* draws from the prior, in unconstrained space, to start from.

Building a target evaluates no likelihood: an algorithm may replace the density first (`Target.with_density`). The data
are arguments, not constants, so that the same compiled chains run on new data of the same shape (`Target.with_data`),
as a calibration study wants. The functions are pure and belong to one `BoundModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import distribution
from numpyro.infer import init_to_sample
from numpyro.infer.util import constrain_fn, potential_energy

from . import sites as reading
from .programs import compile_once

# Where ArviZ was imported first, which loads NumPyro lazily, the package lacks this name, and NumPyro's `factor` fails.
dist.distribution = distribution  # pyright: ignore[reportAttributeAccessIssue]

Model = Callable[..., Any]
Position = dict[str, jax.Array]
Data = Any
Density = Callable[[Position, Data], jax.Array]


@dataclass(frozen=True, eq=False)
class BoundModel:
    """The model's functions of an unconstrained position and of the data; compared and hashed by identity.

    Attributes:
        model: the NumPyro model, after any transformation.
        treedef: structure of ``(model_args, model_kwargs)``.
        static: the leaves of it that are part of the program, e.g. sizes; None where a leaf travels in the data.
        latent: names of the latent sites.
        observed: names of the observed sites, ``numpyro.factor`` included.
    """

    model: Model
    treedef: Any
    static: tuple[Any, ...]
    latent: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()

    def arguments(self, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The model's positional and keyword arguments with these data."""
        leaves = [old if new is None else new for old, new in zip(self.static, data, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)

    def log_density(self, position: Position, data: Data) -> jax.Array:
        """Log joint density in unconstrained space, Jacobian included: a scalar."""
        return -jnp.asarray(potential_energy(self.model, *self.arguments(data), position), dtype=float)

    def log_prior(self, position: Position, data: Data) -> jax.Array:
        """`log_density` without the observed sites, which are not evaluated: a scalar."""
        unobserved = handlers.block(self.model, hide=list(self.observed))
        return -jnp.asarray(potential_energy(unobserved, *self.arguments(data), position), dtype=float)

    def distributions(self, position: Position, data: Data) -> dict[str, dist.Distribution]:
        """The distribution of every sample site, observed ones included, given the latent sites at this position."""
        args, kwargs = self.arguments(data)
        values = constrain_fn(self.model, args, kwargs, position)
        trace = handlers.trace(handlers.substitute(self.model, data=values)).get_trace(*args, **kwargs)
        return {name: site["fn"] for name, site in trace.items() if site["type"] == "sample"}

    def constrain(self, position: Position, data: Data) -> dict[str, jax.Array]:
        """Values of the latent and deterministic sites at one unconstrained position."""
        args, kwargs = self.arguments(data)
        values = constrain_fn(self.model, args, kwargs, position, return_deterministic=True)
        return {name: jnp.asarray(value) for name, value in values.items()}

    def unconstrain(self, values: Mapping[str, jax.Array], data: Data) -> Position:
        """The unconstrained position of given values of the latent sites; the inverse of `constrain`."""
        args, kwargs = self.arguments(data)
        trace = handlers.trace(handlers.substitute(self.model, data=dict(values))).get_trace(*args, **kwargs)
        return self._invert(trace)

    def draw_prior(self, key: jax.Array, data: Data) -> Position:
        """One unconstrained draw from the prior; sites whose prior cannot be sampled start in (-2, 2)."""
        return self._invert(self._trace(key, data))

    def sites(self, key: jax.Array, data: Data) -> reading.Sites:
        """NumPyro's trace of the model, with shapes in place of the latent values: nothing is computed.

        Continuous latent sites have their shape in unconstrained space as a further entry, ``unconstrained_shape``.
        """
        traces = []

        def look() -> None:
            trace = self._trace(key, data)
            # A support may depend on other sites, whose values do not outlive this function.
            for name in reading.latent_sites(trace):
                support = trace[name]["fn"].support
                if not support.is_discrete:
                    shape = dist.biject_to(support).inverse_shape(jnp.shape(trace[name]["value"]))
                    trace[name]["unconstrained_shape"] = shape
            traces.append(trace)

        jax.eval_shape(look)
        return traces[0]

    def observations(self, key: jax.Array, data: Data) -> dict[str, jax.Array]:
        """Values of the observed sites."""
        sites = self._trace(key, data)
        return {name: jnp.asarray(sites[name]["value"]) for name in reading.data_sites(sites)}

    def _trace(self, key: jax.Array, data: Data) -> dict[str, Any]:
        args, kwargs = self.arguments(data)
        drawn = handlers.substitute(handlers.seed(self.model, key), substitute_fn=init_to_sample())
        return handlers.trace(drawn).get_trace(*args, **kwargs)

    def _invert(self, trace: Mapping[str, Any]) -> Position:
        return {
            name: jnp.asarray(dist.biject_to(trace[name]["fn"].support).inv(trace[name]["value"]), dtype=float)
            for name in self.latent
        }


@dataclass(frozen=True)
class Target:
    """What the chains sample.

    Attributes:
        functions: the model's pure functions.
        data: the arrays that they take as second argument.
        density: log density that is sampled, ``(position, density_data) -> scalar``; the model's own unless replaced.
        density_data: second argument of `density`; the data unless replaced.
        observed: values of the observed sites.
        latent_shapes: unconstrained shapes of the latent sites.
        dims: names of the dimensions of each latent, deterministic and observed site.
        description: one line per site; part of the model's hash.
    """

    functions: BoundModel
    data: Data
    density: Density
    density_data: Data
    observed: dict[str, np.ndarray]
    latent_shapes: dict[str, tuple[int, ...]]
    dims: dict[str, tuple[str, ...]]
    description: str

    @property
    def latent(self) -> tuple[str, ...]:
        """Names of the latent sites."""
        return self.functions.latent

    def log_density(self, position: Position) -> jax.Array:
        """Log density that is sampled, at one unconstrained position: a scalar."""
        return self.density(position, self.density_data)

    def constrain(self, position: Position) -> dict[str, jax.Array]:
        """Latent and deterministic sites at one unconstrained position."""
        return self.functions.constrain(position, self.data)

    def with_data(self, key: jax.Array, *model_args: Any, model_kwargs: Mapping[str, Any] | None = None) -> Target:
        """The same model with new data of the same shapes: nothing that was compiled is compiled again.

        A density that was replaced is not carried over.

        Raises:
            ValueError: as `build_target` does, or because the new arguments differ in structure, shape or sizes.
        """
        treedef, static, data = _split_arguments(model_args, model_kwargs)
        old = (self.functions.treedef, [np.shape(x) for x in jax.tree.leaves(self.data)])
        new = (treedef, [np.shape(x) for x in jax.tree.leaves(data)])
        if old != new or not all(map(_same, static, self.functions.static)):
            raise ValueError("the new arguments differ in structure, shape or static values: build a new target")
        return replace(
            self,
            data=data,
            density=self.functions.log_density,
            density_data=data,
            observed=_observe(key, self.functions, data),
        )

    def with_density(self, density: Density, density_data: Data = ()) -> Target:
        """The same model with another log density to sample, e.g. a surrogate of it.

        ``density(position, density_data)`` must be pure; put arrays into ``density_data``, so that another fit of the
        same surrogate reuses what was compiled.
        """
        return replace(self, density=density, density_data=density_data)


def build_target(
    key: jax.Array,
    model: Model,
    model_args: tuple[Any, ...] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    transform_model: Callable[[Model], Model] | None = None,
) -> Target:
    """The target of a NumPyro model with its data.

    Args:
        key: random key of the prior draw at which the model's sites are read.
        model: NumPyro model whose latent sites are all continuous and which observes at least one site.
        model_args: its positional arguments.
        model_kwargs: its keyword arguments.
        transform_model: hook that returns the model to sample instead, e.g. with another estimator in a
            distribution's log density.

    Raises:
        ValueError: no observed site, a discrete latent site, or NaN or infinity in an observed site; the message names
            the site.
    """
    treedef, static, data = _split_arguments(model_args, model_kwargs)
    functions = BoundModel(model if transform_model is None else transform_model(model), treedef, static)
    sites = functions.sites(key, data)
    reading.refuse_unsuitable(sites)
    functions = replace(functions, latent=reading.latent_sites(sites), observed=reading.observed_sites(sites))
    return Target(
        functions,
        data,
        functions.log_density,
        data,
        _observe(key, functions, data),
        reading.unconstrained_shapes(sites),
        reading.site_dims(sites),
        reading.describe(sites),
    )


def _observe(key: jax.Array, functions: BoundModel, data: Data) -> dict[str, np.ndarray]:
    observe, _ = compile_once(_observations, (functions,), key, data)
    observed = {name: np.asarray(value) for name, value in observe(key, data).items()}
    reading.refuse_non_finite(observed)
    return observed


def _observations(functions: BoundModel, key: jax.Array, data: Data) -> dict[str, jax.Array]:
    return functions.observations(key, data)


def _split_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> tuple[Any, tuple[Any, ...], Data]:
    """Floating-point arrays become data; everything else, sizes and index arrays included, stays in the program."""
    leaves, treedef = jax.tree.flatten((tuple(args), dict(kwargs or {})))
    travels = [isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]
    static = tuple(None if t else leaf for t, leaf in zip(travels, leaves, strict=True))
    data = tuple(jnp.asarray(leaf) if t else None for t, leaf in zip(travels, leaves, strict=True))
    return treedef, static, data


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, jax.Array | np.ndarray) or isinstance(b, jax.Array | np.ndarray):
        return type(a) is type(b) and np.array_equal(a, b)
    return a is b or bool(a == b)
