"""A tree of arrays as the bytes of a safetensors file, and back: no pickle, and nothing is guessed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save


def pack(tree: Any) -> bytes:
    """The arrays of a tree, random keys included, under the names of their places in it."""
    return save({name: np.asarray(_raw(leaf), order="C") for name, leaf in _named(tree)})


def unpack(content: bytes, like: Any) -> Any:
    """The tree that was packed.

    Args:
        content: bytes from `pack`.
        like: a tree of the same structure, shapes and dtypes; arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: the bytes are damaged or hold another tree.
    """
    try:
        stored = load(content)
    except SafetensorError as error:
        raise ValueError(f"the sampler state is damaged ({error})") from error
    expected = {name: _shape_and_dtype(leaf) for name, leaf in _named(like)}
    found = {name: (x.shape, x.dtype) for name, x in stored.items()}
    if expected != found:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ValueError(
            f"the sampler state is that of another run: '{wrong[0]}' is {found.get(wrong[0])}, expected "
            f"{expected.get(wrong[0])}"
        )
    leaves = [
        jax.random.wrap_key_data(jnp.asarray(stored[name]), impl=_key_impl(leaf))
        if _is_key(leaf)
        else jnp.asarray(stored[name])
        for name, leaf in _named(like)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _raw(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _shape_and_dtype(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return tuple(raw.shape), np.dtype(raw.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Any:
    return leaf.dtype._impl if isinstance(leaf, jax.ShapeDtypeStruct) else jax.random.key_impl(leaf)
