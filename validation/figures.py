"""Figures that the project commits to: named requirements, measured values, and a table that says which hold.

A study returns a list of :class:`Figure`; its raw numbers are kept as JSON, so that the tables of the README can be
printed again without running it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

RESULTS = Path("runs/validation")


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        name: what was measured.
        value: the measured value.
        requirement: the bound it must meet, in words; empty for a figure that is only reported.
        met: whether it does; None for a figure that is only reported.
        detail: printed by the study, left out of the README.
    """

    name: str
    value: float | str
    requirement: str = ""
    met: bool | None = None
    detail: bool = False


def below(name: str, value: float, bound: float) -> Figure:
    """A figure that must be smaller than ``bound``."""
    return Figure(name, float(value), f"< {bound:g}", bool(value < bound))


def above(name: str, value: float, bound: float) -> Figure:
    """A figure that must be larger than ``bound``."""
    return Figure(name, float(value), f"> {bound:g}", bool(value > bound))


def between(name: str, value: float, low: float, high: float) -> Figure:
    """A figure that must lie in [low, high]."""
    return Figure(name, float(value), f"{low:g} to {high:g}", bool(low <= value <= high))


def report(study: str, figures: list[Figure], folder: Path = RESULTS) -> bool:
    """Print the figures of a study and keep them in ``folder``; returns whether every requirement is met."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{study}.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    show(study, figures)
    return all(figure.met is not False for figure in figures)


def show(study: str, figures: list[Figure]) -> None:
    """Print the figures of a study as a table."""
    table = Table("figure", "value", "required", "", title=study, title_justify="left")
    for figure in figures:
        value = figure.value if isinstance(figure.value, str) else f"{figure.value:.4g}"
        mark = {True: "met", False: "[bold red]missed[/]", None: ""}[figure.met]
        table.add_row(escape(figure.name), escape(value), figure.requirement, mark)
    Console(width=140).print(table)


def markdown(studies: Mapping[str, list[str]]) -> str:
    """The rows of several studies as one Markdown table."""
    head = ["| study | figure | value | required | |", "|---|---|---|---|---|"]
    return "\n".join(head + [row for rows in studies.values() for row in rows])


def overview(studies: Mapping[str, list[str]], about: Mapping[str, str]) -> str:
    """How many requirements every study meets, as a Markdown table, with what the study is about."""
    head = ["| study | requirements met | |", "|---|---|---|"]
    rows = []
    for study, figures in studies.items():
        met, missed = (sum(row.endswith(f" {mark} |") for row in figures) for mark in ("met", "**missed**"))
        count = f"{met} of {met + missed}" if met + missed else "none are made"
        rows.append(f"| `{study}` | {f'**{count}**' if missed else count} | {about[study]} |")
    return "\n".join(head + rows)


def rows_of(study: str, figures: list[Figure]) -> list[str]:
    """The figures of a study as rows of a Markdown table, without details."""
    rows = []
    for figure in figures:
        if figure.detail:
            continue
        value = figure.value.replace("|", "\\|") if isinstance(figure.value, str) else f"{figure.value:.4g}"
        name = figure.name.replace("|", "\\|")
        mark = {True: "met", False: "**missed**", None: ""}[figure.met]
        rows.append(f"| {study} | {name} | {value} | {figure.requirement} | {mark} |")
    return rows


def rows_in(table: str) -> dict[str, list[str]]:
    """The rows of a table of :func:`markdown`, by study."""
    rows: dict[str, list[str]] = {}
    for line in table.splitlines():
        study = line.removeprefix("| ").partition(" | ")[0]
        if line.startswith("| ") and study != "study":
            rows.setdefault(study, []).append(line)
    return rows


def stored(study: str, folder: Path = RESULTS) -> list[Figure] | None:
    """The figures of an earlier run, or None."""
    path = folder / f"{study}.json"
    return [Figure(**entry) for entry in json.loads(path.read_text())] if path.exists() else None
