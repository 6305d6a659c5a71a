"""Posteriors of the cosmology of dark-matter fields by every estimator of their likelihood, to be seen side by side.

An estimator is an entry of `ESTIMATORS`: a name, what it is called in a report, and a function from a `Problem` to an
`Outcome`. Their costs are chosen so that all of the default ones take about two minutes on two cores.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.denoiser import is_gaussian
from bayesdiff.diffusion.densities import LogDensity
from bayesdiff.diffusion.discrete_bound import measured_importance
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.model import make_model, make_noisy_model

if TYPE_CHECKING:
    import xarray as xr

NUM_TIMES = 32
NUM_TIMESTEPS = 1000
"""Steps of the published discrete bound."""
PUBLISHED_POINTS = 50
"""Of each axis of the published grid."""
FIRST_TERMS = 20
NUM_SAMPLED = 32
SURROGATE: dict[str, Any] = {"num_design": 16, "num_test": 10, "min_bulk": 12}
"""Of two parameters: a third of the points of the three of blind separation is enough."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What every estimator is given.

    Attributes:
        prior: conditional prior of the field.
        y: one field (1, H, W), or several (num, 1, H, W).
        noisy: whether the fields are in white noise of unknown level.
        num_chains: chains.
        num_samples: draws of each.
        progress: whether to show progress bars.
    """

    prior: bd.DiffusionModel
    y: np.ndarray
    noisy: bool = False
    num_chains: int = 4
    num_samples: int = 1000
    progress: bool = False

    @property
    def num_fields(self) -> int:
        """Number of fields, whose log densities add up."""
        return len(self.y) if self.y.ndim == 4 else 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what is inferred."""
        return (*PARAMETER_BOUNDS, "noise_level") if self.noisy else tuple(PARAMETER_BOUNDS)

    def model(self, log_density: LogDensity | None) -> Callable[..., Any]:
        """The NumPyro model with an estimator of the log density of a field."""
        return (make_noisy_model if self.noisy else make_model)(self.prior, log_density)

    def grid(self, num: int = 40, **settings: Any) -> bd.Grid:
        """A grid of ``num`` points along each parameter."""
        return bd.Grid(dict.fromkeys(self.parameters, num), **settings)

    def sample(
        self, key: jax.Array, model: Callable[..., Any], algorithm: Any, store: Path | None = None
    ) -> xr.DataTree:
        """``bd.sample`` on these fields."""
        return bd.sample(
            key,
            model,
            self.y,
            algorithm=algorithm,
            num_chains=self.num_chains,
            num_samples=self.num_samples,
            store=store,
            progress=self.progress,
        )

    @cached_property
    def twin(self) -> xr.DataTree:
        """The posterior of the twin: a Gaussian field of the emulated mean and power, in closed form."""
        twin = replace(self, prior=replace(self.prior, denoiser=self.prior.twin), progress=False)
        return twin.sample(jax.random.key(1), twin.model(bd.Exact()), self.grid(max_evaluations=20_000))


class Outcome(NamedTuple):
    """The posterior of an estimator.

    Attributes:
        draws: Omega_m and sigma_8, with noise noise_level, (chain, draw) each.
        evaluations: of the network.
        remark: what a reader has to know, empty where all is well.
    """

    draws: dict[str, np.ndarray]
    evaluations: int
    remark: str = ""


class Estimator(NamedTuple):
    """A way to the posterior.

    Attributes:
        label: what it is called in a report.
        run: from key and problem to the outcome.
        in_noise: whether it knows of noise of unknown level.
        by_default: whether it is run unless asked for others.
    """

    label: str
    run: Callable[[jax.Array, Problem], Outcome]
    in_noise: bool = False
    by_default: bool = True


def main_log_density(prior: bd.DiffusionModel) -> LogDensity:
    """The recommended estimator: the bound with the twin as reference; the closed form where the prior has one."""
    return bd.Exact() if is_gaussian(prior.denoiser) else bd.Elbo(num_times=NUM_TIMES, num_noise=1)


def cost_of(log_density: LogDensity) -> int:
    """Network evaluations of one value of an estimator."""
    if isinstance(log_density, bd.DiscreteBound):
        return log_density.num_evaluations
    if isinstance(log_density, bd.Elbo):
        return 2 * log_density.num_times * log_density.num_noise
    if isinstance(log_density, bd.ProbabilityFlow):
        return 2 * log_density.num_steps * (1 + log_density.num_probes)
    return 0


def evaluations_of(data: xr.DataTree, log_density: LogDensity, num_fields: int) -> int:
    """Network evaluations that a result took; of chains on the network itself those of the draws, without warm-up."""
    if "surrogate_evaluations" in data.attrs:
        number = int(data.attrs["surrogate_evaluations"])
    elif "num_evaluations" in data.attrs:
        number = int(data.attrs["num_evaluations"])
    else:
        number = int(data["sample_stats"].to_dataset()["n_steps"].sum())
    return number * cost_of(log_density) * num_fields


def draws_of(data: xr.DataTree, parameters: Sequence[str]) -> dict[str, np.ndarray]:
    """Draws (chain, draw) of the parameters of a result."""
    posterior = data["posterior"].to_dataset()
    return {name: posterior[name].transpose("chain", "draw").values for name in parameters}


def outcome_of(data: xr.DataTree, log_density: LogDensity, problem: Problem) -> Outcome:
    """The outcome of a run of ``bd.sample``, with a remark where it did not converge."""
    remark = ""
    if not int(data.attrs.get("surrogate_converged", 1)):
        remark = f"its surrogate failed the acceptance test ({float(data.attrs['surrogate_rms']):.2g} nat rms)"
    elif not int(data.attrs.get("grid_converged", 1)):
        remark = f"its grid is too coarse for it (error {float(data.attrs['marginal_error']):.2g})"
    evaluations = evaluations_of(data, log_density, problem.num_fields)
    return Outcome(draws_of(data, problem.parameters), evaluations, remark)


def run_estimators(
    key: jax.Array,
    problem: Problem,
    names: Sequence[str],
    add: Callable[[str, Outcome, float], None],
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Run estimators one after the other.

    Args:
        key: random key; each has its own, so that the draws of one do not depend on which others are run.
        problem: what is observed.
        names: of `ESTIMATORS`.
        add: is given name, outcome and seconds as each is done.
        say: receives a line before each.

    Returns:
        A sentence for each that failed: the others do not.
    """
    failed = []
    for name in names:
        estimator = ESTIMATORS[name]
        say(f"Estimator {name}: {estimator.label}")
        clock = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="the grid reached an error", category=UserWarning)
                outcome = estimator.run(jax.random.fold_in(key, zlib.crc32(name.encode())), problem)
        except (ValueError, FileNotFoundError) as error:
            failed.append(f"The estimator '{name}' failed: {' '.join(str(error).split())}")
            say(failed[-1])
            continue
        add(name, outcome, time.perf_counter() - clock)
    return failed


def chosen_names(wanted: str | None, noisy: bool) -> tuple[str, ...]:
    """Estimators from a comma-separated option; None for those that are run by default.

    Raises:
        ValueError: an unknown one, or one that does not know of noise where there is some.
    """
    fit = [name for name, estimator in ESTIMATORS.items() if estimator.in_noise or not noisy]
    if wanted is None:
        return tuple(name for name in fit if ESTIMATORS[name].by_default)
    names = tuple(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip() and name.strip() != "none"))
    if unknown := [name for name in names if name not in ESTIMATORS]:
        raise ValueError(f"--estimators must be none or some of {', '.join(ESTIMATORS)}, got {', '.join(unknown)}")
    if unfit := [name for name in names if name not in fit]:
        raise ValueError(f"with --noise-level the estimators are {', '.join(fit)}, got {', '.join(unfit)}")
    return names


def _twin(key: jax.Array, problem: Problem) -> Outcome:
    del key
    return outcome_of(problem.twin, bd.Exact(), problem)


def _published_grid(key: jax.Array, problem: Problem) -> Outcome:
    bound = bd.DiscreteBound(NUM_TIMESTEPS, terms=1)
    grid = problem.grid(PUBLISHED_POINTS, adaptive=False, batch_size=max(1, 32 // problem.num_fields))
    return outcome_of(problem.sample(key, problem.model(bound), grid), bound, problem)


def _first_terms(key: jax.Array, problem: Problem) -> Outcome:
    return _by_surrogate(key, problem, bd.DiscreteBound(NUM_TIMESTEPS, terms=FIRST_TERMS))


def _all_terms(key: jax.Array, problem: Problem) -> Outcome:
    importance, measured = (None, 0) if problem.noisy else _importance(problem)
    bound = bd.DiscreteBound(NUM_TIMESTEPS, num_sampled=NUM_SAMPLED, importance=importance)
    outcome = _by_surrogate(key, problem, bound)
    return outcome._replace(evaluations=outcome.evaluations + measured)


def _flow(key: jax.Array, problem: Problem) -> Outcome:
    return _by_surrogate(key, problem, bd.ProbabilityFlow(num_steps=16, num_probes=2))


def _by_surrogate(key: jax.Array, problem: Problem, log_density: LogDensity) -> Outcome:
    algorithm = bd.MarginalSurrogate(log_density, **SURROGATE)
    return outcome_of(problem.sample(key, problem.model(None), algorithm), log_density, problem)


def _importance(problem: Problem, num: int = 2, num_levels: int = 24, num_noise: int = 4) -> tuple[np.ndarray, int]:
    """Weights of the terms for these fields about the twin's posterior, and the evaluations that they cost."""
    draws = np.stack([x.ravel() for x in draws_of(problem.twin, tuple(PARAMETER_BOUNDS)).values()], axis=1)
    some = jnp.asarray(draws[np.linspace(0, len(draws) - 1, 2 * num).astype(int)], jnp.float32)
    fields = jnp.resize(
        jnp.asarray(problem.y).reshape(-1, *problem.prior.event_shape), (num, *problem.prior.event_shape)
    )
    weights = measured_importance(
        problem.prior, fields, some[:num], some[num:], NUM_TIMESTEPS, num_levels=num_levels, num_noise=num_noise
    )
    return weights, 4 * num * num_levels * num_noise


ESTIMATORS: dict[str, Estimator] = {
    "twin": Estimator("Gaussian field of the emulated power (twin)", _twin, in_noise=True),
    "L_0": Estimator(f"L_0 alone, grid of {PUBLISHED_POINTS} x {PUBLISHED_POINTS} points", _published_grid),
    "first_terms": Estimator(f"first {FIRST_TERMS} of {NUM_TIMESTEPS} terms", _first_terms),
    "all_terms": Estimator(f"all {NUM_TIMESTEPS} terms, {NUM_SAMPLED} of them sampled", _all_terms, in_noise=True),
    "flow": Estimator("probability flow", _flow, in_noise=True, by_default=False),
}


def draws_estimator(draw: Callable[[jax.Array, Problem], Mapping[str, Any]]) -> Callable[[jax.Array, Problem], Outcome]:
    """An estimator from a function that gives draws (chain, draw) by name and asks no network of the prior's."""
    return lambda key, problem: Outcome({name: np.asarray(x) for name, x in draw(key, problem).items()}, 0)
