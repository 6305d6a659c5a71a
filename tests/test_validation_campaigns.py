"""Calibration campaigns on the command line: a page, a verdict in the exit status, extension, and refusals."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bayesdiff.calibration import read_sbc
from inference import exits
from tests.sbc_toys import Conjugate, model
from validation import campaigns
from validation.__main__ import app
from validation.campaigns import Engine, Name, Problem


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Call the command on a model with a closed-form posterior."""

    def call(*options: str, **algorithm):
        monkeypatch.setattr(campaigns, "make_problem", lambda name: Problem(model, "A normal mean.", {}))
        monkeypatch.setattr(campaigns, "make_engine", lambda engine: Conjugate(**algorithm))
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
    problem = campaigns.make_problem(Name.linear_gaussian)
    assert set(problem.quantities) == {"log_likelihood"}
    kinds = [type(campaigns.make_engine(engine)).__name__ for engine in Engine]
    assert kinds == ["NUTS", "HMC", "GibbsDiffusion", "MarginalSurrogate", "Grid"]
