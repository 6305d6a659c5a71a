"""The chain loop that all algorithms share, and the protocol by which they join it.

An **algorithm** is a frozen dataclass of settings with one method,

    ``prepare(key, target, num_chains, progress) -> Prepared``

which may take its time (fit a surrogate, find a block structure) and returns what is to be run: a `Kernel`, the target
whose data the kernel takes, and attributes to keep with the result. To sample another density than the model's, return
``target.with_density(density, density_data)`` and another algorithm's kernel of that target.

A **kernel** is pure functions over *all* chains at once, the leading axis of every array being the chain:

* ``init(key, start, data) -> state``;
* ``step(key, index, state, data) -> (state, info)``, one iteration of every chain. ``index`` counts iterations from the
  first of the warm-up: while ``index < num_warmup`` the kernel adapts, from then on it must not. ``info`` is a dict of
  (num_chains,) arrays that becomes ``sample_stats``; ``diverging`` and ``acceptance_rate`` are shown while it runs;
* ``position(state) -> dict`` of unconstrained positions (num_chains, ...).

State is a pytree of arrays and all that the next step needs, warm-up included. The key of iteration i is
``fold_in(key, i)``, so the draws depend neither on how iterations are grouped into blocks nor on where a run was cut:
a sink that keeps draws and state after a block can continue from there, bit by bit. Warm-up and sampling are one
program, compiled once, and blocks are as long as about two seconds allow, for progress and a prompt reaction to an
interrupt. Kernels are compared by the identity of their functions; an algorithm that caches its kernel by (settings,
density) runs again without compiling.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff import devices

from .programs import compile_once
from .progress import BlockReport, ChainProgress
from .selection import ALL_DRAWS, STATISTICS, DrawGroup
from .start import Start
from .steps import Programs, begin_state, block_length, compile_run, run_steps
from .target import Data, Position, Target

State = Any
Info = dict[str, jax.Array]
Draws = dict[str, np.ndarray]
Callback = Callable[[BlockReport], None]

_FIRST_BLOCK = 10
_BLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Kernel:
    """Pure functions over all chains; the module's docstring says what each one does.

    Attributes:
        init: the first state.
        step: one iteration of every chain.
        position: where a state is.
        num_warmup: iterations of adaptation.
        independent: whether the chains share nothing, or by `over_chains` alone, and take their random numbers from
            `chain_keys` or from a key common to all, so that they may run on several devices.
        in_turn: whether they move one after the other rather than together; so do data sets then.
    """

    init: Callable[[jax.Array, Start, Data], State]
    step: Callable[[jax.Array, jax.Array, State, Data], tuple[State, Info]]
    position: Callable[[State], Position]
    num_warmup: int
    independent: bool = False
    in_turn: bool = False


@dataclass(frozen=True)
class Prepared:
    """What is to be run.

    Attributes:
        kernel: what makes the chains.
        target: its ``density_data`` goes to the kernel.
        attributes: kept with the result.
        positions: unconstrained positions (num_chains, ...) to start from; by default draws from the prior.
    """

    kernel: Kernel
    target: Target
    attributes: Mapping[str, Any] = field(default_factory=dict)
    positions: Position | None = None


class Algorithm(Protocol):
    """Settings of an algorithm: a frozen dataclass with this method."""

    def prepare(self, key: jax.Array, target: Target, num_chains: int, progress: bool) -> Prepared:
        """Kernel and target to run."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """An algorithm whose preparation is worth keeping: what it computed is kept in the store, and not done again."""

    def outline(self, target: Target, num_chains: int) -> Prepared:
        """What ``prepare`` returns, at no cost: ``density_data`` may hold any arrays of the right shapes."""
        ...


class Checkpoint(NamedTuple):
    """Where a run is, and all that it takes to continue.

    Attributes:
        iteration: iterations made, warm-up included.
        state: the kernel's state.
        seconds: spent so far by this process: compile_seconds, warmup_seconds, sampling_seconds (the draws).
    """

    iteration: int
    state: State
    seconds: dict[str, float]


class Saved(NamedTuple):
    """A checkpoint as it was read: iterations made, and the packed state."""

    iteration: int
    state: bytes


Block = dict[str, Draws]
"""Consecutive kept draws by group (`DrawGroup`, and the statistics): arrays (chain, draw, ...)."""


class DrawSink(Protocol):
    """Where blocks of draws are kept as they come, e.g. a Zarr store."""

    @property
    def iteration(self) -> int:
        """Iterations of the last checkpoint it was given."""
        ...

    def append(self, block: Block, checkpoint: Checkpoint) -> None:
        """Keep a block, which is empty during the warm-up, with the state after it."""
        ...


class ChainRun(NamedTuple):
    """Result of the chain loop.

    Attributes:
        groups: kept draws by group, (chain, draw, ...); empty if a sink has them.
        status: "complete" or "interrupted".
        seconds: compile_seconds, warmup_seconds and sampling_seconds (the draws) of this process.
    """

    groups: Block
    status: str
    seconds: dict[str, float]

    @property
    def posterior(self) -> Draws:
        """Constrained latent and deterministic sites, (chain, draw, ...)."""
        return self.groups["posterior"]

    @property
    def sample_stats(self) -> Draws:
        """Statistics, (chain, draw)."""
        return self.groups[STATISTICS]

    @property
    def compile_seconds(self) -> float:
        """Time spent on compiling."""
        return self.seconds["compile_seconds"]


def chain_keys(key: jax.Array, num_chains: int) -> jax.Array:
    """One key per chain, which depends neither on how many chains there are nor on the device they run on."""
    try:
        first = jax.lax.axis_index(devices.AXIS) * num_chains
    except NameError:  # not spread over devices
        first = 0
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(num_chains))


def over_chains(values: jax.Array) -> jax.Array:
    """Values (num_chains, ...) of the chains on this device as those of all chains."""
    try:
        return jax.lax.all_gather(values, devices.AXIS, tiled=True)
    except NameError:  # not spread over devices
        return values


def run_chains(
    key: jax.Array,
    prepared: Prepared,
    num_chains: int,
    num_samples: int,
    *,
    label: str = "chains",
    groups: tuple[DrawGroup, ...] = ALL_DRAWS,
    sink: DrawSink | None = None,
    saved: Saved | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> ChainRun:
    """Warm up all chains, then draw.

    Args:
        key: random key.
        prepared: what to run.
        num_chains: number of chains.
        num_samples: draws of each chain after the warm-up.
        label: name shown in the progress bar.
        groups: which draws are kept.
        sink: takes every block of draws as soon as it is there.
        saved: where to continue; the other arguments must be those of the run that saved it.
        progress: whether to show bars.
        callback: called with a `BlockReport` after every block.

    Returns:
        The draws. A KeyboardInterrupt after the first block of draws gives those drawn so far, with status
        "interrupted" and a warning; during the warm-up it is raised.

    Raises:
        ValueError: bad numbers, no chain can start, or what was saved is the state of another run.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    num_warmup = prepared.kernel.num_warmup
    iteration = 0 if saved is None else saved.iteration
    blocks: list[Block] = []
    with ChainProgress(label, num_chains, progress and devices.is_first_process()) as bars:
        bars.begin("compiling")
        programs, state = compile_run(key, prepared, num_chains, groups, None if saved is None else saved.state)
        bars.end("compiling")
        seconds = {"compile_seconds": programs.seconds, "warmup_seconds": 0.0, "sampling_seconds": 0.0}
        if sink is not None and saved is None:
            sink.append({}, Checkpoint(0, devices.gather(state), seconds))
        status = "complete"
        try:
            for phase, spent, first, total in (
                ("warm-up", "warmup_seconds", 0, num_warmup),
                ("sampling", "sampling_seconds", num_warmup, num_samples),
            ):
                bars.begin(phase, total)
                done = min(max(iteration - first, 0), total)
                divergences, length = 0, min(_FIRST_BLOCK, total - done)
                while done < total:
                    clock = time.perf_counter()
                    state, position, info = programs.steps(first + done, length, state)
                    stats = _chain_first(info, length)
                    block: Block = {}
                    if phase == "sampling":
                        block = {STATISTICS: stats, **_kept_draws(programs, groups, position, done, length)}
                    kept_state = devices.gather(state)
                    elapsed = devices.agree(time.perf_counter() - clock)
                    done += length
                    seconds = {**seconds, spent: seconds[spent] + elapsed}
                    if sink is not None:
                        sink.append(block, Checkpoint(first + done, kept_state, seconds))
                    elif block:
                        blocks.append(block)
                    divergences += int(np.sum(stats.get("diverging", 0)))
                    acceptance = float(np.mean(stats.get("acceptance_rate", np.nan)))
                    report = BlockReport(phase, done, total, divergences, acceptance)
                    bars.update(report)
                    if callback is not None:
                        callback(report)
                    length = min(next_length(length, elapsed, programs.longest), total - done)
        except KeyboardInterrupt:
            status = "interrupted"
            drawn = sum(_length(block) for block in blocks) if sink is None else sink.iteration - num_warmup
            if drawn <= 0:
                raise
            warnings.warn(f"interrupted: kept {drawn} of {num_samples} draws of each chain", UserWarning, stacklevel=3)
    return ChainRun(_concatenate(blocks), status, seconds)


def explore(key: jax.Array, kernel: Kernel, start: Start, data: Data, num_draws: int) -> Position:
    """Positions (num_draws, num_chains, ...) after the warm-up, by the same compiled programs as `run_chains`."""
    key_init, key_steps = jax.random.split(key)
    init, _ = compile_once(begin_state, (kernel,), key_init, start, data)
    state = init(key_init, start, data)
    zero = jnp.int32(0)
    longest = block_length(jax.eval_shape(kernel.position, state))
    steps, _ = compile_once(run_steps, (kernel, None, longest), key_steps, zero, zero, state, data)
    rows: list[Position] = []
    done, total = 0, kernel.num_warmup + num_draws
    while done < total:
        # A block does not straddle the end of the warm-up.
        end = kernel.num_warmup if done < kernel.num_warmup else total
        length = min(longest, end - done)
        state, position, _ = steps(key_steps, jnp.int32(done), jnp.int32(length), state, data)
        if done >= kernel.num_warmup:
            rows.append(jax.tree.map(lambda x, length=length: x[:length], position))
        done += length
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)


def _kept_draws(
    programs: Programs, groups: tuple[DrawGroup, ...], position: Position, first: int, length: int
) -> Block:
    """Constrained values of the draws from number ``first`` on that the groups keep."""
    block: Block = {}
    for group in groups:
        row, num = -first % group.every, group.count(first + length) - group.count(first)
        if num:
            block[group.name] = _chain_first(programs.constrain[group.name](position, row, num), num)
    return block


def next_length(length: int, seconds: float, longest: int) -> int:
    """Iterations of the next block, so that it takes about two seconds, after one that took ``seconds``."""
    wanted = length * _BLOCK_SECONDS / max(seconds, 1e-3)
    return max(1, min(longest, int(wanted)))


def _chain_first(rows: Mapping[str, jax.Array], num: int) -> Draws:
    """(row, chain, ...) on the devices to the first ``num`` rows as (chain, draw, ...)."""
    return {name: np.asarray(x)[:num].swapaxes(0, 1) for name, x in devices.gather(dict(rows)).items()}


def _length(block: Block) -> int:
    return next(iter(block[STATISTICS].values())).shape[1]


def _concatenate(blocks: list[Block]) -> Block:
    """Blocks in a row; the first one has every group, because draw 0 is always kept."""
    first = blocks[0] if blocks else {}
    return {
        group: {name: np.concatenate([b[group][name] for b in blocks if group in b], axis=1) for name in values}
        for group, values in first.items()
    }
