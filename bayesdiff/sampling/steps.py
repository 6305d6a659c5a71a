"""The compiled programs of a run: many iterations of all chains, and the constrained values of their positions.

The program takes the number of iterations as an argument, so that warm-up and sampling and blocks of any length are one
program, compiled once. On several devices the same program runs on each for its share of the chains, if the kernel says
that its chains are independent (``jax.shard_map``): no device waits for another, and what one device computes for its
chains is what it would compute for them alone, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bayesdiff import devices

from .programs import compile_once
from .selection import DrawGroup
from .start import evaluate, find_start, shape_of_start
from .state_file import unpack
from .target import Data, Position

if TYPE_CHECKING:
    from .chains import Info, Kernel, Prepared, State

# Iterations per call of the program: few enough for their positions to fit, many enough that the call does not count.
_FEWEST, _MOST, _BLOCK_BYTES = 50, 10_000, 2**22


class Programs(NamedTuple):
    """What a run calls for every block.

    Attributes:
        steps: ``(first, num, state) -> (state, position, info)``, rows first.
        constrain: per group of draws ``(position, first, num) -> values``, rows first; ``num`` of the rows from
            ``first`` on, the group's thinning apart.
        longest: most iterations of a block.
        seconds: spent on compiling.
    """

    steps: Callable[[int, int, State], tuple[State, Position, Info]]
    constrain: dict[str, Callable[[Position, int, int], dict[str, jax.Array]]]
    longest: int
    seconds: float


def compile_run(
    key: jax.Array, prepared: Prepared, num_chains: int, groups: tuple[DrawGroup, ...], saved: bytes | None = None
) -> tuple[Programs, State]:
    """The programs, and the state to begin with: a new one, or the one that was saved.

    Raises:
        ValueError: no chain can start, see `find_start`, or what was saved is the state of another run.
    """
    kernel, target = prepared.kernel, prepared.target
    key_begin, key_steps = jax.random.split(key)
    mesh = devices.mesh_for(num_chains) if kernel.independent else None
    state, seconds = (
        _begin(key_begin, prepared, num_chains) if saved is None else (_continue(key, prepared, num_chains, saved), 0.0)
    )
    data, density_data = target.data, target.density_data
    if mesh is not None:
        state = devices.place(state, mesh, axis=0)
        key_steps, data, density_data = (devices.place(x, mesh) for x in (key_steps, data, density_data))
    zero = np.int32(0)
    positions = jax.eval_shape(kernel.position, state)
    longest = block_length(positions)
    steps, more = compile_once(run_steps, (kernel, mesh, longest), key_steps, zero, zero, state, density_data)
    seconds += more
    position = jax.tree.map(lambda x: jnp.zeros((longest, *x.shape), x.dtype), positions)
    if mesh is not None:
        position = devices.place(position, mesh, axis=1)
    constrain = {}
    for group in groups:
        static = (target.functions.constrain, mesh, group)
        program, more = compile_once(constrain_rows, static, position, zero, zero, data)
        seconds += more
        constrain[group.name] = partial(_call_constrain, program, data)
    return Programs(partial(_call_steps, steps, key_steps, density_data), constrain, longest, seconds), state


def block_length(positions: Position) -> int:
    """Iterations of a block whose positions have these shapes, one of which is that of all chains."""
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(positions))
    return int(np.clip(_BLOCK_BYTES // max(size, 1), _FEWEST, _MOST))


def _call_steps(program: Any, key: jax.Array, data: Data, first: int, num: int, state: State) -> Any:
    return program(key, np.int32(first), np.int32(num), state, data)


def _call_constrain(program: Any, data: Data, position: Position, first: int, num: int) -> dict[str, jax.Array]:
    return program(position, np.int32(first), np.int32(num), data)


def _begin(key: jax.Array, prepared: Prepared, num_chains: int) -> tuple[State, float]:
    target = prepared.target
    key_start, key_init = jax.random.split(key)
    if prepared.positions is None:
        start, seconds = find_start(key_start, target, num_chains)
    else:
        start, seconds = evaluate(target.density, prepared.positions, target.density_data)
    init, more = compile_once(begin_state, (prepared.kernel,), key_init, start, target.density_data)
    return init(key_init, start, target.density_data), seconds + more


def _continue(key: jax.Array, prepared: Prepared, num_chains: int, saved: bytes) -> State:
    start = shape_of_start(prepared.target, num_chains)
    like = jax.eval_shape(partial(begin_state, prepared.kernel), key, start, prepared.target.density_data)
    return unpack(saved, like)


def begin_state(kernel: Kernel, key: jax.Array, start: Any, data: Data) -> State:
    """The kernel's first state."""
    # Weakly typed scalars would not fit the compiled loop once they have been through it.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), kernel.init(key, start, data))


def run_steps(
    kernel: Kernel,
    mesh: Mesh | None,
    rows: int,
    key: jax.Array,
    first: jax.Array,
    num: jax.Array,
    state: State,
    data: Data,
) -> tuple[State, Position, Info]:
    """``num`` iterations from number ``first`` on; positions and statistics fill the first ``num`` of the rows."""
    if mesh is None:
        return _steps(kernel, rows, key, first, num, state, data)
    everywhere, chains, filled = PartitionSpec(), PartitionSpec(devices.AXIS), PartitionSpec(None, devices.AXIS)
    spread = jax.shard_map(
        partial(_steps, kernel, rows),
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, chains, everywhere),
        out_specs=(chains, filled, filled),
        check_vma=False,
    )
    return spread(key, first, num, state, data)


def _steps(
    kernel: Kernel, rows: int, key: jax.Array, first: jax.Array, num: jax.Array, state: State, data: Data
) -> tuple[State, Position, Info]:
    step = jax.jit(kernel.step)
    # Made at once, they cost next to nothing; made one by one, a few per cent of a small model's step.
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(rows))

    def advance(row: jax.Array, carry: tuple[State, tuple[Position, Info]]) -> tuple[State, tuple[Position, Info]]:
        state, filled = carry
        new, info = step(keys[row], first + row, state, data)
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
        filled = jax.tree.map(lambda all_rows, x: all_rows.at[row].set(x), filled, (kernel.position(new), info))
        return new, filled

    _, info = jax.eval_shape(step, keys[0], first, state, data)
    empty = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), (kernel.position(state), info))
    state, (position, info) = jax.lax.fori_loop(0, num, advance, (state, empty))
    return state, position, info


def constrain_rows(
    constrain: Callable[[Position, Data], dict[str, jax.Array]],
    mesh: Mesh | None,
    group: DrawGroup,
    position: Position,
    first: jax.Array,
    num: jax.Array,
    data: Data,
) -> dict[str, jax.Array]:
    """Constrained sites of a group (row, chain, ...), of ``num`` rows of the position, ``group.every`` apart."""
    if mesh is None:
        return _constrain(constrain, group, position, first, num, data)
    everywhere, rows = PartitionSpec(), PartitionSpec(None, devices.AXIS)
    spread = jax.shard_map(
        partial(_constrain, constrain, group),
        mesh=mesh,
        in_specs=(rows, everywhere, everywhere, everywhere),
        out_specs=rows,
        check_vma=False,
    )
    return spread(position, first, num, data)


def _constrain(
    constrain: Callable[[Position, Data], dict[str, jax.Array]],
    group: DrawGroup,
    position: Position,
    first: jax.Array,
    num: jax.Array,
    data: Data,
) -> dict[str, jax.Array]:
    """Row by row, because a model may compute large fields from a position."""

    def one_row(row: jax.Array) -> dict[str, jax.Array]:
        chains = jax.tree.map(lambda x: x[first + group.every * row], position)
        values = jax.vmap(constrain, in_axes=(0, None))(chains, data)
        return values if group.sites is None else {name: values[name] for name in group.sites}

    def fill(row: jax.Array, filled: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return jax.tree.map(lambda all_rows, x: all_rows.at[row].set(x), filled, one_row(row))

    num_rows = group.count(len(jax.tree.leaves(position)[0]))
    shapes = jax.eval_shape(one_row, jnp.int32(0))
    empty = jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), shapes)
    return jax.lax.fori_loop(0, num, fill, empty)
