"""Figures that follow the theme, and tables whose numbers stand under one another.

A chapter's figures are SVG files on white paper, drawn in the ink of ``vlmcourse.course.figures.style``. Here they go
into the page itself: the paper is taken away, the ink becomes the colour of the page's text, and what the file says
about its looks by rules for all elements is said at its root alone. Their identifiers get the figure's own prefix, so
that two figures of a page cannot take each other's parts.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib.pyplot as plt
from bs4 import BeautifulSoup
from bs4.element import Tag
from docutils import nodes
from docutils.parsers.rst import directives
from filled import Filled
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from vlmcourse.course.figures import style

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
POINT = 4 / 3  # pixels of CSS; matplotlib writes points
TABLE = re.compile(r'<table[^>]*class="(?:dataframe|[^"]*\btable)".*?</table>', re.DOTALL)
PAPER = "var(--pst-color-background, #fff)"
# A number as a table shows it: with a sign, a spread and a unit, or none at all.
UNIT = r"(?:%|‰|×|s|ms|µs|min|h|px|kB|MB|GB|GiB|MiB|GFLOP|TFLOP|M|k)"
NUMBER = re.compile(rf"[-−+±~<>≈]?\s*\d[\d.,  ]*(?:e[-+]?\d+)?\s*{UNIT}?(?:\s*[±–]\s*\d[\d.,]*\s*{UNIT}?)?|[–—-]|nan|")


def inline(svg: str, *, label: str, prefix: str) -> str:
    """Return a figure of matplotlib as HTML: paper and metadata gone, ink as the page's text, identifiers its own."""
    root = ET.fromstring(re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL))
    width, height = (POINT * float(root.get(side, "").removesuffix("pt")) for side in ("width", "height"))
    if (paper := root.find(f".//{SVG}g[@id='patch_1']")) is not None:
        paper.clear()
    used = {link[1:] for e in root.iter() if (link := e.get(LINK, "")).startswith("#")}
    used |= {name for e in root.iter() for value in e.attrib.values() for name in re.findall(r"url\(#([^)]+)\)", value)}
    for element in root.iter():
        kept = {}
        for key, value in element.items():
            value = re.sub(r"(?<=url\(#)", f"{prefix}-", value)
            if key == "id":
                value = f"{prefix}-{value}" if value in used else ""
            elif key == LINK:
                key, value = "href", re.sub("^#", f"#{prefix}-", value)
            elif key == "style":
                value = _themed(value, words=element.tag in (f"{SVG}text", f"{SVG}tspan"))
            elif key == "d":
                value = " ".join(value.split())
            kept |= {key: value} if value else {}
        element.attrib = kept
        element.tag = element.tag.removeprefix(SVG)
        element.text, element.tail = (text if (text or "").strip() else None for text in (element.text, element.tail))
    box = root.get("viewBox", f"0 0 {width:g} {height:g}")
    root.attrib = {"class": "figure", "role": "img", "aria-label": label, "viewBox": box}
    root.attrib |= {"width": f"{width:.0f}", "height": f"{height:.0f}"}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    return f'<div class="output figure">{ET.tostring(root, encoding="unicode")}</div>'


def _themed(declarations: str, *, words: bool) -> str:
    """Return CSS in which the ink follows the theme, white areas show the page, and words have the page's type."""
    kept = []
    for declaration in filter(str.strip, declarations.split(";")):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name == "font-family" and words:
            continue
        if value.lower() == style.INK:
            value = "currentColor"
        elif name == "fill" and value.lower() == "#ffffff" and not words:
            value = PAPER
        kept.append(f"{name}: {value}")
    return "; ".join(kept)


class InlineFigures(SphinxPostTransform):
    """Puts the SVG figures that matplotlib drew into the pages."""

    default_priority = 300  # after MyST-NB has chosen among the forms of an output
    formats = ("html",)

    def run(self) -> None:
        """Replace the images of this page."""
        for count, image in enumerate(list(self.document.findall(nodes.image))):
            file = Path(self.env.srcdir, image["uri"])
            if file.suffix != ".svg" or not file.is_file():
                continue
            svg = file.read_text(encoding="utf-8")
            if 'id="figure_1"' in svg:  # drawn by matplotlib
                prefix = f"f{count}{hashlib.sha256(svg.encode()).hexdigest()[:6]}"
                html = inline(svg, label=image.get("alt", ""), prefix=prefix)
                image.replace_self(nodes.raw("", html, format="html"))


def numeric(cells: list[str]) -> bool:
    """Whether a column holds numbers, at least one, and nothing else."""
    return any(map(str.strip, cells)) and all(NUMBER.fullmatch(cell.strip()) for cell in cells)


def aligned(html: str) -> str:
    """Return a table with its columns of numbers marked, heads too, and without the looks that pandas gives it."""
    table = BeautifulSoup(html, "html.parser")
    for styled in table.select("table[border], tr[style]"):
        styled.attrs = {key: value for key, value in styled.attrs.items() if key not in ("border", "style")}
    rows = [row.find_all("td") for row in table.select("tbody tr")]
    width = max(map(len, rows), default=0)
    rows = [row for row in rows if len(row) == width]  # others have cells that span columns
    heads = [row for head in table.select("thead tr") if len(row := head.find_all("th")) >= width]
    for column in range(width):
        cells = [row[column] for row in rows]
        if numeric([cell.get_text() for cell in cells]):
            above: list[Tag] = [row[column - width] for row in heads]
            for cell in (cell for cell in (*cells, *above) if not cell.has_attr("colspan")):
                cell["class"] = [*cell.get("class", []), "number"]
    return str(table)


def align_tables(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Mark the columns of numbers of a page, so that the style sheet can put them on the right."""
    context["body"] = TABLE.sub(lambda table: aligned(table[0]), context.get("body", ""))


class Palette(Filled):
    """A table of the concepts that have a colour, each with a swatch, read from the package."""

    template = "palette.md"

    def words(self) -> dict[str, Any]:
        """Return the groups of concepts with the hue of each, and what a hue is."""
        return {"groups": style.GROUPS, "hues": style.HUES}


class FigureExample(SphinxDirective):
    """Code that draws, and what it draws: in the style of the book, or with ``:bad:`` as matplotlib would."""

    has_content = True
    option_spec = {"alt": directives.unchanged_required, "bad": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Execute the code and return it with its figure."""
        source, bad = "\n".join(self.content), "bad" in self.options
        with plt.rc_context():
            if bad:
                plt.style.use("default")
                plt.rcParams.update({"svg.hashsalt": "bad", "svg.fonttype": "none"})
            else:
                style.use_style()
            exec(compile(source, f"{self.env.docname}: figure-example", "exec"), {})
            file = io.StringIO()
            trim = "tight" if bad else None  # what notebooks do unless told
            plt.gcf().savefig(file, format="svg", bbox_inches=trim, metadata={"Date": None, "Creator": None})
            plt.close("all")
        svg, label = file.getvalue(), self.options["alt"]
        drawn = inline(svg, label=label, prefix=f"e{hashlib.sha256(svg.encode()).hexdigest()[:6]}")
        if bad:  # as it would look, paper and all
            drawn = drawn.replace("output figure", "output figure on-paper", 1)
        code = nodes.literal_block(source, source, language="python")
        return [code, nodes.raw("", drawn, format="html")]


def setup(app: Sphinx) -> None:
    """Register what this module adds."""
    plt.switch_backend("agg")
    app.add_post_transform(InlineFigures)
    app.connect("html-page-context", align_tables)
    app.add_directive("palette", Palette)
    app.add_directive("figure-example", FigureExample)
