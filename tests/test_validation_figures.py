"""The bookkeeping of the project's figures: what is met, what is missed, and the table in the README."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from validation.__main__ import STUDIES, app
from validation.figures import Figure, above, below, between, report, rows_in, stored
from validation.tables import NOT_MEASURED, README, SYSTEMS, ours


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


def test_the_readme_takes_the_stored_figures_and_keeps_the_rest(tmp_path):
    report("prior", [below("error |x|", 0.06, 0.05), Figure("a detail", 1.0, detail=True)], tmp_path)
    path = tmp_path / "README.md"
    kept, replaced, gone = "| engines | rhat | 1 | | |", "| prior | old | 3 | | |", "| no_study | x | 2 | | |"
    table = "\n".join(["| study | figure |", "|---|---|", kept, replaced, gone])
    path.write_text(f"before\n<!-- figures -->\n{table}\n<!-- end of figures -->\nafter\n")
    result = CliRunner().invoke(app, ["readme", str(path), "--folder", str(tmp_path)])
    assert result.exit_code == 0
    text = path.read_text()
    assert "| prior | error \\|x\\| | 0.06 | < 0.05 | **missed** |" in text
    assert "a detail" not in text
    assert text.index(kept) < text.index("| prior |")
    assert replaced not in text
    assert gone not in text
    assert text.count("| study | figure |") == 1
    assert f"| `prior` | **0 of 1** | {STUDIES['prior'][2]} |" in text
    assert "| `engines` | none are made |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert CliRunner().invoke(app, ["readme", str(path), "--folder", str(tmp_path)]).exit_code == 0
    assert path.read_text() == text


def test_a_readme_without_the_marks_is_refused(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    result = CliRunner().invoke(app, ["readme", str(path), "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert path.read_text() == "nothing here"


ENTRIES = [entry for system in SYSTEMS for entry in system.entries]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.study}: {entry.figure}")
def test_every_published_figure_has_one_of_ours(entry, tmp_path):
    assert entry.study in STUDIES
    if entry.study in rows_in(README.read_text()):
        assert ours(entry, tmp_path) != NOT_MEASURED


def test_the_latest_figure_is_shown_beside_the_published_one(tmp_path):
    entry = ENTRIES[0]
    report(entry.study, [Figure(f"{entry.figure} of 3", 0.4321)], tmp_path)
    assert ours(entry, tmp_path) == "0.432"
    result = CliRunner().invoke(app, ["tables", "--folder", str(tmp_path)])
    assert result.exit_code == 0
    assert "0.432" in result.output
    assert SYSTEMS[0].source in result.output
