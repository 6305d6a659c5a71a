"""Calibration campaigns that are killed at random times and continued, and one that loses a worker of its cluster.

A campaign on a small twin is killed (SIGKILL) up to five times in a row and then left to finish; after every kill what
is on disk must be the first simulations of a campaign that was never interrupted, and at the end all of them, ranks and
draws bit by bit. ``python -m validation.campaign_restart STORE`` is the process that is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bayesdiff as bd
from bayesdiff.calibration import Sbc, read_sbc
from models.dust_cmb.model import make_model
from models.linear_gaussian import make_twin
from validation.figures import Figure, above, below
from validation.kills import finish, kill, start

SIZE, NUM_SIMULATIONS, CHUNK = 16, 120, 5
NUM_KILLS, KILLS_IN_A_ROW = 20, 5


def run(num: int = NUM_KILLS) -> list[Figure]:
    """All figures of this study, with ``num`` kills."""
    rng = np.random.default_rng(6)
    identical = index = kills = unreadable = 0
    simulations: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def begin(store: Path) -> subprocess.Popen[bytes]:
            return start("validation.campaign_restart", str(store), compiled=folder / "compiled")

        finish(begin(folder / "reference"))
        reference = read_sbc(folder / "reference")
        clock = time.perf_counter()
        finish(begin(folder / "again"))
        duration = time.perf_counter() - clock
        while kills < num:
            store, in_a_row, most = folder / f"run_{index}", 0, min(KILLS_IN_A_ROW, num - kills)
            index += 1
            while in_a_row < most:
                process = begin(store)
                if not kill(process, partial(_written, store), rng.uniform(0.0, 0.5 * duration)):
                    break
                in_a_row += 1
                try:
                    simulations.append(_check(store, reference))
                except Exception as error:  # whatever it is, it must not happen
                    print(f"unreadable after a kill: {error}")
                    unreadable += 1
            kills += in_a_row
            finish(begin(store))
            identical += in_a_row if same(read_sbc(store), reference) else 0
        lost = same(_with_lost_worker(folder / "cluster"), reference)
    return [
        Figure("kills", kills),
        Figure("simulations on disk at a kill, median", float(np.median(simulations))),
        above("kills after which the campaign ended in the same ranks and draws", identical, num - 0.5),
        below("stores that could not be read, or held other ranks, after a kill", unreadable, 0.5),
        above("the same after the loss of one of two workers (1: yes)", float(lost), 0.5),
    ]


def same(a: Sbc, b: Sbc) -> bool:
    """Whether two studies hold the same simulations, bit by bit."""
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a.records, b.records, strict=True))


def campaign(store: Path, client: Any = None, callback: Any = None) -> Sbc:
    """The campaign that is killed."""
    return bd.calibration.sbc(
        jax.random.key(9),
        make_model(make_twin(SIZE)),
        algorithm=bd.NUTS(num_warmup=100),
        num_simulations=NUM_SIMULATIONS,
        num_chains=2,
        num_samples=100,
        num_draws=39,
        chunk_size=CHUNK,
        store=store,
        progress=False,
        client=client,
        callback=callback,
    )


def _with_lost_worker(store: Path) -> Sbc:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="") as cluster, Client(cluster) as client:
        pids: Any = client.run(os.getpid)
        first = min(pids.values())
        killed: list[int] = []

        def lose(done: int) -> None:
            if not killed and done >= NUM_SIMULATIONS // 3:
                killed.append(first)
                os.kill(first, signal.SIGKILL)

        return campaign(store, client, lose)


def _written(store: Path) -> int:
    return max((file.stat().st_mtime_ns for file in store.glob("*") if file.exists()), default=0)


def _check(store: Path, reference: Sbc) -> int:
    """That the store holds the first simulations of the reference; returns how many."""
    if not list(store.glob("chunk-*.safetensors")):
        return 0
    found = read_sbc(store)
    expected = reference.records.rows(0, found.num_simulations)
    if not all(np.array_equal(x, y, equal_nan=True) for x, y in zip(found.records, expected, strict=True)):
        raise ValueError("other ranks")
    return found.num_simulations


if __name__ == "__main__":
    campaign(Path(sys.argv[1]))
