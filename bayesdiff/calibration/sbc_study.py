"""Simulation-based calibration of any NumPyro model and algorithm (Talts et al. 2018, arXiv:1804.06788).

For i = 1, ..., N: parameters theta_i from the prior, data y_i from the likelihood, L draws of the posterior given y_i
by the algorithm on trial. If model and algorithm are right, the rank of theta_i among the draws is uniform on
{0, ..., L}, for every scalar quantity of parameters and data; `bayesdiff.calibration.rank_tests` asks whether it is.

Simulation i is made by the key and by i alone, so that a longer study continues a shorter one. Simulations go in chunks
whose size a study keeps when it is extended, because chains amplify the rounding by which programs of different shapes
differ.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.calibration import sbc_problem as reading
from bayesdiff.calibration.sbc_engines import Engine, Settings, key_of_study, make_engine, simulation_keys
from bayesdiff.calibration.sbc_problem import Model, Problem, Quantity, Simulator, make_problem
from bayesdiff.calibration.sbc_records import Records, join
from bayesdiff.calibration.sbc_result import MAX_RHAT, Sbc
from bayesdiff.calibration.sbc_store import WANTED, Chunks, MemoryChunks, StudyStore
from bayesdiff.calibration.sbc_workers import Task, missing, run_on
from bayesdiff.sampling.chains import Algorithm
from bayesdiff.sampling.direct import DirectAlgorithm
from bayesdiff.sampling.identity import function_hash
from bayesdiff.sampling.nuts import NUTS
from bayesdiff.sampling.progress import TaskProgress
from bayesdiff.sampling.results import run_attributes
from bayesdiff.sampling.sample import typed_key

if TYPE_CHECKING:
    from distributed import Client

_DEFAULT = NUTS()
_COMMIT_SECONDS = 10.0


def sbc(
    key: jax.Array,
    model: Model,
    *model_args: Any,
    algorithm: Algorithm | DirectAlgorithm = _DEFAULT,
    num_simulations: int = 300,
    num_chains: int = 4,
    num_samples: int = 250,
    num_draws: int = 99,
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
    simulator: Simulator | None = None,
) -> Sbc:
    """Calibrate an algorithm on a model, by simulations of that model.

    The model is called as for prior simulation, without data: ``sbc(key, model)`` for ``model(y=None)``. What its
    observed sites are is found out, or said by ``observed``.

    The chains of a simulation that fails (R-hat, effective sample size, the algorithm's own test) keep their ranks, and
    are counted and named in the result; a simulation without a posterior has no ranks, and the study does not pass.

    Ctrl-C ends the study with the simulations that are finished, with the attribute ``status`` "interrupted" and a
    warning. With a ``store`` every finished chunk of simulations is on disk; the same call continues the study, also
    with more simulations, and the result is that of a study which was not interrupted.

    Args:
        key: random key.
        model: NumPyro model with continuous latent sites and at least one observed site.
        *model_args: its arguments, without the data.
        algorithm: engine on trial.
        num_simulations: N, data sets.
        num_chains: chains on each data set.
        num_samples: draws of each chain after its warm-up. An algorithm without chains (``Grid``) makes
            ``num_chains * num_samples`` independent draws.
        num_draws: L, the draws that the truth is ranked among, equally spaced along the chains; chains with a smaller
            effective sample size count as failed.
        parameters: names of sites whose values are ranked; by default the latent ones with at most 10 values.
        quantities: further quantities, ``name: function(draw, observation)`` of two dicts of sites, in JAX, scalar or
            not, e.g. ``{"log_likelihood": log_likelihood(model)}`` or the power of a field.
        observed: names of the observed sites; by default those with an observed value in the model and those that take
            an argument left at None.
        store: folder of the study, see above.
        chunk_size: data sets run together; by default as many as fit into a gigabyte, 50 and ``num_simulations`` at
            most, or 10 of an algorithm that takes one after another. A study that is continued keeps its own.
        max_rhat: R-hat above which chains count as failed.
        progress: whether to show a progress bar.
        model_kwargs: keyword arguments of the model.
        callback: called with the number of finished simulations whenever there are more; may raise KeyboardInterrupt.
        client: of a Dask cluster (``distributed.Client``) whose workers run the chunks. What a lost worker was at is
            done again; the result is that of one process. The workers need the model's modules and the same versions.
        simulator: ``key -> dict of sites`` in JAX, which makes the data sets instead of the model: every observed site,
            and the true value of what is ranked; others are at hand for quantities. What the ranks then miss is what
            the model lacks of it, whether other maps than the prior's or another noise.

    Returns:
        Ranks, truths, draws, diagnostics; ``table()`` and ``verdict()`` sum them up.

    Raises:
        ValueError: the model, its quantities or the numbers do not fit, or the store is damaged.
        FileExistsError: the store holds something else or another study; the message says what differs.
        BlockingIOError: another process is writing to the store.

    Example::

        def model(y=None):
            mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mean, 0.5).expand([5]), obs=y)

        study = bd.calibration.sbc(jax.random.key(0), model, algorithm=bd.NUTS(), store="runs/mean.sbc")
        print(study.table(), study.verdict())
    """
    kwargs = dict(model_kwargs or {})
    sites = reading.read_sites(model, model_args, kwargs, observed)
    data_sets = _simulator_of(model, model_args, kwargs, tuple(sites.dtypes), simulator)
    posterior = partial(reading.given, model, model_args, kwargs, sites.dtypes)
    problem = make_problem(data_sets, posterior, sites, parameters, quantities)
    plan = Plan(num_simulations, chunk_size, max_rhat, progress, callback, client)
    settings = Settings(algorithm, num_chains, num_samples, num_draws)
    plan.refuse(settings)
    with nullcontext() if store is None else StudyStore(store) as opened:
        about = {"study": "sbc"} if simulator is None else {"study": "sbc", "simulator_hash": function_hash(simulator)}
        return run_study(key, problem, settings, plan, about, opened)


def simulations(
    key: jax.Array,
    model: Model,
    numbers: Sequence[int] | np.ndarray,
    *model_args: Any,
    observed: Sequence[str] | None = None,
    simulator: Simulator | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The data sets of a study and all that is true of them, e.g. for checks of fields that no rank was made of.

    Args:
        key: that of `sbc`.
        model: see `sbc`.
        numbers: of the simulations, from 0.
        *model_args: see `sbc`.
        observed: see `sbc`.
        simulator: see `sbc`.
        model_kwargs: see `sbc`.

    Returns:
        True values by site and observations by site, of leading axis (simulation,); as in the study up to rounding.

    Raises:
        ValueError: as `sbc`.
    """
    kwargs = dict(model_kwargs or {})
    sites = reading.read_sites(model, model_args, kwargs, observed)
    data_sets = _simulator_of(model, model_args, kwargs, tuple(sites.dtypes), simulator)
    keys = simulation_keys(key_of_study(typed_key(key)), jnp.asarray(numbers))
    values, observation = jax.jit(partial(jax.lax.map, data_sets))(keys)
    return jax.tree.map(np.asarray, values), jax.tree.map(np.asarray, observation)


def _simulator_of(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], observed: tuple[str, ...], own: Simulator | None
) -> Callable[[jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """The simulator of a study: the model, or the user's own, which must fit it."""
    of_model = partial(reading.simulate, model, args, kwargs, observed)
    if own is None:
        return of_model
    reading.require_sites(own, jax.eval_shape(of_model, jax.random.key(0))[1])
    return partial(reading.simulate_elsewhere, own, observed)


@dataclass(frozen=True)
class Plan:
    """How much of a study is to be done, and who is told; the arguments of `sbc`."""

    num_simulations: int
    chunk_size: int | None
    max_rhat: float
    progress: bool
    callback: Callable[[int], None] | None
    client: Client | None = None

    def refuse(self, settings: Settings) -> None:
        """Raise ValueError for numbers that make no sense."""
        numbers = {
            "num_simulations": self.num_simulations,
            "num_chains": settings.num_chains,
            "num_samples": settings.num_samples,
            "num_draws": settings.num_draws,
            "chunk_size": 1 if self.chunk_size is None else self.chunk_size,
        }
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        total = settings.num_chains * settings.num_samples
        if settings.num_draws > total:
            raise ValueError(
                f"num_draws={settings.num_draws} draws are to be ranked of each simulation, but num_chains x "
                f"num_samples = {settings.num_chains} x {settings.num_samples} are only {total}"
            )


def run_study(
    key: jax.Array,
    problem: Problem,
    settings: Settings,
    plan: Plan,
    about: Mapping[str, str],
    store: StudyStore | None,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Sbc:
    """Run the simulations that are not there yet.

    ``about`` holds what makes the study another one beside model, algorithm, key and numbers, ``inputs`` arrays that
    its simulator uses and its store keeps.
    """
    key = typed_key(key)
    engine = make_engine(key, problem, settings)
    held = None if store is None or store.card is None else int(store.card["chunk_size"])
    size = plan.chunk_size or held or engine.chunk_size(plan.num_simulations)
    card = _card(key, engine, about, size) | {WANTED: plan.num_simulations}
    chunks: Chunks = MemoryChunks()
    if store is not None:
        store.begin(card, inputs)
        chunks = store
    status, done = "complete", 0
    with TaskProgress(f"{type(settings.algorithm).__name__}, simulations", plan.num_simulations, plan.progress) as bar:

        def report(number: int) -> None:
            nonlocal done
            done += number
            bar.advance(number)
            if plan.callback is not None:
                plan.callback(done)

        try:
            if plan.client is None:
                for number in range(-(-plan.num_simulations // size)):
                    wanted = min(size, plan.num_simulations - number * size)
                    _complete(engine, chunks, number, size, wanted, report)
            else:
                _complete_on(plan.client, key, engine, chunks, size, plan.num_simulations, report)
        except KeyboardInterrupt:
            status = "interrupted"
            if chunks.read(0) is None:
                raise
            text = f"interrupted: {done} of {plan.num_simulations} simulations are finished"
            warnings.warn(text, UserWarning, stacklevel=3)
    records = _leading(chunks, size, plan.num_simulations)
    attributes = {**card, "num_simulations": records.number, "status": status}
    return Sbc(problem.names, records, attributes, plan.max_rhat)


def _complete(
    engine: Engine, chunks: Chunks, number: int, size: int, wanted: int, report: Callable[[int], None]
) -> None:
    """Run what is missing of a chunk, and report how many of the simulations wanted are there."""
    held = chunks.read(number)
    parts: list[Records] = [] if held is None else [held]
    there, written = 0 if held is None else held.number, time.monotonic()
    if there:
        report(min(there, wanted))
    if there >= wanted:
        return
    unwritten = False
    try:
        for records in engine.run(number * size, size, there, wanted):
            parts.append(records)
            there, new, unwritten = there + records.number, min(records.number, wanted - there), True
            if there >= wanted or time.monotonic() - written > _COMMIT_SECONDS:
                chunks.write(number, join(parts))
                unwritten, written = False, time.monotonic()
            report(new)
    finally:
        if unwritten:
            chunks.write(number, join(parts))


def _complete_on(
    client: Client,
    key: jax.Array,
    engine: Engine,
    chunks: Chunks,
    size: int,
    num_simulations: int,
    report: Callable[[int], None],
) -> None:
    """Run what is missing on a cluster, and report how many of the simulations wanted are there."""
    tasks = missing(chunks, size, num_simulations)
    if there := num_simulations - sum(task.wanted - task.skip for task in tasks):
        report(there)

    def keep(task: Task, records: Records) -> None:
        held = chunks.read(task.chunk)
        chunks.write(task.chunk, records if held is None else join([held, records]))
        report(task.wanted - task.skip)

    run_on(client, key, engine, size, tasks, keep)


def _leading(chunks: Chunks, size: int, num_simulations: int) -> Records:
    """The simulations that are there, up to the first that is not."""
    parts: list[Records] = []
    for number in range(-(-num_simulations // size)):
        part = chunks.read(number)
        if part is None:
            break
        parts.append(part)
        if part.number < size:
            break
    return join(parts).rows(0, num_simulations)


def _card(key: jax.Array, engine: Engine, about: Mapping[str, str], size: int) -> dict[str, Any]:
    """What the study is: attributes of the result, and what its store is known by."""
    settings = engine.settings
    numbers = {"num_chains": settings.num_chains, "num_samples": settings.num_samples}
    run = run_attributes(key, settings.algorithm, engine.target, {}, settings.num_chains, settings.num_samples)
    own = {name: value for name, value in json.loads(run["settings"]).items() if name not in numbers}
    return {
        **about,
        **{name: run[name] for name in ("algorithm", "seed", "precision", "model_hash")},
        "settings": own,
        **numbers,
        "num_draws": settings.num_draws,
        "chunk_size": size,
        "quantities_hash": function_hash(engine.problem.measure),
        "names": list(engine.problem.names),
        "versions": run["versions"],
    }
