"""Posteriors of the cosmology of dark-matter fields by every estimator of their likelihood, to be seen side by side.

An estimator is an entry of `ESTIMATORS`: a name, what it is called in a report, and a function from a `Problem` to an
`Outcome`. Their costs are chosen so that all of the default ones take about two minutes on two cores.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.denoiser import is_gaussian
from bayesdiff.diffusion.densities import LogDensity
from bayesdiff.diffusion.discrete_bound import term_importance
from inference.density_baselines import BASELINES
from inference.density_problem import Estimator, Outcome, Problem, draws_of, outcome_of
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.likelihood import plain_bound, recommended_bound

NUM_TIMES = 64
NUM_TIMESTEPS = 1000
"""Steps of the published discrete bound."""
PUBLISHED_POINTS = 50
"""Of each axis of the published grid."""
FIRST_TERMS = 20
NUM_SAMPLED = 32


def main_log_density(prior: bd.DiffusionModel) -> LogDensity:
    """The recommended estimator: the power of the bound that the prior's card asks for, the closed form of a twin."""
    if is_gaussian(prior.denoiser):
        return bd.Exact()
    if "bound_exponent" in prior.card.entries:
        return recommended_bound(prior, NUM_TIMES)
    return bd.Elbo(num_times=NUM_TIMES, num_noise=1)


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


def _bound(key: jax.Array, problem: Problem) -> Outcome:
    prior = problem.prior
    bound = plain_bound(prior, 32) if "bound_importance" in prior.card.entries else bd.Elbo(num_times=32, num_noise=1)
    return _by_surrogate(key, problem, bound)


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
    data = problem.sample(key, problem.model(None), problem.surrogate(log_density))
    return outcome_of(data, log_density, problem)


def _importance(problem: Problem, num: int = 2, num_levels: int = 24, num_noise: int = 4) -> tuple[np.ndarray, int]:
    """Weights of the terms for these fields about the twin's posterior, and the evaluations that they cost."""
    draws = np.stack([x.ravel() for x in draws_of(problem.twin, tuple(PARAMETER_BOUNDS)).values()], axis=1)
    some = jnp.asarray(draws[np.linspace(0, len(draws) - 1, 2 * num).astype(int)], jnp.float32)
    fields = jnp.resize(
        jnp.asarray(problem.y).reshape(-1, *problem.prior.event_shape), (num, *problem.prior.event_shape)
    )
    weights = term_importance(
        problem.prior, fields, some[:num], some[num:], NUM_TIMESTEPS, num_levels=num_levels, num_noise=num_noise
    )
    return weights, 4 * num * num_levels * num_noise


ESTIMATORS: dict[str, Estimator] = {
    "twin": Estimator("Gaussian field of the emulated power (twin)", _twin, in_noise=True),
    "bound": Estimator("bound as it is, of exponent 1", _bound, in_noise=True),
    "L_0": Estimator(f"L_0 alone, grid of {PUBLISHED_POINTS} x {PUBLISHED_POINTS} points", _published_grid),
    "first_terms": Estimator(f"first {FIRST_TERMS} of {NUM_TIMESTEPS} terms", _first_terms),
    "all_terms": Estimator(f"all {NUM_TIMESTEPS} terms, {NUM_SAMPLED} of them sampled", _all_terms, in_noise=True),
    "flow": Estimator("probability flow", _flow, in_noise=True, by_default=False),
    **BASELINES,
}
