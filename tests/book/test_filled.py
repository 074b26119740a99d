"""Tables that are filled templates show words as they were measured, whatever Markdown would make of them."""

import json

import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from vlmcourse.course.contestants import BENCHES

filled = pytest.importorskip("filled", reason="needs the extra [book]")
provenance = pytest.importorskip("provenance", reason="needs the extra [book]")


def read(text):
    """Return what a page shows of Markdown: each paragraph, and each cell of a table."""
    shown = BeautifulSoup(MarkdownIt("commonmark").enable("table").render(text), "html.parser")
    return [said.get_text() for said in shown.find_all(["p", "td"])]


@pytest.mark.parametrize(
    "words", ["a | b", "2 * 3 * 4", "x_1 and y_1", "<b> & [c](d)", "`e` \\ {ref}`f`", "$5 or $6", "~ ± 0.1 %"]
)
def test_words_stand_in_a_table_as_they_are(words):
    made = filled.JINJA.from_string("| a |\n|---|\n| {{ words }} |\n").render(words=words)
    assert read(made) == [words]


def test_words_of_several_lines_stand_in_one_cell():
    made = filled.JINJA.from_string("| a |\n|---|\n| {{ words }} |\n").render(words="one\ntwo\r\nthree")
    assert read(made) == ["one two three"]


def test_what_a_template_says_itself_is_markdown():
    made = filled.JINJA.from_string("**{{ words }}** {{ '*b*'|safe }}").render(words="*a*")
    assert made == r"**\*a\*** *b*"


def page(folder, report, *, device):
    """Return what the page shows of a report that lies in ``folder``: each paragraph and each cell of a table."""
    (folder / "book" / "performance").mkdir(parents=True)
    (folder / "book" / "performance" / "cpu.json").write_text(json.dumps(report))

    class Here(provenance.Performance):
        def __init__(self):
            self.options = {"device": device}

        class env:
            srcdir, note_dependency = folder, staticmethod(lambda path: None)

    return read(filled.JINJA.get_template(Here.template).render(Here().words()))


MADE = {"device": "cpu", "cpu": "AVX2", "threads": "2", "torch": "2", "date": "today", "commit": "abc"}


def test_the_page_shows_medians_ratios_aims_absences_and_the_limit(tmp_path):
    one = {"version": "1.0", "median": 0.002, "quartiles": [0.001, 0.003], "memory": 2_000_000}
    other = {"version": None, "median": 0.004, "quartiles": [0.004, 0.005], "memory": None}
    loss = {
        "contestants": {"vlmcourse": one, "plain loop": other}, "absent": {"timm": "not installed: timm"},
        "aims": {"plain loop": 0.6}, "need": {"flops": 3, "bytes": 2}, "rates": {"flops": 1000.0, "bytes": 4000.0},
        "what": "a loss", "load": [0.5, 2],
    }  # fmt: skip
    report = {
        "device": "cpu",
        "small": False,
        "repeats": 20,
        "provenance": MADE,
        "benches": dict.fromkeys(BENCHES, loss),
    }
    where, *cells = page(tmp_path, report, device="cpu")
    made = "Measured on cpu, AVX2, threads: 2, PyTorch 2, 20 repeats; today, abc."
    assert where == f"{made} {len(BENCHES)} of {len(BENCHES)} aims are reached."
    rows = [
        ["vlmcourse 1.0", "2 ms", "1–3 ms", "1.00", "", "2.0 MB"],
        ["plain loop", "4 ms", "4–5 ms", "0.50", "0.6", ""],
        ["timm: not installed: timm", "", "", "", "", ""],
        ["limit of the machine", "3 ms", "", "", "", ""],
    ]
    assert cells == [cell for _ in BENCHES for row in rows for cell in row]


@pytest.mark.parametrize(
    ("small", "device", "shown"),
    [
        (False, "cpu", ["Measured on cpu, AVX2", f"Not measured yet: {', '.join(BENCHES)}."]),
        (True, "cpu", ["Not measured yet."]),  # sizes that only try the program reach no page
        (False, "cuda", ["Not measured yet."]),
    ],
)
def test_what_is_not_measured_is_named_and_sizes_that_only_try_reach_no_page(small, device, shown, tmp_path):
    report = {"device": "cpu", "small": small, "repeats": 20, "provenance": MADE, "benches": {}}
    said = page(tmp_path, report, device=device)
    assert len(said) == len(shown)
    assert all(map(str.startswith, said, shown))


def test_a_chapters_runs_are_one_row_that_names_every_circumstance():
    run = {"threads": 1, "capability": "AVX2", "cpu": "a CPU", "torch": "2", "date": "today", "commit": "abc"}
    runs = [run | {"seed": 101, "seconds": 16.4}, run | {"seed": 102, "seconds": 30.6, "threads": 2}]
    result = {"chapter": "04_probe", "profile": "quick", "claims": [{}], "runs": runs}
    result |= {"values": {"a": [1, 2], "b": [3, 4]}}
    text = filled.JINJA.get_template("runs.md").render(results=[result], each=provenance.each)
    assert read(text) == [
        "04_probe",
        "2 numbers, 1 of them claims",
        "quick profile; seeds 101 to 102; threads 1, 2; instructions AVX2; 16 to 31 s",
        "a CPU, PyTorch 2; today, abc",
    ]
