"""The check of a GPU does every part once, goes on where it was stopped, and hides no failure."""

import json
import os
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch

from book.tools import gpu_check
from book.tools.gpu_check import BENCHES, FAILED, PASSED, TESTS, UNFINISHED, Check, check, counted

ROOT = Path(__file__).parents[2]


class Small(Check):
    """Parts that take no time, each of which notes that it ran."""

    def __init__(self, folder, **codes):
        self.codes = codes
        super().__init__("cpu", output=folder)
        self.ran = folder / "ran"

    def ask(self):
        return {"commit": "abc", "device": "a machine (of mine)"}

    def parts(self):
        code = "import sys, pathlib; pathlib.Path({!r}).open('a').write({!r}); {}"
        return {
            name: [sys.executable, "-c", code.format(str(self.ran), f"{name} ", what)]
            for name, what in self.codes.items()
        }


def test_every_part_runs_once_and_one_that_failed_is_named(tmp_path, capsys):
    found = Small(tmp_path, one="print('a line of the log')", two="sys.exit(3)", three="pass")
    assert check(found, [], float("inf")) == FAILED
    assert check(found, [], float("inf")) == FAILED
    assert found.ran.read_text() == "one two three "
    assert "1 failed: two; 0 left" in capsys.readouterr().out
    assert "a line of the log" in (found.folder / "one.log").read_text()
    assert found.folder.name == "abc_a-machine-of-mine-"
    assert json.loads((found.folder / "provenance.json").read_text())["commit"] == "abc"
    page = (found.folder / "summary.md").read_text()
    assert "| two | FAILED (exit 3) |" in page
    assert "| three | ok |" in page


def test_all_parts_well_is_success_and_some_may_be_chosen(tmp_path):
    found = Small(tmp_path, one="pass", two="sys.exit(3)")
    assert check(found, ["one"], float("inf")) == PASSED
    assert found.ran.read_text() == "one "
    with pytest.raises(SystemExit, match="no part holds 'nine'; there are: one, two"):
        check(found, ["nine"], float("inf"))


@pytest.mark.slow
def test_a_part_that_the_end_of_a_call_cuts_off_leaves_nothing_and_starts_anew(tmp_path, capsys):
    child = "import time; time.sleep(600)"
    hangs = f"import subprocess; p = subprocess.Popen([{sys.executable!r}, '-c', {child!r}]); "
    hangs += f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(p.pid)); p.wait()"
    assert check(Small(tmp_path, one="import time; time.sleep(1)", hangs=hangs, later="pass"), [], 4) == UNFINISHED
    assert "cut off" in capsys.readouterr().out
    grandchild = int((tmp_path / "child").read_text())
    for _ in range(100):  # its end is not waited for by us, since it is not ours
        try:
            os.kill(grandchild, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{grandchild}/stat").exists() and " Z " in Path(f"/proc/{grandchild}/stat").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("a process of a part that was cut off lives on")
    again = Small(tmp_path, one="pass", hangs="pass", later="pass")
    assert check(again, [], float("inf")) == PASSED
    assert again.ran.read_text() == "one hangs hangs later "


def test_a_part_that_is_longer_than_a_call_is_an_error_and_no_endless_loop(tmp_path):
    with pytest.raises(SystemExit, match="hangs takes longer than the 1 s of a call; allow more with --slice"):
        check(Small(tmp_path, hangs="import time; time.sleep(600)"), [], 1)


def test_tests_are_counted_and_those_that_failed_are_named(tmp_path):
    path = tmp_path / "test_sums.py"
    path.write_text("""
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
def test_without(): pytest.skip("no device")
@pytest.fixture
def broken(): raise OSError
def test_broken(broken): pass
""")
    report = tmp_path / "tests.xml"
    assert pytest.main(["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "--rootdir", str(tmp_path), str(path)])
    done = counted(report)
    assert done["said"] == "1 passed, 2 failed, 1 skipped"
    assert [name.rpartition("::")[2] for name in done["failed"]] == ["test_bad", "test_broken"]


@pytest.mark.slow
def test_a_chapter_runs_on_the_device_and_leaves_its_failures_and_its_claims(tmp_path, monkeypatch):
    cells = [
        "import os; from vlmcourse import Chapter\nchapter = Chapter('demo')",
        "assert os.environ['VLMCOURSE_DEVICE'] == 'cpu'",
        "chapter.claim('one is two', 1.0, above=2.0, slide='S01')",
        "1 / 0",
        "print('still here')",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(nb, tmp_path / "demo.ipynb")
    monkeypatch.setattr(gpu_check, "chapters", lambda: [tmp_path / "demo.ipynb"])
    monkeypatch.setattr(Check, "ask", lambda self: {"commit": "abc", "device": "cpu"})
    found = Check("cpu", output=tmp_path)
    done = found.run("chapter demo", found.parts()["chapter demo"], 100)
    assert (done["passed"], done["missed"], done["said"]) == (False, ["one is two"], "0 of 1 claims held")
    assert len(done["failed"]) == 1
    assert "ZeroDivisionError" in (found.folder / "chapter_demo.log").read_text()
    assert found.result("chapter demo") == done


def test_results_of_files_that_no_commit_holds_are_refused(monkeypatch):
    monkeypatch.setattr(Check, "ask", lambda self: {"commit": "abc-dirty", "device": "cpu"})
    with pytest.raises(SystemExit, match="commit them first"):
        Check("cpu")
    assert Check("cpu", small=True).folder.name == "abc-dirty_cpu_small"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match=r"Cannot use cuda:\n.*cuda is not available"):
        Check("cuda")


def test_every_test_that_needs_a_gpu_is_in_a_part():
    needs = ("mark.cuda", "(device", ", device)", "device, ")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if any(n in path.read_text() for n in needs)]
    tops = {path.relative_to(ROOT / "tests").parts[0] for path in files}
    assert tops - {"book", "test_second_device.py"} <= set(TESTS)
    assert {"ops", "models", "train", "test_gpu.py"} <= tops


def test_the_parts_are_tests_then_chapters_then_benches(monkeypatch):
    monkeypatch.setattr(Check, "ask", lambda self: {"commit": "abc", "device": "cpu"})
    kinds = [part.split()[0] for part in Check("cpu").parts()]
    assert kinds == sorted(kinds, key=("tests", "chapter", "bench").index)
    chapters = list((ROOT / "lectures").glob("*.ipynb"))
    assert [kinds.count(kind) for kind in ("tests", "chapter", "bench")] == [len(TESTS), len(chapters), len(BENCHES)]
