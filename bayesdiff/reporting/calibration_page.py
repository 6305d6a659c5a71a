"""The page of a calibration study: its verdict, its table, pictures that would show what is wrong, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bayesdiff.calibration.sbc_records import MEANING
from bayesdiff.reporting.figures_calibration import (
    coverage_figure,
    ecdf_figure,
    field_bands_figure,
    field_tarp_figure,
    rank_histogram_figure,
    tarp_figure,
    z_contraction_figure,
)
from bayesdiff.reporting.html_page import Level, Picture, Section, banner, pairs, picture, table, write_page

if TYPE_CHECKING:
    from bayesdiff.calibration import FieldChecks, Sbc

_CONSTANT = "The true values do not vary from simulation to simulation."
_HEADINGS = {"good": "Calibrated", "caution": "Undecided", "bad": "Not calibrated"}
_ABSENT = {
    0: "No simulation has a posterior, so there is nothing to show here.",
    1: "One simulation has a posterior; what its rank means is seen from two on.",
}


def write_calibration_report(
    study: Sbc,
    folder: str | Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    level: float = 0.01,
    fields: FieldChecks | None = None,
) -> Path:
    """Write ``calibration.csv``, ``verdict.txt`` and a self-contained ``report.html``.

    Args:
        study: result of :func:`bayesdiff.calibration.sbc`.
        folder: where to write; made if it does not exist.
        title: heading of the page.
        notes: remarks, one paragraph each.
        level: of the tests.
        fields: checks of the fields of the same simulations, from :func:`bayesdiff.calibration.check_fields`.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sentence = study.verdict(level) if fields is None else f"{study.verdict(level)} {fields.verdict(level)}"
    (folder / "verdict.txt").write_text(sentence + "\n", encoding="utf-8")
    absent = _ABSENT.get(int(study.ranked.sum()))
    sections = [Section("table", "Tests", absent or _table(study, level, folder))]
    sections += [picture(shown._replace(build=absent or shown.build)) for shown in _pictures(study)]
    if fields is not None:
        sections += _fields(fields)
    sections += [
        Section("failed", "Failed simulations", _failed(study)),
        Section("run", "How to redo this study", pairs((k.replace("_", " "), v) for k, v in study.attributes.items())),
    ]
    judged: Level = "bad" if fields is not None and not fields.passes(level) else judge(study, level)
    return write_page(folder / "report.html", title, banner(judged, _HEADINGS[judged], sentence), notes, sections)


def judge(study: Sbc, level: float = 0.01) -> Level:
    """``bad`` where ranks or TARP fail, ``caution`` where too much failed to know, else ``good``."""
    if study.ranked.any() and not study.uniform(level):
        return "bad"
    return "good" if study.passes(level) else "caution"


def _table(study: Sbc, level: float, folder: Path) -> str:
    frame = study.table(level)
    frame.to_csv(folder / "calibration.csv")
    rows = [
        [str(name), *(cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row)]
        for name, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True)
    ]
    header = ["quantity", *(str(column).replace("_", " ") for column in frame.columns)]
    return table(header, rows) + (
        "<p>ecdf, chi square, location and scale are p-values of single tests of the ranks, adjusted the smallest of a "
        "quantity after Holm's correction over the table. z location is positive for a posterior that is too low, "
        "z scale for one that is over-confident. The mean |z| of a calibrated posterior that is normal is 0.80. The "
        "same numbers, in full: calibration.csv.</p>"
    )


def _pictures(study: Sbc) -> list[Picture]:
    draws = f"{study.num_draws} draws"
    return [
        Picture(
            "ecdf",
            "Ranks: distribution function",
            lambda: ecdf_figure(study),
            f"Rank of the truth among {draws} of the posterior, over all simulations, less what is expected. The band "
            "holds the whole curve of a calibrated posterior with 95 % probability. Over-confident posteriors rise "
            "first and fall below the line later; biased ones stay on one side of it. The p-value is the smallest of "
            "all tests of the quantity after Holm's correction over the table.",
        ),
        Picture(
            "ranks",
            "Ranks: histograms",
            lambda: rank_histogram_figure(study),
            "The same ranks. A valley in the middle is an over-confident posterior, a hill one that is too wide, a "
            "slope a bias. The band holds 95 % of the bins, each by itself.",
        ),
        Picture(
            "coverage",
            "Coverage of central intervals",
            lambda: coverage_figure(study),
            "Below the diagonal: over-confident. The band holds 95 % of the values at each level; the p-value is of "
            "the whole curve, for itself.",
        ),
        Picture(
            "tarp",
            "Joint coverage (TARP)",
            _CONSTANT if study.joint is None else lambda: tarp_figure(study),
            "Expected coverage of regions around random references, of all quantities together, in units of their "
            "prior's standard deviation (Lemos et al. 2023). The band is the bootstrap's over simulations. Of several "
            "quantities the verdict takes twice the smaller of the two p-values.",
        ),
        Picture(
            "z",
            "Errors and contraction",
            lambda: z_contraction_figure(study),
            "One point per simulation; crosses failed. Contraction near one: the data say much more than the prior. "
            "The band spans two standard deviations.",
        ),
    ]


def _fields(checks: FieldChecks) -> list[Section]:
    """Coverage by band, TARP of whole fields, and the p-values of every check and functional."""
    shown = [
        Picture(
            "bands",
            "Fields: coverage of Fourier modes",
            lambda: field_bands_figure(checks),
            f"How often central intervals of the draws hold the true coefficients of {checks.num_simulations} fields, "
            "less what they say. Below the line: over-confident. Bars are two standard errors, by the scatter of draws "
            "that might have been the truth.",
        ),
        Picture(
            "field_tarp",
            "Fields: joint coverage (TARP)",
            lambda: field_tarp_figure(checks),
            "Expected coverage of regions around other fields, every band of scales counting alike.",
        ),
    ]
    tests = checks.functionals
    rows = [[name, f"{p:.3g}"] for name, p in checks.p_values().items()]
    rows += [[name, f"{p:.3g}"] for name, p in zip(tests.names, tests.per_quantity, strict=True)]
    return [*map(picture, shown), Section("functionals", "Fields: every check", table(("check", "p"), rows))]


def _failed(study: Sbc) -> str:
    if not len(study.failed):
        return f"<p>None of {study.num_simulations}.</p>"
    rows = []
    for index in study.failed:
        faults = int(study.faults[index])
        why = "; ".join(text for fault, text in MEANING.items() if faults & fault)
        rhat, ess = study.records.rhat[index], study.records.ess[index]
        numbers = ("" if np.isnan(x) else f"{x:.4g}" for x in (rhat, ess))
        truths = ", ".join(f"{name} = {x:.4g}" for name, x in zip(study.names, study.truth[index], strict=True))
        rows.append([str(index), why, *numbers, truths])
    return table(("simulation", "what failed", "R-hat", "ESS", "truth"), rows)
