"""Directives that are templates: Markdown in the folder templates, with blanks for what was measured."""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sphinx.util.docutils import SphinxDirective

MARKS = re.compile(r"([!-/:-@\[-`{-~])")


def as_it_is(words: Any) -> str:
    r"""Return Markdown that shows words as they are; what a template calls ``safe`` is Markdown already.

    >>> as_it_is("2 * 3 | 4"), as_it_is(Markup("*2*"))
    ('2 \\* 3 \\| 4', Markup('*2*'))
    """
    return words if isinstance(words, Markup) else MARKS.sub(r"\\\1", " ".join(str(words).split()))


JINJA = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    finalize=as_it_is,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Filled(SphinxDirective):
    """What stands in the page is a template; a directive says which one, and gives its ``words`` as a dictionary."""

    template = ""

    def run(self) -> list[nodes.Node]:
        """Read the filled template as a part of the page."""
        return self.parse_text_to_nodes(JINJA.get_template(self.template).render(self.words()))

    def files(self, folder: str) -> dict[str, dict[str, Any]]:
        """Return the content of each file of JSON in a folder of the staged book or beside it, by its name."""
        paths = sorted((Path(self.env.srcdir) / folder).glob("*.json"))
        for path in paths:
            self.env.note_dependency(str(path))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
