"""What the rendered pages need before everybody can read them, mended in their HTML.

The theme, Sphinx and its extensions leave lists of the wrong kind, switches without a name, ids that repeat, headers
of tables that head nothing and no colours where no script runs, and they load scripts that a page has no use for. None
of them has an option for any of that, so each finished page passes through ``mend``. The names of classes are those of
the theme, and a version that changes them shows in tests/book/test_access.py.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

MENDS: list[tuple[str, str]] = [
    # The arrow that unfolds a part of the contents says which part.
    (r">([^<>]*)</a>(<details[^>]*>)<summary>", r'>\1</a>\2<summary aria-label="Pages of: \1">'),
    # Entries of the bibliography are members of their list.
    (r'(<div class="citation" id="[^"]*") role="doc-biblioentry"', r'\1 role="listitem"'),
    # Every exercise and every solution of a page had the same id, to which no link leads.
    (r'<section id="((?:exercise|solution)-content)">', r'<section class="\1">'),
    # The space before a link is no part of it.
    (r'(<p class="admonition-title">Solution to)(<a [^>]*>) ', r"\1 \2"),
    # An empty corner of a table heads nothing.
    (r"<th(?: class=\"[^\"]*\")?>(?:<p></p>)?</th>", "<td></td>"),
    # The parameters of a long signature stand in a list of definitions that defines nothing.
    (r"<dl>\n(<dd><em class=\"sig-param\">.*?)</dl>", r'<span class="sig-lines">\1</span>'),
    (r"<dd>(<em class=\"sig-param\">.*?)</dd>", r'<span class="sig-line">\1</span>'),
    # The theme's colours hang on this attribute. As "auto" it has none until a script has asked the reader's system.
    (r'(<html[^>]*?)data-theme="auto"', r'\1data-theme="light"'),
    # The title above the contents belongs to a landmark.
    (r'(<a class="navbar-brand logo".*?</a>)', r'<nav aria-label="Start">\1</nav>'),
    # Labels that say something else than what can be read, and hide it from a screen reader and from a voice command:
    # the offer to unfold code names itself, the button of the search with its shortcut as well, and the icons in the
    # button of the colours are no words.
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r'(<button class="[^"]*search-button-field[^"]*"[^>]*?) aria-label="Search"', r"\1"),
    (r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"', r"\1"),
    # What a formatter has to know is noise to a reader.
    (r' *<span class="c1"># fmt: skip</span>', ""),
    # A notebook or a script that is offered is downloaded, not opened in a tab.
    (r'<a href="([^"]*(?:_sources/[^"]*\.ipynb|_static/scripts/[^"]*\.py))" target="_blank"', r'<a href="\1" download'),
    # The button called .pdf only opened the browser's dialog; book/tools/pdf.py puts the whole book in its place.
    (r"<li>\s*<button onclick=\"window\.print\(\)\".*?</button>\s*</li>", "<!-- pdf -->"),
]
MATHJAX = re.compile(r"<script[^>]*?(?:src=\"[^\"]*mathjax/[^\"]*\"|>window\.MathJax = )[^<]*</script>\s*")
FORMULA = 'class="math'  # also of outputs and of what a cell glued into the text
# Font Awesome as a script: a dictionary of two thousand icons, of which the book shows some twenty.
ICON = re.compile(r'("[\w-]+"|[\w$]+):\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')
NAME = re.compile(r"[\w-]+")
USED_ICON = re.compile(r"\bfa-([a-z0-9-]+)")


def mend(html: str) -> str:
    """Return a finished page with everything mended, and without MathJax where it has no formula.

    >>> mend('<a href="#">The library</a><details><summary>')
    '<a href="#">The library</a><details><summary aria-label="Pages of: The library">'
    """
    for pattern, better in MENDS:
        html = re.sub(pattern, better, html, flags=re.DOTALL)
    return html if FORMULA in html else MATHJAX.sub("", html)


def keep_icons(script: str, used: set[str]) -> str:
    """Return Font Awesome's script with the icons of ``used`` alone, each of which may have several names.

    >>> keep_icons('{bars:[448,512,[],"f0c9","M0"],"arrow-up":[384,512,[8593],"f062","M2"]}', {"arrow-up"})
    '{"arrow-up":[384,512,[8593],"f062","M2"]}'
    """
    return ICON.sub(lambda icon: icon[0] if used.intersection(NAME.findall(icon[1] + icon[2])) else "", script)


def mend_all(app: Sphinx, exception: Exception | None) -> None:
    """Mend all pages when they are written."""
    if exception or app.builder.name != "html":
        return
    used: set[str] = set()
    for page in Path(app.outdir).rglob("*.html"):
        html = mend(page.read_text(encoding="utf-8"))
        used.update(USED_ICON.findall(html))
        page.write_text(html, encoding="utf-8")
    scripts = Path(app.outdir) / "_static" / "scripts"
    for script in scripts.glob("*.js"):
        if script.name != "fontawesome.js":
            used.update(USED_ICON.findall(script.read_text(encoding="utf-8")))
    icons = scripts / "fontawesome.js"
    icons.write_text(keep_icons(icons.read_text(encoding="utf-8"), used), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Mend the pages at the end of a build."""
    app.connect("build-finished", mend_all, priority=900)  # after those who still write
