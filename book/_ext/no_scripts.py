"""A page that is legible where no script runs: in the light colours, which a script would otherwise choose.

The theme's colours hang on the attribute ``data-theme`` of a page. It is written as "auto", for which there are no
colours until a script has asked the reader's system; without one the head of the page is transparent and overlaps text.
"""

from pathlib import Path

from sphinx.application import Sphinx

UNDECIDED, LIGHT = 'data-theme="auto"', 'data-theme="light"'


def start_light(app: Sphinx, exception: Exception | None) -> None:
    """Let every page start in the light; scripts choose anew as soon as they run."""
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(UNDECIDED, LIGHT, 1), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Look at the pages when all are written."""
    app.connect("build-finished", start_light)
    return {"parallel_read_safe": True}
