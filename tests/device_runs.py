"""What is run on several devices: ``python -m tests.device_runs PART FILE STORE [ADDRESS NUM_PROCESSES PROCESS]``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import bayesdiff as bd


def sampled(store: str) -> dict[str, np.ndarray]:
    """Draws of a run that is interrupted and continues."""
    import jax

    from tests.restart_toys import Metropolis, commit_every_block, run

    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    commit_every_block()
    if jax.process_count() == 1:
        with contextlib.suppress(KeyboardInterrupt):
            run(Metropolis(), num_chains=8, thin={"x": 5}, store=store, callback=interrupt)
    return _draws({"eight_chains": run(Metropolis(), num_chains=8, thin={"x": 5}, store=store)}) | averaged()


def sampled_unevenly(store: str) -> dict[str, np.ndarray]:
    """Draws of a run whose chains four devices do not divide equally."""
    from tests.restart_toys import Metropolis, run

    return _draws({"six_chains": run(Metropolis(), num_chains=6, num_samples=20, store=store)})


def sampled_by_nuts(store: str) -> dict[str, np.ndarray]:
    """Draws of a short run in float64."""
    import jax

    from tests.restart_toys import ALGORITHMS, run

    with jax.enable_x64(True):
        return _draws({"nuts": run(ALGORITHMS["NUTS"], num_chains=4, num_samples=20, store=store)})


def _draws(runs: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        f"{name}/{path}/{site}": x.values
        for name, tree in runs.items()
        for path, group in tree.children.items()
        if path != "observed_data"
        for site, x in group.data_vars.items()
    }


def averaged() -> dict[str, np.ndarray]:
    """Gradient of a mean over a batch that is spread over the devices."""
    import jax
    import jax.numpy as jnp

    from bayesdiff import devices

    def gradient(slope: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.grad(lambda a: (jnp.mean((a * x - y) ** 2), (a * x - y) ** 2), has_aux=True)(slope)

    x = np.arange(8.0, dtype=np.float32)
    spread = jax.jit(devices.spread_gradient(gradient, devices.mesh_for(8)))
    mean, values = spread(np.float32(0.3), x, np.sin(x))
    return {"gradient": np.asarray(mean), "values": np.asarray(values)}


def trained(store: str) -> dict[str, np.ndarray]:
    """What the network says after a few steps of training, and the loss on the way.

    Its parameters cannot be compared: those that a normalisation cancels follow the rounding of their gradients.
    """
    from dataclasses import replace

    import jax

    from bayesdiff.training import train
    from tests.test_training import NOISE, SCHEDULE, SETTINGS, SIZE, quiet, toy

    denoiser = train(*toy(), SCHEDULE, NOISE, replace(SETTINGS, steps=4, log_every=1), store, quiet)
    context = 0.5 * (denoiser.context_low + denoiser.context_high)
    y = jax.random.normal(jax.random.key(0), (1, SIZE, SIZE))
    losses = [json.loads(line)["loss"] for line in (Path(store) / "progress.jsonl").read_text().splitlines()]
    return {
        "network": np.asarray(
            denoiser.correct(y, jax.numpy.float32(0.7), NOISE.power(context, y.shape), context).residual
        ),
        "residual": np.asarray(denoiser.residual_variance.values),
        "loss": np.array(losses),
    }


def main(part: str, file: str, store: str, *processes: str) -> None:
    """Run a part and keep its results, with the number of devices."""
    if processes:
        address, num_processes, process = processes
        bd.initialise_devices(address, int(num_processes), int(process))
    import jax

    parts = {"sample": sampled, "uneven": sampled_unevenly, "nuts": sampled_by_nuts, "train": trained}
    results = parts[part](store)
    np.savez(file, num_devices=len(jax.devices()), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
