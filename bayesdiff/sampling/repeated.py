"""Several iterations of a kernel per draw, for densities so cheap that keeping every iteration is a waste."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp

from .chains import Info, Kernel, State
from .target import Data


@lru_cache(maxsize=16)
def several_steps(kernel: Kernel, num: int) -> Kernel:
    """The kernel with ``num`` iterations per draw after its warm-up, in which it is as it was.

    Statistics are those of the last iteration, but ``diverging`` says whether any diverged, and ``n_steps`` is the sum.
    """
    if num == 1:
        return kernel

    def step(key: jax.Array, index: jax.Array, state: State, data: Data) -> tuple[State, Info]:
        def once(i: jax.Array, carry: tuple[State, Info]) -> tuple[State, Info]:
            state, before = carry
            state, info = kernel.step(jax.random.fold_in(key, i), index, state, data)
            if "diverging" in info:
                info |= {"diverging": info["diverging"] | before["diverging"]}
            if "n_steps" in info:
                info |= {"n_steps": info["n_steps"] + before["n_steps"]}
            return state, info

        shapes = jax.eval_shape(lambda: kernel.step(key, index, state, data)[1])
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, jnp.where(index < kernel.num_warmup, 1, num), once, (state, nothing))

    return replace(kernel, step=step)
