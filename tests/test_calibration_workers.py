"""Studies on a Dask cluster of several processes: the same ranks, a lost worker, an interruption, other versions."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.calibration import Sbc, sbc, sbc_workers
from tests.sbc_toys import model

distributed = pytest.importorskip("distributed")

KEY = jax.random.key(8)
CHUNK, NUM = 4, 26
ALGORITHM = bd.NUTS(num_warmup=30)


def study(num_simulations: int = NUM, **options) -> Sbc:
    settings = {"num_chains": 2, "num_samples": 30, "num_draws": 19, "chunk_size": CHUNK, "progress": False} | options
    return sbc(KEY, model, algorithm=ALGORITHM, num_simulations=num_simulations, **settings)


def assert_same(a: Sbc, b: Sbc) -> None:
    for name, x, y in zip(a.records._fields, a.records, b.records, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.fixture(scope="module")
def serial() -> Sbc:
    return study()


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_several_processes_find_the_same(client, serial, tmp_path: Path):
    first = study(num_simulations=10, client=client, store=tmp_path / "study")
    assert first.num_simulations == 10
    done: list[int] = []
    everything = study(client=client, store=tmp_path / "study", callback=done.append)
    assert done[0] == 3 * CHUNK
    assert done[-1] == NUM
    assert_same(everything, serial)
    assert_same(study(store=tmp_path / "study"), serial)


@pytest.mark.slow
def test_calibration_around_an_observation_runs_on_a_cluster(client):
    settings = {"num_simulations": 12, "num_chains": 2, "num_samples": 30, "num_draws": 19, "chunk_size": CHUNK}
    run = partial(bd.calibration.posterior_sbc, KEY, model, np.array([0.3, 1.1, 0.2]), algorithm=ALGORITHM, **settings)
    assert_same(run(client=client, progress=False), run(progress=False))


def test_a_lost_worker_loses_nothing(client, serial):
    before = set(client.run(os.getpid).values())
    killed: list[int] = []

    def kill(done: int) -> None:
        if not killed:
            killed.append(min(before))
            os.kill(killed[0], signal.SIGKILL)

    assert_same(study(client=client, callback=kill), serial)
    assert killed
    assert killed[0] not in client.run(os.getpid).values()


def test_an_interrupted_study_keeps_what_came(client, serial, tmp_path: Path):
    first = tmp_path / "study" / "chunk-00000.safetensors"

    def interrupt(done: int) -> None:
        # Chunks come in any order, and without the first there is no result.
        if done >= 2 * CHUNK and first.exists():
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match=f"interrupted: .* of {NUM} simulations are finished"):
        part = study(client=client, store=tmp_path / "study", callback=interrupt)
    assert part.attributes["status"] == "interrupted"
    assert part.num_simulations < NUM
    assert_same(study(client=client, store=tmp_path / "study"), serial)


def test_workers_with_other_versions_are_refused(client, monkeypatch):
    monkeypatch.setattr(sbc_workers, "package_versions", lambda: {"jax": "0.0.1"})
    with pytest.raises(RuntimeError, match=r"a worker has other versions than the study: jax .* instead of 0.0.1"):
        study(client=client)
