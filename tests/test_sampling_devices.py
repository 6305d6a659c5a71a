"""The same results on one device and on four, and with two processes, all on this machine's processor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bayesdiff import devices

ROOT = Path(__file__).resolve().parents[1]


def start(num_devices: int, *arguments: str) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={num_devices} {os.environ.get('XLA_FLAGS', '')}"
    command = [sys.executable, "-m", "tests.device_runs", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})


def finish(*processes: subprocess.Popen) -> None:
    """All must end well; when one fails the others would wait for it for ever."""
    try:
        for process in processes:
            assert process.wait(timeout=1200) == 0
    finally:
        for process in processes:
            process.kill()


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def on_devices(part: str, num_devices: int, folder: Path) -> dict[str, np.ndarray]:
    """Results of a part on so many devices."""
    file = folder / f"{part}_{num_devices}.npz"
    finish(start(num_devices, part, str(file), str(file.with_suffix(".kept"))))
    results = load(file)
    assert results.pop("num_devices") == num_devices
    return results


@pytest.fixture(scope="module")
def on_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return on_devices("sample", 1, tmp_path_factory.mktemp("one"))


def assert_same(results: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float, atol: float) -> None:
    assert results
    for name, value in results.items():
        np.testing.assert_allclose(value, expected[name], rtol=rtol, atol=atol, err_msg=name)


def test_same_draws_on_one_and_on_four_devices(on_one: dict[str, np.ndarray], tmp_path: Path) -> None:
    four = on_devices("sample", 4, tmp_path)
    assert {name.split("/")[0] for name in four} == {"eight_chains", "gradient", "values"}
    assert set(four) == set(on_one)
    assert_same(four, on_one, rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_two_processes_give_the_same_draws(on_one: dict[str, np.ndarray], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    store = str(tmp_path / "run.zarr")
    files = [tmp_path / f"{process}.npz" for process in range(2)]
    finish(*(start(2, "sample", str(file), store, address, "2", str(i)) for i, file in enumerate(files)))
    for file in files:
        results = load(file)
        assert results.pop("num_devices") == 4
        assert "eight_chains/posterior_every_5/x" in results
        assert_same(results, on_one, rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_three_of_four_devices_take_six_chains(tmp_path: Path) -> None:
    assert_same(on_devices("uneven", 4, tmp_path), on_devices("uneven", 1, tmp_path), rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_nuts_on_four_devices_follows_the_same_trajectories(tmp_path: Path) -> None:
    """Trajectories amplify rounding, by little in 80 iterations of float64."""
    assert_same(on_devices("nuts", 4, tmp_path), on_devices("nuts", 1, tmp_path), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_same_training_on_one_and_on_four_devices(tmp_path: Path) -> None:
    one = on_devices("train", 1, tmp_path)
    four = on_devices("train", 4, tmp_path)
    assert len(one["loss"]) == 4
    assert_same(four, one, rtol=1e-3, atol=1e-4)


def test_as_many_devices_as_divide_the_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [f"device {i}" for i in range(4)])
    monkeypatch.setattr(devices, "Mesh", lambda used, names: len(used))
    assert [devices.mesh_for(n) for n in (1, 2, 3, 4, 5, 6, 8)] == [None, 2, 3, 4, None, 3, 4]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="must be a multiple of all 4 of them, got 6"):
        devices.mesh_for(6)
