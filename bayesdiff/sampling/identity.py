"""What makes two runs the same: seed, algorithm, settings, model, data and what is kept, as strings to compare.

The model is its source, the source of the functions it uses from its own module, and the values that it closes over or
takes from its module: arrays, numbers, strings, frozen settings, and diffusion models by their fingerprint. Other
objects count by their type, by the arrays among their attributes and by how they print themselves, if their class says
how; whole numbers not at all: the shapes of the sites say what they do, and a counter must not make a model another
one.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .selection import DrawGroup
from .target import Target

_WORDS = {
    "seed": "the seed",
    "algorithm": "the algorithm",
    "precision": "the precision",
    "kept": "what is kept of the draws (keep=, thin=)",
    "model_hash": "the model (its source, its sites, or the values it closes over)",
    "data_hash": "the data (arguments of the model, or observed values)",
}


def describe_run(
    key: jax.Array,
    algorithm: Any,
    target: Target,
    num_chains: int,
    num_samples: int,
    groups: tuple[DrawGroup, ...] = (),
) -> dict[str, str]:
    """Strings by which a run is known."""
    settings = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    settings |= {"num_chains": num_chains, "num_samples": num_samples}
    kept = {group.name: {"every": group.every, "sites": group.sites} for group in groups}
    return {
        "algorithm": type(algorithm).__name__,
        "settings": json.dumps(settings, default=_described),
        "seed": json.dumps(np.asarray(jax.random.key_data(key)).tolist()),
        "precision": jnp.result_type(float).name,
        "kept": json.dumps(kept),
        "model_hash": model_hash(target),
        "data_hash": data_hash(target),
    }


def differences(stored: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """What differs between two runs, the number of draws apart: a phrase each."""
    found = []
    old, new = (json.loads(str(x.get("settings", "{}"))) for x in (stored, wanted))
    if stored.get("algorithm") == wanted["algorithm"]:
        found += [
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in {**old, **new}
            if name != "num_samples" and old.get(name) != new.get(name)
        ]
    for name, words in _WORDS.items():
        if stored.get(name) != wanted[name]:
            short = name.endswith("_hash") or name == "kept"
            found.append(words if short else f"{words} was {stored.get(name)} and is {wanted[name]}")
    return found


def model_hash(target: Target) -> str:
    """SHA-256 of the model's source, of what it closes over and of its sites."""
    digest = hashlib.sha256(target.description.encode())
    _feed_function(digest, target.functions.model, set())
    return digest.hexdigest()


def function_hash(function: Any) -> str:
    """SHA-256 of a function's source and of what it uses."""
    digest = hashlib.sha256()
    _feed_function(digest, function, set())
    return digest.hexdigest()


def data_hash(target: Target) -> str:
    """SHA-256 of the model's arguments and of the observed values."""
    digest = hashlib.sha256(_without_addresses(str(target.functions.treedef)).encode())
    for name, value in target.observed.items():
        digest.update(name.encode())
        _feed(digest, value, set())
    for travelling, fixed in zip(target.data, target.functions.static, strict=True):
        _feed(digest, fixed if travelling is None else travelling, set())
        digest.update(str(fixed).encode() if isinstance(fixed, int) else b";")
    return digest.hexdigest()


def _described(value: Any) -> Any:
    """A setting that JSON does not know: as it prints itself, without addresses, and its arrays by their digest."""
    arrays = {"array": value} if isinstance(value, jax.Array | np.ndarray) else _arrays(value)
    text = "" if "array" in arrays else _without_addresses(repr(value))
    for name, array in arrays.items():
        digest = hashlib.sha256()
        _feed(digest, array, set())
        text += f" {name}={array.dtype}{array.shape}:{digest.hexdigest()[:16]}"
    return text.strip()


def _arrays(value: Any) -> dict[str, Any]:
    """The arrays among the attributes of an object."""
    return {name: x for name, x in getattr(value, "__dict__", {}).items() if isinstance(x, jax.Array | np.ndarray)}


def _held(value: Any) -> dict[str, Any]:
    """The numbers, names and arrays among the attributes of an object."""
    plain = (jax.Array, np.ndarray, int, float, complex, str, bytes, tuple)
    return {name: x for name, x in getattr(value, "__dict__", {}).items() if isinstance(x, plain)}


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    """Add a value that a model uses."""
    if callable(getattr(value, "fingerprint", None)) and not isinstance(value, type):
        digest.update(value.fingerprint().encode())
    elif isinstance(value, jax.Array | np.ndarray):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)  # pyright: ignore[reportArgumentType]
        array = np.ascontiguousarray(value)
        digest.update(str((array.dtype, array.shape)).encode() + array.tobytes())
    elif isinstance(value, int | float | complex | str | bytes | None):
        digest.update(repr(value).encode())
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            digest.update(str(name).encode())
            _feed(digest, entry, seen)
    elif isinstance(value, list | tuple):
        for entry in value:
            _feed(digest, entry, seen)
    elif isinstance(value, types.MethodType):
        _feed_function(digest, value.__func__, seen)
        counters = _stored(value.__func__, "STORE_ATTR")
        for name, held in _held(value.__self__).items():
            if name not in counters:
                digest.update(name.encode())
                _feed(digest, held, seen)
    elif isinstance(value, types.FunctionType | functools.partial):
        _feed_function(digest, value, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        digest.update(type(value).__qualname__.encode())
        for field in dataclasses.fields(value):
            digest.update(field.name.encode())
            _feed(digest, getattr(value, field.name), seen)
    else:
        digest.update(type(value).__qualname__.encode())
        if type(value).__repr__ is not object.__repr__:
            digest.update(_without_addresses(repr(value)).encode())
        for name, held in _held(value).items():
            digest.update(name.encode())
            _feed(digest, held, seen)


def _feed_function(digest: Any, function: Any, seen: set[int]) -> None:
    """Add a function: its source and the values it uses; an object that is called, by the source of its class."""
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        _feed(digest, (function.func, function.args, dict(function.keywords)), seen)
        return
    function = inspect.unwrap(function)
    if isinstance(function, types.MethodType):
        _feed(digest, function, seen)
        return
    source = function if isinstance(function, types.FunctionType) else type(function)
    try:
        digest.update(inspect.getsource(source).encode())
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        digest.update(repr(type(function)).encode() if code is None else code.co_code)
    if not isinstance(function, types.FunctionType):
        return
    try:
        used = inspect.getclosurevars(function)
    except ValueError:  # it closes over a variable that has no value yet
        return
    counters = _stored(function, "STORE_DEREF", "STORE_GLOBAL")
    # Python finds the names as a set, whose order changes from process to process.
    for name, value in sorted({**used.nonlocals, **used.globals}.items(), key=lambda item: item[0]):
        if name in counters:
            continue
        if isinstance(value, list):  # whole numbers in a list that may grow are counted by it
            value = [x for x in value if isinstance(x, bool) or not isinstance(x, int)]
        elsewhere = isinstance(value, types.FunctionType) and value.__module__ != function.__module__
        if not (elsewhere or isinstance(value, types.ModuleType | type)):
            digest.update(name.encode())
            _feed(digest, value, seen)


def _stored(function: types.FunctionType, *operations: str) -> set[str]:
    """Names that a function itself sets: counters, and no part of the model."""
    return {x.argval for x in dis.get_instructions(function) if x.opname in operations}
