"""What is run on several devices: ``python -m tests.device_runs PART FILE STORE [ADDRESS NUM_PROCESSES PROCESS]``."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

import bayesdiff as bd


def sampled(store: str) -> dict[str, np.ndarray]:
    """Draws of a run that is interrupted and continues, and of one whose chains four devices do not divide equally."""
    import jax

    from tests.restart_toys import Metropolis, commit_every_block, run

    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    commit_every_block()
    one_process = jax.process_count() == 1
    if one_process:
        with contextlib.suppress(KeyboardInterrupt):
            run(Metropolis(), num_chains=8, thin={"x": 5}, store=store, callback=interrupt)
    runs = {"eight_chains": run(Metropolis(), num_chains=8, thin={"x": 5}, store=store)}
    if one_process:
        runs["six_chains"] = run(Metropolis(), num_chains=6, num_samples=20)
    return _draws(runs)


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


def trained(store: str) -> dict[str, np.ndarray]:
    """Parameters after a few steps of training."""
    from dataclasses import replace

    import jax

    from bayesdiff.training import train
    from tests.test_training import NOISE, SCHEDULE, SETTINGS, quiet, toy

    denoiser = train(*toy(), SCHEDULE, NOISE, replace(SETTINGS, steps=4), store, quiet)
    leaves = jax.tree_util.tree_leaves_with_path(denoiser)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main(part: str, file: str, store: str, *processes: str) -> None:
    """Run a part and keep its results, with the number of devices."""
    if processes:
        address, num_processes, process = processes
        bd.initialise_devices(address, int(num_processes), int(process))
    import jax

    results = {"sample": sampled, "nuts": sampled_by_nuts, "train": trained}[part](store)
    np.savez(file, num_devices=len(jax.devices()), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
