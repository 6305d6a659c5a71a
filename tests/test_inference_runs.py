"""Runs of the command line that are interrupted, shown and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import bayesdiff as bd
from inference import dust_cmb
from inference.__main__ import app
from inference.folder import read_record
from models import linear_gaussian
from tests.restart_toys import Metropolis

RUNNER = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A twin of 8 x 8 pixels, sampled by a random walk."""
    with pytest.MonkeyPatch.context() as patch:
        twin = linear_gaussian.make_twin(8)
        patch.setattr(linear_gaussian, "make_twin", lambda size: twin)
        patch.setattr(dust_cmb, "_algorithm", lambda engine: Metropolis(num_warmup=40))
        yield


def run(*arguments: object):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def start(output: Path, *more: object):
    options = ("--prior", "twin", "--num-chains", 2, "--num-samples", 150, "--num-fields", 4, "--seed", 3, "--quiet")
    return run("dust_cmb", *options, "--output", output, *more)


def interrupted(output: Path, phase: str, step: int):
    """The command, interrupted by Ctrl-C."""

    def callback(report) -> None:
        if report.phase == phase and report.step >= step:
            raise KeyboardInterrupt

    original = bd.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bd, "sample", lambda *args, **kwargs: original(*args, **kwargs | {"callback": callback}))
        return start(output)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "results"
    result = start(output)
    assert result.exit_code in (0, 3), result.output
    return output


def opened(folder: Path) -> xr.DataTree:
    return xr.open_datatree(folder / "posterior.zarr", engine="zarr").load()


@pytest.mark.parametrize(("phase", "step"), [("warm-up", 10), pytest.param("sampling", 20, marks=pytest.mark.slow)])
def test_interrupted_run_is_shown_and_resumed(finished: Path, tmp_path: Path, phase: str, step: int) -> None:
    output = tmp_path / "results"
    stopped = interrupted(output, phase, step)
    assert stopped.exit_code == 130
    assert f"python -m inference resume {output}" in stopped.output
    shown = run("show", output)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "status interrupted" in text
    assert "algorithm Metropolis" in text
    assert "of 150 of each of 2 chains" in text
    assert ("the chains are in their warm-up" if phase == "warm-up" else "bulk ESS") in text
    resumed = run("resume", output, "--quiet")
    assert resumed.exit_code in (0, 3), resumed.output
    for group in ("posterior", "sample_stats", "fields", "truth"):
        xr.testing.assert_identical(opened(output)[group].to_dataset(), opened(finished)[group].to_dataset())
    assert not (output / "draws.zarr").exists()
    assert (output / "report.html").exists()
    assert opened(output).attrs["status"] == "complete"


def test_complete_run_is_shown_and_not_resumed(finished: Path) -> None:
    result = run("resume", finished)
    assert result.exit_code == 0
    assert "is complete: there is nothing to resume" in " ".join(result.output.split())
    text = " ".join(run("show", finished).output.split())
    for phrase in ("status complete", "150 of 150", "engine surrogate", "seed 3", "R-hat", "omega_b", "fields dust"):
        assert phrase in text
    assert "status complete" in " ".join(run("show", finished / "posterior.zarr").output.split())


def test_run_killed_before_its_first_iteration_is_resumed(finished: Path, tmp_path: Path) -> None:
    for name in ("run.json", "observation.npz"):
        shutil.copy(finished / name, tmp_path)
    assert "No draws yet" in run("show", tmp_path).output
    observation = read_record(tmp_path).observation
    np.testing.assert_array_equal(observation.y, opened(finished)["observed_data"]["y"])
    assert observation.truth is not None
    assert observation.truth["sigma"] == pytest.approx(0.6)


def test_what_is_no_run_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    xr.Dataset({"a": ("x", np.zeros(3))}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    for name in ("damaged", "changed", "unknown", "lacking", "list"):
        shutil.copytree(finished, tmp_path / name)
        shutil.rmtree(tmp_path / name / "posterior.zarr")
    (tmp_path / "list" / "run.json").write_text("[1, 2]")
    settings = json.loads((tmp_path / "lacking" / "run.json").read_text())
    (tmp_path / "lacking" / "run.json").write_text(json.dumps({k: x for k, x in settings.items() if k != "seed"}))
    (tmp_path / "damaged" / "observation.npz").write_bytes(b"PK")
    for name, changes in (("changed", {"prior_hash": "0"}), ("unknown", {"problem": "nothing"})):
        file = tmp_path / name / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    for command, name, sentence in (
        ("show", "absent", "no file or folder"),
        ("show", "file", "neither a run folder nor a store"),
        ("show", "empty", "neither a run folder nor a store"),
        ("show", "other.zarr", "but not of draws"),
        ("show", "damaged", "is damaged"),
        ("resume", "absent", "no folder"),
        ("resume", "empty", "is no run folder: it has no run.json"),
        ("resume", "damaged", "is damaged"),
        ("resume", "changed", "is not the one that the run"),
        ("resume", "unknown", "is a run of 'nothing'"),
        ("resume", "lacking", "lacks the setting 'seed'"),
        ("resume", "list", "holds a list, no settings"),
    ):
        result = run(command, tmp_path / name)
        assert result.exit_code == 2, (command, name, result.output)
        assert sentence in " ".join(result.output.split())
        assert "Traceback" not in result.output
