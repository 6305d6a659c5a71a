"""A NumPyro model as a simulator and as a posterior: what a calibration study asks of it.

The same function plays both parts. Without data it simulates, by NumPyro's ``Predictive``: parameters from the prior,
observed sites from the likelihood. For inference its observed sites are conditioned on the simulated values, by name,
so it does not matter how the model takes its data; they are an argument of everything that is compiled, whole numbers
included, and no data set compiles anything anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import compute_log_probs

Values = Mapping[str, jax.Array]
Quantity = Callable[[Values, Values], jax.Array]
Model = Callable[..., Any]
Simulator = Callable[[jax.Array], Values]

LARGEST_PARAMETER = 10


class Problem(NamedTuple):
    """A simulator and the posterior on trial.

    Attributes:
        simulate: ``key -> (values, observation)``, the sites that the posterior is about and the data; pure.
        posterior_model: NumPyro model of the observation, as `simulate` gives it.
        measure: ``(values, observation) -> (quantity,)``; pure.
        names: of the quantities.
        counts: observed sites whose values are whole numbers.
    """

    simulate: Callable[[jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]]
    posterior_model: Model
    measure: Callable[[Values, Values], jax.Array]
    names: tuple[str, ...]
    counts: tuple[str, ...] = ()


class Sites(NamedTuple):
    """The sites of a model.

    Attributes:
        latent: names of the sites that the posterior is about.
        dtypes: of the values of the observed sites, by name.
    """

    latent: tuple[str, ...]
    dtypes: dict[str, str]


class _Unknown:
    """Stands for data that nobody has given."""


def read_sites(model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], observed: Sequence[str] | None) -> Sites:
    """Which sites are data: those given, or those with a value and those that take an argument left at None.

    Raises:
        ValueError: there is none, a name is that of no site, an observed site is not among them, or the model has a
            ``numpyro.factor``, which changes the posterior but not what is simulated.
    """
    sites = _trace(model, args, kwargs)
    factors = [name for name, site in sites.items() if isinstance(_base(site["fn"]), dist.Unit)]
    if factors:
        raise ValueError(f"the model has the factor '{factors[0]}', which no simulation can follow: write it as a site")
    if observed is not None:
        names = (observed,) if isinstance(observed, str) else tuple(observed)
        for name in names:
            if name not in sites:
                raise ValueError(f"observed names '{name}', but the sites of the model are {', '.join(sites)}")
        if fixed := [name for name, site in sites.items() if site["is_observed"] and name not in names]:
            raise ValueError(
                f"observed leaves out the site '{fixed[0]}', which has an observed value in the model: name it as "
                "well, or give it no value"
            )
    else:
        taking = _sites_of_data(model, args, kwargs, tuple(sites))
        names = tuple(name for name, site in sites.items() if site["is_observed"] or name in taking)
    if not names:
        raise ValueError(
            f"which of the sites {', '.join(sites)} are data? None of them takes an argument that was left at None: "
            "name them, e.g. observed=('y',)"
        )
    free = _trace(handlers.uncondition(model), args, kwargs)
    dtypes = {name: np.dtype(free[name]["value"].dtype).name for name in names}
    return Sites(tuple(name for name in sites if name not in names), dtypes)


def _trace(model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Sample sites at one prior draw; values are shapes only."""
    found: list[dict[str, Any]] = []

    def look() -> None:
        trace = handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)
        found.append({name: site for name, site in trace.items() if site["type"] == "sample"})

    jax.eval_shape(look)
    return found[0]


def _sites_of_data(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[str, ...]:
    bound = inspect.signature(model).bind(*args, **kwargs)
    bound.apply_defaults()
    missing = [name for name, value in bound.arguments.items() if value is None]
    for name in missing:
        bound.arguments[name] = _Unknown()
    try:
        sites = _trace(model, bound.args, bound.kwargs)
    except Exception:  # a model that computes with its data cannot be followed
        return tuple(name for name in names if name in missing)
    return tuple(name for name, site in sites.items() if isinstance(site["value"], _Unknown))


def _base(distribution: Any) -> Any:
    while isinstance(distribution, dist.ExpandedDistribution | dist.MaskedDistribution | dist.Independent):
        distribution = distribution.base_dist
    return distribution


def simulate(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], observed: Sequence[str], key: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Parameters from the prior, with deterministic sites, and data from the likelihood."""
    sites = Predictive(handlers.uncondition(model), num_samples=1)(key, *args, **kwargs)
    return split({name: value[0] for name, value in sites.items()}, observed)


def simulate_elsewhere(
    simulator: Simulator, observed: Sequence[str], key: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Sites that another simulator than the model gives."""
    return split(simulator(key), observed)


def require_sites(simulator: Simulator, shapes: Mapping[str, Any]) -> None:
    """Raise ValueError if a simulator lacks an observed site, or gives it another shape than the model does."""
    found = jax.eval_shape(simulator, jax.random.key(0))
    if not isinstance(found, Mapping):
        raise ValueError(f"the simulator must return a dict of sites, got {type(found).__name__}")
    for name, expected in shapes.items():
        if name not in found:
            raise ValueError(f"the simulator must give the observed site '{name}', it gives {', '.join(found)}")
        if jnp.shape(found[name]) != expected.shape:
            raise ValueError(f"site '{name}' has shape {expected.shape}, that of the simulator {found[name].shape}")


def split(sites: Values, observed: Sequence[str]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Values of the sites that are not data and of those that are, the latter as floating-point numbers."""
    values = {name: jnp.asarray(value) for name, value in sites.items() if name not in observed}
    return values, {name: jnp.asarray(sites[name], dtype=float) for name in observed}


def given(model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtypes: Mapping[str, Any], data: Values):
    """The model with its observed sites at ``data``."""
    return handlers.condition(model, data=restored(data, dtypes))(*args, **kwargs)


def restored(data: Values, dtypes: Mapping[str, Any]) -> dict[str, Any]:
    """Observed values with the types that the model gave them."""
    return {name: value.astype(dtypes[name]) for name, value in data.items()}


def log_likelihood(model: Model, *model_args: Any, model_kwargs: Mapping[str, Any] | None = None) -> Quantity:
    """The log likelihood as a quantity to rank; it finds faults that no parameter shows (Modrak et al. 2023).

    Args:
        model: the NumPyro model.
        *model_args: its arguments, as for `sbc`.
        model_kwargs: its keyword arguments.

    Returns:
        A function of a draw and of the observation, for ``quantities={"log_likelihood": log_likelihood(model)}``.
    """
    return partial(_log_likelihood, model, model_args, dict(model_kwargs or {}))


def _log_likelihood(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], draw: Values, observation: Values
) -> jax.Array:
    conditioned = handlers.condition(model, data=dict(observation))
    log_probs, _ = compute_log_probs(conditioned, args, dict(kwargs), dict(draw))
    return jnp.asarray(sum(log_probs[name] for name in observation))


def make_problem(
    simulator: Callable[[jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]],
    posterior_model: Model,
    sites: Sites,
    parameters: Sequence[str] | None,
    quantities: Mapping[str, Quantity] | None,
) -> Problem:
    """The problem of a simulator and a posterior, with what is ranked.

    Args:
        simulator: see `Problem`.
        posterior_model: see `Problem`.
        sites: those of the model that simulates.
        parameters: names of sites whose values are quantities; by default the latent ones of at most 10 values.
        quantities: further functions of draw and observation, by name.

    Raises:
        ValueError: an unknown site, a name that is used twice, or nothing to measure.
    """
    values, observation = jax.eval_shape(simulator, jax.random.key(0))
    if missing := [name for name in sites.latent if name not in values and parameters is None]:
        raise ValueError(
            f"no true value of '{missing[0]}' is given with the data: let the simulator return it, or name what is to "
            "be ranked by parameters=..."
        )
    if parameters is None:
        chosen = tuple(name for name in sites.latent if np.prod(values[name].shape, dtype=int) <= LARGEST_PARAMETER)
    else:
        chosen = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    functions = dict(quantities or {})
    for name in chosen:
        if name not in values:
            raise ValueError(f"parameters names '{name}', which is none of the sites {', '.join(values)}")
        if name in functions:
            raise ValueError(f"the quantity '{name}' has the name of a parameter: choose another")
    measure = partial(_measure, chosen, functions, sites.dtypes)
    shapes = {name: values[name].shape for name in chosen}
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(f"quantity '{name}' must be a function of (draw, observation), got {function!r}")
        data = jax.eval_shape(partial(restored, dtypes=sites.dtypes), observation)
        shapes[name] = jnp.shape(jax.eval_shape(function, values, data))
    names = tuple(label for name, shape in shapes.items() for label in labels(name, shape))
    if not names:
        raise ValueError(
            f"nothing to rank: no latent site has at most {LARGEST_PARAMETER} values; give quantities={{name: function "
            "of (draw, observation)}"
        )
    counts = tuple(name for name, dtype in sites.dtypes.items() if not np.issubdtype(np.dtype(dtype), np.inexact))
    return Problem(simulator, posterior_model, measure, names, counts)


def _measure(
    parameters: tuple[str, ...],
    functions: Mapping[str, Quantity],
    dtypes: Mapping[str, Any],
    values: Values,
    observation: Values,
) -> jax.Array:
    data = restored(observation, dtypes)
    parts = [values[name] for name in parameters]
    parts += [jnp.asarray(function(values, data)) for function in functions.values()]
    return jnp.concatenate([jnp.ravel(part).astype(float) for part in parts])


def labels(name: str, shape: tuple[int, ...]) -> list[str]:
    """Names of the quantities of a site."""
    return [name] if not shape else [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)]
