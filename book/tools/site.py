"""What the book gets as a site, besides its pages: buttons, first cells with an address, scripts, and furniture.

Everything that names a repository comes from one setting (``repository.py``), and everything that names the site's own
address from another, VLMCOURSE_SITE. Without them nothing of the kind is written.
"""

import ast
import html
import os
import re
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from book.tools.first_cell import with_address
from book.tools.repository import Links

LAUNCHERS = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}
SCRIPTS = "book/_static/scripts"
ABOUT_SCRIPT = """\
# A chapter of the book as a script: text as comments, code in cells. Editors such as VS Code and Spyder run it cell by
# cell and show its figures; python FILE runs all of it."""
# A file that is offered is downloaded, not opened in a tab.
OFFERED = re.compile(r'<a href="([^"]*(?:_sources/[^"]*\.ipynb|_static/scripts/[^"]*\.py))" target="_blank"')
INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={start}">
{canonical}</head>
<body><p><a href="{start}">{title}</a></p></body>
</html>
"""
LOST = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<title>Page not found · {title}</title>
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }}
body {{ max-width: 34rem; margin: 15vh auto; padding: 0 1rem }}
</style>
</head>
<body>
<h1>There is no such page</h1>
<p>Chapters keep their addresses, sections may move. Start at the <a href="{base}book/intro.html">first page</a>,
look the slide up in the <a href="{base}book/slide_map.html">slide map</a>,
or <a href="{base}search.html">search the book</a>.</p>
</body>
</html>
"""


def address_of_site() -> str | None:
    """Return where the rendered book will be read, with a slash at the end, or None where nobody said.

    Raises:
        ValueError: VLMCOURSE_SITE is no address of a site.
    """
    told = os.environ.get("VLMCOURSE_SITE", "")
    if told and not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w.~/-]*)?", told):
        raise ValueError(f"VLMCOURSE_SITE must be an address such as https://host/course, received {told!r}")
    return told.rstrip("/") + "/" if told else None


def settings() -> dict[str, str]:
    """Return the settings from the environment that the pages depend on."""
    names = ("VLMCOURSE_REPOSITORY", "VLMCOURSE_BRANCH", "VLMCOURSE_SITE", "VLMCOURSE_JUPYTERHUB")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def links_of(repository: str | None) -> Links | None:
    """Return what the pages can link to: nothing without an address that a browser can open."""
    if repository is None or not repository.startswith("https://"):
        return None
    return Links(repository, os.environ.get("VLMCOURSE_BRANCH") or "main")


def config(text: str, links: Links | None, site: str | None) -> str:
    """Return Jupyter Book's configuration with buttons for a repository and the site's address, or as it is."""
    if links is None and site is None:
        return text
    made: dict[str, Any] = yaml.safe_load(text)
    page = made.setdefault("html", {})
    if site:
        page["baseurl"] = site
    if links and links.provider:
        made["repository"] = {"url": links.repository, "branch": links.branch, "path_to_book": ""}
        page |= {"use_issues_button": links.provider != "bitbucket", "use_repository_button": True}
        launchers = {name: url for name, url in LAUNCHERS.items() if name != "colab_url" or links.provider == "github"}
        if hub := os.environ.get("VLMCOURSE_JUPYTERHUB"):
            launchers["jupyterhub_url"] = hub
        made["launch_buttons"] = {"notebook_interface": "jupyterlab", **launchers}
        options = made.setdefault("sphinx", {}).setdefault("config", {}).setdefault("html_theme_options", {})
        options |= {"use_source_button": True, "repository_provider": links.provider}
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def script(nb: NotebookNode, address: str | None) -> str:
    """Return a chapter as a plain Python file that runs from a terminal: text as comments, no magics."""
    parts, first = [ABOUT_SCRIPT], True
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            lines = ["# %% [markdown]", *(f"# {line}".rstrip() for line in cell.source.splitlines())]
        else:
            source = with_address(cell.source, address, script=True) if first else cell.source
            lines, first = ["# %%", *plain(source)], False
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def plain(source: str) -> list[str]:
    """Return the lines of a code cell; where they are no Python by themselves, as comments."""
    try:
        ast.parse(source)
    except SyntaxError:
        return [f"# {line}".rstrip() for line in source.splitlines()]
    return source.splitlines()


def furnish(folder: Path, *, title: str, start: str, site: str | None) -> None:
    """Write what a host and a search engine expect beside the pages, and let files that are offered be downloaded."""
    canonical = f'<link rel="canonical" href="{site}{start}">\n' if site else ""
    name = html.escape(title)
    write(folder / "index.html", INDEX.format(title=name, start=start, canonical=canonical))
    write(folder / "404.html", LOST.format(title=name, base=site or "/"))
    write(folder / ".nojekyll", "")  # otherwise GitHub Pages leaves out _static and _images
    sitemap = folder / "sitemap.xml"
    write(folder / "robots.txt", "User-agent: *\nAllow: /\n" + (f"Sitemap: {site}sitemap.xml\n" if site else ""))
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    if site:
        listed = [page for page in pages if not re.match(r"index\.|404\.|search\.|genindex|py-modindex|_", page)]
        entries = "".join(f"  <url><loc>{site}{html.escape(page)}</loc></url>\n" for page in listed)
        opening = (
            '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        )
        write(sitemap, f"{opening}{entries}</urlset>\n")
    else:
        sitemap.unlink(missing_ok=True)
    for page in (folder / name for name in pages):
        text = page.read_text(encoding="utf-8")
        changed = OFFERED.sub(r'<a href="\1" download', text)
        if changed != text:
            write(page, changed)


def write(path: Path, text: str) -> None:
    """Write a file of the site."""
    path.write_text(text, encoding="utf-8")
