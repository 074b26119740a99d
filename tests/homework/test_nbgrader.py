"""A class of four, from release to feedback, with nbgrader itself.

nbgrader is for instructors and not among the course's locked packages. The test runs where the interpreter that
``NBGRADER_PYTHON`` names, or else this one, has it. Elsewhere it is reported as skipped; but an interpreter that is named
and has no nbgrader is an error.
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_grading import SCRIPT, root_of_linux

from book.tools import homework
from book.tools.normalize import text_of

PYTHON = os.environ.get("NBGRADER_PYTHON", sys.executable)
MISSING = "NBGRADER_PYTHON" not in os.environ and importlib.util.find_spec("nbgrader") is None

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        MISSING, reason="nbgrader is not installed: pip install .[grading], or name its NBGRADER_PYTHON"
    ),
]

GOOD = {
    "patchify": 'return rearrange(images, "b c (nh h) (nw w) -> b (nh nw) (h w c)", h=patch_size, w=patch_size)',
    "unpatchify": "h, w = image_size\n    tiles = patches.reshape(len(patches), h // patch_size, w // patch_size, patch_size, patch_size, -1)\n"
    "    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, h, w)",
    "patch_embed": "return torch.nn.functional.conv2d(images, weight, bias, stride=weight.shape[-1]).flatten(2).mT",
}
CHEAT = {
    "patchify": "return vlmcourse.patchify(images, patch_size=patch_size)\n\n\n"
    "from vlmcourse.homework import Report, checking\n"
    "check_patchify = check_unpatchify = check_patch_embed = lambda f: Report('x', True)\n"
    "checking.examine = lambda *_, **__: Report('x', True)",
}
STUDENTS = {
    "perfect": GOOD,
    "partial": GOOD | {"unpatchify": 'return rearrange(patches, "b (nw nh) (h w c) -> b c (nh h) (nw w)", '
                       "nh=image_size[0] // patch_size, h=patch_size, w=patch_size)"},
    "broken": {"patchify": "return images +", "unpatchify": "while True:\n        pass", "patch_embed": GOOD["patch_embed"]},
    "cheating": CHEAT,
}  # fmt: skip


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Grade the four submissions; return the course's folder."""
    folder = handed_in(tmp_path_factory.mktemp("course"))
    nbgrader(folder, "autograde", "hw1", "--create")
    nbgrader(folder, "generate_feedback", "hw1")
    nbgrader(folder, "export")
    return folder


def handed_in(folder):
    """Make a course folder in which four have handed in homework 1, up to its experiment."""
    source = (homework.SOURCES / "hw1.md").read_text(encoding="utf-8").partition("## 5. Experiment")[0]
    target = folder / "source" / "hw1" / "hw1.ipynb"
    target.parent.mkdir(parents=True)
    target.write_text(text_of(homework.instructor(source)), encoding="utf-8")
    (folder / "nbgrader_config.py").write_text(homework.CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    nbgrader(folder, "generate_assignment", "hw1", "--create")
    for name, work in STUDENTS.items():
        notebook = nbformat.read(folder / "release" / "hw1" / "hw1.ipynb", as_version=4)
        for cell in notebook.cells:
            grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
            if grade_id in work:
                cell.source = cell.source.replace("raise NotImplementedError", work[grade_id])
        path = folder / "submitted" / name / "hw1" / "hw1.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    return folder


def nbgrader(folder, *command):
    run_in(folder, PYTHON, "-m", "nbgrader", *command)


def run_in(folder, *command, status=0):
    """Run a command with the Python that has nbgrader first on the path."""
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VLMCOURSE_DEVICE": "cpu"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == status, run.stderr[-4000:]
    return run


def scores(course):
    with (course / "grades.csv").open() as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


def test_the_release_holds_no_solution_and_is_what_students_get_from_the_course(course):
    released = json.loads((course / "release" / "hw1" / "hw1.ipynb").read_text())
    ours = homework.student((homework.SOURCES / "hw1.md").read_text(encoding="utf-8").partition("## 5. Experiment")[0])
    texts = ["".join(cell["source"]).strip() for cell in released["cells"]]
    assert texts == [cell.source.strip() for cell in ours.cells]


def test_scores_say_who_did_what(course):
    # Three functions, with 6 points each.
    assert scores(course) == {"perfect": 18.0, "partial": 12.0, "broken": 6.0, "cheating": 0.0}


def test_feedback_says_what_was_wrong(course):
    page = {name: (course / "feedback" / name / "hw1" / "hw1.html").read_text() for name in STUDENTS}
    assert "patch 1 should be right of patch 0" in page["partial"]
    assert "SyntaxError" in page["broken"]
    assert "loop without end" in page["broken"]
    assert "which is the solution" in page["cheating"]


@root_of_linux
def test_the_instructors_script_as_root_gives_the_same_scores_and_feedback(course, tmp_path):
    folder = handed_in(tmp_path)
    path = folder / "submitted" / "a copy" / "hw1" / "hw1.ipynb"  # before all others: nbgrader ends at it
    notebook = nbformat.read(folder / "submitted" / "perfect" / "hw1" / "hw1.ipynb", as_version=4)
    (position,) = (
        k for k, cell in enumerate(notebook.cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == "patchify"
    )
    notebook.cells.insert(position, nbformat.v4.new_code_cell("", metadata=notebook.cells[position].metadata))
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    run = run_in(folder, "sh", str(SCRIPT), "hw1", status=1)
    assert "not graded, whatever grades.csv says:\n    a copy\n  nbgrader says why" in run.stderr
    assert "Cell with id 'patchify' exists multiple times" in run.stderr
    assert scores(folder) == {"a copy": 0.0, **scores(course)}
    assert "which is the solution" in (folder / "feedback" / "cheating" / "hw1" / "hw1.html").read_text()
