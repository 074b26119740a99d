"""Finding things: search results that lead to a section, an index of figures, exercises numbered by chapter."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util.docutils import SphinxDirective

SECTIONS = "search_sections_data.js"
CHAPTER = re.compile(r"lectures/(?:0*(\d+)_|(errata)$)")
NOT_TEXT = (nodes.section, nodes.title, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)

# --- search -----------------------------------------------------------------------------------------------------


def own_text(section: nodes.Element) -> Iterator[str]:
    """Yield what a section says itself, without its subsections, code and formulas."""
    for child in section.children:
        if isinstance(child, nodes.Text):
            yield child.astext()
        elif isinstance(child, nodes.Element) and not isinstance(child, NOT_TEXT):
            yield from own_text(child)


def counted(text: str, language: SearchEnglish) -> Counter[str]:
    """Return the stems in a text and how often each occurs, as Sphinx's own search sees them."""
    stems = (language.stem(word) for word in language.split(text) if language.word_filter(word.lower()))
    return Counter(stem for stem in stems if not stem.isdigit())


def sections(doctree: nodes.document, language: SearchEnglish) -> list[list[Any]]:
    """Return for each section its anchor, its title, the stems of its title, and how often each stem occurs in it."""
    found: list[list[Any]] = []
    for section in doctree.findall(nodes.section):
        title = section.next_node(nodes.title)
        anchors = [anchor for anchor in section["ids"] if "." not in anchor]  # a dot would end the name in a selector
        if title is not None and anchors:
            name = " ".join(title.astext().split())
            said = counted(" ".join(own_text(section)), language)
            found.append([anchors[0], name, sorted(counted(name, language)), dict(sorted(said.items()))])
    return found


def collect(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Keep a page's sections for the search, and give the search page what it needs to use them."""
    if page == "search":
        app.add_js_file(SECTIONS, loading_method="defer")
        app.add_js_file("search_sections.js", loading_method="defer")
    elif doctree is not None:
        found: dict[str, Any] = app.env.__dict__.setdefault("vlmcourse_sections", {})
        found[page] = sections(doctree, SearchEnglish({}))


def write_sections(app: Sphinx, exception: Exception | None) -> None:
    """Write the sections of all pages beside the search index."""
    found = app.env.__dict__.get("vlmcourse_sections")
    if exception is None and app.builder.format == "html" and found:
        data = json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        (Path(app.outdir) / "_static" / SECTIONS).write_text(f"const SEARCH_SECTIONS = {data};\n", encoding="utf-8")


# --- figures ----------------------------------------------------------------------------------------------------


class Figures(SphinxDirective):
    """A list of all figures of the chapters: what each shows, and the section it stands in."""

    def run(self) -> list[nodes.Node]:
        """Return a place that is filled when all pages have been read."""
        return [nodes.paragraph("", "", classes=["index-of-figures"])]


def figures(doctree: nodes.document) -> list[tuple[str, str, str]]:
    """Return for each figure that code drew: the anchor and the title of its section, and what it shows."""
    innermost = {image: section for section in doctree.findall(nodes.section) for image in section.findall(nodes.image)}
    found = []
    for image, section in innermost.items():
        shown, title = " ".join(image.get("alt", "").split()), section.next_node(nodes.title)
        if shown and "_images" not in shown and title is not None:  # what stands in a solution has no title of its own
            found.append((section["ids"][0], " ".join(title.astext().split()), shown))
    return list(dict.fromkeys(found))


def table(columns: Sequence[str], rows: list[list[nodes.Node]]) -> nodes.table:
    """Return a table of figures, made when all pages have been read, so from no template."""

    def line(cells: list[nodes.Node]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))

    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=1) for _ in columns]
    group += nodes.thead("", line([nodes.Text(name) for name in columns]))
    group += nodes.tbody("", *map(line, rows))
    return nodes.table("", group, classes=["colwidths-auto", "figures"])


def list_figures(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Fill the index of figures."""

    def link(text: str, name: str, anchor: str = "") -> nodes.reference:
        return nodes.reference("", text, refuri=app.builder.get_relative_uri(page, name) + anchor, internal=True)

    places = [node for node in doctree.findall(nodes.paragraph) if "index-of-figures" in node["classes"]]
    for place in places:
        made: list[nodes.Node] = []
        for name in sorted(name for name in app.env.found_docs if CHAPTER.match(name)):
            found = figures(app.env.get_doctree(name))
            if rows := [[link(title, name, f"#{anchor}"), nodes.Text(shown)] for anchor, title, shown in found]:
                title = link(app.env.titles[name].astext(), name)
                made += [nodes.rubric("", "", title), table(("section", "what the figure shows"), rows)]
        place.replace_self(made or [nodes.paragraph("", "No chapter was executed.")])


# --- exercises --------------------------------------------------------------------------------------------------


def number_exercises(app: Sphinx, env: Any) -> list[str]:
    """Number exercises within their chapter, 3.1, 3.2 and so on, where the extension counts through the book."""
    for page, kinds in env.toc_fignumbers.items():
        match = CHAPTER.match(page)
        if match and "exercise" in kinds:
            chapter = match[1] or "E"
            ids = sorted(kinds["exercise"], key=lambda name: kinds["exercise"][name])
            kinds["exercise"] = {name: (chapter, number) for number, name in enumerate(ids, start=1)}
    return []


def setup(app: Sphinx) -> None:
    """Act after Sphinx has numbered everything, and when pages are written."""
    app.add_directive("figures", Figures)
    app.connect("env-get-updated", number_exercises, priority=900)
    app.connect("doctree-resolved", list_figures)
    app.connect("html-page-context", collect)
    app.connect("build-finished", write_sections)
