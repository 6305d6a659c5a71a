"""Several devices and several processes: what runs on which, and how arrays come back.

Chains and training maps are spread along one axis of a one-dimensional mesh by ``jax.shard_map``, everything else is
on every device. The number of devices used is the largest that divides what is to be spread. On one device nothing of
this is used, and the compiled programs are the same as without it.

Several processes (one per node, or per GPU) run the same script; each calls `initialise_devices` first and then sees
the devices of all. Imports only jax and numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "spread"


def initialise_devices(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> int:
    """Join the processes of a run, before anything else is computed.

    Under Slurm, Open MPI, Kubernetes or on a Cloud TPU the arguments are found by JAX; elsewhere all three are needed,
    e.g. ``initialise_devices("host0:12345", 2, 0)`` in the first of two processes and ``(..., 2, 1)`` in the other.
    Every process must then make the same calls with the same arguments. Each of them gets the whole result; only the
    first writes the store, whose path all must be able to read, and shows progress.

    Args:
        coordinator: address ``host:port`` of the first process.
        num_processes: number of processes.
        process_id: number of this process, from 0.

    Returns:
        The number of devices of all processes.

    Raises:
        ValueError: an argument is missing and JAX cannot find it.
        RuntimeError: something was computed before, or the processes did not meet.
    """
    jax.distributed.initialize(coordinator, num_processes, process_id)
    return len(jax.devices())


def is_first_process() -> bool:
    """Whether this process writes files and shows progress."""
    return jax.process_index() == 0


def mesh_for(count: int) -> Mesh | None:
    """The devices over which ``count`` equal things are spread: the largest number that divides it; None for one.

    Raises:
        ValueError: there are several processes, and some of them would have nothing to do.
    """
    devices = jax.devices()
    num = max(n for n in range(1, min(count, len(devices)) + 1) if count % n == 0) if count > 0 else 1
    if jax.process_count() > 1 and num < len(devices):
        raise ValueError(
            f"with several processes, what is spread over the devices must be a multiple of all {len(devices)} of "
            f"them, got {count}"
        )
    return None if len(devices) == 1 or num == 1 else Mesh(np.array(devices[:num]), (AXIS,))


def place(tree: Any, mesh: Mesh, axis: int | None = None) -> Any:
    """Arrays on the mesh: spread along an axis of theirs, or whole on every device."""
    sharding = NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS))

    def put(x: Any) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def spread_gradient(function: Callable[..., tuple[Any, jax.Array]], mesh: Mesh | None) -> Callable[..., Any]:
    """A gradient whose batch is spread over the mesh.

    Args:
        function: ``(params, *batch) -> (mean gradient, value of each item)``, the batch along the first axis of its
            arrays.
        mesh: whose devices share the batch equally; None for one device.

    Returns:
        The same function of the whole batch, whose results are on every device.
    """
    if mesh is None:
        return function

    def share(params: Any, *batch: jax.Array) -> tuple[Any, jax.Array]:
        gradient, values = function(params, *batch)
        return jax.lax.pmean(gradient, AXIS), jax.lax.all_gather(values, AXIS, tiled=True)

    def spread(params: Any, *batch: jax.Array) -> tuple[Any, jax.Array]:
        specs = (PartitionSpec(), *(PartitionSpec(AXIS) for _ in batch))
        return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)(
            params, *batch
        )

    return spread


def gather(tree: Any) -> Any:
    """The same tree with arrays that this process holds whole; all processes must call it together."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)):
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)


def agree(value: float) -> float:
    """The value that the first process has; all processes must call it together."""
    return value if jax.process_count() == 1 else float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def wait_for_all(name: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
