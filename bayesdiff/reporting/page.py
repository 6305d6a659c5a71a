"""The report of one run: a folder with the summary, the verdict and one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from bayesdiff.reporting.figures_chains import rank_figure, trace_figure
from bayesdiff.reporting.figures_corner import corner_figure
from bayesdiff.reporting.figures_fields import field_panels, minkowski_figure, spectra_figure
from bayesdiff.reporting.html_page import Picture, Section, banner, duration, pairs, picture, table, write_page
from bayesdiff.reporting.parameters import has_group
from bayesdiff.reporting.summary import INTERVAL, summary_cells, summary_table, write_summary
from bayesdiff.reporting.verdict import Verdict, verdict

_LEVELS = {"good": "Can be used", "caution": "Use with care", "bad": "Do not use"}
_TIMES = {"compile_seconds": "compilation", "sampling_seconds": "sampling"}


def write_report(
    data: xr.DataTree,
    folder: str | Path,
    *,
    title: str,
    pixel_arcmin: float = 1.0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior_draws: Mapping[str, ArrayLike] | None = None,
    notes: Sequence[str] = (),
    parameters: Sequence[str] | None = None,
    derived: Mapping[str, ArrayLike] | None = None,
    pictures: Sequence[Picture] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write ``summary.csv``, ``verdict.txt`` and a self-contained ``report.html``.

    Args:
        data: A result with ``posterior``; the groups ``sample_stats``, ``fields``, ``truth`` and ``observed_data``
            are used where present.
        folder: Where to write; made if it does not exist.
        title: Heading of the page.
        pixel_arcmin: Pixel size of the fields in arcminutes, for the default pictures.
        bounds: Prior range (low, high) of bounded parameters: for the verdict and the corner plot.
        prior_draws: Draws from the prior by parameter, for the corner plot.
        notes: Remarks on this run, one paragraph each, put under the verdict.
        parameters: Scalars shown in the corner, trace and rank plots; by default at most
            eight that vary and do not repeat another.
        derived: Further quantities (chain, draw) for the table.
        pictures: What to show of the fields; by default the separated maps, their spectra and Minkowski functionals.

        sections: More of the page, after the table of parameters.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there is no posterior, or a parameter is not in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    judged = verdict(data, bounds=bounds)
    (folder / "verdict.txt").write_text(str(judged), encoding="utf-8")
    summary = summary_table(data, derived)
    write_summary(summary, folder / "summary.csv")
    shown = [
        *(pictures or _field_pictures(data, pixel_arcmin)),
        *_parameter_pictures(data, bounds, prior_draws, parameters),
    ]
    parts = [
        Section("summary", "Parameters", _table_html(summary)),
        *sections,
        *map(picture, shown),
        Section("run", "How to redo this run", _run_html(data)),
    ]
    return write_page(folder / "report.html", title, _verdict_html(judged), notes, parts)


def _field_pictures(data: xr.DataTree, pixel_arcmin: float) -> list[Picture]:
    absent = None if has_group(data, "fields") else "No maps were drawn in this run, so there is nothing to show here."
    return [
        Picture(
            "fields",
            "Separated maps",
            absent or (lambda: field_panels(data, pixel_arcmin)),
            "Maps in units of the dust standard deviation. The truth, mean and draws of a component share one colour "
            "scale; arrows mark values beyond it (1 % of the pixels). A posterior mean is smoother than any draw.",
        ),
        Picture(
            "spectra",
            "Power spectra",
            absent or (lambda: spectra_figure(data, pixel_arcmin)),
            "Bands hold 68 and 95 % of the posterior draws in each bin of multipole.",
        ),
        Picture(
            "minkowski",
            "Minkowski functionals",
            absent or (lambda: minkowski_figure(data)),
            "Morphology of the drawn maps above a threshold; bands hold 68 and 95 % of the posterior draws.",
        ),
    ]


def _parameter_pictures(
    data: xr.DataTree,
    bounds: Mapping[str, tuple[float, float]] | None,
    prior_draws: Mapping[str, ArrayLike] | None,
    parameters: Sequence[str] | None,
) -> list[Picture]:
    return [
        Picture(
            "corner",
            "Joint posterior",
            lambda: corner_figure(data, parameters, prior_draws, bounds=bounds),
            "Contours hold 68 and 95 % of the posterior. Hatched: outside the prior.",
        ),
        Picture(
            "traces",
            "Traces",
            lambda: trace_figure(data, parameters),
            "Every chain over its draws, and the density that each gives on its own. They should look alike.",
        ),
        Picture(
            "ranks",
            "Ranks",
            lambda: rank_figure(data, parameters),
            "Rank of each chain's draws among all. Flat, within the grey band (95 % of bins): the chains agree.",
        ),
    ]


def _verdict_html(judged: Verdict) -> str:
    items = "".join(
        f'<li class="{f.severity}"><span class="severity">{f.severity}</span>{html.escape(_capital(f.what))}. '
        f"{html.escape(f.advice)}</li>\n"
        for f in judged.findings
    )
    listed = f'<ul class="findings">\n{items}</ul>\n' if items else ""
    return banner(judged.level, _LEVELS[judged.level], judged.sentence) + listed


def _capital(text: str) -> str:
    return text if text[:2].isupper() else text[:1].upper() + text[1:]


def _table_html(summary: pd.DataFrame) -> str:
    header, rows = summary_cells(summary)
    ending = " z is (mean − truth) / sd." if "z" in header else ""
    return table(header, rows) + (
        f"<p>Intervals are {INTERVAL}; R-hat is rank-normalised.{ending} The same numbers, in full: summary.csv.</p>"
    )


def _run_html(data: xr.DataTree) -> str:
    sizes = data["posterior"].sizes
    rows: list[tuple[str, object]] = [("draws", f"{sizes['chain']} chains × {sizes['draw']} draws")]
    rows += [(f"time, {label}", duration(data.attrs[key])) for key, label in _TIMES.items() if key in data.attrs]
    first = ("command", "algorithm", "settings", "seed", "model_hash", "versions", "status")
    keys = [k for k in first if k in data.attrs] + [str(k) for k in data.attrs if k not in (*first, *_TIMES)]
    return pairs([*rows, *((key.replace("_", " "), data.attrs[key]) for key in keys)])
