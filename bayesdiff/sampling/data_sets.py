"""Chains of one model on many data sets at once, in one compiled program: what a calibration study runs.

A kernel takes the data as an argument, so that a kernel over many data sets is the same kernel under one more ``vmap``,
or in a loop where its chains move in turn (:func:`over_data_sets`). The leading axis of every array is then the data
set, the next one the chain, and the program that steps it is the one that steps a single run
(`bayesdiff.sampling.steps.run_steps`). Every data set has a number, which makes its random numbers; what happens to one
does not depend on the others beside it, to rounding.

Positions are not kept. A field has thousands of values and a calibration study wants a few numbers of it, so a function
of position and data is evaluated on the device after every block of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .chains import Info, Kernel, Prepared, State, next_length
from .programs import compile_once
from .start import Start
from .steps import begin_state, block_length, run_steps
from .target import BoundModel, Data, Density, Position

_MAX_TRIES = 100
Measure = Callable[[Position, Data], jax.Array]


class DataSets(NamedTuple):
    """Data sets of the same shapes.

    Attributes:
        numbers: (data set,) integers that make the random numbers of each, whatever stands beside it.
        data: the model's data, every array with a leading axis for the data set.
    """

    numbers: jax.Array
    data: Data


class Measured(NamedTuple):
    """What the chains on every data set gave.

    Attributes:
        values: (data set, chain, draw, quantity).
        divergences: (data set,) divergent iterations after the warm-up.
        started: (data set,) whether every chain found a finite density and gradient to start from.
    """

    values: np.ndarray
    divergences: np.ndarray
    started: np.ndarray


@lru_cache(maxsize=16)
def over_data_sets(kernel: Kernel) -> Kernel:
    """The kernel over all chains of all data sets; its data are `DataSets`."""

    def init(key: jax.Array, start: Start, data: DataSets) -> State:
        def one(number: jax.Array, start: Start, data: Data) -> State:
            return kernel.init(jax.random.fold_in(key, number), start, data)

        return jax.vmap(one)(data.numbers, start, data.data)

    def step(key: jax.Array, index: jax.Array, state: State, data: DataSets) -> tuple[State, Info]:
        def one(number: jax.Array, state: State, data: Data) -> tuple[State, Info]:
            return kernel.step(jax.random.fold_in(key, number), index, state, data)

        each = (data.numbers, state, data.data)
        return jax.lax.map(lambda x: one(*x), each) if kernel.in_turn else jax.vmap(one)(*each)

    return Kernel(init, step, jax.vmap(kernel.position), kernel.num_warmup)


def takes_any_data(prepared: Prepared, data: Data) -> bool:
    """Whether what was prepared for these data serves for others: the kernel takes them as they are."""
    return prepared.target.density_data is data and prepared.positions is None


def measure_data_sets(
    key: jax.Array, prepared: Prepared, data_sets: DataSets, num_chains: int, num_samples: int, measure: Measure
) -> Measured:
    """Warm up and draw on every data set, and measure every draw.

    Args:
        key: random key of all of them.
        prepared: kernel and target, see `takes_any_data`.
        data_sets: the data.
        num_chains: chains on each data set.
        num_samples: draws of each chain after its warm-up.
        measure: from an unconstrained position and the data a vector of quantities; compiled once as long as it is the
            same object.
    """
    target, kernel = prepared.target, over_data_sets(prepared.kernel)
    key_start, key_init, key_steps = jax.random.split(key, 3)
    start, started = _find_starts(key_start, target.functions, target.density, data_sets, num_chains)
    init, _ = compile_once(begin_state, (kernel,), key_init, start, data_sets)
    state = init(key_init, start, data_sets)
    zero = np.int32(0)
    longest = block_length(jax.eval_shape(kernel.position, state))
    steps, _ = compile_once(run_steps, (kernel, None, longest), key_steps, zero, zero, state, data_sets)
    values, diverging = [], np.zeros(len(started), dtype=int)
    done, length, num_warmup = 0, 10, kernel.num_warmup
    while done < num_warmup + num_samples:
        clock = time.perf_counter()
        # A block does not straddle the end of the warm-up.
        length = min(length, (num_warmup if done < num_warmup else num_warmup + num_samples) - done)
        state, position, info = steps(key_steps, np.int32(done), np.int32(length), state, data_sets)
        if done >= num_warmup:
            program, _ = compile_once(_measure_rows, (measure,), position, zero, data_sets.data)
            values.append(np.asarray(program(position, np.int32(length), data_sets.data))[:length])
            if "diverging" in info:
                diverging += np.asarray(info["diverging"])[:length].sum(axis=(0, 2))
        jax.block_until_ready(state)
        done += length
        length = next_length(length, time.perf_counter() - clock, longest)
    return Measured(np.moveaxis(np.concatenate(values), 0, 2), diverging, started)


def bytes_of_gradient(density: Density, position: Position, data: Data) -> int:
    """Upper bound on the memory that a gradient of the density takes: all its intermediate values together.

    ``position`` and ``data`` are those of one chain; shapes are enough (``jax.ShapeDtypeStruct``).
    """
    return _bytes_of_program(jax.make_jaxpr(jax.value_and_grad(density))(position, data).jaxpr)


def _find_starts(
    key: jax.Array, functions: BoundModel, density: Density, data_sets: DataSets, num_chains: int
) -> tuple[Start, np.ndarray]:
    """Prior draws with a finite density and gradient, and which data sets have one for every chain."""
    start, finite = None, np.zeros(0, dtype=bool)
    for attempt in range(_MAX_TRIES):
        arguments = (jax.random.fold_in(key, attempt), data_sets)
        program, _ = compile_once(_propose, (functions, density, num_chains), *arguments)
        proposal = program(*arguments)
        start = proposal if start is None else _choose(finite, start, proposal)
        finite = _is_finite(start)
        if finite.all():
            break
    assert start is not None
    return start, finite.all(axis=1)


def _propose(functions: BoundModel, density: Density, num_chains: int, key: jax.Array, data_sets: DataSets) -> Start:
    def chain(key: jax.Array, data: Data) -> Start:
        position = functions.draw_prior(key, data)
        return Start(position, *jax.value_and_grad(density)(position, data))

    def one(number: jax.Array, data: Data) -> Start:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, number), jnp.arange(num_chains))
        return jax.vmap(chain, in_axes=(0, None))(keys, data)

    return jax.vmap(one)(data_sets.numbers, data_sets.data)


def _is_finite(start: Start) -> np.ndarray:
    shape = start.log_density.shape
    leaves = [np.asarray(leaf).reshape(*shape, -1) for leaf in jax.tree.leaves(start)]
    return np.all([np.isfinite(leaf).all(axis=-1) for leaf in leaves], axis=0)


def _choose(first: np.ndarray, a: Start, b: Start) -> Start:
    return jax.tree.map(lambda x, y: jnp.where(first.reshape(*first.shape, *(1,) * (x.ndim - 2)), x, y), a, b)


def _measure_rows(measure: Measure, position: Position, num: jax.Array, data: Data) -> jax.Array:
    """Quantities (row, data set, chain, quantity), row by row, because a field may be made of every position."""

    def one_row(row: jax.Array) -> jax.Array:
        chains = jax.tree.map(lambda x: x[row], position)
        return jax.vmap(jax.vmap(measure, in_axes=(0, None)))(chains, data)

    shape = jax.eval_shape(one_row, jnp.int32(0))
    empty = jnp.zeros((len(jax.tree.leaves(position)[0]), *shape.shape), shape.dtype)
    return jax.lax.fori_loop(0, num, lambda row, rows: rows.at[row].set(one_row(row)), empty)


def _bytes_of_program(program: Any) -> int:
    total = 0
    for equation in program.eqns:
        total += sum(int(np.prod(v.aval.shape)) * v.aval.dtype.itemsize for v in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            total += _bytes_of_program(inner) if hasattr(inner, "eqns") else 0
    return total
