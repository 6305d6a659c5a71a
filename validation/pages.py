"""An index of the calibration pages of the models that ship: what each is of, its verdict, and where it lies."""

from __future__ import annotations

import html
import re
from pathlib import Path

from bayesdiff.reporting.html_page import Section, write_page

STUDIES = (
    "twin_calibration",
    "twin_calibration_gibbs",
    "prior_calibration",
    "density_calibration",
    "density_calibration_others",
    "misspecification",
    "prior_misspecification",
    "mixture_calibration",
    "mixture_misspecification",
    "shipped_calibration",
    "dark_matter_calibration",
)
"""Studies that write calibration pages."""
_NOTE = (
    "Pages of estimators that are too sure, and of data that a model does not describe, are there to show by how much: "
    "they are not meant to pass."
)


def write_index(folder: Path) -> Path:
    """Write ``calibration.html`` over all calibration pages below ``folder``.

    Raises:
        FileNotFoundError: there is none.
    """
    found: dict[str, list[str]] = {}
    for study in sorted(folder.glob("**/study.sbc")):
        page = study.parent / "report.html"
        if page.exists():
            found.setdefault(page.relative_to(folder).parts[0], []).append(_entry(page, folder))
    if not found:
        raise FileNotFoundError(f"no calibration page below {folder}; `python -m validation pages` makes them")
    sections = [
        Section(name, name.replace("_", " ").capitalize(), f'<ul class="findings">\n{"".join(entries)}</ul>')
        for name, entries in found.items()
    ]
    return write_page(folder / "calibration.html", "Calibration of the models that ship", "", (_NOTE,), sections)


def _entry(page: Path, folder: Path) -> str:
    """A line of the index: the title of a page as a link, and its verdict in its colour."""
    text = page.read_text(encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    judged = re.search(r'class="verdict (\w+)"', text)
    css = {"good": "", "caution": "warning", "bad": "failure"}[judged[1] if judged else "caution"]
    sentence = (page.parent / "verdict.txt").read_text(encoding="utf-8").strip()
    link = f'<a href="{html.escape(page.relative_to(folder).as_posix())}">{title[1] if title else page.parent.name}</a>'
    return f'<li class="{css}">{link}<br>{html.escape(sentence)}</li>\n'
