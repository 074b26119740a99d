"""What an instructor is told to run is there, and says so at once where it cannot work."""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from contextlib import contextmanager
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


@contextmanager
def beside_another_nbgrader(script):
    """A folder, open to whoever runs students' code, as pytest's own are not, with an ``nbgrader`` that does this."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "python").symlink_to(shutil.which("true"))
        nbgrader = folder / "nbgrader"
        nbgrader.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        nbgrader.chmod(0o755)
        yield folder


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
    with beside_another_nbgrader('mkdir "$1"\ntouch "$1/page.html"') as folder:
        course = folder / "course"
        (course / "submitted" / "ann" / "hw1").mkdir(parents=True)
        os.chown(course, 4321, 8765)
        run = grade(course, "hw1", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
        assert run.returncode == 0, run.stderr
        pages = [course / command / "page.html" for command in ("autograde", "generate_feedback", "export")]
        for path in (*pages, *(page.parent for page in pages)):
            assert (path.stat().st_uid, path.stat().st_gid) == (4321, 8765)


@root_of_linux
def test_who_cannot_be_graded_is_named_and_the_others_are_graded():
    with beside_another_nbgrader('case "$*" in *--student="Bo Lee"*) exit 1;; esac') as folder:
        for student in ("ann", "Bo Lee", "cid"):
            (folder / "course" / "submitted" / student / "hw1").mkdir(parents=True)
        run = grade(folder / "course", "hw1", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
        assert run.returncode == 1
        assert sorted(run.stdout.splitlines()) == ["grade.sh: Bo Lee", "grade.sh: ann", "grade.sh: cid"]
        assert "not graded, whatever grades.csv says:\n    Bo Lee\n  nbgrader says why" in run.stderr
        assert "the file must be called hw1.ipynb" in run.stderr
        run = grade(folder / "course", "hw2", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
        assert run.returncode == 1
        assert "nobody has handed in: there is no submitted/NAME/hw2" in run.stderr


# Two notebooks of one student each: what the first may do must not reach the second, nor what is root's.
STUDENTS = """
import os, sys
from jupyter_client.manager import KernelManager
cell = '''
import os, pathlib, subprocess
home = pathlib.Path.home()
apart = home.parent.parent
attempts = {
    "root's script": lambda: (apart / "start.sh").rename(apart / "mine.sh"),
    "the homes of others": lambda: os.listdir(apart / "homes"),
    "the connections": lambda: os.listdir(apart / "connections"),
    "the course": lambda: os.listdir("COURSE"),
}
for what, attempt in attempts.items():
    try:
        attempt()
        print("reached", what)
    except PermissionError:
        pass
print("user", os.getuid(), "finds", [name for name in os.listdir() if name[0] != "."])
pathlib.Path("torch.py").write_text("left behind")
subprocess.Popen(["sleep", "4711"], start_new_session=True)
'''
if sys.argv[1] == "autograde":
    (ip,) = (one.split("=")[1] for one in sys.argv if "KernelManager.ip" in one)
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=ip)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    show = lambda message: print(message["content"].get("text", ""), end="", flush=True)
    client.execute_interactive(cell.replace("COURSE", os.getcwd()), timeout=60, output_hook=show)
    client.stop_channels()
    manager.shutdown_kernel()
"""


def python_for_nobody():
    """Return a Python that another user may start, and the path of packages, or skip."""
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if "site-packages" in entry)])
    for python in (sys.executable, "/usr/bin/python3"):
        command = ["setpriv", "--reuid=nobody", "--clear-groups", "env", f"PYTHONPATH={path}", python, "-c"]
        if subprocess.run([*command, "import ipykernel, vlmcourse.homework"], capture_output=True).returncode == 0:
            return python, path
    pytest.skip("no Python here that another user may start")


@pytest.mark.slow
@root_of_linux
def test_a_notebook_reaches_neither_what_is_roots_nor_the_next_notebook():
    python, path = python_for_nobody()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "python").symlink_to(python)
        nbgrader = folder / "nbgrader"
        nbgrader.write_text(f"#!{python}\n{STUDENTS}", encoding="utf-8")
        nbgrader.chmod(0o755)
        course = folder / "course"
        for student in ("ann", "bea"):
            (course / "submitted" / student / "hw1").mkdir(parents=True)
        run = grade(course, "hw1", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=path)
        assert run.returncode == 0, run.stderr
        said = [line for line in run.stdout.splitlines() if line.startswith(("user", "reached"))]
        nobody = subprocess.run(["id", "-u", "nobody"], capture_output=True, text=True).stdout.strip()
        assert said == [f"user {nobody} finds []"] * 2, run.stdout
    assert "sleep 4711" not in subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True).stdout
