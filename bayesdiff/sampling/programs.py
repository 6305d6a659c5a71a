"""Compile ahead of time, once per function and argument shapes, and say how long it took.

A run compiles a handful of programs (density at the start, one block of steps, the constraining map) and calls them
many times. Compiling them ahead of time keeps compile time apart from sampling time; the cache makes a second run with
the same functions and shapes start at once. Functions are compared by identity, and a target that is built anew has new
ones: values that a model closes over are never stale.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax

_MAX_PROGRAMS = 32
_programs: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()


def compile_once(
    function: Callable[..., Any], static: tuple[Hashable, ...], *args: Any
) -> tuple[Callable[..., Any], float]:
    """``function(*static, *args)`` compiled for the shapes of ``args``, and the seconds that compiling took.

    The program takes arguments of exactly these shapes and dtypes. The seconds are 0 if it was compiled before.
    """
    leaves, treedef = jax.tree.flatten(args)
    avals = tuple(jax.typeof(leaf) for leaf in leaves)
    signature = (function, static, treedef, avals, jax.config.jax_enable_x64)
    if signature in _programs:
        _programs.move_to_end(signature)
        return _programs[signature], 0.0
    start = time.perf_counter()
    bound = partial(function, *static)
    bound.__name__ = function.__name__  # pyright: ignore[reportAttributeAccessIssue]
    program = jax.jit(bound).lower(*args).compile()
    _programs[signature] = program
    if len(_programs) > _MAX_PROGRAMS:
        _programs.popitem(last=False)
    return program, time.perf_counter() - start
