"""The committed form of notebooks: executing again changes nothing, and nothing of the author's is lost."""

import base64
import copy
import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from book.tools import normalize as tool
from book.tools import refresh as refreshing
from book.tools.execute import ChapterError
from book.tools.refresh import keep_volatile_outputs, refresh


def messy_notebook(root: Path) -> nbformat.NotebookNode:
    """Return a notebook with everything that a session in an editor leaves behind."""
    glued = new_output(
        "display_data", {"text/plain": "0.5"}, metadata={"scrapbook": {"mime_prefix": "", "name": "acc"}}
    )
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("   "),
        new_code_cell(
            "print('a'); 1",
            execution_count=17,
            metadata={
                "tags": ["nbval-check-output"],
                "mystnb": {"image": {"alt": "a plot"}},
                "execution": {"iopub.execute_input": "2026-01-01"},
                "scrolled": True,
            },
            outputs=[
                new_output("stream", name="stdout", text="a\n"),
                new_output("stream", name="stderr", text="UserWarning: beware\n"),
                new_output("stream", name="stdout", text=f"read {root}/lectures/x.png\n"),
                new_output("execute_result", {"text/plain": "<Line at 0x7f3aa0c1d2e0>"}, execution_count=17),
                glued,
            ],
        ),
        new_code_cell("1", execution_count=None),
        new_code_cell("1", execution_count=3),
    ]
    metadata = {
        "kernelspec": {"name": "conda-env-mine", "display_name": "mine"},
        "language_info": {"name": "python", "version": "3.12.9"},
        "widgets": {"state": {}},
        "mystnb": {"execution_timeout": 60},
    }
    return new_notebook(cells=cells, metadata=metadata)


@pytest.fixture
def normalized(tmp_path: Path) -> nbformat.NotebookNode:
    return tool.normalize(messy_notebook(tmp_path), root=tmp_path)


def test_normalizing_twice_is_normalizing_once(tmp_path, normalized):
    once = tool.text_of(normalized)
    path = tmp_path / "x.ipynb"
    path.write_text(once)
    assert tool.text_of(tool.normalize(tool.read(path), root=tmp_path)) == once


def test_what_the_author_wrote_is_kept(normalized):
    cell = normalized.cells[2]
    assert cell.metadata == {"tags": ["nbval-check-output"], "mystnb": {"image": {"alt": "a plot"}}}
    assert normalized.metadata.mystnb == {"execution_timeout": 60}
    assert [c.source for c in normalized.cells] == ["# Title", "   ", "print('a'); 1", "1", "1"]


def test_glued_values_keep_the_metadata_that_names_them(normalized):
    assert normalized.cells[2].outputs[-1].metadata == {"scrapbook": {"mime_prefix": "", "name": "acc"}}


def test_streams_are_joined_across_dropped_stderr(normalized):
    outputs = normalized.cells[2].outputs
    assert [output.output_type for output in outputs] == ["stream", "execute_result", "display_data"]
    assert outputs[0].text == "a\nread lectures/x.png\n"


def test_memory_addresses_are_all_the_same(normalized):
    assert normalized.cells[2].outputs[1].data["text/plain"] == "<Line at 0x000000>"


def test_code_cells_are_numbered_in_order_and_results_with_them(normalized):
    assert [c.execution_count for c in normalized.cells if c.cell_type == "code"] == [None, 1, 2, 3]
    assert normalized.cells[2].outputs[1].execution_count == 1


def test_a_notebook_that_was_never_executed_stays_so():
    nb = tool.normalize(new_notebook(cells=[new_code_cell("1"), new_code_cell("2")]))
    assert [cell.execution_count for cell in nb.cells] == [None, None]


def test_kernel_metadata_does_not_depend_on_the_machine(normalized):
    assert normalized.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert "version" not in normalized.metadata.language_info
    assert "widgets" not in normalized.metadata


def test_ids_depend_on_the_content_only_and_equal_cells_get_different_ones(tmp_path, normalized):
    ids = [cell.id for cell in normalized.cells]
    assert len(set(ids)) == len(ids)
    other = messy_notebook(tmp_path)  # nbformat drew new random ids
    other.cells.insert(0, new_markdown_cell("an introduction"))
    assert [cell.id for cell in tool.normalize(other).cells][1:] == ids


def test_a_progress_bar_written_over_itself_leaves_its_last_state():
    assert tool.overwrite_lines("start\n 10%\r 50%\r100%\nend\r\n") == "start\n100%\nend\n"


def printing(*pieces: str) -> nbformat.NotebookNode:
    outputs = [new_output("stream", name="stdout", text=piece) for piece in pieces]
    return new_notebook(cells=[new_code_cell("1", outputs=outputs)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "pieces",
    [["x" * 1_000_000 + "\n"] * 100, ["x" * 10_000_000], ["x\r" * 1_000_000], ["\r" * 5_000_000], ["x" * 100] * 5_000],
    ids=["lines", "one line", "a progress bar", "returns", "pieces"],
)
def test_output_without_end_is_cut_in_seconds_with_a_line_that_says_so(pieces):
    nb = printing(*pieces)
    began = time.monotonic()
    tool.normalize(nb)
    assert time.monotonic() - began < 10
    text = "".join(output.text for output in nb.cells[0].outputs)
    whole = "".join(pieces)
    if "\r" in whole:
        assert text in ("x", "")
    else:
        shown = text.partition("\n[")[0].removesuffix("\n")
        assert whole.startswith(shown)
        assert len(text) <= tool.TEXT_LIMIT
        assert f"[{len(whole) - len(shown):,} more characters are cut here]" in text
    assert tool.text_of(tool.normalize(copy.deepcopy(nb))) == tool.text_of(nb)


def test_the_text_of_an_endless_error_is_cut_too():
    error = new_output("error", ename="ValueError", evalue="x" * 10**6, traceback=["a", "x" * 10**6])
    (output,) = tool.normalize(new_notebook(cells=[new_code_cell("1", outputs=[error])])).cells[0].outputs
    assert len(output.evalue) <= tool.TEXT_LIMIT
    assert len("\n".join(output.traceback)) <= tool.TEXT_LIMIT


@pytest.mark.parametrize("prefix", ["{root}/", "~/course/"])
def test_tracebacks_name_files_from_the_repository_down(prefix, monkeypatch, tmp_path):
    root = tmp_path / "course"
    monkeypatch.setenv("HOME", str(tmp_path))
    line = "File \x1b[32m" + prefix.format(root=root) + "vlmcourse/ops/patches.py:31\x1b[39m"
    error = new_output("error", ename="ValueError", evalue="no", traceback=[line])
    nb = tool.normalize(new_notebook(cells=[new_code_cell("1/0", outputs=[error])]), root=root)
    assert nb.cells[0].outputs[0].traceback == ["File \x1b[32mvlmcourse/ops/patches.py:31\x1b[39m"]


def test_check_names_the_notebook_fails_and_changes_nothing(tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    nbformat.write(messy_notebook(tmp_path), path)
    before = path.read_bytes()
    assert tool.main(["--check", str(path)]) == 1
    assert str(path) in capsys.readouterr().out
    assert path.read_bytes() == before
    assert tool.main([str(path)]) == 0
    assert tool.main(["--check", str(path)]) == 0


def test_a_volatile_cell_keeps_its_outputs_only_while_its_source_is_the_same():
    def timing(source: str, printed: str) -> nbformat.NotebookNode:
        output = new_output("stream", name="stdout", text=printed)
        return new_notebook(cells=[new_code_cell(source, metadata={"tags": ["volatile"]}, outputs=[output])])

    stored = keep_volatile_outputs(timing("measure(3)", "1.2 s"), timing("measure(3)", "nobody knows what made this"))
    assert stored.cells[0].outputs[0].text == "1.2 s"
    same = keep_volatile_outputs(timing("measure(3)", "9.9 s"), stored)
    assert same.cells[0].outputs[0].text == "1.2 s"
    stored.cells[0].source = "measure(5)"  # edited: what is stored was made by another source
    edited = keep_volatile_outputs(timing("measure(5)", "9.9 s"), stored)
    assert edited.cells[0].outputs[0].text == "9.9 s"


CHAPTER = [
    "import os, sys, time, random\nimport numpy as np\nimport matplotlib.pyplot as plt",
    "rng = np.random.default_rng(0)\nprint(rng.normal(size=3), file=sys.stdout)\nprint('a warning', file=sys.stderr)",
    "plt.figure(figsize=(1, 1))\nplt.plot(rng.normal(size=7))",
    "object()",
    "print(hash('strings hash the same'), set('abcdefg'))",
    "print(os.environ['VLMCOURSE_PROFILE'], os.environ['VLMCOURSE_DEVICE'], os.path.abspath('figure.png'))",
]


def chapter(path: Path, *sources: str, volatile: str = "print(time.time())") -> Path:
    cells = [new_code_cell(source) for source in sources]
    cells.append(new_code_cell(volatile, metadata={"tags": ["volatile"]}))
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.mark.slow
def test_executing_a_committed_chapter_again_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMCOURSE_PROFILE", "full")  # what the author happens to have set does not count
    path = chapter(tmp_path / "01_x.ipynb", *CHAPTER)
    assert refresh(path, root=tmp_path)
    first = path.read_bytes()
    assert b"image/png" in first
    assert b"quick cpu figure.png" in first
    assert not refresh(path, root=tmp_path)
    assert path.read_bytes() == first
    assert tool.main(["--check", str(path)]) == 0
    edited = nbformat.read(path, 4)
    edited.cells[-1].source = "print('another time')"
    nbformat.write(edited, path)
    assert refresh(path, root=tmp_path)
    assert "another time" in str(nbformat.read(path, 4).cells[-1].outputs)


@pytest.mark.slow
def test_a_chapter_that_fails_is_left_as_it_was(tmp_path):
    path = chapter(tmp_path / "01_x.ipynb", "1 + 1", "raise RuntimeError('out of paint')")
    before = path.read_bytes()
    with pytest.raises(ChapterError, match=r"cell 2 of 3 failed(.|\n)*out of paint"):
        refresh(path, root=tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("state", "told"), [("stale: its code has changed", True), ("up to date", False)])
def test_recorded_runs_of_other_code_are_told(monkeypatch, capsys, state, told):
    monkeypatch.setattr(refreshing, "refresh", lambda path: True)
    monkeypatch.setattr(refreshing, "Result", lambda name: SimpleNamespace(state=state))
    assert refreshing.main(["07_self_attention"]) == 0
    assert ("commit, then: make results CHAPTERS=07_self_attention" in capsys.readouterr().out) == told


def test_reading_does_not_change_what_was_read(tmp_path):
    nb = messy_notebook(tmp_path)
    untouched = copy.deepcopy(nb)
    tool.text_of(nb)
    assert nb == untouched


def as_png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_is_stored_in_256_colours_once_and_a_transparent_one_as_it_is():
    noise = Image.effect_noise((120, 90), 60).convert("RGB")
    photo = as_png(Image.merge("RGB", [noise.getchannel(0), noise.getchannel(1).rotate(90), noise.getchannel(2)]))
    light = tool.lightened(photo)
    assert len(light) < len(photo) / 2
    assert tool.lightened(light) == light
    shown = Image.open(io.BytesIO(base64.b64decode(light)))
    assert (shown.mode, shown.size) == ("P", (120, 90))
    see_through = as_png(noise.convert("RGBA").point(lambda value: value // 2))
    assert tool.lightened(see_through) == see_through


def test_a_file_is_rewritten_or_only_named(tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_text("old")
    assert tool.rewrite({file: "new"}, check=True, hint="is old") == 1
    assert (file.read_text(), "is old" in capsys.readouterr().out) == ("old", True)
    assert tool.rewrite({file: "new"}) == 0
    assert (file.read_text(), "written" in capsys.readouterr().out) == ("new", True)
    assert tool.rewrite({file: "new"}, check=True) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(os.name == "nt", reason="links and modes as Unix has them")
def test_a_rewritten_file_keeps_its_mode_and_what_links_to_it_stays_a_link(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "link.txt"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    assert tool.rewrite({link: "new"}) == 0
    assert (link.is_symlink(), file.read_text(), file.stat().st_mode & 0o777) == (True, "new", 0o640)
