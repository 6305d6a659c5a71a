"""Cosmology from dark-matter fields on the command line: runs, what continues them, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

import bayesdiff as bd
from bayesdiff.diffusion.gaussian_family import GaussianFamily
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import initialise
from inference import density_estimators
from inference.__main__ import app
from inference.density_baselines import BASELINES
from inference.density_estimators import chosen_names, run_estimators
from inference.density_problem import Estimator, Problem, cost_of, draws_of
from inference.density_report import estimator_table
from models.density_fields import baselines
from models.density_fields.baselines import Baselines
from models.density_fields.data import BOX, PARAMETER_BOUNDS, Standardisation
from models.density_fields.observation import FIRST_SEED, read_fields, simulate_fields
from models.density_fields.power_spectrum import untrained_power_spectrum
from models.density_fields.prior import make_prior
from models.density_fields.regression import untrained_regression

SIZE = 16
SCALE = Standardisation(11.3, 0.4)
TRUTH = {"Omega_m": 0.3, "sigma_8": 0.8}
RUNNER = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


def stand_in(size: int = SIZE) -> bd.DiffusionModel:
    """A prior whose fields are Gaussian: Omega_m tilts their power by up to 1, sigma_8 scales it by up to e."""
    low, high = (jnp.asarray(ends, dtype=float) for ends in zip(*PARAMETER_BOUNDS.values(), strict=True))
    log_k = np.log(np.array([1.0, 1.0, np.hypot(0.5, 0.5) * size]) / 3.0)
    # Terms in the order of a family: constant, then the second parameter, then the first.
    terms = np.stack([-3.5 * log_k, np.ones(3), -log_k], axis=1)
    family = GaussianFamily(jnp.asarray(terms, dtype=float), jnp.zeros(3), low, high, (size, size), 1)
    return make_prior(family, SCALE, size)


def fields_of(prior: bd.DiffusionModel, num: int, seed: int = 0) -> np.ndarray:
    """Surface densities (num, H, W) of fields at the truth."""
    x = bd.DiffusionPrior(prior, tuple(TRUTH.values())).sample(jax.random.key(seed), (num,))
    return np.asarray(SCALE.surface_density(np.asarray(x, np.float64))[:, 0])


def run(*arguments: object):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved prior, and files of maps of it."""
    folder = tmp_path_factory.mktemp("density")
    prior = stand_in()
    prior.save(folder / "prior")
    maps = fields_of(prior, 3)
    np.save(folder / "one.npy", maps[0])
    np.savez(folder / "three.npz", maps=maps, other=np.zeros(2))
    return folder


def start(folder: Path, output: Path, *more: object, engine: str = "grid"):
    short = ("--engine", engine, "--num-samples", 400, "--quiet")
    return run("density_fields", "--prior", folder / "prior", *short, "--output", output, *more)


def with_truth(folder: Path, output: Path, *more: object, engine: str = "grid"):
    truth = ("--omega-m", TRUTH["Omega_m"], "--sigma-8", TRUTH["sigma_8"])
    return start(folder, output, "--observation", folder / "one.npy", *truth, *more, engine=engine)


def opened(output: Path) -> xr.DataTree:
    return xr.open_datatree(output / "posterior.zarr", engine="zarr").load()


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    output = tmp_path_factory.mktemp("run") / "results"
    return output, with_truth(folder, output, "--estimators", "twin,L_0", engine="nuts")


def test_a_whole_run_ends_in_a_report_with_every_estimator(finished) -> None:
    output, result = finished
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in output.iterdir()) == [
        *("estimators.csv", "observation.npz", "posterior.zarr", "report.html", "run.json", "summary.csv"),
        "verdict.txt",
    ]
    assert "Converged" in result.output
    data = opened(output)
    assert data["posterior"].sizes == {"chain": 4, "draw": 400}
    assert set(data["estimators"].children) == {"twin", "L_0"}
    assert data["examples"]["field"].shape == (2, 1, SIZE, SIZE)
    assert float(data["truth"]["sigma_8"]) == 0.8
    table = pd.read_csv(output / "estimators.csv", index_col="estimator")
    labels = [density_estimators.ESTIMATORS[name].label for name in ("twin", "L_0")]
    assert list(table.index) == [data.attrs["estimator"], *labels]
    assert table["evaluations"].tolist() == [0, 0, 5000]
    assert table["Omega_m_z"].notna().all()
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 6
    for piece in ("Estimators", "Every estimator", "Maps", "Power spectrum", "Joint posterior", "L_0 alone"):
        assert piece in page
    assert 'src="http' not in page


def test_for_a_gaussian_prior_the_recommended_posterior_is_the_twins(finished) -> None:
    """The twin's grid is exact; the two differ by the Monte Carlo errors of both."""
    data = opened(finished[0])
    summary = bd.reporting.summary_table(data)
    exact = data["estimators/twin"].to_dataset()
    for name in PARAMETER_BOUNDS:
        mean, sd = float(exact[name].mean()), float(exact[name].std())
        ess = summary.loc[name, "ess_bulk"]
        assert ess > 300
        error = sd * np.sqrt(1.0 / ess + 1.0 / exact[name].size)
        assert abs(summary.loc[name, "mean"] - mean) < 4.0 * error
        assert abs(summary.loc[name, "sd"] / sd - 1.0) < 0.15


@pytest.mark.slow
def test_an_interrupted_estimator_leaves_results_and_is_resumed(folder: Path, tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "run"

    def interrupted(key, problem):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(density_estimators.ESTIMATORS, "L_0", Estimator("to be interrupted", interrupted))
        stopped = with_truth(folder, output, "--estimators", "twin,L_0")
    assert stopped.exit_code == 130, stopped.output
    assert f"python -m inference resume {output}" in stopped.output
    assert "interrupted" in (output / "verdict.txt").read_text()
    before = opened(output)
    assert list(before["estimators"].children) == ["twin"]
    assert "problem density_fields" in " ".join(run("show", output).output.split())
    ran: list[str] = []
    for name in ("twin", "L_0"):
        monkeypatch.setitem(
            density_estimators.ESTIMATORS,
            name,
            Estimator(name, lambda k, p, name=name: ran.append(name) or quick_twin(p)),
        )
    result = run("resume", output, "--quiet")
    assert result.exit_code == 0, result.output
    assert ran == ["L_0"]
    after = opened(output)
    assert set(after["estimators"].children) == {"twin", "L_0"}
    np.testing.assert_array_equal(after["posterior"]["Omega_m"], before["posterior"]["Omega_m"])
    np.testing.assert_array_equal(after["estimators/twin"]["sigma_8"], before["estimators/twin"]["sigma_8"])
    assert "examples" in after.children
    assert not (output / "draws.zarr").exists()
    assert "complete" in run("resume", output).output


def quick_twin(problem: Problem):
    draws = draws_of(problem.twin, problem.parameters)
    return density_estimators.Outcome(draws, 7, "a remark")


@pytest.mark.slow
def test_chains_that_were_interrupted_are_resumed_to_the_same_draws(
    finished, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    output, original = tmp_path / "run", bd.sample

    def callback(report) -> None:
        if report.phase == "sampling":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bd, "sample", lambda *args, **kwargs: original(*args, **kwargs | {"callback": callback}))
        stopped = with_truth(folder, output, "--estimators", "none", engine="nuts")
    assert stopped.exit_code == 130, stopped.output
    assert (output / "report.html").exists()
    assert run("resume", output, "--quiet").exit_code == 0
    np.testing.assert_array_equal(opened(output)["posterior"]["sigma_8"], opened(finished[0])["posterior"]["sigma_8"])


def test_several_fields_say_more_than_one_and_a_grid_is_an_engine(finished, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ("--observation", f"{folder / 'three.npz'}:maps", "--estimators", "none")
    result = start(folder, output, *options)
    assert result.exit_code == 0, result.output
    data, alone = opened(output), opened(finished[0])
    assert data["observed_data"]["x"].shape == (3, 1, SIZE, SIZE)
    assert "truth" not in data.children
    assert data.attrs["algorithm"] == "Grid"
    for name in PARAMETER_BOUNDS:
        assert float(data["posterior"][name].std()) < 0.9 * float(alone["posterior"][name].std())
    assert "a joint posterior is too narrow" in (output / "report.html").read_text()


@pytest.mark.slow
def test_noise_of_unknown_level_is_inferred(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ("--noise-level", 0.3, "--estimators", "twin")
    result = with_truth(folder, output, *options)
    assert result.exit_code == 0, result.output
    data = opened(output)
    level = data["posterior"]["noise_level"]
    assert abs(float(level.mean()) - 0.3) < 4.0 * float(level.std()) < 0.4
    assert data["truth"]["x"].shape == (1, SIZE, SIZE)
    assert {"noise_level", *PARAMETER_BOUNDS} <= set(data["estimators/twin"].data_vars)
    assert json.loads((output / "run.json").read_text())["noisy"] is True


def test_an_estimator_that_fails_takes_none_of_the_others_with_it(folder: Path, monkeypatch) -> None:
    def fail(key, problem):
        raise ValueError("no such thing")

    monkeypatch.setitem(density_estimators.ESTIMATORS, "L_0", Estimator("fails", fail))
    monkeypatch.setitem(density_estimators.ESTIMATORS, "twin", Estimator("runs", lambda k, p: quick_twin(p)))
    observed = read_fields(folder / "one.npy", stand_in())
    done = []
    problem = Problem(stand_in(), observed.y, num_samples=50)
    failed = run_estimators(jax.random.key(0), problem, ("L_0", "twin"), lambda name, *rest: done.append(name))
    assert done == ["twin"]
    assert failed == ["The estimator 'L_0' failed: no such thing"]


def test_the_baselines_see_the_fields_in_their_own_unit(folder: Path, monkeypatch) -> None:
    """Untrained, both answer with the prior; of three fields the network's answers are multiplied."""
    seen: list[np.ndarray] = []
    untrained = Baselines(untrained_power_spectrum(SIZE), untrained_regression())
    predict = baselines.predict
    monkeypatch.setattr(baselines, "load_baselines", lambda: untrained)
    monkeypatch.setattr(baselines, "scale_of", lambda: Standardisation(SCALE.mean + 0.1, 2.0 * SCALE.sd))
    monkeypatch.setattr(baselines, "predict", lambda network, fields: seen.append(fields) or predict(network, fields))
    problem = Problem(stand_in(), read_fields(f"{folder / 'three.npz'}:maps", stand_in()).y)
    outcomes = {name: BASELINES[name].run(jax.random.key(0), problem) for name in BASELINES}
    np.testing.assert_allclose(seen[0], (0.4 * problem.y - 0.1) / 0.8, atol=1e-5)
    for name, narrower in (("power_spectrum", 1.0), ("regression", np.sqrt(3.0))):
        for parameter, (low, high) in PARAMETER_BOUNDS.items():
            draws, sd = outcomes[name].draws[parameter], (high - low) / np.sqrt(12.0) / narrower
            assert draws.shape == (4, 1000)
            assert abs(draws.mean() - 0.5 * (low + high)) < 4.0 * sd / np.sqrt(draws.size)
            assert draws.std() == pytest.approx(sd, rel=0.06)


def test_estimators_are_chosen_by_name() -> None:
    assert {"twin", "L_0", "first_terms", "all_terms"} <= set(chosen_names(None, noisy=False))
    assert "flow" not in chosen_names(None, noisy=False)
    assert chosen_names(None, noisy=True) == ("twin", "bound", "all_terms")
    assert chosen_names("flow, twin", noisy=True) == ("flow", "twin")
    assert chosen_names("none", noisy=False) == ()
    with pytest.raises(ValueError, match="none or some of twin, bound, L_0.*got magic"):
        chosen_names("twin,magic", noisy=False)
    with pytest.raises(ValueError, match="with --noise-level the estimators are twin, bound, all_terms, flow, got L_0"):
        chosen_names("L_0", noisy=True)


def test_costs_are_those_of_the_estimators() -> None:
    assert cost_of(bd.DiscreteBound(1000, terms=20)) == 40
    assert cost_of(bd.DiscreteBound(1000, num_sampled=32)) == 64
    assert cost_of(bd.Elbo(num_times=32, num_noise=1)) == 64
    assert cost_of(bd.Tempered(bd.Elbo(num_times=32, num_noise=1), 0.2)) == 64
    assert cost_of(bd.Exact()) == 0


def test_finer_maps_are_averaged_and_one_of_several_chosen(tmp_path: Path) -> None:
    prior = stand_in()
    fine = np.repeat(np.repeat(fields_of(prior, 2), 4, axis=1), 4, axis=2)
    np.save(tmp_path / "fine.npy", fine.astype(np.float32))
    coarse = read_fields(tmp_path / "fine.npy", prior, pixel=BOX / 64, map_index=1)
    assert coarse.y.shape == (1, SIZE, SIZE)
    np.testing.assert_allclose(SCALE.surface_density(coarse.y[0]), fine[1, ::4, ::4], rtol=1e-5)
    assert "64 x 64 pixels averaged to 16 x 16" in coarse.notes[0]
    np.save(tmp_path / "odd.npy", 1e3 * fine[0])
    with pytest.raises(ValueError, match="like those that the prior was trained on"):
        read_fields(tmp_path / "odd.npy", prior)


def test_a_simulated_observation_is_of_a_seed_that_training_has_not(monkeypatch) -> None:
    seen: list[tuple] = []

    def simulate(seed, omega_m, sigma_8, settings):
        seen.append((seed, omega_m, sigma_8, settings.size))
        return SimpleNamespace(maps=np.arange(1.0, 16.0)[:, None, None] * np.ones((15, 64, 64)))

    fake = SimpleNamespace(simulate=simulate, Settings=lambda size: SimpleNamespace(size=size))
    monkeypatch.setitem(sys.modules, "models.density_fields.simulator", fake)
    observed = simulate_fields(5, stand_in(), 0.25, 0.9, map_index=3)
    assert seen == [(FIRST_SEED + 5, 0.25, 0.9, 64)]
    np.testing.assert_allclose(SCALE.surface_density(observed.y), 4.0, rtol=1e-4)
    assert observed.truth == {"Omega_m": 0.25, "sigma_8": 0.9}


def test_a_simulation_without_jaxpm_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "models.density_fields.simulator", None)
    result = start(folder, tmp_path / "run")
    assert result.exit_code == 2
    assert "pip install 'bayesdiff[simulations]'" in result.output


def _write(folder: Path) -> None:
    good = fields_of(stand_in(), 1)[0]
    arrays = {
        "good": good,
        "nan": np.where(np.arange(SIZE**2).reshape(SIZE, SIZE) == 21, np.nan, good),
        "zero": np.where(np.arange(SIZE**2).reshape(SIZE, SIZE) == 21, 0.0, good),
        "negative": -good,
        "oblong": np.ones((SIZE, 8)),
        "small": np.ones((24, 24)),
        "flat": np.ones((SIZE, SIZE)),
        "many": np.ones((65, SIZE, SIZE)),
        "words": np.full((SIZE, SIZE), "a"),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "truncated.npy").write_bytes((folder / "good.npy").read_bytes()[:600])
    (folder / "good.txt").write_text("1 2")
    stand_in().save(folder / "prior")
    bd.DiffusionModel(bd.GaussianDenoiser(np.ones((8, 8))), bd.schedules.Cosine(), bd.WhiteNoise(), (1, 8, 8)).save(
        folder / "other"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--observation", "{nan}"],
            "surface densities must be finite, got 1 values that are not, the first at (0, 1, 5)",
        ),
        (["--observation", "{zero}"], "must be above zero, to have a logarithm, got 1 values"),
        (["--observation", "{negative}"], "must be above zero"),
        (["--observation", "{oblong}"], "must hold numbers of shape (size, size) or (maps, size, size)"),
        (["--observation", "{words}"], "must hold numbers of shape"),
        (["--observation", "{small}"], "must have 16 x 16 pixels, or a multiple to be averaged, got 24 x 24"),
        (["--observation", "{flat}"], "must vary from pixel to pixel"),
        (["--observation", "{many}"], "must hold 1 to 64 maps of one cosmology, got 65: choose one by --map-index"),
        (["--observation", "{many}", "--map-index", "65"], "--map-index must be 0 to 64 of many.npy, got 65"),
        (["--observation", "{good}", "--map-index", "1"], "which holds one map, got 1"),
        (["--observation", "{good}", "--pixel-mpc-h", "1"], "must be 1.5625 Mpc/h wide, for a map of 25 Mpc/h, got 1"),
        (["--observation", "{truncated}"], "cannot be read (truncated, or not what its name says)"),
        (["--observation", "{folder}/good.txt"], "must be a .npy or .npz file, got '.txt'"),
        (["--observation", "{good}:maps"], "holds one array without a name"),
        (["--observation", "absent.npy"], "no file 'absent.npy'"),
        (["--observation", "{good}", "--omega-m", "0.3"], "give both --omega-m and --sigma-8, or neither"),
        (["--observation", "{good}", "--omega-m", "0.3", "--sigma-8", "2"], "sigma_8 must lie in [0.6, 1] (its prior)"),
        (["--observation", "{good}", "--noise-level", "7"], "--noise-level must lie in [0.02, 1] (its prior), got 7"),
        (["--omega-m", "0.7"], "Omega_m must lie in [0.1, 0.5] (its prior), got 0.7"),
        (["--map-index", "15"], "--map-index must be 0 to 14 of a simulation, got 15"),
        (["--pixel-mpc-h", "0.39"], "--pixel-mpc-h is that of --observation FILE, and no file was given"),
        (["--prior", "no-such-prior"], "or the folder of a saved model, got 'no-such-prior'"),
        (["--prior", "{folder}/other"], "the prior must have fields (1, size, size) and the context"),
        (["--estimators", "magic"], "--estimators must be none or some of twin, bound, L_0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(tmp_path: Path, options: list[str], sentence: str) -> None:
    _write(tmp_path)
    names = {path.stem: path for path in tmp_path.glob("*.npy")} | {"folder": tmp_path}
    output = tmp_path / "results"
    result = start(tmp_path, output, *(option.format(**names) for option in options))
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.output.split()), result.output
    assert "Traceback" not in result.output
    assert not output.exists()


@pytest.mark.slow
def test_a_network_is_sampled_by_the_default_engine_and_every_estimator(folder: Path, tmp_path: Path) -> None:
    """An untrained network is the Wiener filter: all of the bounds with reference are those of the twin."""
    low, high = zip(*PARAMETER_BOUNDS.values(), strict=True)
    config = UNetConfig(in_channels=3, out_channels=1, channels=(8, 16), blocks=(1, 1), embedding=16, patch=2)
    network = initialise(0, stand_in().denoiser, config, low, high)
    make_prior(network, SCALE, SIZE).save(tmp_path / "prior")
    output, maps = tmp_path / "run", folder / "one.npy"
    names = "twin,L_0,first_terms,all_terms,flow"
    result = start(tmp_path, output, "--observation", maps, "--estimators", names, engine="surrogate")
    assert result.exit_code == 0, result.output
    data = opened(output)
    assert set(data["estimators"].children) == set(names.split(","))
    assert data.attrs["evaluations"] == 128 * data.attrs["surrogate_evaluations"]
    exact, ess = data["estimators/twin"].to_dataset(), bd.reporting.summary_table(data)["ess_bulk"]
    for name in PARAMETER_BOUNDS:
        error = float(exact[name].std()) * np.sqrt(1.0 / ess[name] + 1.0 / exact[name].size)
        assert abs(float(data["posterior"][name].mean() - exact[name].mean())) < 4.0 * error


def test_the_table_has_no_z_where_the_truth_is_not_known(finished) -> None:
    data = opened(finished[0]).drop_nodes("truth")
    assert estimator_table(data)["sigma_8_z"].isna().all()
