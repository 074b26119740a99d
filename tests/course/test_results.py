"""Results: complete or absent, with their provenance, and readable by the book."""

import json
import math
import os
import subprocess

import nbformat
import pytest
from nbclient import NotebookClient

from vlmcourse import load_result, record_result
from vlmcourse.course import results

MEASURED = {"unit": "accuracy, fraction", "data": "scenes", "seeds": [0, 1, 2], "seconds": 12.34}


def test_a_result_comes_back_with_mean_spread_and_provenance(tmp_path):
    record_result("probe", [0.8, 0.9, 1.0], **MEASURED, root=tmp_path, curve=[3.0, 2.0])
    result = load_result("probe", root=tmp_path)
    assert result["mean"] == pytest.approx(0.9)
    assert result["spread"] == pytest.approx(0.1)  # divided by n - 1
    assert (result["values"], result["seeds"], result["curve"]) == ([0.8, 0.9, 1.0], [0, 1, 2], [3.0, 2.0])
    assert {"profile", "device", "torch", "commit", "date"} <= set(result["provenance"])


def test_a_single_seed_has_no_spread(tmp_path):
    record_result("probe", [0.8], **{**MEASURED, "seeds": [0]}, root=tmp_path)
    assert load_result("probe", root=tmp_path)["spread"] is None


def test_what_was_not_measured_is_none(tmp_path):
    assert load_result("gpu_run", root=tmp_path) is None


def test_away_from_a_checkout_a_result_is_found_among_those_of_the_package(tmp_path, monkeypatch):
    package, elsewhere = tmp_path / "site-packages" / "vlmcourse", tmp_path / "homework"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(results.vlmcourse, "__file__", str(package / "__init__.py"))
    record_result("probe", [0.5, 0.5, 0.5], **MEASURED, root=package / "results")
    assert load_result("probe")["mean"] == 0.5
    record_result("probe", [0.9, 0.9, 0.9], **MEASURED)  # a result of one's own comes first
    assert (elsewhere / "results" / "probe.json").is_file()
    assert load_result("probe")["mean"] == 0.9


def test_a_failed_write_leaves_the_earlier_result(tmp_path, monkeypatch):
    record_result("probe", [0.8, 0.9, 1.0], **MEASURED, root=tmp_path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        record_result("probe", [0.1, 0.1, 0.1], **MEASURED, root=tmp_path)
    monkeypatch.undo()
    assert load_result("probe", root=tmp_path)["values"] == [0.8, 0.9, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        ([], {"seeds": []}, "values must hold one number for each of 0 seeds"),
        ([0.5], {}, "each of 3 seeds, received 1"),
        ([0.5, math.nan, 0.5], {}, "values must be finite"),
        ([0.5, 0.5, 0.5], {"data": ""}, "data and unit must say"),
        ([0.5, 0.5, 0.5], {"unit": ""}, "data and unit must say"),
    ],
)
def test_bad_results_are_refused(tmp_path, values, changes, message):
    with pytest.raises(ValueError, match=message):
        record_result("probe", values, **{**MEASURED, **changes}, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_details_that_are_not_json_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(TypeError):
        record_result("probe", [0.5, 0.5, 0.5], **MEASURED, root=tmp_path, model=object())
    assert not list(tmp_path.iterdir())


def test_files_are_stable_json(tmp_path):
    path = record_result("probe", [0.8, 0.9, 1.0], **MEASURED, root=tmp_path)
    assert path.read_text().endswith("}\n")
    assert json.loads(path.read_text())["name"] == "probe"


@pytest.mark.slow
def test_glue_stores_the_value_where_the_page_looks_and_shows_nothing():
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("from vlmcourse import glue\nglue('answer', '88 %')")]
    )
    NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.metadata["scrapbook"]["name"] == "answer"
    assert list(output.data) == ["application/papermill.record/text/plain"]
    assert output.data["application/papermill.record/text/plain"] == "'88 %'"


def test_a_tree_that_differs_says_so_apart_from_the_file_that_is_written(monkeypatch, tmp_path):
    def git(*command):
        settings = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *settings, *command], cwd=tmp_path, check=True, capture_output=True)

    for name in ("code.py", "report.json"):
        (tmp_path / name).write_text("old")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    monkeypatch.setattr(results.vlmcourse, "__file__", str(tmp_path / "__init__.py"))
    clean = results.provenance()["commit"]
    assert len(clean) == 12
    (tmp_path / "report.json").write_text("new")
    assert results.provenance(apart_from=tmp_path / "report.json")["commit"] == clean
    assert results.provenance()["commit"] == f"{clean}-dirty"
    (tmp_path / "code.py").write_text("new")
    elsewhere = tmp_path.parent / "report.json"
    for path in (tmp_path / "report.json", elsewhere):
        assert results.provenance(apart_from=path)["commit"] == f"{clean}-dirty"
