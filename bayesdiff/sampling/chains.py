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
``fold_in(key, i)``, so the draws depend neither on how iterations are grouped into blocks nor on where a run was cut.
Warm-up and sampling are one program, compiled once: it takes the number of steps as an argument, so that blocks can be
as long as about two seconds allow, for progress and a prompt reaction to an interrupt. Kernels are compared by the
identity of their functions; an algorithm that caches its kernel by (settings, density) runs again without compiling.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .programs import compile_once
from .progress import BlockReport, ChainProgress
from .start import Start, evaluate, find_start
from .target import Data, Position, Target

State = Any
Info = dict[str, jax.Array]
Draws = dict[str, np.ndarray]
Callback = Callable[[BlockReport], None]

_BLOCK_LENGTH = 50
_FIRST_BLOCK = 10
_BLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Kernel:
    """Pure functions over all chains; the module's docstring says what each one does."""

    init: Callable[[jax.Array, Start, Data], State]
    step: Callable[[jax.Array, jax.Array, State, Data], tuple[State, Info]]
    position: Callable[[State], Position]
    num_warmup: int


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


class Block(NamedTuple):
    """Consecutive draws: constrained values (chain, draw, ...) and statistics (chain, draw)."""

    posterior: Draws
    sample_stats: Draws


class DrawSink(Protocol):
    """Where blocks of draws are kept as they come, e.g. a Zarr store."""

    def append(self, block: Block) -> None:
        """Keep a block; after this call it survives the process."""
        ...


class ChainRun(NamedTuple):
    """Result of the chain loop.

    Attributes:
        posterior: constrained latent and deterministic sites, (chain, draw, ...).
        sample_stats: statistics, (chain, draw).
        status: "complete" or "interrupted".
        compile_seconds: time spent on compiling.
        warmup_seconds: time of the warm-up, without compiling.
        sampling_seconds: time of the draws, without compiling.
    """

    posterior: Draws
    sample_stats: Draws
    status: str
    compile_seconds: float
    warmup_seconds: float
    sampling_seconds: float


def chain_keys(key: jax.Array, num_chains: int) -> jax.Array:
    """One key per chain, which does not depend on how many chains there are."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_chains))


def run_chains(
    key: jax.Array,
    prepared: Prepared,
    num_chains: int,
    num_samples: int,
    *,
    label: str = "chains",
    sink: DrawSink | None = None,
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
        sink: takes every block of draws as soon as it is there.
        progress: whether to show bars.
        callback: called with a `BlockReport` after every block.

    Returns:
        The draws. A KeyboardInterrupt after the first block of draws gives those drawn so far, with status
        "interrupted" and a warning; during the warm-up, when there is nothing to keep, it is raised.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    num_warmup = prepared.kernel.num_warmup
    key_init, key_steps = jax.random.split(key)
    blocks: list[Block] = []
    seconds = {"warm-up": 0.0, "sampling": 0.0}
    status = "complete"
    with ChainProgress(label, num_chains, progress) as bars:
        bars.begin("compiling")
        programs, state = _compile(key_init, prepared, num_chains)
        bars.end("compiling")
        try:
            for phase, first, total in (("warm-up", 0, num_warmup), ("sampling", num_warmup, num_samples)):
                bars.begin(phase, total)
                done, divergences, length = 0, 0, min(_FIRST_BLOCK, total)
                while done < total:
                    clock = time.perf_counter()
                    state, position, info = programs.steps(key_steps, first + done, length, state)
                    stats = _chain_first(info, length)
                    if phase == "sampling":
                        blocks.append(Block(_chain_first(programs.constrain(position), length), stats))
                        if sink is not None:
                            sink.append(blocks[-1])
                    elapsed = time.perf_counter() - clock
                    seconds[phase] += elapsed
                    done += length
                    divergences += int(np.sum(stats.get("diverging", 0)))
                    acceptance = float(np.mean(stats.get("acceptance_rate", np.nan)))
                    report = BlockReport(phase, done, total, divergences, acceptance)
                    bars.update(report)
                    if callback is not None:
                        callback(report)
                    length = min(_next_length(length, elapsed), total - done)
        except KeyboardInterrupt:
            if not blocks:
                raise
            status = "interrupted"
    posterior, sample_stats = (_concatenate([block[i] for block in blocks]) for i in range(2))
    if status == "interrupted":
        drawn = next(iter(posterior.values())).shape[1]
        warnings.warn(f"interrupted: kept {drawn} of {num_samples} draws of each chain", UserWarning, stacklevel=3)
    return ChainRun(posterior, sample_stats, status, programs.seconds, seconds["warm-up"], seconds["sampling"])


def explore(key: jax.Array, kernel: Kernel, start: Start, data: Data, num_draws: int) -> Position:
    """Positions (num_draws, num_chains, ...) after the warm-up, by the same compiled programs as `run_chains`."""
    key_init, key_steps = jax.random.split(key)
    init, _ = compile_once(_init, (kernel,), key_init, start, data)
    state = init(key_init, start, data)
    zero = jnp.int32(0)
    steps, _ = compile_once(_steps, (kernel,), key_steps, zero, zero, state, data)
    rows: list[Position] = []
    done, total = 0, kernel.num_warmup + num_draws
    while done < total:
        # A block does not straddle the end of the warm-up.
        end = kernel.num_warmup if done < kernel.num_warmup else total
        length = min(_BLOCK_LENGTH, end - done)
        state, position, _ = steps(key_steps, jnp.int32(done), jnp.int32(length), state, data)
        if done >= kernel.num_warmup:
            rows.append(jax.tree.map(lambda x, length=length: x[:length], position))
        done += length
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)


class _Programs(NamedTuple):
    steps: Callable[[jax.Array, int, int, State], tuple[State, Position, Info]]
    constrain: Callable[[Position], dict[str, jax.Array]]
    seconds: float


def _compile(key: jax.Array, prepared: Prepared, num_chains: int) -> tuple[_Programs, State]:
    kernel, target = prepared.kernel, prepared.target
    key_start, key_init = jax.random.split(key)
    if prepared.positions is None:
        start, seconds = find_start(key_start, target, num_chains)
    else:
        start, seconds = evaluate(target.density, prepared.positions, target.density_data)
    init, init_seconds = compile_once(_init, (kernel,), key_init, start, target.density_data)
    state = init(key_init, start, target.density_data)
    zero = jnp.int32(0)
    steps, steps_seconds = compile_once(_steps, (kernel,), key, zero, zero, state, target.density_data)
    position = jax.tree.map(lambda x: jnp.zeros((_BLOCK_LENGTH, *x.shape), x.dtype), kernel.position(state))
    constrain, constrain_seconds = compile_once(_constrain, (target.functions.constrain,), position, target.data)
    programs = _Programs(
        lambda key, first, num, state: steps(key, jnp.int32(first), jnp.int32(num), state, target.density_data),
        lambda position: constrain(position, target.data),
        seconds + init_seconds + steps_seconds + constrain_seconds,
    )
    return programs, state


def _init(kernel: Kernel, key: jax.Array, start: Start, data: Data) -> State:
    # Weakly typed scalars would not fit the compiled loop once they have been through it.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), kernel.init(key, start, data))


def _steps(
    kernel: Kernel, key: jax.Array, first: jax.Array, num: jax.Array, state: State, data: Data
) -> tuple[State, Position, Info]:
    """``num`` iterations from number ``first`` on; positions and statistics fill the first ``num`` rows."""
    step = jax.jit(kernel.step)

    def advance(row: jax.Array, carry: tuple[State, tuple[Position, Info]]) -> tuple[State, tuple[Position, Info]]:
        state, rows = carry
        new, info = step(jax.random.fold_in(key, first + row), first + row, state, data)
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
        rows = jax.tree.map(lambda all_rows, x: all_rows.at[row].set(x), rows, (kernel.position(new), info))
        return new, rows

    _, info = jax.eval_shape(step, jax.random.fold_in(key, first), first, state, data)
    empty = jax.tree.map(lambda x: jnp.zeros((_BLOCK_LENGTH, *x.shape), x.dtype), (kernel.position(state), info))
    state, (position, info) = jax.lax.fori_loop(0, num, advance, (state, empty))
    return state, position, info


def _constrain(
    constrain: Callable[[Position, Data], dict[str, jax.Array]], position: Position, data: Data
) -> dict[str, jax.Array]:
    """Constrained sites (row, chain, ...); row by row, because a model may compute large fields from a position."""
    return jax.lax.map(lambda row: jax.vmap(constrain, in_axes=(0, None))(row, data), position)


def _next_length(length: int, seconds: float) -> int:
    wanted = length * _BLOCK_SECONDS / max(seconds, 1e-3)
    return max(1, min(_BLOCK_LENGTH, int(wanted)))


def _chain_first(rows: Mapping[str, jax.Array], num: int) -> Draws:
    """(row, chain, ...) on the device to the first ``num`` rows as (chain, draw, ...)."""
    return {name: np.asarray(x)[:num].swapaxes(0, 1) for name, x in rows.items()}


def _concatenate(blocks: list[Draws]) -> Draws:
    return {name: np.concatenate([block[name] for block in blocks], axis=1) for name in blocks[0]}
