"""Words of the glossary are links where a chapter or a page first uses them."""

import pytest

from book.tools.glossary import first_uses, link, pages, prose, words_for
from book.tools.normalise import chapters


@pytest.mark.parametrize("path", [*chapters(), *pages()], ids=lambda path: path.stem)
def test_a_page_links_every_word_of_the_glossary_that_it_uses(path):
    _, texts = prose(path)
    words = words_for(path.stem)
    assert len(words) > 40
    assert list(first_uses(texts, words)) == [], "run: python -m book.tools.glossary --write"


WORDS = ["effective receptive field", "receptive field", "patch", "class token", "NT-Xent"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Each patch, and a patch.", "Each {term}`patch`, and a patch."),
        ("All patches.", "All {term}`patches <patch>`."),
        ("Class tokens.", "{term}`Class tokens <class token>`."),
        ("The effective receptive field.", "The {term}`effective receptive field`."),
        ("NT-Xent, not nt-xent.", "{term}`NT-Xent`, not nt-xent."),
        ("# A patch\n\nText, `patch`, $patch$, [a patch](x), {ref}`patch`.", None),
        (
            "(patch)=\n## A patch\n\n| a patch |\n\nOne patch.",
            "(patch)=\n## A patch\n\n| a patch |\n\nOne {term}`patch`.",
        ),
        ("```python\npatch\n```\n\nA patch.", "```python\npatch\n```\n\nA {term}`patch`."),
        ("```{admonition} A patch\nOne patch.\n```", "```{admonition} A patch\nOne {term}`patch`.\n```"),
        (
            "```{admonition} A\nOne.\n```\n\nA patch.\n\n```\nx\n```",
            "```{admonition} A\nOne.\n```\n\nA {term}`patch`.\n\n```\nx\n```",
        ),
        (
            "````{exercise}\n```python\npatch\n```\nA patch.\n````",
            "````{exercise}\n```python\npatch\n```\nA {term}`patch`.\n````",
        ),
        ("{term}`the patches <patch>` and a patch.", None),
        ("Dispatches and patch-wise.", None),
    ],
)
def test_the_first_use_in_running_text_becomes_a_link(before, after):
    (made,) = link([before], WORDS)
    assert made == (before if after is None else after)
    assert first_uses([made], WORDS) == {}


def test_a_link_anywhere_on_the_page_is_enough_and_the_first_cell_gets_it():
    assert link(["A patch.", "A {term}`patch`."], WORDS) == ["A patch.", "A {term}`patch`."]
    assert link(["None.", "A patch.", "A patch."], WORDS) == ["None.", "A {term}`patch`.", "A patch."]
