"""Recorded results: ten runs that differ, resumed where they stopped, kept while the code gives the same numbers."""

import ast
import json
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.tools import results as tool
from book.tools.execute import ChapterError
from book.tools.fingerprint import made_from, significant, used_modules

MEASURE = "x = 0.5 + chapter.seed / 1000\nchapter.measure('x', x)\nchapter.measure('curve', [x, 2 * x]);"
CLAIM = "chapter.claim('x is large', x, above=0.4, slide='S07')"


class Project:
    """A checkout with one chapter, which needs no training, and three modules of a package."""

    def __init__(self, root) -> None:
        self.root = root
        self.write(
            "vlmcourse/ops/area.py", '"""Areas."""\n\n\ndef area(a: int, b: int) -> int:\n    return a * b  # of\n'
        )
        self.write("vlmcourse/train/loop.py", "from vlmcourse.ops.area import area\n")
        self.write("vlmcourse/ops/unused.py", "x = 1\n")
        self.chapter(MEASURE, CLAIM)

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def chapter(self, *sources: str, exercise: str = "1 / 0", figure: str = "1 / 0") -> None:
        first = "from vlmcourse import Chapter, fit\nchapter = Chapter('01_alpha')"
        cells = [new_code_cell(source) for source in (first, *sources)]
        cells += [new_code_cell(figure, metadata={"tags": ["figure"]}), new_markdown_cell("## Exercises")]
        (self.root / "lectures").mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=[*cells, new_code_cell(exercise)]), self.root / "lectures" / "01_alpha.ipynb")

    @property
    def hash(self) -> str:
        return made_from(self.root / "lectures" / "01_alpha.ipynb", "quick", root=self.root)

    def commit(self) -> None:
        git = ["git", "-C", str(self.root), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for arguments in (
            ["init", "-q"],
            ["add", "lectures", "vlmcourse"],
            ["commit", "-q", "--allow-empty", "-m", "x"],
        ):
            subprocess.run([*git, *arguments], check=True)

    def update(self) -> str:
        return tool.bring_up_to_date(tool.Result("01_alpha", root=self.root))

    @property
    def result(self) -> dict:
        return json.loads((self.root / "book/results/01_alpha_quick.json").read_text())


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of which three runs are asked instead of ten: two alike but for the seed, one with two threads."""
    first, second, third, *_ = tool.conditions()
    monkeypatch.setattr(tool, "conditions", lambda: [first, second, third])
    return Project(tmp_path)


def test_the_ten_runs_differ_in_seed_threads_and_cpu():
    runs = tool.conditions()
    assert [run.seed for run in runs] == list(range(101, 111))
    own, less = runs[0].capability, runs[1].capability
    assert own != less
    counted = {(run.threads, run.capability): 0 for run in runs}
    for run in runs:
        counted[run.threads, run.capability] += 1
    assert counted == {(1, own): 4, (2, own): 2, (1, less): 2, (2, less): 2}
    assert len({(run.threads, run.capability) for run in runs[:4]}) == 4


@pytest.mark.slow
def test_a_result_holds_every_run_in_order_and_what_it_was_made_from(project):
    project.commit()
    assert project.update().startswith("measured anew")
    result = project.result
    assert result["made_from"] == project.hash
    assert [run["seed"] for run in result["runs"]] == [101, 102, 103]
    assert [run["threads"] for run in result["runs"]] == [1, 1, 2]
    assert result["values"]["x"] == result["values"]["x is large"] == [0.601, 0.602, 0.603]
    assert result["values"]["curve"][2] == [0.603, 1.206]
    assert result["claims"] == [{"text": "x is large", "slide": "S07", "above": 0.4, "below": None, "unit": ""}]
    assert {"cpu", "torch", "python", "date", "seconds", "capability"} <= set(result["runs"][0])
    head = subprocess.run(["git", "-C", project.root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert all(head.startswith(run["commit"]) for run in result["runs"])
    assert project.update() == "up to date"


@pytest.mark.slow
def test_a_call_that_was_stopped_goes_on_where_it_was(project):
    project.commit()
    result = tool.Result("01_alpha", root=project.root)
    result.run(tool.conditions()[1])
    (kept,) = result.runs.glob("*.json")
    before = kept.stat().st_mtime_ns
    result.deadline = 0.0
    assert tool.bring_up_to_date(result) == "1 of 3 runs are done; call again to go on"
    assert project.update().startswith("measured anew")
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_stale_result_stands_where_one_run_gives_every_number_again_and_else_is_measured_anew(project, monkeypatch):
    two = tool.conditions()[:2]
    monkeypatch.setattr(tool, "conditions", lambda: two)
    project.commit()
    project.update()
    runs = project.result["runs"]
    better = CLAIM.replace("is large", "is not small").replace("0.4", "0.3")
    project.chapter(MEASURE.replace("0.5 +", "0.25 + 0.25 +"), better)
    assert tool.Result("01_alpha", root=project.root).state.startswith("stale")
    project.commit()
    assert "recorded runs stand" in project.update()
    assert project.result["made_from"] == project.hash
    assert project.result["runs"] == runs
    assert project.result["values"]["x is not small"] == [0.601, 0.602]
    assert project.result["claims"][0]["above"] == 0.3
    project.chapter(MEASURE.replace("0.5 +", "0.6 +"), better)
    project.commit()
    assert project.update().startswith("measured anew")
    assert project.result["values"]["x"] == [0.701, 0.702]


def test_files_that_differ_from_the_commit_are_refused_before_anything_runs(project):
    project.commit()
    project.write("vlmcourse/ops/unused.py", "x = 2\n")  # does not concern the chapter
    project.write("vlmcourse/ops/area.py", "def area(a, b):\n    return b + a\n")
    with pytest.raises(ChapterError, match=r"commit first:(.|\n)*area\.py") as error:
        project.update()
    assert "unused" not in str(error.value)


@pytest.mark.slow
def test_a_pilot_shows_what_claims_clear_and_records_nothing(project):
    said = tool.pilot(tool.Result("01_alpha", root=project.root), 2)
    assert "2 of 2 runs" in said
    assert "x: 0.60 ± 0.00" in said
    assert "x is large (expected above 0.40, recorded 0.60 to 0.60 in 2 runs): clear by 285.0 spreads" in said
    assert not (project.root / "book").exists()


@pytest.mark.slow
def test_a_cell_that_raises_is_named_with_its_run(project):
    project.chapter(MEASURE, "if chapter.seed == 102: raise ValueError('no paint')")
    with pytest.raises(ChapterError, match=r"seed 102(.|\n)*no paint"):
        tool.pilot(tool.Result("01_alpha", root=project.root), 2)


def test_a_name_that_one_run_lacks_is_an_error_that_names_it():
    runs = [{"seed": 101, "units": {"x": "", "y": ""}, "values": {"x": 1, "y": 2}}]
    runs.append({"seed": 102, "units": {"x": "", "y": ""}, "values": {"x": 1}})
    with pytest.raises(ChapterError, match=r"seed 102 has no value for 'y'"):
        tool.merged(runs)


def test_names_may_change_only_where_the_numbers_stay_in_their_places():
    assert tool.renamed({"a": 1.0, "b": 1.0}, {"b": 1.0, "a": 1.0}) == {"a": "a", "b": "b"}
    assert tool.renamed({"a": 1.0, "b": 1.0}, {"a": 1.0, "better": 1.0}) == {"a": "a", "b": "better"}
    assert tool.renamed({"a": 1.0, "b": 1.0}, {"b": 1.0, "c": 1.0}) is None  # was a renamed, or b?
    assert tool.renamed({"a": 1.0}, {"a": 1.00001}) is None
    assert tool.renamed({"a": 1.0}, {"a": 1.0, "b": 2.0}) is None


def test_results_are_written_a_run_to_a_line():
    text = tool.as_text({"runs": [{"seed": 1}, {"seed": 2}], "values": {"x": [1, 2], "curve": [[1, 2], [3, 4]]}})
    assert json.loads(text)["values"]["curve"] == [[1, 2], [3, 4]]
    assert '{ "seed": 1 },\n' in text
    assert '"x": [ 1, 2 ],\n' in text
    assert "[ 1, 2 ],\n" in text


# --- what a hash depends on ---------------------------------------------------------------------------------


def test_formatting_comments_docstrings_and_annotations_do_not_count():
    plain = "def f(a, b=1):\n    x = a + b\n    return x\n"
    dressed = '"""Module."""\ndef f(a: int, b: float = 1) -> float:\n    """Add."""\n'
    dressed += "    x = (a +\n         b)  # why\n    return x\n"
    assert significant(ast.parse(plain)) == significant(ast.parse(dressed))
    assert significant(ast.parse(plain)) != significant(ast.parse(plain.replace("b=1", "b=2")))


def test_of_a_guarded_import_only_the_import_counts():
    guarded = "try:\n    {}\nexcept {}:\n    {}\nx = 1\n"
    plain = significant(ast.parse("import torch\nx = 1\n"))
    for what_to_do in ("raise ImportError('pip install .')", "install()\n    import torch"):
        text = guarded.format("import torch", "ModuleNotFoundError", what_to_do)
        assert significant(ast.parse(text)) == plain
    for body, caught in (
        ("import numpy", "ModuleNotFoundError"),
        ("import torch", "ValueError"),
        ("x = torch.rand(1)", "ModuleNotFoundError"),
    ):
        assert significant(ast.parse(guarded.format(body, caught, "y = 2"))) != plain
    text = guarded.format("x = f()", "ModuleNotFoundError", "x = 2")  # the handler may decide what is measured
    assert significant(ast.parse(text)) != significant(ast.parse(text.replace("x = 2", "x = 3")))


def test_only_what_a_chapter_measures_and_uses_counts(project):
    before = project.hash
    project.chapter(MEASURE, CLAIM, exercise="2 / 0", figure="2 / 0")
    project.write("vlmcourse/ops/unused.py", "x = 2\n")
    project.write("vlmcourse/ops/area.py", "def area(a, b):\n    return a * b\n")
    assert project.hash == before
    project.write("vlmcourse/ops/area.py", "def area(a, b):\n    return b * a\n")  # reached through train.loop
    assert project.hash != before
    assert made_from(project.root / "lectures/01_alpha.ipynb", "full", root=project.root) != project.hash
    project.write("vlmcourse/ops/area.py", "from vlmcourse._precision import widened\n")
    project.write("vlmcourse/_precision.py", "def widened(x):\n    return x\n")
    before = project.hash
    project.write("vlmcourse/_precision.py", "def widened(x):\n    return 2 * x\n")  # what all rooms share counts too
    assert project.hash != before


@pytest.mark.parametrize(
    "code",
    [
        "from vlmcourse import fit",
        "import vlmcourse\nvlmcourse.fit",
        "import vlmcourse.train.loop",
        "from vlmcourse.train import loop as l",
        "def later():\n    from vlmcourse.train.loop import fit",
    ],
)
def test_every_way_to_import_a_module_is_found(project, code):
    assert set(used_modules(ast.parse(code), project.root)) >= {"vlmcourse.train.loop", "vlmcourse.ops.area"}
