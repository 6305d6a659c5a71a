"""The bookkeeping of the project's figures: what is met, what is missed, and the tables in the READMEs."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from validation.__main__ import STUDIES, app
from validation.figures import Figure, above, below, between, report, rows_in, stored
from validation.tables import NOT_MEASURED, PAGE, SYSTEMS, ours


def test_a_figure_is_met_or_missed():
    assert below("error", 0.01, 0.05).met is True
    assert below("error", 0.06, 0.05).met is False
    assert above("ratio", 2.0, 1.0).met is True
    assert between("mean |z|", 1.2, 0.6, 1.05).met is False
    assert Figure("seconds", 3.0).met is None


def test_a_report_is_kept_and_says_whether_all_is_met(tmp_path, capsys):
    figures = [below("error", 0.06, 0.05), Figure("seconds", 3.0)]
    assert not report("study", figures, tmp_path)
    assert "missed" in capsys.readouterr().out
    assert stored("study", tmp_path) == figures
    assert stored("other", tmp_path) is None


@pytest.fixture
def pages(tmp_path):
    """A project's README and one of every row, with their marks, and options that name them."""
    kept, replaced, gone = "| engines | rhat | 1 | | |", "| prior | old | 3 | | |", "| no_study | x | 2 | | |"
    table = "\n".join(["| study | figure |", "|---|---|", kept, replaced, gone])
    figures, project = tmp_path / "rows.md", tmp_path / "README.md"
    figures.write_text(f"before\n<!-- figures -->\n{table}\n<!-- end of figures -->\nafter\n")
    marks = (f"<!-- {mark} -->\n<!-- end of {mark} -->\n" for mark in ("published", "overview"))
    project.write_text(f"before\n{'between'.join(marks)}after\n")
    options = ["readme", "--project", str(project), "--figures", str(figures), "--folder", str(tmp_path)]
    return project, figures, options


def test_the_readmes_take_the_stored_figures_and_keep_the_rest(tmp_path, pages):
    project, figures, options = pages
    report("prior", [below("error |x|", 0.06, 0.05), Figure("a detail", 1.0, detail=True)], tmp_path)
    report("matter", [Figure("s = 1: mean square error of it", 0.4321)], tmp_path)
    assert CliRunner().invoke(app, options).exit_code == 0
    rows, text = figures.read_text(), project.read_text()
    assert "| prior | error \\|x\\| | 0.06 | < 0.05 | **missed** |" in rows
    assert "a detail" not in rows
    assert rows.index("| engines | rhat | 1 | | |") < rows.index("| prior |")
    assert "old" not in rows
    assert "no_study" not in rows
    assert rows.count("| study | figure |") == 1
    assert f"| `prior` | **0 of 1** | {STUDIES['prior'][2]} |" in text
    assert "| `engines` | none are made |" in text
    assert "| matter: error over Wiener's, s = 1 | below 1 | 0.4321 | `matter` |" in text
    assert NOT_MEASURED in text
    assert all(page.startswith("before\n") and page.endswith("after\n") for page in (rows, text))
    assert CliRunner().invoke(app, options).exit_code == 0
    assert (figures.read_text(), project.read_text()) == (rows, text)


@pytest.mark.parametrize("spoilt", [0, 1])
def test_readmes_without_their_marks_are_refused(pages, spoilt):
    pages[spoilt].write_text("nothing here")
    before = [page.read_text() for page in pages[:2]]
    result = CliRunner().invoke(app, pages[2])
    assert result.exit_code == 2
    assert str(pages[spoilt]) in result.stderr
    assert [page.read_text() for page in pages[:2]] == before


ENTRIES = [entry for system in SYSTEMS for entry in system.entries]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.study}: {entry.figure}")
def test_every_published_figure_has_one_of_ours(entry):
    assert entry.study in STUDIES
    assert ours(entry, rows_in(PAGE.read_text())) != NOT_MEASURED


def test_the_latest_figure_is_shown_beside_the_published_one(tmp_path):
    entry = ENTRIES[0]
    report(entry.study, [Figure(f"{entry.figure} of 3", 0.4321)], tmp_path)
    result = CliRunner().invoke(app, ["tables", "--folder", str(tmp_path)])
    assert result.exit_code == 0
    assert "0.4321" in result.output
    assert SYSTEMS[0].source in result.output
