"""The checks behind make test: chapters run as the book runs them, apart from what the user has set up."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from book.tools import check
from book.tools.count_lines import count, count_folder
from book.tools.normalize import ROOT

NBVAL = [
    argument
    for argument in check.CHECKS["chapters"]
    if argument not in ("-n", "2", "1", "--dist", "loadfile", "lectures")
]


def nbval(tmp_path, *cells) -> subprocess.CompletedProcess[str]:
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "chapter.ipynb")
    command = [*check.NBVAL, "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path / "chapter.ipynb")]
    return subprocess.run(command, capture_output=True, text=True, env=check.environment("chapters"), cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["%notamagic", "!exit 3", "1 / 0"])
def test_a_cell_that_the_book_marks_as_failed_fails_the_test_too(tmp_path, source):
    result = nbval(tmp_path, new_code_cell("1"), new_code_cell(source))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 failed, 1 passed" in result.stdout


@pytest.mark.slow
def test_what_the_user_told_ipython_changes_no_output(tmp_path, monkeypatch):
    profile = tmp_path / ".ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text("c = get_config()\nc.InteractiveShell.ast_node_interactivity = 'all'\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    shown = new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    result = nbval(
        tmp_path, new_code_cell("1\n2", execution_count=1, outputs=[shown], metadata={"tags": ["nbval-check-output"]})
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_a_claim_that_does_not_hold_fails_the_test(tmp_path):
    cell = new_code_cell(
        "from vlmcourse import Chapter\nChapter('00_none').claim('one is more than two', 1.0, above=2)"
    )
    result = nbval(tmp_path, cell)
    assert result.returncode == 1
    assert "one is more than two" in result.stdout


def test_a_check_that_does_not_exist_is_refused_with_the_names_of_those_that_do(capsys):
    assert check.main(["chpaters"]) == 2
    assert "chapters" in capsys.readouterr().out


def test_a_failing_check_does_not_hide_the_others(monkeypatch, capsys):
    commands = {"bad": [sys.executable, "-c", "raise SystemExit(3)"], "good": [sys.executable, "-c", ""]}
    monkeypatch.setattr(check, "CHECKS", commands)
    assert check.main(["bad", "good"]) == 1
    said = capsys.readouterr().out
    assert "FAILED (exit 3)" in said
    assert "good         ok" in said


def test_code_is_counted_by_tokens_and_docstrings_apart():
    source = '"""A\nmodule."""\n\n# why\nx = [\n    1,  # one\n]\n\n\n'
    source += 'def f():\n    """Do."""\n    return """not\n    a docstring"""\n'
    assert count(source)[:2] == (6, 3)
    long = "def f():\n" + "    x = 1\n" * 50
    assert count(long, "m.py").long == {"m.py:f": 51}
    assert count(long.replace("x = 1", "# x", 1)).long == {}


@pytest.mark.parametrize("folder", ["vlmcourse", "book/tools"])
def test_no_function_is_too_long_to_take_in(folder):
    assert count_folder(ROOT / folder).long == {}
