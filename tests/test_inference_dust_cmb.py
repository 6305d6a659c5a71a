from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import bayesdiff as bd
from bayesdiff.sampling.progress import BlockReport
from inference import folder, study
from inference.__main__ import app
from inference.dust_cmb import load_prior
from models import linear_gaussian
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.dust_cmb.observation import simulate_from_prior

RUNNER = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


def run(*arguments: object):
    return RUNNER.invoke(app, ["dust_cmb", "--prior", "twin", *map(str, arguments)])


@contextmanager
def twin_of_16_pixels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        twin = linear_gaussian.make_twin(16)
        patch.setattr(linear_gaussian, "make_twin", lambda size: twin)
        yield


@pytest.fixture
def small_twin() -> Iterator[None]:
    """``--prior twin`` is one of 16 x 16 pixels, for speed."""
    with twin_of_16_pixels():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A whole run by the command line, and what it printed."""
    output = tmp_path_factory.mktemp("run") / "results"
    arguments = ("--engine", "nuts", "--num-samples", 600, "--num-fields", 16, "--sigma", 0.5, "--quiet")
    with twin_of_16_pixels():
        return output, run(*arguments, "--output", output)


def open_result(path: Path) -> xr.DataTree:
    return xr.open_datatree(path, engine="zarr", consolidated=False).load()


def test_without_a_command_the_commands_are_listed() -> None:
    result = RUNNER.invoke(app, [])
    assert result.exit_code == 0
    assert "dust_cmb" in result.output
    assert "Exit status" in RUNNER.invoke(app, ["dust_cmb", "--help"]).output


def test_whole_run_ends_in_a_report(finished) -> None:
    output, result = finished
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in output.iterdir()) == [
        "observation.npz",
        "posterior.zarr",
        "report.html",
        "run.json",
        "summary.csv",
        "verdict.txt",
    ]
    assert "omega_b" in result.output
    assert "Converged" in result.output
    data = xr.open_datatree(output / "posterior.zarr").load()
    assert data["posterior"].sizes == {"chain": 4, "draw": 600}
    assert data["fields"]["dust"].shape == (4, 4, 1, 16, 16)
    assert set(data["fields"].data_vars) == {"dust", "cmb", "instrument_noise"}
    assert float(data["truth"]["sigma"]) == 0.5
    total = data["fields"]["dust"] + data["fields"]["cmb"] + data["fields"]["instrument_noise"]
    np.testing.assert_allclose(total - data["observed_data"]["y"], 0.0, atol=1e-5)
    assert data.attrs["status"] == "complete"
    assert data.attrs["command"].startswith("python -m inference")
    assert len(data.attrs["prior_hash"]) == 64
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 6
    assert "One dust standard deviation" in page


def test_negative_verdict_exits_with_3(
    finished, monkeypatch: pytest.MonkeyPatch, small_twin: None, tmp_path: Path
) -> None:
    """The first draws of the run alone are too few for a positive verdict."""
    data = open_result(finished[0] / "posterior.zarr").drop_nodes(["fields", "truth"])
    few = data.map_over_datasets(lambda group: group.isel(draw=slice(0, 12)) if "draw" in group.dims else group)
    monkeypatch.setattr(bd, "sample", lambda *args, **kwargs: few)
    result = run("--num-fields", 0, "--output", tmp_path / "few", "--quiet")
    assert result.exit_code == 3
    assert "Do not use" in result.output
    assert (tmp_path / "few" / "report.html").exists()


def test_results_are_not_overwritten_unless_asked(
    finished, monkeypatch: pytest.MonkeyPatch, small_twin: None, tmp_path: Path
) -> None:
    result = run("--output", finished[0])
    assert result.exit_code == 2
    assert "exists already and holds files: choose another --output, or give --overwrite" in result.output
    (tmp_path / "summary.csv").write_text("old")
    (tmp_path / "mine.txt").write_text("keep")
    data = open_result(finished[0] / "posterior.zarr").drop_nodes(["fields", "truth"])
    monkeypatch.setattr(bd, "sample", lambda *args, **kwargs: data)
    assert run("--num-fields", 0, "--output", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "summary.csv").read_text() != "old"
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_interrupted_run_keeps_and_reports_what_was_drawn(tmp_path: Path) -> None:
    dust = linear_gaussian.make_twin(16)
    seen: list[int] = []

    def interrupt(report: BlockReport) -> None:
        if report.phase == "sampling" and report.step >= 20:
            running = open_result(tmp_path / folder.RUNNING_STORE)
            seen.append(report.step)
            assert running.attrs["status"] == "interrupted"
            raise KeyboardInterrupt

    data = study.run_study(
        simulate_from_prior(jax.random.key(1), dust),
        make_model(dust),
        algorithm=bd.NUTS(num_warmup=50),
        bounds=PRIOR_BOUNDS,
        output=tmp_path,
        progress=False,
        callback=interrupt,
    )
    kept = open_result(tmp_path / folder.RESULT)
    assert kept.attrs["status"] == data.attrs["status"] == "interrupted"
    assert seen == [kept["posterior"].sizes["draw"]]
    assert float(kept["truth"]["H0"]) == pytest.approx(67.4)
    assert open_result(tmp_path / folder.RUNNING_STORE).attrs["status"] == "interrupted"
    assert "interrupted" in (tmp_path / "verdict.txt").read_text()
    assert (tmp_path / "report.html").exists()


def test_distance_from_the_truth_is_said() -> None:
    draws = np.random.default_rng(0).standard_normal((4, 200))
    posterior = xr.Dataset({"sigma": (("chain", "draw"), draws), "H0": (("chain", "draw"), draws)})
    truth = xr.Dataset({"sigma": 5.0, "H0": 1.0})
    data = xr.DataTree.from_dict({"posterior": posterior, "truth": truth})
    (sentence,) = study.far_from_truth(data)
    assert "standard deviations: sigma -" in sentence
    assert "H0" not in sentence
    assert study.far_from_truth(data.drop_nodes("truth")) == ()


@pytest.mark.parametrize("kept", [False, True])
def test_interrupted_command_says_so(
    finished, monkeypatch: pytest.MonkeyPatch, small_twin: None, tmp_path: Path, kept: bool
) -> None:
    def interrupted(*args: object, **kwargs: object) -> xr.DataTree:
        if not kept:
            raise KeyboardInterrupt
        data = open_result(finished[0] / "posterior.zarr").drop_nodes(["fields", "truth"])
        data.attrs["status"] = "interrupted"
        return data

    monkeypatch.setattr(bd, "sample", interrupted)
    result = run("--output", tmp_path, "--quiet")
    assert result.exit_code == 130
    assert (
        "what was drawn so far is in the report" if kept else "before the first draw there is nothing to keep"
    ) in result.output
    assert (tmp_path / "report.html").exists() == kept


def _field(name: str, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    fields = {
        "good": rng.standard_normal((64, 64)),
        "nan": np.where(np.arange(4096).reshape(64, 64) == 130, np.nan, rng.standard_normal((64, 64))),
        "oblong": rng.standard_normal((64, 48)),
        "map": rng.standard_normal((150, 150)),
    }
    np.save(folder / f"{name}.npy", fields[name])
    return folder / f"{name}.npy"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--observation", "{nan}"],
            "nan.npy must be finite and unmasked, got 1 NaN or infinite of 4096, the first at (0, 2, 2)",
        ),
        (["--observation", "{oblong}"], "must have shape (64, 64) or (1, 64, 64), got (64, 48)"),
        (["--observation", "{good}", "--pixel-arcmin", "4"], "must be those of the model, 8 arcmin, got 4 arcmin"),
        (["--observation", "{good}", "--H0", "70"], "--H0: the truth of a mixture from a file cannot be chosen"),
        (["--observation", "{good}", "--map", "{map}"], "not both"),
        (["--observation", "absent.npy"], "no file 'absent.npy'"),
        (["--map", "{map}"], "the pixel size of map.npy is needed, and the file does not say it: give --pixel-arcmin"),
        (
            ["--map", "{map}", "--pixel-arcmin", "3"],
            "needs a map of at least 171 x 171 pixels of 3 arcmin, got 150 x 150",
        ),
        (["--map", "{map}", "--pixel-arcmin", "9"], "must be at most those of the model, 8 arcmin, got 9 arcmin"),
        (["--map", "{map}", "--pixel-arcmin", "8", "--patch", "4"], "patch must be a number from 0 to 3"),
        (["--map", "{map}:dust", "--pixel-arcmin", "8"], "holds one array without a name, got the name 'dust'"),
        (["--patch", "1"], "--patch chooses a patch of --map FILE, and no map was given"),
        (["--pixel-arcmin", "4"], "must be the model's 8 arcmin for a simulated mixture, got 4"),
        (["--H0", "95"], "H0 must lie in [50, 90] (its prior), got 95"),
        (["--omega-b", "0.1"], "omega_b must lie in [0.0075, 0.0567]"),
        (["--sigma", "2"], "sigma must lie in [0.1, 1.2] (its prior), got 2"),
        (["--prior", "no-such-prior"], "or the folder of a saved model, got 'no-such-prior'"),
        (["--prior", "{folder}"], "card.json"),
        (["--output", "{good}"], "the output must be a folder"),
        (["--engine", "magic"], "magic"),
        (["--num-chains", "0"], "'--num-chains': "),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(tmp_path: Path, options: list[str], sentence: str) -> None:
    names = {name: _field(name, tmp_path) for name in ("good", "nan", "oblong", "map")} | {"folder": tmp_path}
    output = tmp_path / "results"
    filled = [option.format(**names) for option in options]
    result = run("--output", output, *filled)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not output.exists()


def test_saved_prior_is_loaded_and_others_are_refused(tmp_path: Path) -> None:
    linear_gaussian.make_twin(16).save(tmp_path / "twin")
    assert load_prior(str(tmp_path / "twin")).event_shape == (1, 16, 16)
    weights = tmp_path / "twin" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"(?i)truncated|hash|sha"):
        load_prior(str(tmp_path / "twin"))
    bd.DiffusionModel(bd.GaussianDenoiser(np.ones((8, 8))), bd.schedules.Cosine(), bd.WhiteNoise(), (1, 8, 8)).save(
        tmp_path / "other"
    )
    with pytest.raises(ValueError, match="the dust prior must have square fields"):
        load_prior(str(tmp_path / "other"))
