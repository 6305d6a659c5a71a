"""Dark matter from stars on the command line: a run to its report, an interruption, and what is refused."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import inference.dark_matter_study as study
from bayesdiff.diffusion.reconstruction import LinearReconstruction
from inference.__main__ import app
from models.dark_matter import prior
from models.dark_matter.data import Scales, StellarScale
from models.density_fields.baselines import scale_of
from models.density_fields.data import Standardisation

SIZE = 64
RUNNER = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


def run(*arguments: object):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear reconstruction that follows the smoothed stars."""
    linear = LinearReconstruction(
        jnp.linspace(1.0, -6.0, 8), jnp.zeros((2, 8)).at[1].set(0.7), jnp.asarray(0.0), jnp.zeros(2), (SIZE, SIZE)
    )
    scales = Scales(scale_of(), StellarScale(1.0, (0.0, 0.0), (1.0, 1.0)))
    folder = tmp_path_factory.mktemp("model")
    prior.make_prior(linear, scales).save(folder)
    return folder


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stars") / "stars.npy"
    bright = np.exp(-0.5 * ((np.indices((SIZE, SIZE)) - np.array([20.0, 40.0])[:, None, None]) ** 2).sum(0) / 16.0)
    np.save(path, np.random.default_rng(0).poisson(0.2 + 5.0 * bright).astype(np.float32))
    return path


def short(model: Path, stars: Path, output: Path, *more: object):
    options = ("--num-draws", 40, "--num-evaluations", 12, "--no-cosmology", "--quiet")
    return run("dark_matter", "--model", model, "--stars", stars, *options, "--output", output, *more)


def test_a_run_ends_in_a_report_of_masses_and_maps(model: Path, stars: Path, tmp_path: Path) -> None:
    result = short(model, stars, tmp_path / "run", "--region", "20,40", "--region", "50,10")
    assert result.exit_code in (0, 3), result.output
    assert "log10_mass_20_40" in result.output
    data = xr.open_datatree(tmp_path / "run" / "posterior.zarr", engine="zarr")
    masses = data["posterior"].to_dataset()
    assert float(masses["log10_mass_20_40"].mean()) > float(masses["log10_mass_50_10"].mean()) + 0.1
    assert data["fields"]["dark_matter"].shape == (4, 10, 1, SIZE, SIZE)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") >= 4
    shown = run("show", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    assert "independent draws of the reconstruction" in shown.output


def test_what_was_drawn_is_kept_when_it_is_interrupted(model, stars, tmp_path, monkeypatch) -> None:
    calls = []
    whole = study.draw

    def draw(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **settings)

    monkeypatch.setattr(study, "draw", draw)
    result = short(model, stars, tmp_path / "run")
    assert result.exit_code == 130
    assert "what was drawn so far is in the report" in result.output
    data = xr.open_datatree(tmp_path / "run" / "posterior.zarr", engine="zarr")
    assert data["fields"]["dark_matter"].shape[:2] == (4, 5)


def test_every_field_has_its_cosmology(model, stars, tmp_path) -> None:
    result = short(model, stars, tmp_path / "run", "--cosmology")
    assert result.exit_code in (0, 3), result.output
    posterior = xr.open_datatree(tmp_path / "run" / "posterior.zarr", engine="zarr")["posterior"].to_dataset()
    assert posterior["Omega_m"].shape == (4, 10)
    assert ((posterior["sigma_8"] >= 0.6) & (posterior["sigma_8"] <= 1.0)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--region", "1;2"), "--region must be ROW,COLUMN in pixels"),
        (("--radius", 30), "radius must be above 0 and at most half of the map"),
        (("--pixel-mpc-h", 0.1), "pixels must be 0.390625 Mpc/h wide"),
        (("--model", "nothing"), "--model must be dark-matter-64 or the folder of a saved model"),
    ],
)
def test_bad_options_are_one_sentence(model, stars, tmp_path, options, words) -> None:
    result = short(model, stars, tmp_path / "run", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_bad_maps_are_one_sentence(model, tmp_path) -> None:
    path = tmp_path / "stars.npy"
    for values, words in (
        (np.full((SIZE, SIZE), np.nan), "finite and not negative, got 4096 that are not"),
        (np.zeros((60, 64)), "multiples of 8 pixels, got float64 (60, 64)"),
        (np.zeros((4, SIZE, SIZE)), "must be one map of numbers"),
        (np.full((SIZE, SIZE), 1e10), "must be in the unit and on the pixels of the maps"),
    ):
        np.save(path, values)
        result = short(model, path, tmp_path / "run")
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_a_map_without_stars_is_reconstructed_and_said_to_be_one(model, tmp_path) -> None:
    path = tmp_path / "stars.npy"
    np.save(path, np.zeros((SIZE, SIZE)))
    result = short(model, path, tmp_path / "run", "--region", "20,40")
    assert result.exit_code in (0, 3), result.output
    assert "which has not a single star" in " ".join(result.output.split())


def test_wide_maps_have_draws_and_no_cosmology(model, tmp_path) -> None:
    path = tmp_path / "stars.npy"
    np.save(path, np.random.default_rng(1).poisson(0.3, (SIZE, 2 * SIZE)).astype(np.float32))
    result = short(model, path, tmp_path / "run", "--cosmology")
    assert result.exit_code in (0, 3), result.output
    assert "Omega_m" not in result.output


def test_cosmology_of_another_scale_is_refused(model, stars, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "scale_of", lambda: Standardisation(1.0, 2.0))
    result = short(model, stars, tmp_path / "run", "--cosmology")
    assert result.exit_code == 2
    assert "give --no-cosmology" in " ".join(result.output.split())
