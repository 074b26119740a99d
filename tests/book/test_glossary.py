"""Words of the glossary are links where a page first uses them."""

from pathlib import Path

import pytest
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.testing.util import SphinxTestApp

ROOT = Path(__file__).parents[2]
import first_uses  # noqa: E402

WORDS = ["effective receptive field", "receptive field", "patch", "class token", "NT-Xent", "view", "decoder"]


@pytest.fixture
def links(tmp_path):
    """A function that makes a page of a text and returns the words that became links, and what they lead to."""

    def made(text: str, page: str = "book/page") -> list[tuple[str, str]]:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        glossary = "".join(f"{word}\n  A word.\n\n" for word in WORDS)
        (tmp_path / "book").mkdir(exist_ok=True)
        (tmp_path / "book/glossary.md").write_text(f"# Glossary\n\nA patch.\n\n```{{glossary}}\n{glossary}```\n")
        (tmp_path / f"{page}.md").write_text(f"# Page\n\n{text}\n")
        (tmp_path / "conf.py").write_text("extensions = ['myst_parser', 'first_uses']\nroot_doc = 'book/glossary'\n")
        app = SphinxTestApp(srcdir=tmp_path, buildername="dummy", freshenv=True)
        app.build()
        assert "undefined" not in app.warning.getvalue()
        for name in ("book/glossary", page):
            doctree = app.env.get_and_resolve_doctree(name, app.builder)
            assert not list(doctree.findall(pending_xref))
            found = [node for node in doctree.findall(nodes.reference) if "std-term" in str(node)]
        app.cleanup()
        return [(node.astext(), node["refid" if "refid" in node else "refuri"].rpartition("#")[2]) for node in found]

    return made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Each patch, and a patch.", ["patch"]),
        ("All patches, and Class tokens.", ["patches", "Class tokens"]),
        ("The effective receptive field, and a patch of it.", ["effective receptive field", "patch"]),
        ("Not nt-xent, NT-Xent.", ["NT-Xent"]),
        ("## A patch\n\nText, `patch`, *patch*, [a patch](https://example.org).", []),
        ("## A patch\n\n| a patch |\n|---|\n| patch |\n\nOne patch.", ["patch"]),
        ("```python\npatch\n```\n\nA patch.", ["patch"]),
        ("```{admonition} A patch\nOne patch.\n```", ["patch"]),
        ("A patch, and {term}`the patches <patch>`.", ["the patches"]),
        ("Dispatches and patch-wise, in one view.", []),
    ],
)
def test_the_first_use_in_running_text_becomes_a_link(links, text, words):
    found = links(text)
    assert [word for word, _ in found] == words
    assert all(target.startswith("term-") for _, target in found)


def test_a_word_that_means_something_else_on_a_page_is_no_link_there(links):
    assert links("The decoder.", "lectures/02_vision_encoders") == []
    assert links("The decoder.", "lectures/03_other") == [("decoder", "term-decoder")]


def test_every_word_that_is_left_out_is_one_of_the_glossary():
    entries = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8").splitlines()
    assert first_uses.AMBIGUOUS | {word for _, word in first_uses.OTHERWISE} <= {line.lower() for line in entries}
