"""Calibration campaigns on the command line: a page, a verdict in the exit status, extension, and refusals."""

from __future__ import annotations

import re
from typing import Any

import dask
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from bayesdiff.calibration import read_sbc, sbc
from inference import exits
from tests.sbc_toys import Conjugate, model
from validation import campaigns
from validation.__main__ import app
from validation.campaigns import Engine
from validation.pages import write_index
from validation.problems import Asked, Name, Problem, make_problem
from validation.twin_calibration import statistics


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Call the command on a model with a closed-form posterior."""

    def call(*options: str, **algorithm):
        monkeypatch.setattr(campaigns, "make_problem", lambda name, asked: Problem(model, "A normal mean.", {}))
        monkeypatch.setattr(campaigns, "make_engine", lambda engine, problem: Conjugate(**algorithm))
        settings = [
            "--num-chains",
            "1",
            "--num-samples",
            "60",
            "--num-draws",
            "39",
            "--output",
            str(tmp_path),
            "--quiet",
        ]
        return CliRunner().invoke(
            app, ["sbc", "linear_gaussian", "--engine", "nuts", *settings, "--output", str(tmp_path), *options]
        )

    return call


def test_campaign_has_a_page_and_is_extended(run, tmp_path):
    first = run("--num", "60")
    assert first.exit_code == campaigns.PASSED, first.output
    assert "Calibrated" in first.output
    assert "A normal mean." in (tmp_path / "report.html").read_text()
    short = read_sbc(tmp_path / "study.sbc")
    assert run("--num", "90").exit_code == campaigns.PASSED
    extended = read_sbc(tmp_path / "study.sbc")
    assert extended.num_simulations == 90
    assert (extended.ranks[:60] == short.ranks[:60]).all()


def test_wrong_posterior_is_in_the_exit_status(run):
    result = run("--num", "200", width=0.5)
    assert result.exit_code == campaigns.FAILED
    assert "over-confident" in result.output


def test_another_campaign_in_the_folder_is_refused(run):
    run("--num", "20")
    result = run("--num", "20", "--seed", "5")
    assert result.exit_code == exits.BAD_INPUT
    assert "seed" in result.output


def test_every_engine_and_model_is_there():
    problem = make_problem(Name.linear_gaussian, Asked())
    assert set(problem.quantities) == {"log_likelihood"}
    assert make_problem(Name.denoising, Asked()).parameters == ("noise_level",)
    kinds = [type(campaigns.make_engine(engine, problem)).__name__ for engine in Engine]
    assert kinds == [campaigns.ALGORITHMS[engine] for engine in Engine]
    assert kinds == ["NUTS", "HMC", "AdjustedMCLMC", "GibbsDiffusion", "MarginalSurrogate", "Grid"]


@pytest.mark.parametrize(("width", "met"), [(1.0, True), (0.6, False)])
def test_statistics_of_a_campaign(width, met):
    settings: Any = {"num_chains": 1, "num_samples": 60, "num_draws": 39, "progress": False}
    study = sbc(jax.random.key(1), model, algorithm=Conjugate(width=width), num_simulations=200, **settings)
    found = {figure.name: figure for figure in statistics(study)}
    assert found["simulations"].value == 200
    assert found["part of the simulations that failed"].met
    tests = [figure.met for name, figure in found.items() if "p-value" in name]
    assert len(tests) == 4
    assert all(tests) == met
    assert found["mean |z| of all parameters"].value == pytest.approx(0.8 / width, rel=0.15)


def test_campaign_on_a_cluster_is_the_same(run, tmp_path):
    assert run("--num", "60", "--workers", "1").exit_code == campaigns.PASSED
    on_cluster = read_sbc(tmp_path / "study.sbc")
    for file in (tmp_path / "study.sbc").glob("chunk-*"):
        file.unlink()
    assert run("--num", "60").exit_code == campaigns.PASSED
    np.testing.assert_array_equal(read_sbc(tmp_path / "study.sbc").ranks, on_cluster.ranks)


def test_bad_clusters_are_refused(run):
    both = run("--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    assert both.exit_code == exits.BAD_INPUT
    assert "not both" in both.output
    with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        nobody = run("--scheduler", "tcp://127.0.0.1:1")
    assert nobody.exit_code == exits.BAD_INPUT
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:1'" in nobody.output


def test_index_of_pages_has_their_verdicts_and_links(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no calibration page"):
        write_index(tmp_path)
    for folder, width in (("one/right", 1.0), ("one/wrong", 0.5)):
        run("--num", "200", "--output", str(tmp_path / folder), width=width)
    text = write_index(tmp_path).read_text()
    right, wrong = re.findall(r'<li class="(\w*)"><a href="([^"]+)">(.*?)</a><br>(.*?)</li>', text)
    assert right[:2] == ("", "one/right/report.html")
    assert wrong[:2] == ("failure", "one/wrong/report.html")
    assert all((tmp_path / link).exists() for _, link, *_ in (right, wrong))
    assert right[3].startswith("Calibrated")
    assert "over-confident" in wrong[3]
