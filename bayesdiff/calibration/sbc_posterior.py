"""Calibration around an observation: posterior SBC (Saeilynoja et al. 2025, arXiv:2502.03279).

Over the whole prior a posterior may be right on average and wrong where it matters, and simulating from a wide prior
spends most data sets where nobody will ever be. Posterior SBC stays near an observation y: parameters theta_i come from
the posterior given y, replicated data y_i from the likelihood at theta_i, and the posterior on trial is given both, y
and y_i. Then theta_i is once more one of its draws, and the rank is uniform.

The draws of theta_i are those of the algorithm on trial, so that this asks whether it agrees with itself: an error that
moves both posteriors alike escapes, which `sbc` over the prior does not let pass.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.infer import Predictive

from bayesdiff.calibration import sbc_problem as reading
from bayesdiff.calibration.sbc_engines import Settings
from bayesdiff.calibration.sbc_problem import Model, Quantity, Sites, Values, make_problem
from bayesdiff.calibration.sbc_result import MAX_RHAT, Sbc
from bayesdiff.calibration.sbc_store import StudyStore
from bayesdiff.calibration.sbc_study import Plan, run_study
from bayesdiff.sampling.chains import Algorithm
from bayesdiff.sampling.direct import DirectAlgorithm
from bayesdiff.sampling.nuts import NUTS
from bayesdiff.sampling.sample import sample, typed_key

if TYPE_CHECKING:
    from distributed import Client

REPLICATED = "_replicated"
_DEFAULT = NUTS()


def posterior_sbc(
    key: jax.Array,
    model: Model,
    observation: Any,
    *model_args: Any,
    algorithm: Algorithm | DirectAlgorithm = _DEFAULT,
    num_simulations: int = 300,
    num_chains: int = 4,
    num_samples: int = 250,
    num_draws: int = 99,
    num_reference: int = 1000,
    parameters: Sequence[str] | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    observed: Sequence[str] | None = None,
    store: str | Path | None = None,
    chunk_size: int | None = None,
    max_rhat: float = MAX_RHAT,
    progress: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[int], None] | None = None,
    client: Client | None = None,
) -> Sbc:
    """Calibrate an algorithm on a model around one observation.

    Args:
        key: random key.
        model: NumPyro model, as for `sbc`.
        observation: the observed value, or a dict of them by site.
        *model_args: arguments of the model, without the data.
        algorithm: engine on trial; it makes the reference posterior as well.
        num_simulations: replicated data sets.
        num_chains: chains on each, and of the reference.
        num_samples: draws of each chain of a simulation.
        num_draws: L, see `sbc`.
        num_reference: draws of each chain of the reference, one of which is the truth of a simulation, at random. Their
            number is to be far above ``num_simulations``: what they miss of the posterior all simulations miss.
        parameters: see `sbc`.
        quantities: see `sbc`; their observation holds the replicated values.
        observed: see `sbc`.
        store: folder of the study; it keeps the reference as well.
        chunk_size: see `sbc`.
        max_rhat: see `sbc`.
        progress: whether to show progress bars.
        model_kwargs: keyword arguments of the model.
        callback: see `sbc`.
        client: see `sbc`; the reference is made here.

    Returns:
        As `sbc`. Attributes ``reference_rhat`` and ``reference_ess`` are the worst of the reference's sites; a warning
        says that it did not converge, or is worth fewer draws than there are simulations.

    Raises:
        ValueError: as `sbc`, or the observation does not fit the model's observed sites.
        FileExistsError: as `sbc`.
        BlockingIOError: as `sbc`.
        KeyboardInterrupt: the reference was interrupted; it is made anew by the next call.
    """
    key, kwargs = typed_key(key), dict(model_kwargs or {})
    sites = reading.read_sites(model, model_args, kwargs, observed)
    data = _observation(observation, sites, jax.eval_shape(partial(_prior, model, model_args, kwargs, sites)))
    plan = Plan(num_simulations, chunk_size, max_rhat, progress, callback, client)
    settings = Settings(algorithm, num_chains, num_samples, num_draws)
    plan.refuse(settings)
    key_reference, key_study = jax.random.split(key)
    about = {"study": "posterior_sbc", "observation_hash": _digest(data), "num_reference": str(num_reference)}
    with nullcontext() if store is None else StudyStore(store) as opened:
        reference = None if opened is None else opened.inputs()
        if reference is None:
            conditioned = partial(reading.given, model, model_args, kwargs, sites.dtypes)
            made = sample(
                key_reference,
                conditioned,
                data,
                algorithm=algorithm,
                num_chains=num_chains,
                num_samples=num_reference,
                progress=progress,
            )
            if made.attrs.get("status") == "interrupted":
                raise KeyboardInterrupt("the reference posterior was interrupted")
            reference = {name: made["posterior"][name].transpose("chain", "draw", ...).values for name in sites.latent}
        about |= _diagnosed(reference, num_simulations, max_rhat, isinstance(algorithm, DirectAlgorithm))
        flat = {name: jnp.asarray(x.reshape(-1, *x.shape[2:]), dtype=float) for name, x in reference.items()}
        simulator = partial(_replicate, model, model_args, kwargs, tuple(sites.dtypes), flat)
        both = partial(_given_both, model, model_args, kwargs, sites.dtypes, data)
        problem = make_problem(simulator, both, sites, parameters, quantities)
        return run_study(key_study, problem, settings, plan, about, opened, reference)


def _diagnosed(
    reference: Mapping[str, np.ndarray], num_simulations: int, max_rhat: float, independent: bool
) -> dict[str, str]:
    """Attributes on chains (chain, draw, ...) of the reference, by site, and a warning where they are not enough."""
    from arviz_stats import ess, rhat

    if independent:
        return {}
    chains = [x.reshape(*x.shape[:2], -1) for x in reference.values()]
    worst_rhat = max(float(np.max(rhat(x, chain_axis=0, draw_axis=1))) for x in chains)
    worst_ess = min(float(np.min(ess(x, chain_axis=0, draw_axis=1))) for x in chains)
    if not worst_rhat <= max_rhat or not worst_ess >= num_simulations:
        text = f"R-hat of {worst_rhat:.3f} and {worst_ess:.0f} effective draws for {num_simulations} simulations"
        warnings.warn(f"the reference posterior has {text}: raise num_reference", UserWarning, stacklevel=3)
    return {"reference_rhat": f"{worst_rhat:.4f}", "reference_ess": f"{worst_ess:.0f}"}


def _prior(model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], sites: Sites) -> dict[str, jax.Array]:
    return reading.simulate(model, args, kwargs, tuple(sites.dtypes), jax.random.key(0))[1]


def _observation(observation: Any, sites: Sites, shapes: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Observed values by site, as floating-point numbers."""
    names = list(sites.dtypes)
    if not isinstance(observation, Mapping):
        if len(names) > 1:
            raise ValueError(f"the model observes {', '.join(names)}: give the observation as a dict of these sites")
        observation = {names[0]: observation}
    if set(observation) != set(names):
        raise ValueError(f"the observation has the sites {', '.join(observation)}, the model observes {names}")
    for name, value in observation.items():
        if jnp.shape(value) != shapes[name].shape:
            raise ValueError(f"site '{name}' has shape {shapes[name].shape}, its observation {jnp.shape(value)}")
        if not np.isfinite(np.asarray(value)).all():
            raise ValueError(f"the observation of site '{name}' must be finite")
    return {name: jnp.asarray(value, dtype=float) for name, value in observation.items()}


def _replicate(
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    observed: tuple[str, ...],
    draws: Values,
    key: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """One of the draws, with its deterministic sites, and data from the likelihood there."""
    key_draw, key_data = jax.random.split(key)
    index = jax.random.randint(key_draw, (1,), 0, len(next(iter(draws.values()))))
    latent = {name: x[index] for name, x in draws.items()}
    sites = Predictive(handlers.uncondition(model), posterior_samples=latent)(key_data, *args, **kwargs)
    return reading.split({name: x[0] for name, x in {**latent, **sites}.items()}, observed)


def _given_both(
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dtypes: Mapping[str, Any],
    observation: Values,
    replicated: Values,
) -> None:
    """The model at the observation, and once more, with the same parameters, at the replicated data."""
    first = handlers.trace(partial(reading.given, model, args, kwargs, dtypes)).get_trace(observation)
    latent = {name: x["value"] for name, x in first.items() if x["type"] == "sample" and not x["is_observed"]}
    again = handlers.substitute(partial(reading.given, model, args, kwargs, dtypes), data=latent)
    with handlers.block():
        second = handlers.trace(again).get_trace(replicated)
    for name in dtypes:
        site = second[name]
        with handlers.scale(scale=1.0 if site["scale"] is None else site["scale"]):
            numpyro.sample(name + REPLICATED, site["fn"], obs=site["value"])


def _digest(data: Values) -> str:
    digest = hashlib.sha256()
    for name in sorted(data):
        digest.update(name.encode() + np.asarray(data[name]).tobytes())
    return digest.hexdigest()
