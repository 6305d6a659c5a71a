"""The bookkeeping of the project's figures: what is met, what is missed, and the table in the README."""

from __future__ import annotations

from typer.testing import CliRunner

from validation.__main__ import app
from validation.figures import Figure, above, below, between, report, stored


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
    assert text.count("| study |") == 1
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_readme_without_the_marks_is_refused(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    result = CliRunner().invoke(app, ["readme", str(path), "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert path.read_text() == "nothing here"
