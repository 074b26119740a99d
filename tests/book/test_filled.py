"""Tables that are filled templates show words as they were measured, whatever Markdown would make of them."""

import doctest
import sys
from html import escape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))
filled = pytest.importorskip("filled", reason="needs the extra [book]")


def test_its_examples_are_true():
    outcome = doctest.testmod(filled)
    assert outcome.attempted >= 1
    assert outcome.failed == 0


@pytest.mark.parametrize(
    "words", ["a | b", "2 * 3 * 4", "x_1 and y_1", "<b> & [c](d)", "`e` \\ {ref}`f`", "$5 or $6", "~ ± 0.1 %"]
)
def test_words_stand_in_a_table_as_they_are(words):
    made = filled.JINJA.from_string("| a |\n|---|\n| {{ words }} |\n").render(words=words)
    shown = MarkdownIt("commonmark").enable("table").render(made)
    assert f"<td>{escape(words, quote=False)}</td>" in shown


def test_what_a_template_says_itself_is_markdown():
    made = filled.JINJA.from_string("**{{ words }}** {{ '*b*'|safe }}").render(words="*a*")
    assert made == r"**\*a\*** *b*"
