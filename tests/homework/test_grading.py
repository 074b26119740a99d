"""What an instructor is told to run is there, and says so at once where it cannot work."""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from book.tools.normalize import ROOT

SCRIPT = ROOT / "book" / "tools" / "grade.sh"
root_of_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or os.geteuid() != 0
    or not shutil.which("setpriv")
    or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0,
    reason="only root of Linux can start a kernel as another user, without network",
)


def grade(folder, *arguments, **environment):
    return subprocess.run(
        ["sh", SCRIPT, *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )


def copied():
    """Return the files and folders that the image gets, as the Containerfile names them."""
    lines = (ROOT / "book" / "homework" / "Containerfile").read_text(encoding="utf-8").splitlines()
    return [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]


def test_the_image_gets_all_files_that_the_package_is_built_from_and_no_solution():
    files = {path.relative_to(ROOT).as_posix() for source in copied() for path in ROOT.glob(source)}
    assert all(any(ROOT.glob(source)) for source in copied())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["only-include"],
        *wheel["force-include"],
    }
    assert needed <= files
    assert not any(path.startswith(("book/homework/sources", "tests")) for path in files)
    assert "." not in copied()


def test_grading_without_an_assignment_says_what_is_missing(tmp_path):
    run = grade(tmp_path)
    assert run.returncode != 0
    assert "which assignment?" in run.stderr


def test_students_code_is_not_run_as_root(tmp_path):
    run = grade(tmp_path, "hw1", "root")
    assert run.returncode == 1
    assert "not root" in run.stderr


@root_of_linux
def test_an_environment_that_only_root_may_enter_is_told_before_anybody_is_graded(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "python").symlink_to(sys.executable)
    course = tmp_path / "course"
    course.mkdir()
    run = grade(course, "hw1", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert run.returncode == 1
    assert "May only root enter" in run.stderr
    assert not list(course.iterdir())


@root_of_linux
def test_what_grading_writes_belongs_to_the_owner_of_the_course():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to the user who runs students' code
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "python").symlink_to(shutil.which("true"))
        nbgrader = folder / "nbgrader"
        nbgrader.write_text('#!/bin/sh\nmkdir "$1"\ntouch "$1/page.html"\n', encoding="utf-8")
        nbgrader.chmod(0o755)
        course = folder / "course"
        course.mkdir()
        os.chown(course, 4321, 8765)
        run = grade(course, "hw1", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
        assert run.returncode == 0, run.stderr
        pages = [course / command / "page.html" for command in ("autograde", "generate_feedback", "export")]
        for path in (*pages, *(page.parent for page in pages)):
            assert (path.stat().st_uid, path.stat().st_gid) == (4321, 8765)
