"""Figures of the studies in the READMEs: overview and published systems in the project's, every row in this folder's.

Rows of studies that were not run here stay as they are, so that one study can be run again by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from validation.figures import markdown, overview, rows_in, rows_of, stored
from validation.tables import published

ROOT = Path(__file__).resolve().parents[1]
PROJECT, FIGURES = ROOT / "README.md", ROOT / "validation" / "README.md"


def write(about: Mapping[str, str], folder: Path, project: Path = PROJECT, figures: Path = FIGURES) -> None:
    """Write stored figures into both files.

    Args:
        about: what each study is about, in the order in which they are to stand.
        folder: where figures are stored.
        project: file with the marks ``overview`` and ``published``.
        figures: file with the mark ``figures``.

    Raises:
        ValueError: a mark is missing; nothing is written.
    """
    pages = {path: path.read_text() for path in (project, figures)}
    rows = rows_in(_parts(figures, pages[figures], "figures")[1])
    rows |= {name: rows_of(name, found) for name in about if (found := stored(name, folder)) is not None}
    ordered = {name: rows[name] for name in about if name in rows}
    for path, mark, content in (
        (figures, "figures", markdown(ordered)),
        (project, "overview", overview(ordered, about)),
        (project, "published", published(ordered)),
    ):
        before, _, after = _parts(path, pages[path], mark)
        pages[path] = f"{before}\n{content}\n{after}"
    for path, text in pages.items():
        path.write_text(text)


def _parts(path: Path, text: str, mark: str) -> tuple[str, str, str]:
    """What is before the mark, within it and after it, the mark's own lines left to the outer two."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    if begin not in text or end not in text:
        raise ValueError(f"{path} must have a line {begin} and, below it, a line {end}")
    before, _, rest = text.partition(begin)
    within, _, after = rest.partition(end)
    return before + begin, within, end + after
