"""Posteriors of simulated data sets, by the algorithms of `bayesdiff.sampling`.

Two ways. An algorithm whose preparation does not look at the data runs all chains of a chunk of data sets in one
compiled program (`bayesdiff.sampling.data_sets`). One that fits something to the data first (a surrogate) or makes no
chains (a grid) takes one data set after another; the observation is an argument of its programs, which are compiled
for the first and serve all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.calibration.sbc_problem import Problem
from bayesdiff.calibration.sbc_records import Fault, Records, no_posterior, record
from bayesdiff.sampling.chains import Algorithm, Prepared, Restorable, run_chains
from bayesdiff.sampling.data_sets import DataSets, Measure, bytes_of_gradient, measure_data_sets, takes_any_data
from bayesdiff.sampling.direct import DirectAlgorithm
from bayesdiff.sampling.programs import compile_once
from bayesdiff.sampling.target import BoundModel, Data, Position, Target, build_target

CHUNK_SIZES = (50, 25, 10, 5, 2, 1)
ALONE = 10
"""Data sets of a chunk that go one after another; what a lost worker was at is done again."""
NUM_TRIED = 3
"""Data sets, all without a posterior, after which the call is to blame."""
_CHUNK_BYTES = 2**30
_LARGEST_FLOAT32_INTEGER = 2**24


class Settings(NamedTuple):
    """How a study runs.

    Attributes:
        algorithm: the engine on trial.
        num_chains: chains on each data set.
        num_samples: draws of each chain.
        num_draws: draws that the truth is ranked among.
    """

    algorithm: Algorithm | DirectAlgorithm
    num_chains: int
    num_samples: int
    num_draws: int


class Simulated(NamedTuple):
    """Data sets with their truth.

    Attributes:
        numbers: (simulation,) which they are.
        truth: (simulation, quantity).
        observation: the data, arrays (simulation, ...).
    """

    numbers: np.ndarray
    truth: np.ndarray
    observation: dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Engine:
    """An algorithm on one problem.

    Attributes:
        key: of the whole study.
        problem: simulator and posterior.
        settings: how it runs.
        target: the posterior of one data set.
        measure: quantities at an unconstrained position, given the model's data.
        prepared: kernel and target that serve every data set; None where they go one after another.
    """

    key: jax.Array
    problem: Problem
    settings: Settings
    target: Target
    measure: Measure
    prepared: Prepared | None

    @property
    def batched(self) -> bool:
        """Whether a chunk of data sets runs in one program."""
        return self.prepared is not None

    def chunk_size(self, num_simulations: int) -> int:
        """How many data sets a chunk holds, so that the gradients of all their chains fit into a gigabyte."""
        if self.prepared is None:
            return ALONE
        target = self.prepared.target
        position: Any = {
            name: jax.ShapeDtypeStruct(x, jnp.result_type(float)) for name, x in target.latent_shapes.items()
        }
        needed = bytes_of_gradient(target.density, position, target.density_data) * self.settings.num_chains
        fitting = next((size for size in CHUNK_SIZES if size * needed <= _CHUNK_BYTES), 1)
        return min(fitting, num_simulations)

    def run(self, first: int, size: int, skip: int, num: int) -> Iterator[Records]:
        """Simulations ``first + skip``, ... of a chunk, ``num`` of the chunk at least, as they are finished.

        Args:
            first: number of the chunk's first simulation.
            size: of the chunk, whose program is the same however many are wanted.
            skip: how many of the chunk are there already.
            num: how many of the chunk are wanted.

        Raises:
            Exception: that of the algorithm, where the first simulations of a study all end in one.
        """
        simulated = self.simulate(np.arange(first, first + size))
        if self.prepared is not None:
            yield self._all(self.prepared, simulated).rows(skip, size)
            return
        held: list[tuple[Records, Exception | None]] = []
        for row in range(skip, num):
            held.append(self._one(simulated, row))
            error = held[-1][1]
            if error is not None and first + skip == 0 and len(held) == row + 1:
                if len(held) == min(NUM_TRIED, num):
                    raise error
                continue
            for number, (records, error) in enumerate(held, first + row + 1 - len(held)):
                if error is not None:
                    warnings.warn(f"simulation {number} has no posterior: {error}", UserWarning, stacklevel=2)
                yield records
            held = []

    def simulate(self, numbers: np.ndarray) -> Simulated:
        """Data sets of these numbers.

        Raises:
            ValueError: counts that the floating-point numbers in use cannot hold.
        """
        keys = simulation_keys(self.key, jnp.asarray(numbers))
        program, _ = compile_once(_simulate, (self.problem,), keys)
        truth, observation, largest = program(keys)
        for name, value in largest.items():
            if float(value) >= _LARGEST_FLOAT32_INTEGER and not jax.config.jax_enable_x64:
                raise ValueError(f"site '{name}' has counts beyond {_LARGEST_FLOAT32_INTEGER}: switch JAX's x64 on")
        return Simulated(numbers, np.asarray(truth), observation)

    def _all(self, prepared: Prepared, simulated: Simulated) -> Records:
        arguments = jax.tree.leaves(simulated.observation)
        finite = np.all([np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in map(np.asarray, arguments)], axis=0)
        data_sets = DataSets(jnp.asarray(simulated.numbers), tuple(arguments))
        measured = measure_data_sets(
            jax.random.fold_in(self.key, 1),
            prepared,
            data_sets,
            self.settings.num_chains,
            self.settings.num_samples,
            self.measure,
        )
        faults = np.where(finite, Fault.NONE, Fault.NOT_FINITE) | np.where(measured.started, Fault.NONE, Fault.NO_START)
        seeds = [self._seed(number) for number in simulated.numbers]
        values, divergences = measured.values, measured.divergences
        return record(simulated.truth, values, seeds, self.settings.num_draws, False, divergences, faults)

    def _one(self, simulated: Simulated, row: int) -> tuple[Records, Exception | None]:
        """One simulation, and the error that stands in the place of its posterior."""
        number, truth = int(simulated.numbers[row]), simulated.truth[row : row + 1]
        observation = {name: x[row] for name, x in simulated.observation.items()}
        if not all(np.isfinite(x).all() for x in observation.values()):
            return no_posterior(truth, self.settings.num_draws, Fault.NOT_FINITE), None
        key = jax.random.fold_in(jax.random.fold_in(self.key, 1), number)
        try:
            values, divergences, converged = self._posterior(key, observation)
        except Exception as error:
            return no_posterior(truth, self.settings.num_draws, Fault.ERROR), error
        fault = Fault.NONE if converged else Fault.NOT_CONVERGED
        independent = isinstance(self.settings.algorithm, DirectAlgorithm)
        return record(
            truth,
            values[None],
            [self._seed(number)],
            self.settings.num_draws,
            independent,
            np.array([divergences]),
            np.array([int(fault)]),
        ), None

    def _posterior(self, key: jax.Array, observation: dict[str, jax.Array]) -> tuple[np.ndarray, int, bool]:
        """Quantities (chain, draw, quantity), divergent iterations, and whether the algorithm accepts its result."""
        algorithm, num_chains, num_samples, _ = self.settings
        target = self.target.with_data(key, observation)
        with warnings.catch_warnings():
            # What it would say of one data set stands in the records of all.
            warnings.simplefilter("ignore", UserWarning)
            if isinstance(algorithm, DirectAlgorithm):
                result = algorithm.run(key, target, num_chains, num_samples, False)
                draws = {str(name): x.values for name, x in result["posterior"].data_vars.items()}
                attributes, divergences = result.attrs, 0
            else:
                key_prepare, key_run = jax.random.split(key)
                prepared = algorithm.prepare(key_prepare, target, num_chains, False)
                run = run_chains(key_run, prepared, num_chains, num_samples, progress=False)
                draws, attributes = run.posterior, prepared.attributes
                divergences = int(np.sum(run.sample_stats.get("diverging", 0)))
        values = {name: jnp.asarray(x, dtype=float) for name, x in draws.items()}
        program, _ = compile_once(_measure_draws, (self.problem.measure,), values, observation)
        converged = all(bool(x) for name, x in attributes.items() if str(name).endswith("_converged"))
        return np.asarray(program(values, observation)), divergences, converged

    def _seed(self, number: int) -> list[int]:
        return [*np.asarray(jax.random.key_data(self.key)).ravel().tolist(), int(number)]


def make_engine(key: jax.Array, problem: Problem, settings: Settings) -> Engine:
    """The engine of a study.

    Raises:
        ValueError: the model does not fit the algorithm.
    """
    key_target, key_prepare, _ = jax.random.split(key, 3)
    key_study = key_of_study(key)
    # Nothing looks at these values: every data set takes their place.
    _, shapes = jax.eval_shape(problem.simulate, key_study)
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    target = build_target(key_target, problem.posterior_model, (blank,))
    algorithm = settings.algorithm
    prepared = None
    if not isinstance(algorithm, DirectAlgorithm | Restorable):
        ready = algorithm.prepare(key_prepare, target, settings.num_chains, False)
        prepared = ready if takes_any_data(ready, target.data) else None
    measure = partial(_measure_position, target.functions, problem.measure)
    return Engine(key_study, problem, settings, target, measure, prepared)


def key_of_study(key: jax.Array) -> jax.Array:
    """The key of all simulations, from that of the study."""
    return jax.random.split(key, 3)[2]


def simulation_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """The key of each data set, from that of all simulations and its number alone."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, 0)))(numbers)


def _simulate(problem: Problem, keys: jax.Array) -> Any:
    def one(key: jax.Array) -> Any:
        values, observation = problem.simulate(key)
        return problem.measure(values, observation), observation

    truth, observation = jax.vmap(one)(keys)
    counts = {name: jnp.abs(observation[name]).max() for name in problem.counts}
    return truth, observation, counts


def _measure_position(functions: BoundModel, measure: Any, position: Position, data: Data) -> jax.Array:
    (observation,), _ = functions.arguments(data)
    return measure(functions.constrain(position, data), observation)


def _measure_draws(measure: Any, values: dict[str, jax.Array], observation: dict[str, jax.Array]) -> jax.Array:
    return jax.vmap(jax.vmap(lambda draw: measure(draw, observation)))(values)
