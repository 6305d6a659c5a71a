"""The pages that bayesdiff writes: one self-contained HTML file each.

A page needs nothing outside itself (pictures are embedded as PNG, styles are inline, there are no scripts), so it can
be mailed, printed or kept with the paper.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.figure import Figure

from bayesdiff.reporting.style import png_bytes

Level = Literal["good", "caution", "bad"]

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


class Section(NamedTuple):
    """One section of the page: its name in links, its title, and its HTML."""

    anchor: str
    heading: str
    content: str


def write_page(path: Path, title: str, banner: str, notes: Sequence[str], sections: Sequence[Section]) -> Path:
    """Write a page under its heading and its verdict, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(_page(title, banner, notes, sections), encoding="utf-8")
    partial.replace(path)
    return path


def banner(level: Level, heading: str, sentence: str) -> str:
    """The verdict, in the colour of its level."""
    return f'<div class="verdict {level}" id="verdict"><b>{html.escape(heading)}</b>{html.escape(sentence)}</div>\n'


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of text, the first column a heading."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names with their values, which may take several lines."""
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_text(value))}</td></tr>\n" for name, value in rows
    )
    return f'<div class="scroll"><table class="run"><tbody>\n{body}</tbody></table></div>'


def picture(shown: Picture) -> Section:
    """The section of a picture."""
    if isinstance(shown.build, str):
        return Section(shown.anchor, shown.heading, f'<p class="missing">{html.escape(shown.build)}</p>')
    figure = shown.build()
    encoded = base64.b64encode(png_bytes(figure)).decode("ascii")
    wide = figure.get_figwidth() > 1.4 * figure.get_figheight()
    width = round(96 * figure.get_figwidth())
    content = (
        f'<figure{' class="wide"' if wide else ""}><img src="data:image/png;base64,{encoded}" width="{width}" '
        f'alt="{html.escape(shown.heading)}">\n<figcaption>{html.escape(shown.caption)}</figcaption></figure>'
    )
    return Section(shown.anchor, shown.heading, content)


def duration(value: object) -> str:
    """A number of seconds for a reader."""
    try:
        seconds = float(str(value))
    except ValueError:
        return str(value)
    if not math.isfinite(seconds) or seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"


def _page(title: str, banner: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
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
        f"{banner}{remarks}<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _text(value: object) -> str:
    """A value as text; a mapping, or JSON of one, as one entry per line."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.startswith("{") else value
        except json.JSONDecodeError:
            return str(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{k} = {v if isinstance(v, str) else json.dumps(v)}" for k, v in value.items())
    return str(value)
