"""The report of one run: a folder with the summary, the verdict and one self-contained HTML page.

The page needs nothing outside itself (pictures are embedded as PNG, styles are inline, there are no scripts), so it
can be mailed, printed or kept with the paper.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from bayesdiff.reporting.figures_chains import rank_figure, trace_figure
from bayesdiff.reporting.figures_corner import corner_figure
from bayesdiff.reporting.figures_fields import field_panels, minkowski_figure, spectra_figure
from bayesdiff.reporting.parameters import has_group
from bayesdiff.reporting.style import png_bytes
from bayesdiff.reporting.summary import INTERVAL, summary_cells, summary_table, write_summary
from bayesdiff.reporting.verdict import Verdict, verdict

_LEVELS = {"good": "Can be used", "caution": "Use with care", "bad": "Do not use"}
_TIMES = {"compile_seconds": "compilation", "sampling_seconds": "sampling"}
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.2rem 1.2rem 4rem; background: #fff; color: #222;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .4rem 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .5rem; border-top: 1px solid #ddd; }
p, li, figcaption { max-width: 75ch; }
.when { color: #666; margin: 0 0 1rem; }
nav a { margin-right: .9rem; white-space: nowrap; }
a { color: #00558c; }
.verdict { border-left: 8px solid; border-radius: 4px; padding: .8rem 1.1rem; margin: 1rem 0; }
.verdict b { display: block; font-size: 1.15rem; }
.good { background: #e8f5ee; border-color: #00794f; } .good b { color: #005c3b; }
.caution { background: #fdf3dc; border-color: #c98500; } .caution b { color: #7a5100; }
.bad { background: #fbe9e7; border-color: #b3261e; } .bad b { color: #8c1d18; }
ul.findings { padding-left: 0; list-style: none; }
ul.findings li { margin: .5rem 0; padding-left: .8rem; border-left: 4px solid #bbb; }
ul.findings li.failure { border-color: #b3261e; } ul.findings li.warning { border-color: #c98500; }
.severity { font-size: .75rem; font-weight: 700;
  letter-spacing: .04em; text-transform: uppercase; margin-right: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .32rem .7rem; border-bottom: 1px solid #e2e2e2; text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
table.run td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; }
table.run td:last-child { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85rem; font-weight: 400; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; margin-top: .3rem; }
.missing { color: #666; font-style: italic; }
@media (max-width: 640px) {
  body { padding: .7rem; font-size: 15px; }
  figure { overflow-x: auto; } figure.wide img { max-width: none; width: 760px; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, .verdict, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .verdict { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


class Picture(NamedTuple):
    """One section of the page.

    Attributes:
        anchor: Its name in links.
        heading: Its title.
        build: Draws the figure; or why there is none.
        caption: What it shows.
    """

    anchor: str
    heading: str
    build: Callable[[], Figure] | str
    caption: str


def write_report(
    data: xr.DataTree,
    folder: str | Path,
    *,
    title: str,
    pixel_arcmin: float,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior_draws: Mapping[str, ArrayLike] | None = None,
    notes: Sequence[str] = (),
    parameters: Sequence[str] | None = None,
    derived: Mapping[str, ArrayLike] | None = None,
    pictures: Sequence[Picture] = (),
) -> Path:
    """Write ``summary.csv``, ``verdict.txt`` and a self-contained ``report.html``.

    Args:
        data: A result with ``posterior``; the groups ``sample_stats``, ``fields``, ``truth`` and ``observed_data``
            are used where present.
        folder: Where to write; made if it does not exist.
        title: Heading of the page.
        pixel_arcmin: Pixel size of the fields in arcminutes.
        bounds: Prior range (low, high) of bounded parameters: for the verdict and the corner plot.
        prior_draws: Draws from the prior by parameter, for the corner plot.
        notes: Remarks on this run, one paragraph each, put under the verdict.
        parameters: Scalars shown in the corner, trace and rank plots; by default at most
            eight that vary and do not repeat another.
        derived: Further quantities (chain, draw) for the table.
        pictures: What to show of the fields; by default the separated maps, their spectra and Minkowski functionals.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there is no posterior, or a parameter is not in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    judged = verdict(data, bounds=bounds)
    (folder / "verdict.txt").write_text(str(judged), encoding="utf-8")
    table = summary_table(data, derived)
    write_summary(table, folder / "summary.csv")
    shown = [
        *(pictures or _field_pictures(data, pixel_arcmin)),
        *_parameter_pictures(data, bounds, prior_draws, parameters),
    ]
    sections = [
        ("summary", "Parameters", _table_html(table)),
        *((picture.anchor, picture.heading, _picture_html(picture)) for picture in shown),
        ("run", "How to redo this run", _run_html(data)),
    ]
    page = folder / "report.html"
    partial = folder / "report.html.part"
    partial.write_text(_page_html(title, judged, notes, sections), encoding="utf-8")
    partial.replace(page)
    return page


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


def _page_html(title: str, judged: Verdict, notes: Sequence[str], sections: list[tuple[str, str, str]]) -> str:
    links = "".join(f'<a href="#{anchor}">{html.escape(heading)}</a> ' for anchor, heading, _ in sections)
    body = "".join(
        f'<section id="{anchor}">\n<h2>{html.escape(heading)}</h2>\n{content}\n</section>\n'
        for anchor, heading, content in sections
    )
    remarks = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="when">bayesdiff report, written {when}</p>\n'
        f"{_verdict_html(judged)}{remarks}<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _verdict_html(judged: Verdict) -> str:
    items = "".join(
        f'<li class="{f.severity}"><span class="severity">{f.severity}</span>{html.escape(_capital(f.what))}. '
        f"{html.escape(f.advice)}</li>\n"
        for f in judged.findings
    )
    listed = f'<ul class="findings">\n{items}</ul>\n' if items else ""
    return (
        f'<div class="verdict {judged.level}" id="verdict"><b>{_LEVELS[judged.level]}</b>'
        f"{html.escape(judged.sentence)}</div>\n{listed}"
    )


def _capital(text: str) -> str:
    return text if text[:2].isupper() else text[:1].upper() + text[1:]


def _table_html(table: pd.DataFrame) -> str:
    header, rows = summary_cells(table)
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    ending = " z is (mean − truth) / sd." if "z" in header else ""
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'
        f"<p>Intervals are {INTERVAL}; R-hat is rank-normalised.{ending} The same numbers, in full: summary.csv.</p>"
    )


def _picture_html(picture: Picture) -> str:
    if isinstance(picture.build, str):
        return f'<p class="missing">{html.escape(picture.build)}</p>'
    figure = picture.build()
    encoded = base64.b64encode(png_bytes(figure)).decode("ascii")
    wide = figure.get_figwidth() > 1.4 * figure.get_figheight()
    width = round(96 * figure.get_figwidth())
    return (
        f'<figure{' class="wide"' if wide else ""}><img src="data:image/png;base64,{encoded}" width="{width}" '
        f'alt="{html.escape(picture.heading)}">\n<figcaption>{html.escape(picture.caption)}</figcaption></figure>'
    )


def _run_html(data: xr.DataTree) -> str:
    sizes = data["posterior"].sizes
    rows = [("draws", f"{sizes['chain']} chains × {sizes['draw']} draws")]
    rows += [(f"time, {label}", _duration(data.attrs[key])) for key, label in _TIMES.items() if key in data.attrs]
    first = ("command", "algorithm", "settings", "seed", "model_hash", "versions", "status")
    keys = [k for k in first if k in data.attrs] + [str(k) for k in data.attrs if k not in (*first, *_TIMES)]
    rows += [(key.replace("_", " "), _attribute(data.attrs[key])) for key in keys]
    body = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>\n" for k, v in rows)
    return f'<div class="scroll"><table class="run"><tbody>\n{body}</tbody></table></div>'


def _attribute(value: object) -> str:
    """An attribute as text; JSON as one setting per line."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            return value
        if isinstance(parsed, dict):
            return "\n".join(f"{k} = {v if isinstance(v, str) else json.dumps(v)}" for k, v in parsed.items())
    return str(value)


def _duration(value: object) -> str:
    try:
        seconds = float(str(value))
    except ValueError:
        return str(value)
    if not math.isfinite(seconds) or seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"
