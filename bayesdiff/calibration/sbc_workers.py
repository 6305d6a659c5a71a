"""The chunks of a calibration study on the processes of a Dask cluster.

A chunk is made by the study's key and by its number alone, so it does not matter where, nor in which order, nor how
often: what a lost worker was at is done again by another. The study travels as one pickle to each process, which builds
the engine once and compiles once. The process that asked for the study keeps what comes back.

`distributed` is optional: nothing here is imported unless a client is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from bayesdiff.calibration.sbc_engines import Engine, make_engine
from bayesdiff.calibration.sbc_records import Records, join
from bayesdiff.calibration.sbc_store import Chunks
from bayesdiff.sampling.results import package_versions

if TYPE_CHECKING:
    from distributed import Client

RETRIES = 3
"""How often a chunk is tried again after an error of the worker, not of the study."""


class Task(NamedTuple):
    """Simulations of a chunk that are not there yet.

    Attributes:
        chunk: number of the chunk.
        skip: how many of the chunk are there.
        wanted: how many of the chunk are wanted.
    """

    chunk: int
    skip: int
    wanted: int


def missing(chunks: Chunks, size: int, num_simulations: int) -> list[Task]:
    """What is to be done before the first ``num_simulations`` are there."""
    tasks = []
    for chunk in range(-(-num_simulations // size)):
        held = chunks.read(chunk)
        task = Task(chunk, 0 if held is None else held.number, min(size, num_simulations - chunk * size))
        if task.skip < task.wanted:
            tasks.append(task)
    return tasks


def run_on(
    client: Client, key: jax.Array, engine: Engine, size: int, tasks: list[Task], keep: Callable[[Task, Records], None]
) -> None:
    """Run the tasks on a cluster, and hand over what they give as it comes.

    Args:
        client: of the cluster.
        key: of the study, as `make_engine` takes it.
        engine: of the study.
        size: of a chunk.
        tasks: what is missing.
        keep: called in this process with a task and its simulations; may raise KeyboardInterrupt, which calls off the
            tasks that are left.

    Raises:
        RuntimeError: the workers have other versions of the packages that decide the draws.
    """
    import cloudpickle
    from distributed import as_completed

    study = (np.asarray(jax.random.key_data(key)), engine.problem, engine.settings)
    content = cloudpickle.dumps((study, bool(jax.config.jax_enable_x64), package_versions()))
    digest = hashlib.sha256(content).hexdigest()
    # A result of the cluster rather than data scattered to it: what is lost with a worker is made again.
    source = client.submit(bytes, content, key=f"study-{digest}")
    futures = {
        client.submit(
            _run, source, digest, task, size, key=f"chunk-{digest[:16]}-{task.chunk}-{task.skip}", retries=RETRIES
        ): task
        for task in tasks
    }
    try:
        for future in as_completed(futures):
            keep(futures[future], future.result())
    finally:
        client.cancel([source, *futures])


def _run(content: bytes, digest: str, task: Task, size: int) -> Records:
    """On a worker: the simulations of a task."""
    x64, engine = _engine(_Content(digest, content))
    with jax.enable_x64(x64):
        return join(list(engine.run(task.chunk * size, size, task.skip, task.wanted)))


class _Content(str):
    """A digest that carries what it is of, for a cache that compares digests."""

    content: bytes

    def __new__(cls, digest: str, content: bytes) -> _Content:
        self = super().__new__(cls, digest)
        self.content = content
        return self


@lru_cache(maxsize=4)
def _engine(study: _Content) -> tuple[bool, Engine]:
    import cloudpickle

    (key_data, problem, settings), x64, expected = cloudpickle.loads(study.content)
    found = package_versions()
    other = [f"{name} {found[name]} instead of {wanted}" for name, wanted in expected.items() if found[name] != wanted]
    if other:
        raise RuntimeError(f"a worker has other versions than the study: {', '.join(other)}")
    with jax.enable_x64(x64):
        return x64, make_engine(jax.random.wrap_key_data(key_data), problem, settings)
