"""The book's builder, on a project of two tiny chapters: what it executes, what it keeps, and what it says."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.tools import build as tool
from book.tools.normalize import read

pytestmark = pytest.mark.slow  # nearly every test below starts kernels

ROOT = Path(__file__).parents[2]
MACHINE = {"device": "cpu AVX2", "profile": "quick", "seed": "0", "Python": "3.11.0", "PyTorch": "2.14.1"}
LOG = """import json, os
claims = [{{"text": t, "slide": "S07", "value": v, "recorded": [0.8, 0.9, 1.0], "above": 0.5, "below": None,
            "unit": "", "held": v > 0.2}} for t, v in {claims!r}.items()]
json.dump({{"claims": claims}}, open(os.environ["VLMCOURSE_MEASURED"], "w"))"""


class Project:
    """A checkout small enough to build in seconds. Its chapters write down each time they are executed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.book = tool.Book(root, MACHINE)
        self.rendered = 0
        self.write("vlmcourse/__init__.py", "")
        self.write("vlmcourse/ops.py", "def area(a, b):\n    return a * b\n")
        self.write("vlmcourse/data.py", "COLOURS = 7\n")
        self.write("vlmcourse/palette.txt", "red")
        self.write("vlmcourse/course/__init__.py", "")
        self.write("book/results/measured.json", "1")
        self.write("book/_toc.yml", "format: jb-book\nroot: book/intro\nchapters:\n- file: lectures/01_alpha\n")
        self.write("book/intro.md", "# Intro\n")
        self.write("_config.yml", "title: Trial\n")
        self.chapter("01_alpha", "# Alpha", "from vlmcourse.ops import area\narea(3, 5)")
        self.chapter("02_beta", "# Beta", "from vlmcourse.data import COLOURS\nCOLOURS")

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def chapter(self, name: str, text: str, *code: str, tags: tuple[str, ...] = ()) -> None:
        cells = [new_markdown_cell(text), new_code_cell(f"open('../executed.log', 'a').write('{name}\\n');")]
        cells += [new_code_cell(source, metadata={"tags": list(tags)}) for source in code]
        (self.root / "lectures").mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), self.root / "lectures" / f"{name}.ipynb")

    def build(self, machine: tool.Machine = MACHINE, *, timeout: int = 60) -> tuple[int, list[str]]:
        """Build; return the exit status and the chapters that were executed."""
        log = self.root / "executed.log"
        log.write_text("")
        self.book = tool.Book(self.root, machine, timeout)
        status = tool.build(self.book)
        return status, sorted(log.read_text().split())  # chapters run at once, in no order

    def page(self, name: str) -> str:
        return (self.book.source / name).read_text()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose pages are staged, but not rendered: that takes seconds, and one test below does it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # edits within a second would go unnoticed by import
    made = Project(tmp_path)

    def render(book: tool.Book) -> bool:
        made.rendered += 1
        book.html.mkdir(exist_ok=True)
        (book.html / "index.html").write_text("")
        return True

    monkeypatch.setattr(tool.Book, "render", render)
    return made


@pytest.fixture
def built(project):
    assert project.build() == (0, ["01_alpha", "02_beta"])
    assert project.rendered == 1
    return project


def test_a_second_build_executes_nothing_and_renders_nothing(built, capsys):
    assert built.build() == (0, [])
    assert built.rendered == 1
    assert "0 of 2 chapters to execute" in capsys.readouterr().out


def test_the_lock_that_an_editor_puts_beside_an_open_page_is_no_page(built):
    (built.root / "book" / ".#intro.md").symlink_to("somebody@host.1234:1700000000")  # leads nowhere
    assert built.build() == (0, [])
    assert built.rendered == 1


def test_an_edited_module_executes_only_the_chapters_that_use_it(built, capsys):
    built.write("vlmcourse/ops.py", "def area(a, b):\n    return b * a + 2\n")
    assert built.build() == (0, ["01_alpha"])
    assert "01_alpha: vlmcourse/ops.py changed" in capsys.readouterr().out
    assert '"17"' in built.page("lectures/01_alpha.ipynb")


def test_a_removed_module_executes_the_chapters_that_used_it(built):
    (built.root / "vlmcourse/data.py").unlink()
    status, executed = built.build()
    assert status == 1
    assert executed == ["02_beta"]


def test_an_edited_text_cell_executes_nothing_but_reaches_the_page(built):
    path = built.root / "lectures/01_alpha.ipynb"
    nb = read(path)
    nb.cells[0].source = "# Alpha, in better words"
    nb.cells.insert(1, new_markdown_cell("One more paragraph."))
    nbformat.write(nb, path)
    assert built.build() == (0, [])
    assert built.rendered == 2
    page = built.page("lectures/01_alpha.ipynb")
    assert "in better words" in page
    assert '"15"' in page, "the output of the executed cell is still there"


def test_a_tag_that_only_changes_the_look_executes_nothing(built):
    path = built.root / "lectures/01_alpha.ipynb"
    nb = read(path)
    nb.cells[2].metadata.tags = ["hide-input"]
    nbformat.write(nb, path)
    assert built.build() == (0, [])
    assert "hide-input" in built.page("lectures/01_alpha.ipynb")


def test_an_edited_code_cell_executes_its_chapter_alone(built):
    built.chapter("02_beta", "# Beta", "from vlmcourse.data import COLOURS\nCOLOURS + 4")
    assert built.build() == (0, ["02_beta"])
    assert '"11"' in built.page("lectures/02_beta.ipynb")


def test_the_committed_outputs_of_a_chapter_do_not_reach_the_page(built):
    path = built.root / "lectures/01_alpha.ipynb"
    nb = read(path)
    nb.cells[2].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "stale"}, execution_count=1)]
    nbformat.write(nb, path)
    assert built.build() == (0, [])
    assert "stale" not in built.page("lectures/01_alpha.ipynb")


@pytest.mark.parametrize("name", ["vlmcourse/palette.txt", "vlmcourse/new.safetensors"])
def test_a_changed_or_new_data_file_of_the_package_executes_every_chapter(built, name):
    built.write(name, "blue")
    assert built.build() == (0, ["01_alpha", "02_beta"])


@pytest.mark.parametrize(("name", "executed"), [("measured", ["01_alpha", "02_beta"]), ("02_beta_quick", ["02_beta"])])
def test_a_recorded_result_executes_every_chapter_or_the_one_it_belongs_to(built, name, executed):
    built.write(f"book/results/{name}.json", "2")
    assert built.build() == (0, executed)


def test_a_module_edited_while_its_chapter_runs_is_noticed_by_the_next_build(project):
    edit = "from vlmcourse.ops import area\nopen('../vlmcourse/ops.py', 'a').write('# edited\\n')"
    project.chapter("01_alpha", "# Alpha", edit)
    assert project.build()[0] == 0
    assert project.build() == (0, ["01_alpha"])


def test_a_chapter_edited_while_it_runs_shows_what_ran_and_is_executed_again(project):
    edit = (
        "import json, pathlib\n"
        "path = pathlib.Path('01_alpha.ipynb')\n"
        "nb = json.loads(path.read_text())\n"
        "nb['cells'][2]['source'] = '6 * 7'\n"
        "nb['cells'].append({**nb['cells'][2], 'id': 'more', 'source': '8 * 9'})\n"
        "_ = path.write_text(json.dumps(nb))"
    )
    project.chapter("01_alpha", "# Alpha", edit)
    assert project.build()[0] == 0
    assert "import json, pathlib" in project.page("lectures/01_alpha.ipynb")
    assert project.build() == (0, ["01_alpha"])
    assert '"72"' in project.page("lectures/01_alpha.ipynb")


def test_an_edit_that_was_taken_back_after_the_chapter_ran_is_noticed(built):
    path = built.root / "lectures" / "01_alpha.ipynb"
    before, inputs = path.read_text(), built.book.inputs(path)
    path.write_text(before.replace("area(3, 5)", "area(3, 50)"))
    built.book.execute(path, inputs, {})
    path.write_text(before)
    assert built.build() == (0, ["01_alpha"])


def test_other_versions_execute_every_chapter_and_a_hidden_file_none(built):
    built.write("vlmcourse/.DS_Store", "a folder was looked at")
    assert built.build() == (0, [])
    built.write("requirements.lock", "torch==2.15.0")
    assert built.build() == (0, ["01_alpha", "02_beta"])


@pytest.mark.parametrize(
    "change", [{"device": "cuda NVIDIA H200"}, {"profile": "full"}, {"PyTorch": "2.15.0"}, {"seed": "7"}]
)
def test_another_device_profile_version_or_seed_executes_every_chapter(built, change, capsys):
    assert built.build(MACHINE | change) == (0, ["01_alpha", "02_beta"])
    ((key, value),) = change.items()
    assert f"{key} was {MACHINE[key]}, is {value}" in capsys.readouterr().out


# --- cells that fail, and claims that do not hold -----------------------------------------------------------


def test_a_failing_cell_is_shown_on_its_page_and_everything_else_is_there(project, capsys):
    failing = "colour = 'red'\nraise ValueError(f'no paint: {colour}')"
    project.chapter("01_alpha", "# Alpha\n\nArea {glue:text}`area`.", "unfinished = 1", failing, "6 * 7", "1 / 0")
    assert project.build() == (1, ["01_alpha", "02_beta"])
    said = capsys.readouterr().out
    for part in (
        "01_alpha: cell 3 of 5 failed",
        "    | colour = 'red'",
        "ValueError: no paint: red",
        "2 cell(s) failed",
    ):
        assert part in said
    assert project.rendered == 1
    page = read(project.book.source / "lectures/01_alpha.ipynb")
    assert [cell.cell_type for cell in page.cells] == [
        *["markdown"],
        *["code"] * 3,
        "markdown",
        "code",
        "code",
        "markdown",
    ]
    assert page.cells[5].outputs[0].data["text/plain"] == "42", "the cells below run all the same"
    assert "The cell above failed" in page.cells[4].source
    assert "`ValueError: no paint: red`" in page.cells[4].source
    assert "{dropdown} Traceback" in page.cells[4].source
    assert page.cells[3].outputs == [], "the traceback is shown once, folded"
    assert page.cells[0].source.endswith("Area *(not measured here)*.")
    assert project.build() == (1, ["01_alpha"]), "the chapter that worked is not executed again"
    project.chapter("01_alpha", "# Alpha", "1")
    assert project.build() == (0, ["01_alpha"])


def test_a_chapter_that_is_no_python_is_shown_as_such(project, capsys):
    project.chapter("01_alpha", "# Alpha", "x = = 1", "6 * 7")
    assert project.build()[0] == 1
    assert "SyntaxError" in capsys.readouterr().out
    assert '"42"' in project.page("lectures/01_alpha.ipynb")


def test_a_kernel_that_dies_is_reported_as_such_and_leaves_its_page(project, capsys):
    project.chapter("01_alpha", "# Alpha", "6 * 7", "import os\nos._exit(1)", "'never run'")
    assert project.build()[0] == 1
    assert "The kernel died here" in capsys.readouterr().out
    assert '"42"' in project.page("lectures/01_alpha.ipynb")
    assert "The kernel died here" in project.page("lectures/01_alpha.ipynb")


def test_a_cell_that_takes_too_long_is_stopped_and_named(project, capsys):
    project.chapter("01_alpha", "# Alpha", "import time\ntime.sleep(60)")
    assert project.build(timeout=1)[0] == 1
    said = capsys.readouterr().out
    assert "01_alpha: cell 2 of 2 failed" in said
    assert "longer than 1 s" in said


@pytest.mark.parametrize("source", ["%notamagic", "!exit 3"])
def test_a_magic_that_does_not_exist_and_a_command_that_fails_are_failures(project, source, capsys):
    project.chapter("01_alpha", "# Alpha", source)
    assert project.build()[0] == 1
    assert "01_alpha: cell 2 of 2 failed" in capsys.readouterr().out


def test_a_kernel_starts_with_no_name_that_a_chapter_did_not_make(project):
    project.chapter("01_alpha", "# Alpha", "[name for name in globals() if name[0] != '_']")
    assert project.build()[0] == 0
    assert "['In', 'Out', 'get_ipython', 'exit', 'quit', 'open']" in project.page("lectures/01_alpha.ipynb")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no sockets in files")
@pytest.mark.parametrize(("folder", "transport"), [("short", "ipc"), ("long" * 30, "tcp")])
def test_a_kernel_needs_no_port_where_a_socket_can_be_a_file(folder, transport, project, monkeypatch):
    # a port that was free when it was chosen may be taken when the kernel binds it, and a chapter then fails by chance
    with TemporaryDirectory(prefix=f"{folder}-") as scratch:
        monkeypatch.setattr("tempfile.tempdir", scratch)
        asks = "from ipykernel import get_connection_info\nget_connection_info(unpack=True)['transport']"
        project.chapter("01_alpha", "# Alpha", asks)
        assert project.build() == (0, ["01_alpha", "02_beta"])
    assert f"'{transport}'" in project.page("lectures/01_alpha.ipynb")


def test_a_claim_that_does_not_hold_is_counted_and_is_no_failure(project, capsys, monkeypatch):
    project.chapter("01_alpha", "# Alpha", LOG.format(claims={"one": 0.9, "two": 0.1}))
    project.chapter("02_beta", "# Beta", LOG.format(claims={"three": 0.4}))
    assert project.build()[0] == 0
    said = capsys.readouterr().out
    assert "2 of 3 claims held." in said
    assert "Did not hold here: 01 S07 two: measured 0.1" in said
    monkeypatch.setenv("VLMCOURSE_CLAIMS", "strict")
    assert project.build() == (1, []), "nothing is executed to judge again"


def test_a_build_without_end_of_output_ends_in_seconds(project):
    project.chapter("01_alpha", "# Alpha", "for i in range(100): print(f'{i}' * 500_000)")
    began = time.monotonic()
    assert project.build()[0] == 0
    assert time.monotonic() - began < 60
    assert len(project.page("lectures/01_alpha.ipynb")) < 100_000
    assert "more characters are cut here" in project.page("lectures/01_alpha.ipynb")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_build_stopped_in_a_chapter_leaves_it_undone_and_no_kernel_behind(project, sign):
    """In a process of its own, and with its own kernel's id written down by the chapter."""
    project.chapter("01_alpha", "# Alpha", "1")
    wait = "import os, time\nopen('../kernel.pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    project.chapter("02_beta", "# Beta", wait)
    script = (
        f"import signal, sys; sys.path.insert(0, {str(ROOT)!r}); from book.tools import build\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a script in the background may ignore it
        f"build.current_machine = lambda root: {MACHINE!r}\n"
        f"sys.exit(build.main([], root=build.Path({str(project.root)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid_file = project.root / "kernel.pid"
    wait_for(lambda: pid_file.is_file() and pid_file.read_text())
    wait_for(lambda: (project.book.executed / "01_alpha.json").is_file())
    kernel = int(pid_file.read_text())
    process.send_signal(sign)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if sign == signal.SIGKILL else 130), said
    wait_for(lambda: not is_alive(kernel))
    project.chapter("02_beta", "# Beta", "2")
    assert project.build() == (0, ["02_beta"]), "the finished chapter is kept, the other one is executed"


def wait_for(condition, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except ProcessLookupError:
        return False


def test_chapters_run_at_once_on_a_cpu(project, monkeypatch):
    monkeypatch.setattr(tool, "CORES", 2)
    meet = "import pathlib, time\nfor _ in range(300):\n    pathlib.Path('../{me}').touch()\n    time.sleep(0.1)\n"
    meet += "    if pathlib.Path('../{other}').exists(): break\nelse:\n    raise TimeoutError"
    project.chapter("01_alpha", "# Alpha", meet.format(me="alpha", other="beta"))
    project.chapter("02_beta", "# Beta", meet.format(me="beta", other="alpha"))
    assert project.build() == (0, ["01_alpha", "02_beta"])


@pytest.mark.parametrize("changed", [{"device": "cuda NVIDIA H200"}, {"profile": "full"}])
def test_a_gpu_and_a_long_run_are_not_shared(monkeypatch, changed):
    monkeypatch.setattr(tool, "CORES", 16)
    assert tool.chapters_at_once(MACHINE) == 4
    assert tool.chapters_at_once(MACHINE | changed) == 1


def test_two_builds_at_once_do_not_mix(project):
    project.book.build.mkdir()
    with tool.FileLock(project.book.build / ".lock"), pytest.raises(SystemExit, match="Another build is running"):
        tool.main([], root=project.root)


def test_figures_do_not_depend_on_the_users_backend(project, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    project.chapter("01_alpha", "# Alpha", "import matplotlib.pyplot as plt\nplt.plot([2, 3, 5]);")
    assert project.build()[0] == 0
    assert "image/png" in project.page("lectures/01_alpha.ipynb")


def test_a_page_that_was_removed_is_removed_from_the_copy(built):
    built.write("book/extra.md", "# Extra")
    built.build()
    assert (built.book.source / "book/extra.md").is_file()
    (built.root / "book/extra.md").unlink()
    built.build()
    assert not (built.book.source / "book/extra.md").exists()


def test_a_book_that_is_gone_is_rendered_again(built):
    (built.book.html / "index.html").unlink()
    assert built.build() == (0, [])
    assert built.rendered == 2


def test_an_edited_docstring_renders_again_even_where_no_chapter_uses_it(built):
    built.write("vlmcourse/unused.py", '"""Edited."""\n')
    assert built.build() == (0, [])
    assert built.rendered == 2


def test_the_rendered_book_shows_failures_claims_and_machine_and_a_warning_does_not_hide_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    project = Project(tmp_path)
    project.chapter("01_alpha", "# Alpha\n\n(S07)=\n## Slide", "6 * 7", "raise ValueError('no `paint`')")
    project.chapter("02_beta", "# Beta", LOG.format(claims={"two is more": 0.9, "one is not": 0.1}))
    shutil.copytree(ROOT / "book" / "_ext", tmp_path / "book" / "_ext")
    extensions = ["provenance", "machine"]
    for name in ("this_build", "claims"):
        project.write(f"book/{name}.md", (ROOT / "book" / f"{name}.md").read_text())
    pages = "".join(
        f"- file: {name}\n" for name in ("lectures/01_alpha", "lectures/02_beta", "book/this_build", "book/claims")
    )
    project.write("book/_toc.yml", f"format: jb-book\nroot: book/intro\nchapters:\n{pages}")
    config = {"title": "Trial", "execute": {"execute_notebooks": "off"}, "only_build_toc_files": True}
    config |= {"parse": {"myst_enable_extensions": ["attrs_block"]}}
    local = {"local_extensions": dict.fromkeys(extensions, "book/_ext")}
    project.write("_config.yml", json.dumps({**config, "sphinx": {**local, "extra_extensions": extensions}}))
    # The tiny package stands in for the real one in kernels only.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert project.build()[0] == 1, "a cell failed"
    said = capsys.readouterr().out
    assert "Rendering complained" not in said, said
    page = (project.book.html / "lectures/01_alpha.html").read_text()
    assert "42" in page
    assert "The cell above failed" in page
    assert re.search(r"<details(.|\n)*Traceback(.|\n)*no `paint`", page)
    claims = (project.book.html / "book/claims.html").read_text()
    assert "1 of 2 claims held on this machine" in claims
    assert re.search(r'href="../lectures/01_alpha.html#s07"(.|\n)*two is more', claims)
    assert "pst-scrollable-table-container" in claims
    build = (project.book.html / "book/this_build.html").read_text()
    for part in ("cpu AVX2", "2.14.1", "1 cell(s) failed", "1 of 2 claims held"):
        assert part in build

    project.write("book/intro.md", "# Intro\n\n[](nowhere.md)\n")
    for _ in range(2):  # a second time too: Sphinx's memory of the page must not hide its warning
        assert project.build()[0] == 1
        assert "nowhere.md" in capsys.readouterr().out
        assert (project.book.html / "book/intro.html").is_file()


@pytest.fixture
def checkout(tmp_path):
    """The files that make needs, in a folder with a space in its name."""
    root = tmp_path / "my course"
    (root / "book/tools").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "book/tools/setup.sh"):
        (root / name).write_text((ROOT / name).read_text())
    return root


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-C", str(checkout), *arguments], capture_output=True, text=True, env=env, timeout=60
    )


def test_make_alone_lists_every_target_that_a_reader_may_use(checkout):
    listed = make(checkout).stdout
    for target in ("book", "serve", "test", "test-pages", "notebooks", "lock", "clean"):
        assert f"make {target} " in listed


def test_what_surroundings_ask_of_python_and_pip_is_not_handed_on(checkout, monkeypatch):
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PIP_USER"):
        monkeypatch.setenv(name, "1")
    (checkout / "book/tools/setup.sh").write_text("env\n")
    handed_on = dict(line.partition("=")[::2] for line in make(checkout, "setup").stdout.splitlines())
    assert handed_on["PIP_USER"] == "0"
    assert not handed_on.keys() & {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"}


def test_the_name_of_a_machine_in_the_environment_is_no_address_to_serve_at(checkout, monkeypatch):
    monkeypatch.setenv("HOST", "x86_64-conda-linux-gnu")
    assert "--bind 127.0.0.1 " in make(checkout, "-n", "serve").stdout
    assert "--bind 0.0.0.0 " in make(checkout, "-n", "serve", "HOST=0.0.0.0").stdout


@pytest.mark.parametrize("version", ["missing", "2.7", "3.10"])
def test_an_unsuitable_python_is_refused_in_a_sentence(checkout, version):
    python = checkout / "python"
    if version != "missing":
        python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 1\necho "Python {version}"\n')
        python.chmod(0o755)
    result = make(checkout, "book", f"PYTHON={python}")
    assert result.returncode != 0
    assert "is not a Python of version 3.11 or newer" in result.stderr
    assert "Traceback" not in result.stderr


def test_make_with_no_suitable_python_says_what_to_do(checkout):
    """With a PATH that holds the shell's tools and a python3 that is too old."""
    tools = checkout / "bin"
    tools.mkdir()
    for name in ("sh", "make", "dirname", "cat", "cksum", "grep"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (tools / name).symlink_to(found)
    (tools / "python3").write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho "Python 3.9.2"\n')
    (tools / "python3").chmod(0o755)
    result = subprocess.run(
        ["make", "-C", str(checkout), "test"], capture_output=True, text=True, env={"PATH": str(tools)}, timeout=60
    )
    assert result.returncode != 0
    assert "python3 here is: Python 3.9.2" in result.stderr
    assert "make test PYTHON=" in result.stderr


def test_a_cpu_with_other_instructions_is_another_machine(monkeypatch):
    monkeypatch.setenv("VLMCOURSE_DEVICE", "cpu")
    here = tool.current_machine(ROOT)["device"]
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert here.startswith("cpu ")
    assert tool.current_machine(ROOT)["device"] == "cpu DEFAULT" != here
