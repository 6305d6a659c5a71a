"""The conditional prior of density fields from the command line: trained on maps of a user's, refined, measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bayesdiff as bd
from models.__main__ import app
from models.density_fields import likelihood, prior
from models.density_fields.data import NUM_HELD_OUT, PARAMETER_BOUNDS, PIXEL, SIZE
from models.density_fields.likelihood import recommended_bound
from models.gaussian_fields.data import exact_prior

NUM = NUM_HELD_OUT + 60


def write_maps(folder: Path, size: int = 32) -> Path:
    """Lognormal maps in the layout of CAMELS whose contrast is sigma_8."""
    rng = np.random.default_rng(0)
    low, high = np.array(list(PARAMETER_BOUNDS.values())).T
    parameters = rng.uniform(low, high, (NUM, 2))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size)))
    modes = np.fft.fft2(rng.normal(size=(NUM, 15, size, size))) / np.maximum(k, 1.0)
    fields = np.fft.ifft2(modes).real * parameters[:, 1, None, None, None]
    folder.mkdir()
    np.save(folder / "Maps_Mcdm_Mine_LH_z=0.00.npy", (10 ** (10 + fields)).reshape(-1, size, size).astype(np.float32))
    np.savetxt(folder / "params_LH_Mine.txt", parameters)
    return folder


@pytest.mark.slow
def test_a_prior_of_other_maps_is_trained_refined_and_measured(tmp_path: Path, monkeypatch) -> None:
    small = replace(prior.ARCHITECTURE, channels=(8, 8), blocks=(1, 1), embedding=8)
    monkeypatch.setattr(prior, "ARCHITECTURE", small)
    monkeypatch.setattr(prior, "NUM_FIELDS", 6)
    monkeypatch.setattr(likelihood, "NUM_CANDIDATES", 4)
    maps = write_maps(tmp_path / "maps")

    def command(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(x) for x in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    train = ("train", "density_fields", "--steps", 2, "--maps", maps)
    command(*train, "--size", 16, "--folder", tmp_path / "run16", "--output", tmp_path / "p16")
    coarse = bd.load_model(tmp_path / "p16")
    assert coarse.event_shape == (1, 16, 16)
    assert coarse.card.entries["pixel_mpc_h"] == pytest.approx(PIXEL * SIZE / 16)
    assert "layout of CAMELS" in coarse.card.entries["provenance"]
    low, high = coarse.card.entries["bound_exponent_interval"]
    assert recommended_bound(coarse).exponent == coarse.card.entries["bound_exponent"] <= min(high, 1.0)
    assert 0.0 <= low <= high

    fine = (*train, "--size", 32, "--start", tmp_path / "p16", "--folder", tmp_path / "run32")
    command(*fine, "--output", tmp_path / "p32")
    assert bd.load_model(tmp_path / "p32").event_shape == (1, 32, 32)

    assert "exponent" in command("measure", tmp_path / "p16", "--maps", maps)
    assert bd.load_model(tmp_path / "p16").card.entries["bound_exponent"] == coarse.card.entries["bound_exponent"]


def test_a_prior_is_measured_on_its_own_maps(tmp_path: Path) -> None:
    exact = exact_prior(16)
    exact.save(tmp_path / "other", log10_surface_density={"mean": 10.0, "sd": 2.0})
    result = CliRunner().invoke(app, ["measure", str(tmp_path / "other"), "--maps", str(write_maps(tmp_path / "maps"))])
    assert result.exit_code == 2
    assert "measure it on its own training maps" in " ".join(result.output.split())
    result = CliRunner().invoke(app, ["measure", str(tmp_path / "other"), "--maps", str(tmp_path)])
    assert result.exit_code == 2
    assert "Error:" in result.output


def test_maps_and_size_are_of_density_fields_only() -> None:
    result = CliRunner().invoke(app, ["train", "matter", "--size", "32"])
    assert result.exit_code == 2
    assert "--size is for density_fields, got matter" in result.output
