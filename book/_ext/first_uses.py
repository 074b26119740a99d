"""Words of the glossary are links where a page first uses them in its running text.

A page whose author links a word gets no other link to it. Where a word means something else, it is listed here.
"""

import re
from collections import defaultdict

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

PAGES = re.compile(r"lectures/|book/(?!glossary)[^/]+$")
# Words that often mean something else than their entry says; a link is the author's to set.
AMBIGUOUS = {"positive", "negative", "view", "clip", "alignment", "uniformity", "fused", "shortcut", "connector"}
AMBIGUOUS |= {"control"}
# Pages that use a word in another sense throughout: a verb, the encoder of a translation network.
OTHERWISE = {
    ("lectures/02_vision_encoders", "decoder"),
    ("lectures/06_convolution_to_vit", "embedding"),
    ("lectures/09_language_model", "encoder"),
}
# What is no running text, or a link already.
CLOSED = (nodes.title, nodes.rubric, nodes.emphasis, nodes.strong, nodes.literal, nodes.FixedTextElement, nodes.raw)
CLOSED += (nodes.math, nodes.math_block, nodes.table, nodes.reference, pending_xref, nodes.Invisible, nodes.citation)


def pattern(word: str) -> re.Pattern[str]:
    """Return what finds a word, in the plural too; capitals as in the entry where it has any."""
    flags = re.IGNORECASE if word == word.lower() else 0
    plural = "(?:es)?" if word.endswith(("s", "ch", "x")) else "s?"
    return re.compile(rf"(?<![\w-]){re.escape(word).replace(chr(92) + ' ', r'[ -]')}{plural}(?![\w-])", flags)


def is_open(text: nodes.Node) -> bool:
    """Whether a text is running text of a page."""
    parent = text.parent
    while parent is not None:
        if isinstance(parent, CLOSED) or {"cell", "sd-card"} & set(parent.get("classes", [])):
            return False
        parent = parent.parent
    return True


class FirstUses(SphinxPostTransform):
    """Puts the links into one page."""

    default_priority = 5  # before links find what they lead to

    def run(self) -> None:
        """Look for the longest words first: "receptive field" is no use of "field"."""
        page = self.env.docname
        if not PAGES.match(page):
            return
        links = [link for link in self.document.findall(pending_xref) if link["reftype"] == "term"]
        done = AMBIGUOUS | {word for where, word in OTHERWISE if where == page}
        done |= {link["reftarget"].lower() for link in links}
        texts = [text for text in self.document.findall(nodes.Text) if is_open(text)]
        left = list(map(str, texts))  # with blanks for the uses of words that have been looked for
        found: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
        terms = [name for kind, name in self.env.get_domain("std").objects if kind == "term"]
        for word in sorted(terms, key=len, reverse=True):
            uses = [(number, match.span()) for number, t in enumerate(left) for match in pattern(word).finditer(t)]
            if uses and word.lower() not in done:
                found[uses[0][0]].append((*uses[0][1], word))
            left = [pattern(word).sub(lambda use: "\0" * len(use[0]), text) for text in left]
        for number, words in found.items():
            text, pieces, end = texts[number], list[nodes.Node](), 0
            for start, stop, word in sorted(words):
                target = {"refdomain": "std", "reftype": "term", "reftarget": word, "refexplicit": True}
                used = nodes.inline("", text[start:stop], classes=["xref", "std", "std-term"])
                pieces += [nodes.Text(text[end:start]), pending_xref("", used, refdoc=page, refwarn=True, **target)]
                end = stop
            text.parent.replace(text, [*pieces, nodes.Text(text[end:])])


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_post_transform(FirstUses)
