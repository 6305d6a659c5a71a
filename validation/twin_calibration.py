"""Calibration of the engines on the analytic twin, and what a study costs beside NumPyro's MCMC run one by one.

A thousand simulations each for NUTS on the closed form, `GibbsDiffusion` and `Grid`. Every statistic of a campaign has
to pass at 1 %: the tests of the ranks (their p-values adjusted over tests and quantities), coverage of central
intervals (over quantities), TARP's curve and its area. A campaign that is killed goes on where it was; its seconds are
printed if it ran from start to end at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from numpyro.infer import MCMC
from numpyro.infer import NUTS as NumPyroNUTS

import bayesdiff as bd
from bayesdiff.calibration import Sbc, central_coverage, holm, tarp
from validation.campaigns import ALGORITHMS, CAMPAIGNS, Engine, make_engine
from validation.figures import RESULTS, Figure, above, below
from validation.problems import Asked, Name, make_problem

NUM = 1000
LEVEL = 0.01
MINUTES = 10.0
NUM_ONE_BY_ONE = 4
FOLDER = RESULTS / "twin_calibration"
KEY = 12


def run(folder: Path = FOLDER) -> list[Figure]:
    """Figures of NUTS and of the grid, and what the former costs; a page for each campaign."""
    study, seconds = campaign(Engine.nuts, folder / Engine.nuts.value)
    return [
        *judged(Engine.nuts, study, seconds),
        *cost(study, seconds),
        *judged(Engine.grid, *campaign(Engine.grid, folder / Engine.grid.value)),
    ]


def gibbs(folder: Path = FOLDER) -> list[Figure]:
    """Figures of Gibbs, most of an hour on a core."""
    return judged(Engine.gibbs, *campaign(Engine.gibbs, folder / Engine.gibbs.value))


def judged(engine: Engine, study: Sbc, seconds: float | None) -> list[Figure]:
    """The statistics of a campaign by the name of its engine, and its time where that is known."""
    figures = [replace(figure, name=f"{engine.value}: {figure.name}") for figure in statistics(study)]
    return figures if seconds is None else [*figures, Figure(f"{engine.value}: minutes", seconds / 60.0)]


def campaign(engine: Engine, folder: Path, num: int = NUM, progress: bool = True) -> tuple[Sbc, float | None]:
    """A campaign on the twin and its page, and its seconds if it ran from start to end at once."""
    problem, settings = make_problem(Name.linear_gaussian, Asked()), CAMPAIGNS[engine]
    store, new = folder / "study.sbc", not (folder / "study.sbc").exists()
    clock = time.perf_counter()
    study = bd.calibration.sbc(
        jax.random.key(KEY),
        problem.model,
        algorithm=make_engine(engine, problem),
        num_simulations=num,
        num_chains=settings.num_chains,
        num_samples=settings.num_samples,
        quantities=problem.quantities,
        store=store,
        progress=progress,
    )
    record = folder / "seconds.json"
    if new and study.attributes["status"] == "complete":
        record.write_text(json.dumps(time.perf_counter() - clock))
    title = f"Calibration of the twin by {ALGORITHMS[engine]}"
    bd.reporting.write_calibration_report(study, folder, title=title, notes=(problem.about,))
    return study, json.loads(record.read_text()) if record.exists() else None


def statistics(study: Sbc) -> list[Figure]:
    """p-values of every statistic, and how many simulations failed."""
    ranks = study.ranks[study.ranked]
    covered = holm(central_coverage(ranks, study.num_draws).p_value)
    joint = tarp(study.truth[study.ranked], study.draws[study.ranked])
    return [
        Figure("simulations", float(study.num_simulations)),
        above("ranks: smallest adjusted p-value", float(study.tests.adjusted.min()), LEVEL),
        above("coverage of central intervals: smallest adjusted p-value", float(np.min(covered)), LEVEL),
        above("TARP: p-value of the curve", joint.p_value, LEVEL),
        above("TARP: p-value of the area", joint.area_p_value, LEVEL),
        below("part of the simulations that failed", len(study.failed) / study.num_simulations, 0.05),
        Figure("mean |z| of all parameters", float(np.nanmean(np.abs(study.z)))),
    ]


def cost(study: Sbc, seconds: float | None) -> list[Figure]:
    """Effective draws and time of the campaign by NUTS, beside the same simulations one by one by NumPyro."""
    ess = study.records.ess
    figures = [
        Figure("nuts: median of the smallest ESS of a simulation", float(np.median(ess))),
        below("nuts: simulations with ESS of 100 or less", float(np.sum(~(ess > 100))), 0.5),
    ]
    if seconds is None:
        return figures
    theirs = {method: one_by_one(method) for method in ("sequential", "vectorized")}
    ratio = min(theirs.values()) / (seconds / study.num_simulations)
    return [
        *figures,
        below(f"nuts: minutes of {NUM} simulations", seconds / 60.0 * NUM / study.num_simulations, MINUTES),
        above("nuts: times faster than NumPyro's MCMC, one simulation after another", ratio, 10.0),
        *(Figure(f"nuts: seconds of a simulation by NumPyro, {method} chains", x) for method, x in theirs.items()),
    ]


def one_by_one(chain_method: str) -> float:
    """Median seconds of a simulation by NumPyro's ``MCMC``, one for each: the same model, chains and lengths.

    It compiles for every data set, as ``MCMC`` does for new data; the first simulation is left out.
    """
    problem, settings = make_problem(Name.linear_gaussian, Asked()), CAMPAIGNS[Engine.nuts]
    simulate = _simulator(problem.model)
    spent = []
    for number in range(NUM_ONE_BY_ONE + 1):
        y = simulate(jax.random.key(number))
        # A new one for each: with vectorized chains NumPyro's cannot be run again.
        mcmc = MCMC(
            NumPyroNUTS(problem.model, dense_mass=True),
            num_warmup=make_engine(Engine.nuts, problem).num_warmup,
            num_samples=settings.num_samples,
            num_chains=settings.num_chains,
            chain_method=chain_method,
            progress_bar=False,
        )
        clock = time.perf_counter()
        mcmc.run(jax.random.key(number), y)
        jax.block_until_ready(mcmc.get_samples())
        spent.append(time.perf_counter() - clock)
    return float(np.median(spent[1:]))


def _simulator(model: Callable) -> Callable[[jax.Array], jax.Array]:
    from numpyro.infer import Predictive

    return lambda key: Predictive(model, num_samples=1)(key)["y"][0]
