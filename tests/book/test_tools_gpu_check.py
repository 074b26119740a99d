"""The check of a GPU does every part once, goes on where it was stopped, and hides no failure."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch

from book.tools import gpu_check
from book.tools.gpu_check import BENCHES, FAILED, PASSED, TESTS, UNFINISHED, all_parts, check, run, said

ROOT = Path(__file__).parents[2]


MADE = {"commit": "abc", "device": "a machine (of mine)"}


def tried(
    folder: Path, *, only: list[str] | None = None, seconds: float = float("inf"), jobs: int = 1, **codes: str
) -> int:
    """Check parts that take no time, each of which notes that it ran."""
    code = "import sys, pathlib; pathlib.Path({!r}).open('a').write({!r}); {}"
    parts = {
        name: [sys.executable, "-c", code.format(str(folder / "ran"), f"{name} ", what)] for name, what in codes.items()
    }
    return check(folder, MADE, parts, dict(os.environ), only or [], seconds, jobs)


def test_every_part_runs_once_and_one_that_failed_is_named(tmp_path, capsys):
    for _ in range(2):
        assert tried(tmp_path, one="print('a line of the log')", two="sys.exit(3)", three="pass") == FAILED
    assert (tmp_path / "ran").read_text() == "one two three two "  # what failed is tried again
    assert "1 failed: two; 0 left" in capsys.readouterr().out
    assert "a line of the log" in (tmp_path / "one.log").read_text()
    page = (tmp_path / "summary.md").read_text()
    assert "- device: a machine (of mine)" in page
    assert "| two | FAILED (exit 3) |" in page
    assert "| three | ok |" in page


def test_all_parts_well_is_success_and_some_may_be_chosen(tmp_path):
    assert tried(tmp_path, only=["one"], one="pass", two="sys.exit(3)") == PASSED
    assert (tmp_path / "ran").read_text() == "one "
    assert "Not yet: two." in (tmp_path / "summary.md").read_text()
    with pytest.raises(SystemExit, match="no part holds 'nine'; there are: one, two"):
        tried(tmp_path, only=["nine"], one="pass", two="pass")


@pytest.mark.slow
def test_a_part_that_the_end_of_a_call_cuts_off_leaves_nothing_and_starts_anew(tmp_path, capsys):
    child = "import time; time.sleep(600)"
    hangs = f"import subprocess; p = subprocess.Popen([{sys.executable!r}, '-c', {child!r}]); "
    hangs += f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(p.pid)); p.wait()"
    assert tried(tmp_path, one="import time; time.sleep(1)", hangs=hangs, later="pass", seconds=4) == UNFINISHED
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
    assert tried(tmp_path, one="pass", hangs="pass", later="pass") == PASSED
    assert (tmp_path / "ran").read_text() == "one hangs hangs later "


def test_a_part_that_is_longer_than_a_call_is_an_error_and_no_endless_loop(tmp_path):
    assert tried(tmp_path, hangs="import time; time.sleep(600)", later="pass", seconds=1) == UNFINISHED
    assert "| hangs | FAILED (too long) |" in (tmp_path / "summary.md").read_text()
    assert tried(tmp_path, hangs="import time; time.sleep(600)", later="pass", seconds=10) == FAILED
    assert (tmp_path / "ran").read_text() == "hangs later hangs "


def test_tests_run_at_once_where_that_is_asked_and_benches_alone(tmp_path):
    meets = "here = pathlib.Path({0!r}); (here / '{1}').touch()\nimport time\n"
    meets += "while not (here / '{2}').exists(): time.sleep(0.02)"
    at_work = f"w = pathlib.Path({str(tmp_path / 'at work')!r}); w.mkdir(); import time; time.sleep(0.2); w.rmdir()"
    parts = {"one": meets.format(str(tmp_path), 1, 2), "two": meets.format(str(tmp_path), 2, 1)}
    parts |= {"bench_a": at_work, "bench_b": at_work}  # which fails beside the other
    assert tried(tmp_path, jobs=2, seconds=60, **parts) == PASSED
    assert (tmp_path / "ran").read_text().endswith("bench_a bench_b ")


def test_every_folder_of_tests_holds_some_that_need_a_gpu(request):
    items = [(item, item.nodeid.split("/")) for item in request.session.items]
    if not {parts[1] for _, parts in items if parts[0] == "tests"}.issuperset(TESTS):
        pytest.skip("looks at the tests that are collected together with it, and some folders are not")
    assert {parts[1] for item, parts in items if item.get_closest_marker("cuda")}.issuperset(TESTS)


def test_tests_are_counted(tmp_path):
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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(path)]
    log = subprocess.run(command, capture_output=True, text=True).stdout
    assert said(log, tmp_path / "nothing measured").startswith("1 failed, 1 passed, 1 skipped, 1 error in")


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
    monkeypatch.setattr(gpu_check, "ask", lambda *_: MADE)
    environment, _ = gpu_check.machine("cpu")
    done = run(all_parts(tmp_path)["chapter demo"], tmp_path / "demo.log", environment, 100)
    assert done["outcome"] == "FAILED (exit 1)"
    assert "1 failed, 4 passed" in done["said"]
    assert done["said"].endswith("; 0 of 1 claims held")
    assert "ZeroDivisionError" in (tmp_path / "demo.log").read_text()


def test_results_of_files_that_no_commit_holds_are_refused(monkeypatch):
    monkeypatch.setattr(gpu_check, "ask", lambda *_: {"commit": "abc-dirty", "device": "cpu"})
    with pytest.raises(SystemExit, match="commit them first"):
        gpu_check.machine("cpu")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match=r"Cannot use cuda:\n.*cuda is not available"):
        gpu_check.machine("cuda")


def test_every_test_that_needs_a_gpu_is_in_a_part():
    needs = ("mark.cuda", "(device", ", device)", "device, ")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if any(n in path.read_text() for n in needs)]
    tops = {path.relative_to(ROOT / "tests").parts[0] for path in files}
    assert tops - {"book", "test_second_device.py", "test_gpu.py"} <= set(TESTS)
    assert {"ops", "models", "train", "test_gpu.py"} <= tops


def test_the_parts_are_the_machine_then_tests_then_chapters_then_benches(tmp_path):
    first, *parts = all_parts(tmp_path)
    assert first == "doctor"
    kinds = [part.split()[0] for part in parts]
    assert kinds == sorted(kinds, key=("tests", "chapter", "bench").index)
    counts = [len(TESTS) + 1, len(list((ROOT / "lectures").glob("*.ipynb"))), len(BENCHES)]
    assert [kinds.count(kind) for kind in ("tests", "chapter", "bench")] == counts
