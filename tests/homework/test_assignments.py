"""The assignments: one source each, whose student's version holds no solution and whose reference gets all points."""

import html
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from browsers import unavailable
from einops import rearrange

from book.tools import homework
from book.tools.first_cell import address_in, text_with_address
from vlmcourse.homework import CHECKS, Report, grading, notebook

pytestmark = pytest.mark.slow  # nearly every test below starts a kernel

SOURCES = sorted(homework.SOURCES.glob("hw*.md"))
ids = {"ids": lambda path: path.stem}
STABLE = Path(__file__).with_name("stable_names.txt")


def solutions(source):
    """Return the lines that a student has to find, and the words of the instructor's answers."""
    blocks = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", source, re.DOTALL)
    answers = re.findall(r"^```answer \S+ \d+\n(.*?)^```", source, re.DOTALL | re.MULTILINE)
    return [line.strip() for text in blocks + answers for line in text.splitlines() if len(line.strip()) > 12]


def without_spaces(text):
    """Return a text as no layout, quotation mark or backslash changes it."""
    return re.sub(r"\s+|[\"'\\]", "", text.replace("\\n", "\n"))


def shown(page):
    """Return the text of an HTML page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def whole_solutions(source):
    """Return each solution and answer as one text without spaces; shorter ones say what anybody might."""
    blocks = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", source, re.DOTALL)
    answers = re.findall(r"^```answer \S+ \d+\n(.*?)^```", source, re.DOTALL | re.MULTILINE)
    return [text for text in map(without_spaces, blocks + answers) if len(text) > 60]


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_a_hint_is_html_in_which_a_backtick_would_stay_one(path):
    hints = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("<details>")]
    assert hints
    assert [hint for hint in hints if "`" in hint] == []


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_the_students_file_is_what_the_source_gives_and_holds_no_solution(path):
    source = path.read_text(encoding="utf-8")
    file = (homework.PAGES / f"{path.stem}.ipynb").read_text(encoding="utf-8")
    here = address_in(nbformat.reads(file, as_version=4))
    assert file == text_with_address(homework.student(source), here), "run python -m book.tools.homework"
    assert len(solutions(source)) > 8
    text = "\n".join("".join(cell["source"]) for cell in json.loads(file)["cells"])
    assert [line for line in solutions(source) if line in text] == []
    assert "BEGIN" not in text
    assert "regrade" not in text


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_a_leaked_solution_would_be_found(path):
    source = path.read_text(encoding="utf-8")
    text = "\n".join(cell.source for cell in homework.instructor(source).cells)
    assert all(line in text for line in solutions(source))


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_points_in_the_table_are_those_of_the_cells(path):
    source = path.read_text(encoding="utf-8")
    promised = sum(map(int, re.findall(r"^\| \d\..*? \| (\d+) \|", source, re.MULTILINE)))
    marks = [cell.metadata.get("nbgrader", {}) for cell in homework.instructor(source).cells]
    assert sum(mark.get("points", 0) for mark in marks) == promised
    names = [mark["grade_id"] for mark in marks if mark]
    assert len(names) == len(set(names))


def only_work_and_checks(made):
    """Leave the experiments out: the imports, what the student writes, and what checks it."""
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    made.cells = [code[0], *(cell for cell in made.cells[1:] if cell.metadata.get("nbgrader"))]
    for cell in made.cells:  # it loads the package anew, and the tests after this one would meet two of each module
        cell.source = homework.HIDDEN.sub("", cell.source)
    return made


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_the_reference_gets_all_points_and_an_empty_notebook_none(path, tmp_path, monkeypatch):
    monkeypatch.setenv("VLMCOURSE_DEVICE", "cpu")
    source = path.read_text(encoding="utf-8")
    for made, empty in ((homework.instructor(source), False), (homework.student(source), True)):
        nbformat.write(only_work_and_checks(made), tmp_path / "made.ipynb")
        parts = list(notebook.parts(tmp_path / "made.ipynb", apart=False))
        assert len(parts) >= 4
        assert [part for part in parts if bool(part.problem) != empty] == []


def hidden_test_of_hw1(work):
    """Run one solution, then the check's cell of the instructor's version, in a process of their own; return its end.

    The cell loads the package anew: here, the tests after it would meet two of each module.
    """
    cells = homework.instructor((homework.SOURCES / "hw1.md").read_text(encoding="utf-8")).cells
    (cell,) = [cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "check-patchify"]
    program = f"import vlmcourse\nfrom vlmcourse import check_patchify\n{work}\n{cell}"
    return subprocess.run([sys.executable, "-c", program], cwd=homework.ROOT, capture_output=True, text=True)


RIGHT = 'from einops import rearrange\npatchify = lambda images, *, patch_size: rearrange(images, "b c (nh h) (nw w) -> b (nh nw) (h w c)", h=patch_size, w=patch_size)'
TRUSTING = "from vlmcourse.homework import Report\ncheck_patchify = lambda f: Report('x', True)"


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (f"{TRUSTING}\npatchify = vlmcourse.patchify", "which is the solution"),
        (f"{TRUSTING}\npatchify = lambda images, *, patch_size: images", "this is `images` as it came"),
        (
            "import vlmcourse.homework.checking as c\nc.examine = lambda *_, **__: c.Report('x', True)\npatchify = print",
            "stops with",
        ),
        ("patchify = lambda images, *, patch_size: images", "AssertionError"),
    ],
)
def test_the_hidden_part_refuses_what_a_notebook_has_arranged_for_itself(work, why):
    ended = hidden_test_of_hw1(work)
    assert ended.returncode != 0
    assert "AssertionError" in ended.stderr
    assert why in ended.stderr


def test_the_hidden_part_passes_what_is_right():
    ended = hidden_test_of_hw1(RIGHT)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_check_that_lets_nonsense_pass_is_found(monkeypatch):
    monkeypatch.setattr("vlmcourse.homework.checking.examine", lambda *_, **__: notebook_report())
    with pytest.raises(AssertionError, match="lets nonsense pass"):
        grading.regrade("patchify", print)


def notebook_report():
    return Report("patchify", True)


def test_the_names_and_calls_are_the_stable_ones():
    now = [f"check_{name}: {check.task.call}" for name, check in CHECKS.items()]
    assert now == STABLE.read_text(encoding="utf-8").split("\n")[:-1]


def test_every_check_belongs_to_an_assignment():
    used = re.findall(r"^\{check (\w+) ", "".join(path.read_text(encoding="utf-8") for path in SOURCES), re.MULTILINE)
    assert sorted(used) == sorted(CHECKS)


def test_the_wheel_takes_the_students_files_and_no_source():
    settings = (homework.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in SOURCES:
        assert f'"book/homework/{path.stem}.ipynb" = "vlmcourse/homework/handouts/{path.stem}.ipynb"' in settings
    assert '"book/homework"' not in settings
    assert "book/homework/sources" not in settings


# ---- a student at the terminal -------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A notebook with one part that is right, one that is wrong, one that never ends, and one that stops."""

    def cell(source, grade_id=None, points=None):
        marks = {"grade_id": grade_id, "grade": True, "points": points, "solution": False}
        metadata = {"nbgrader": marks} if grade_id else {}
        return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": [], "execution_count": None}

    check = "report = check_causal_mask({})\nprint(report)\nassert report.passed"
    cells = [
        cell("%matplotlib inline\nimport torch\nfrom vlmcourse import check_causal_mask\nones = torch.ones"),
        cell(check.format("lambda n: ones(n, n).tril().bool()"), "check-right", 3),
        cell(check.format("lambda n: ones(n, n).triu().bool()"), "check-wrong", 4),
        cell("while True:\n    pass"),
        cell("1 / 0"),
        cell("assert undefined", "check-last", 5),
    ]
    path = tmp_path / "small.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_each_part_costs_itself_only(small):
    text = notebook.summary(small, seconds=8)
    assert "3 of 12 points" in text
    assert "done      right (3 points)" in text
    assert "the mask lets the future in" in text
    assert "has not ended after 8 seconds" in text
    assert "ZeroDivisionError" in text
    assert "NameError" in text


def test_the_next_step_is_the_first_that_is_not_done(small):
    step = notebook.next_step(small)
    assert step.startswith("next: wrong\ncausal_mask is not right yet: changing word")
    assert "the mask lets the future in" in step


CRASHES = {
    "the whole process": "import os\nos._exit(3)",
    "SystemExit": "import sys\nsys.exit()",
    "RecursionError": "def f():\n    f()\nf()",
    "": "for _ in range(3000):\n    print('x' * 10_000)",  # 30 MB, and no reason to stop
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "EOFError": "input()",
}


@pytest.fixture(scope="module")
def mishandled(tmp_path_factory):
    """The report of a notebook that a student has mishandled in every way, checked from another folder."""
    folder = tmp_path_factory.mktemp("mishandled")
    path = notebook.start("hw1", folder)
    (folder / "beside.txt").write_text("a file beside the notebook")
    made = nbformat.read(path, as_version=4)
    cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in made.cells}
    cells["patchify"].source = "def patchify(images, *, patch_size):\n    return images"
    cells["check-patchify"].source = "assert True"
    cells["unpatchify"].source = "def unpatchify_2(patches, *, patch_size, image_size):\n    return patches"
    made.cells = [cell for cell in made.cells if cell is not cells["check-patch_embed"]]
    end = next(k for k, cell in enumerate(made.cells) if cell.source.startswith("## 5."))
    extra = [*CRASHES.values(), "assert open('beside.txt').read()"]
    made.cells[end:] = [nbformat.v4.new_code_cell(source) for source in extra]
    nbformat.write(made, path)
    return notebook.summary(path, seconds=30)


def test_a_notebook_that_ends_the_process_or_prints_without_measure_costs_only_its_cell(mishandled):
    stopped = [line for line in mishandled.splitlines() if line.strip().startswith("cell ")]
    assert len(stopped) == len(CRASHES) - 1
    assert all(reason in line for reason, line in zip(filter(None, CRASHES), stopped, strict=True))


def test_a_check_that_was_changed_is_that_of_the_handout_again(mishandled):
    assert "0 of 18 points" in mishandled
    assert "patchify is not right yet" in mishandled


def test_a_renamed_function_and_a_deleted_check_are_told(mishandled):
    assert "name 'unpatchify' is not defined (the check calls this name: keep it)" in mishandled
    assert "patch_embed (6 points)\n      the cell is missing: copy it from a fresh notebook" in mishandled


def test_a_loop_that_nothing_can_interrupt_is_ended(tmp_path, monkeypatch):
    """Compiled code may hold the interpreter; then the process is ended from outside."""
    monkeypatch.setattr(notebook, "GRACE", 1.0)
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    sources = ["import re\nre.match('(a*)*b', 'a' * 40)", "1 / 0"]
    made = {"cells": [{**cell, "source": s} for s in sources], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "x.ipynb").write_text(json.dumps(made))
    text = notebook.summary(tmp_path / "x.ipynb", seconds=8)
    assert "could not be interrupted" in text
    assert "ZeroDivisionError" in text


def test_the_built_wheel_holds_no_solution_and_works_in_an_empty_folder(tmp_path):
    wheels = pytest.importorskip(
        "hatchling.builders.wheel", reason="hatchling, which builds the wheel, is not installed"
    )
    (wheel,) = wheels.WheelBuilder(str(homework.ROOT)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        texts = {name: archive.read(name).decode(errors="ignore") for name in archive.namelist()}
        archive.extractall(tmp_path / "site")
    assert {f"vlmcourse/homework/handouts/{path.stem}.ipynb" for path in SOURCES} <= texts.keys()
    assert "vlmcourse/homework/reference.json" in texts
    notebooks = "\n".join(text.replace('\\"', '"') for name, text in texts.items() if name.endswith(".ipynb"))
    for path in SOURCES:
        assert [line for line in solutions(path.read_text(encoding="utf-8")) if line in notebooks] == []
    assert [name for name, text in texts.items() if "BEGIN SOLUTION" in text or "BEGIN HIDDEN" in text] == []
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path[1:]])}
    program = (
        "import vlmcourse; from vlmcourse import cli; print(vlmcourse.__file__)\n"
        "for words in (['list'], ['start', 'hw1'], ['next', 'hw1.ipynb']): cli.main(['homework', *words])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert str(tmp_path / "site") in run.stdout.splitlines()[0]
    assert "hw6  Homework 6" in run.stdout
    assert "next: by-hand\nnot written yet" in run.stdout


TEXTS = {".html", ".txt", ".md", ".ipynb", ".py", ".js", ".json", ".xml", ".csv"}


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_a_solution_would_be_found_on_a_page_in_another_layout(path):
    source = path.read_text(encoding="utf-8")
    assert len(whole_solutions(source)) >= 4
    cells = homework.instructor(source).cells
    page = "<pre>" + "</pre>\n<pre>".join(html.escape(cell.source).replace("(", "<span>(</span>") for cell in cells)
    for text in (shown(page.replace("    ", "\t")), json.dumps([cell.source for cell in cells], ensure_ascii=False)):
        assert all(found in without_spaces(text) for found in whole_solutions(source))


@pytest.mark.browser  # which needs none, but a built book
def test_no_page_that_was_rendered_holds_a_solution():
    site = homework.ROOT / "_build" / "html"
    if not site.is_dir():
        unavailable("there is no built book; run: make book")
    # The library's own code, under _modules, is the book's subject and open to everybody.
    files = [
        path for path in site.rglob("*") if path.is_file() and path.suffix in TEXTS and "_modules" not in path.parts
    ]
    assert {f"{path.stem}.html" for path in SOURCES} <= {path.name for path in files}
    sources = [path.read_text(encoding="utf-8") for path in SOURCES]
    for file in files:
        text = file.read_text(encoding="utf-8", errors="ignore")
        text = without_spaces(shown(text) if file.suffix == ".html" else text)
        assert [found for source in sources for found in whole_solutions(source) if found in text] == [], file
    for file in site.rglob("book/homework/*.*"):
        text = html.unescape(re.sub(r"<[^>]+>", "", file.read_text(encoding="utf-8", errors="ignore"))).replace(
            '\\"', '"'
        )
        for path in SOURCES:
            assert [line for line in solutions(path.read_text(encoding="utf-8")) if line in text] == [], file


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_hints_are_folded(path):
    cells = homework.student(path.read_text(encoding="utf-8")).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"^.*Hint 1.*$", text, re.MULTILINE)
    assert all(line.startswith("<details><summary>Hint") for line in re.findall(r"^.*Hint \d.*$", text, re.MULTILINE))


def test_start_copies_the_handout_once_and_never_overwrites(tmp_path):
    path = notebook.start("hw2", tmp_path / "mine")
    path.write_text("my work")
    with pytest.raises(FileExistsError):
        notebook.start("hw2", tmp_path / "mine")
    assert path.read_text() == "my work"
    with pytest.raises(ValueError, match=r"no assignment 'hw9'; there are hw1, hw2"):
        notebook.start("hw9", tmp_path)


def test_what_is_no_notebook_is_told(tmp_path):
    (tmp_path / "x.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="is no notebook"):
        notebook.summary(tmp_path / "x.ipynb")
    for text in ("", '{"cells": [', "<<<<<<< HEAD"):
        (tmp_path / "x.ipynb").write_text(text)
        with pytest.raises(ValueError, match=r"(?s)is no notebook.*Save it in Jupyter.*\.ipynb_checkpoints"):
            notebook.next_step(tmp_path / "x.ipynb")


def made_of(path, *sources):
    """Write a notebook of cells that give no points."""
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    made = {"cells": [{**cell, "source": s} for s in sources], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(made))
    return path


@pytest.mark.parametrize("report", [notebook.summary, notebook.next_step])
def test_a_notebook_without_any_part_is_told(tmp_path, report):
    for sources in ((), ("1",)):
        said = report(made_of(tmp_path / "x.ipynb", *sources))
        assert "no part of an assignment is in this notebook" in said
        assert "lost the marks" not in said


def test_cells_that_have_lost_their_marks_are_told(tmp_path):
    cells = homework.student((homework.SOURCES / "hw1.md").read_text(encoding="utf-8")).cells
    path = made_of(tmp_path / "x.ipynb", *(cell.source for cell in cells if cell.cell_type == "code"))
    assert "have lost the marks by which they are known" in notebook.next_step(path)


def test_cells_without_metadata_are_read_and_what_is_no_cell_is_told(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": "1 / 0"}]}))
    assert "ZeroDivisionError" in notebook.summary(path)
    for cells in ("cells", [{"metadata": {}}], [1]):
        path.write_text(json.dumps({"cells": cells}))
        with pytest.raises(ValueError, match="is no notebook that can be read: one of its cells"):
            notebook.next_step(path)


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_time_limit_is_positive(small, seconds):
    with pytest.raises(ValueError, match=f"must be a positive number, received {seconds}"):
        notebook.summary(small, seconds=seconds)


def test_what_only_waits_for_unwritten_parts_is_no_fault(tmp_path):
    sources = "def f():\n    raise NotImplementedError", "mine = f()", "print(mine)", "1 / 0  # " + "x" * 90
    found = list(notebook.parts(made_of(tmp_path / "x.ipynb", *sources), apart=False))
    assert [part.problem for part in found] == [
        f"cell `{sources[3][:60]}...` stopped with ZeroDivisionError: division by zero"
    ]


def test_a_missing_name_is_a_fault_where_nothing_is_unwritten(tmp_path):
    (part,) = notebook.parts(made_of(tmp_path / "x.ipynb", "print(mine)"), apart=False)
    assert "NameError" in part.problem


def test_the_only_notebook_in_a_folder_is_meant_and_its_ending_may_be_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is none yet: vlmcourse homework start"):
        notebook.find(None)
    notebook.start("hw2")
    for given in (None, Path("hw2"), Path("hw2.ipynb"), tmp_path, tmp_path / "hw2"):
        assert notebook.find(given).resolve() == tmp_path / "hw2.ipynb"
    notebook.start("hw5")
    with pytest.raises(ValueError, match=r"name the notebook; in this folder there are hw2.ipynb, hw5.ipynb"):
        notebook.find(None)
    with pytest.raises(FileNotFoundError, match=r"no notebook hw3.ipynb; in its folder there are hw2.ipynb"):
        notebook.find(Path("hw3"))


def test_what_is_done_is_run_once_more_before_it_is_handed_in(small):
    made = json.loads(small.read_text())
    made["cells"] = made["cells"][:2]  # the imports, and the part that is right
    small.write_text(json.dumps(made))
    assert "run all cells" in notebook.next_step(small)


def test_a_line_of_python_may_begin_with_a_percent_sign():
    source = 'x = (\n    7\n    % 4\n)\ntext = """\n% of all\n"""\nassert (x, text) == (3, "\\n% of all\\n")'
    assert notebook._problem(source, {}, "<cell 0>", 10) == ""
    shell = {"get_ipython": notebook._NoShell}
    assert notebook._problem("%matplotlib inline\nimport os", shell, "<cell 0>", 10) == ""


def test_python_without_asserts_lets_nothing_pass(small):
    lines = [  # in one process: with -O all of torch is compiled anew
        "from vlmcourse.homework.grading import regrade",
        "from vlmcourse.homework.notebook import summary",
        "print(summary(sys.argv[1], seconds=8))",
        "regrade('patchify', lambda images, *, patch_size: images)",
    ]
    command = [sys.executable, "-O", "-c", "\n".join(["import sys", *lines]), str(small)]
    done = subprocess.run(command, env={**os.environ, "PYTHONOPTIMIZE": "1"}, capture_output=True, text=True)
    assert "3 of 12 points" in done.stdout
    assert "AssertionError: patchify is not right yet" in done.stderr


def test_a_cell_that_is_there_twice_counts_once(small):
    content = json.loads(small.read_text())
    content["cells"].insert(2, content["cells"][1])
    small.write_text(json.dumps(content))
    text = notebook.summary(small, seconds=8)
    assert "3 of 12 points" in text
    assert "this cell is here twice: delete one of the two" in text


def test_a_function_or_an_answer_that_is_there_twice_is_told_and_so_is_another_name(tmp_path):
    path = notebook.start("hw1", tmp_path)
    made = nbformat.read(path, as_version=4)
    made.cells = [cell for cell in made.cells if "nbgrader" in cell.metadata]
    nbformat.write(made, path)
    text = notebook.summary(path)
    assert "here twice" not in text
    assert "hand it in as" not in text
    twice = [cell for cell in made.cells if cell.metadata["nbgrader"]["grade_id"] in ("patchify", "by-hand")]
    made.cells += [nbformat.from_dict({**cell, "id": f"copy-of-{cell.id}"}) for cell in twice]
    nbformat.write(made, path.with_name("hw1_dave.ipynb"))
    text = notebook.summary(path.with_name("hw1_dave.ipynb"))
    assert text.count("this cell is here twice: delete one of the two") == 2
    assert "note      hand it in as hw1.ipynb: under another name it is not graded" in text


def test_the_instructors_notebooks_install_from_the_address_that_the_book_has(tmp_path, monkeypatch):
    monkeypatch.setattr(homework, "address_in", lambda _: "https://example.org/a/b")
    monkeypatch.setattr("sys.argv", ["homework", "--instructor", str(tmp_path)])
    assert homework.main() == 0
    for path in SOURCES:
        made = (tmp_path / "source" / path.stem / f"{path.stem}.ipynb").read_text(encoding="utf-8")
        assert "%pip install --quiet git+https://example.org/a/b" in made


def test_a_full_disk_leaves_no_half_of_an_assignment(tmp_path, monkeypatch):
    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(notebook.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space left"):
            notebook.start("hw1", tmp_path)
    assert notebook.start("hw1", tmp_path).stat().st_size > 1000


@pytest.mark.parametrize(
    "source", ["len?", "%matplotlib inline\nx = !true", "get_ipython().run_line_magic('time', '')"]
)
def test_what_only_a_notebook_understands_stops_nothing(source):
    assert notebook._problem(source, {"get_ipython": notebook._NoShell}, "<cell 0>", 10) == ""


def test_a_notebook_that_changes_what_checks_rest_on_gets_no_points(monkeypatch):
    def wrong(images, *, patch_size):
        return 0 * rearrange(images, "b c (nh p) (nw q) -> b (nh nw) (p q c)", p=patch_size, q=patch_size)

    monkeypatch.setattr("vlmcourse.homework.checking._same", lambda *_, **__: True)
    assert CHECKS["patchify"](wrong).passed
    with pytest.raises(AssertionError, match="was changed by this notebook"):
        grading.regrade("patchify", wrong)


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_right_is_graded_as_right(name):
    right = CHECKS[name].task.right
    if CHECKS[name](right):  # some are the library's own function, which a check refuses
        grading.regrade(name, right, seeds=1)
