"""The page of a calibration study: it says what the study says, and holds every picture."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bayesdiff import reporting
from bayesdiff.calibration import Fault, Sbc, check_fields, ecdf_band, sbc
from tests.sbc_toys import Conjugate, model

PICTURES = ("ecdf", "ranks", "coverage", "tarp", "z")


def study(**algorithm) -> Sbc:
    settings = {"num_simulations": 200, "num_chains": 1, "num_samples": 60, "num_draws": 39, "progress": False}
    quantities = {"absolute": lambda draw, data: abs(draw["mean"])}
    return sbc(jax.random.key(1), model, algorithm=Conjugate(**algorithm), quantities=quantities, **settings)


def images(page: str) -> dict[str, np.ndarray]:
    """Pixels of every picture, by the section that it stands in."""
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    found = {}
    for name, content in sections:
        for encoded in re.findall(r'src="data:image/png;base64,([^"]+)"', content):
            found[name] = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"))
    return found


def test_page_of_a_calibrated_posterior(tmp_path):
    page = reporting.write_calibration_report(study(), tmp_path, title="A <toy>", notes=("Of a normal mean.",))
    text = page.read_text()
    assert "A &lt;toy&gt;" in text
    assert 'class="verdict good"' in text
    assert "Of a normal mean." in text
    assert "None of 200" in text
    assert "http" not in text.replace("http-equiv", "")
    shown = images(text)
    assert tuple(shown) == PICTURES
    assert all(picture.std() > 5 and min(picture.shape) > 200 for picture in shown.values())
    assert (tmp_path / "verdict.txt").read_text().startswith("Calibrated")
    assert list(pd.read_csv(tmp_path / "calibration.csv")["quantity"]) == ["mean", "absolute"]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("wrong", "text"), [({"width": 0.6}, "over-confident"), ({"shift": 0.5}, "too high")])
def test_page_of_a_wrong_posterior_says_how(wrong, text, tmp_path):
    page = reporting.write_calibration_report(study(**wrong), tmp_path, title="A toy").read_text()
    assert 'class="verdict bad"' in page
    assert text in (tmp_path / "verdict.txt").read_text()


def test_failed_simulations_are_listed(tmp_path):
    result = study(doubt_above=1.2)
    assert 0 < len(result.failed) < 100
    page = reporting.write_calibration_report(result, tmp_path, title="A toy").read_text()
    assert 'class="verdict caution"' in page or len(result.failed) <= 10
    rows = re.findall(r"<tr><td>(\d+)</td><td>the algorithm&#x27;s own test failed", page)
    assert [int(row) for row in rows] == result.failed.tolist()


def test_study_without_a_posterior_has_a_page(tmp_path):
    result = study()
    nothing = result.records._replace(
        ranks=np.full_like(result.ranks, -1), faults=np.full(200, int(Fault.ERROR)), draws=result.draws * np.nan
    )
    page = reporting.write_calibration_report(replace(result, records=nothing), tmp_path, title="A toy").read_text()
    assert "Nothing is known" in page
    assert not images(page)


def test_study_of_one_simulation_has_a_page(tmp_path):
    settings = {"num_simulations": 1, "num_chains": 1, "num_samples": 60, "num_draws": 39, "progress": False}
    result = sbc(jax.random.key(1), model, algorithm=Conjugate(), **settings)
    page = reporting.write_calibration_report(result, tmp_path, title="A toy").read_text()
    assert "One simulation has a posterior" in page
    assert not images(page)


def test_curve_leaves_the_band_where_the_posterior_is_wrong():
    for wrong, leaves in (({}, False), ({"width": 0.6}, True)):
        result = study(**wrong)
        axes = reporting.ecdf_figure(result).axes[0]
        band = ecdf_band(200, 39)
        curve = np.asarray(axes.lines[1].get_ydata()) + band.points
        assert bool(((curve < band.lower) | (curve > band.upper)).any()) == leaves
        assert axes.lines[2].get_xdata().size > 0 if leaves else axes.lines[2].get_xdata().size == 0


@pytest.mark.parametrize(("width", "level"), [(1.0, "good"), (0.7, "bad")])
def test_fields_stand_on_the_page(width, level, tmp_path):
    rng = np.random.default_rng(2)
    truth, draws = rng.standard_normal((40, 1, 16, 16)), width * rng.standard_normal((40, 19, 1, 16, 16))
    checks = check_fields(truth, draws, edges=(0.5, 3.5, 8.0))
    page = reporting.write_calibration_report(study(), tmp_path, title="Fields", fields=checks).read_text()
    assert f'class="verdict {level}"' in page
    assert tuple(images(page)) == (*PICTURES, "bands", "field_tarp")
    assert "channel 0, V1 at 0 sd" in page
    assert ("Fields calibrated" in (tmp_path / "verdict.txt").read_text()) == (level == "good")
