"""Claims on the pages: each is a sentence in a list, and no line that a chapter printed is cut at the column's edge."""

from pathlib import Path

import pytest
from browsers import unavailable
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

from vlmcourse.course.chapter import Claim

ROOT = Path(__file__).parents[2]
verdicts = pytest.importorskip("verdicts", reason="needs the extra [book]")

HELD = Claim("two (of three) hold", "S07", 0.9, (0.8, 0.95), 0.5, None, "fraction")
FAILED = Claim("it falls", None, 3.0, (), None, 1.0, "")
MISSED_BY_LITTLE = Claim("seven in ten are right", "S07", 0.68, (0.8, 0.9), 0.7, None, "fraction")
NOT_RUN_HERE = Claim("it rises", None, None, (2.0, 2.5), 1.0, None, "")
UNKNOWN = Claim("it stays", None, None, (), 1.0, 2.0, "")


def page(printed: str, *kinds: str) -> nodes.document:
    """Return a page with one text output, after the transform."""
    document = new_document("page")
    document += nodes.literal_block(printed, printed, classes=["output", *kinds])
    verdicts.Verdicts(document).run()
    return document


@pytest.mark.parametrize(
    ("claim", "looks"),
    [(HELD, "holds"), (MISSED_BY_LITTLE, "holds"), (FAILED, "fails"), (NOT_RUN_HERE, "holds"), (UNKNOWN, "open")],
)
def test_every_form_in_which_a_claim_is_printed_is_known(claim, looks):
    (item,) = page(str(claim), "stream").findall(nodes.list_item)
    sentence, evidence = item.findall(nodes.paragraph)
    assert item["classes"] == [looks]
    assert sentence.astext().endswith(f": {claim.text}")
    assert evidence.astext().startswith("expected" if claim.value is None else "measured")
    assert f"{sentence.astext()} ({evidence.astext()})" == str(claim)


def test_what_is_printed_between_claims_stays_in_its_place():
    shown = page(f"before\n  indented\n{HELD}\n{FAILED}\n\nafter", "stream").children
    assert [type(part) for part in shown] == [nodes.literal_block, nodes.bullet_list, nodes.literal_block]
    assert shown[0].astext() == "before\n  indented"
    assert len(shown[1]) == 2
    assert page(str(HELD), "stream").children[0]["classes"] == ["output", "verdicts"]
    assert shown[2].astext().strip() == "after"


@pytest.mark.parametrize("said", ["Holds up well: a lens (measured on paper)", "Holds, mostly: it is (measured 2.0)"])
def test_a_line_that_only_resembles_a_claim_is_left_as_it_is(said):
    assert [type(part) for part in page(said, "stream").children] == [nodes.literal_block]


def test_long_lines_wrap_and_tables_of_a_columns_width_do_not():
    for width, wraps in ((verdicts.LINE, False), (verdicts.LINE + 1, True)):
        (block,) = page(f"{'x' * width}\nshort", "text_plain").children
        assert ("wraps" in block["classes"]) is wraps


def test_errors_and_code_are_left_alone():
    assert isinstance(page(str(HELD), "traceback").children[0], nodes.literal_block)
    document = new_document("page")
    document += nodes.literal_block(str(HELD), str(HELD))
    verdicts.Verdicts(document).run()
    assert isinstance(document.children[0], nodes.literal_block)


def test_no_printed_line_of_a_chapter_is_cut():
    pages = sorted((ROOT / "_build" / "html" / "lectures").glob("*.html"))
    if not pages:
        unavailable("there is no built book; run: make book")
    cut, lists = [], 0
    for file in pages:
        soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        lists += len(soup.select("ul.verdicts"))
        for block in soup.select(".cell_output .output:not(.wraps, .traceback) pre"):
            cut += [f"{file.stem}: {line}" for line in block.get_text().splitlines() if len(line) > verdicts.LINE]
    assert cut == []
    assert lists > 10
