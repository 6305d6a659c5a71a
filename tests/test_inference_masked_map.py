"""The masked map on the command line: a run to its report, what continues it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import inference.masked_map
from inference.__main__ import app
from models import linear_gaussian
from models.masked_map.observation import scan_noise, survey_mask

SIZE = 8
RUNNER = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module", autouse=True)
def small():
    """A twin of 8 x 8 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        twin = linear_gaussian.make_twin(SIZE)
        patch.setattr(linear_gaussian, "make_twin", lambda size: twin)
        yield


def run(*arguments: object):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def start(output: Path, *more: object):
    short = ("--num-chains", 2, "--num-warmup", 60, "--num-samples", 40, "--quiet")
    return run("masked_map", "--prior", "twin", *short, "--output", output, *more)


def write(path: Path, **changes: np.ndarray) -> Path:
    arrays = {"y": np.zeros((SIZE, SIZE)), "mask": survey_mask(SIZE), "relative_noise": scan_noise(SIZE)}
    np.savez(path, **(arrays | changes))
    return path


@pytest.mark.slow
def test_a_run_that_crashed_is_resumed_to_its_report(tmp_path, monkeypatch):
    output = tmp_path / "map"
    with monkeypatch.context() as patch:
        patch.setattr(inference.masked_map, "sample_field", lambda *args, **kwargs: 1 / 0)
        assert start(output).exit_code == 1
    assert [path.name for path in output.iterdir()] == ["run.json"]
    assert "problem masked_map" in " ".join(run("show", output).output.split())
    result = run("resume", output, "--quiet")
    assert result.exit_code in (0, 3), result.output
    kept = sorted(path.name for path in output.iterdir())
    assert kept == ["maps.png", "posterior.zarr", "report.html", "run.json", "summary.csv", "verdict.txt"]
    data = xr.open_datatree(output / "posterior.zarr", engine="zarr").load()
    assert data["posterior"]["x"].shape == (2, 40, 1, SIZE, SIZE)
    assert {"level", "calibration"} <= set(data["posterior"].data_vars)
    assert data["truth"]["x"].shape == (1, SIZE, SIZE)
    assert data["survey"]["mask"].shape == (SIZE, SIZE)
    assert "under a mask" in data.attrs["observation"]
    assert "holds files" in start(output).output


@pytest.mark.slow
def test_an_observation_from_a_file_has_no_truth_and_ignores_what_is_masked(tmp_path):
    y = np.where(survey_mask(SIZE), 0.1, np.nan)
    result = start(tmp_path / "map", "--observation", write(tmp_path / "mine.npz", y=y))
    assert result.exit_code in (0, 3), result.output
    data = xr.open_datatree(tmp_path / "map" / "posterior.zarr", engine="zarr").load()
    assert "truth" not in data.children
    assert np.isfinite(data["posterior"]["x"]).all()
    assert json.loads((tmp_path / "map" / "run.json").read_text())["observation_file"].endswith("mine.npz")


def test_bad_observations_are_refused(tmp_path):
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    np.savez(tmp_path / "bare.npz", y=np.zeros((SIZE, SIZE)))
    for file, sentence in (
        (tmp_path / "absent.npz", "no file"),
        (tmp_path / "damaged.npz", "cannot be read"),
        (tmp_path / "bare.npz", "must hold y, mask and relative_noise, got y"),
        (write(tmp_path / "shape.npz", y=np.zeros((4, 4))), "y must have shape (8, 8)"),
        (write(tmp_path / "blank.npz", mask=np.zeros((SIZE, SIZE))), "it is 0 everywhere"),
        (write(tmp_path / "noise.npz", relative_noise=np.zeros((SIZE, SIZE))), "relative_noise must be positive"),
        (write(tmp_path / "nan.npz", y=np.full((SIZE, SIZE), np.nan)), "y must be finite wherever the mask is 1"),
    ):
        result = start(tmp_path / "map", "--observation", file)
        assert result.exit_code == 2, (file, result.output)
        assert sentence in " ".join(result.output.split()), result.output
        assert not (tmp_path / "map").exists()
    both = start(tmp_path / "map", "--observation", tmp_path / "nan.npz", "--map", "dust.npy")
    assert both.exit_code == 2
    assert "not both" in both.output
