"""What the book gets as a site, besides its pages: buttons, scripts of the chapters, and what a host expects.

Everything that names a repository comes from one setting (``address.py``), and everything that names the site's own
address from another, VLMCOURSE_SITE. Without them nothing of the kind is written.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from book.tools.first_cell import with_address
from book.tools.templates import filled

SCRIPTS = "book/_static/scripts"
TEXT, MAGIC = re.compile(r"^.*$", re.MULTILINE), re.compile(r"^[%!].*$", re.MULTILINE)
NOT_READ = re.compile(r"index\.|404\.|search\.|genindex|py-modindex|_")  # pages that a search engine has no use for


def address_of_site() -> str | None:
    """Return where the rendered book will be read, with a slash at the end, or None where nobody said."""
    told = os.environ.get("VLMCOURSE_SITE", "")
    if told and not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w.~/-]*)?", told):
        raise SystemExit(f"VLMCOURSE_SITE must be an address such as https://host/course, received {told!r}")
    return told.rstrip("/") + "/" if told else None


def config(text: str, repository: str | None, site: str | None) -> str:
    """Return Jupyter Book's configuration with buttons for a repository and the site's address, or as it is."""
    host = (repository or "").removeprefix("https://").partition("/")[0]
    service = next((name for name in ("github", "gitlab", "bitbucket") if name in host), None)
    if service is None and site is None:
        return text
    told = {"branch": os.environ.get("VLMCOURSE_BRANCH") or "main", "hub": os.environ.get("VLMCOURSE_JUPYTERHUB")}
    added = filled("repository.yml", repository=repository, service=service, site=site, **told)
    made = merged(yaml.safe_load(text), yaml.safe_load(added))
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def merged(base: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what is added to it on every level."""
    deeper = {key: merged(base.get(key, {}), value) for key, value in added.items() if isinstance(value, dict)}
    return {**base, **added, **deeper}


def script(nb: NotebookNode, address: str | None) -> str:
    """Return a chapter as a plain Python file that runs from a terminal: text and magics as comments."""
    cells = []
    for cell in nb.cells:
        comments = TEXT if cell.cell_type == "markdown" else MAGIC
        source = with_address(cell.source, address, script=True)
        cells.append((cell.cell_type, comments.sub(lambda line: f"# {line[0]}".rstrip(), source)))
    return filled("script.txt", cells=cells)


def furnish(folder: Path, source: Path) -> None:
    """Write what a host and a search engine expect beside the pages that were made from ``source``."""
    site, title = address_of_site(), yaml.safe_load((source / "_config.yml").read_text(encoding="utf-8"))["title"]
    start = yaml.safe_load((source / "book/_toc.yml").read_text(encoding="utf-8"))["root"] + ".html"
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    listed = [page for page in pages if not NOT_READ.match(page)]
    words = {"title": title, "start": start, "site": site, "pages": listed}
    for name in ("index.html", "404.html", *(("sitemap.xml", "robots.txt") if site else ())):
        (folder / name).write_text(filled(name, **words), encoding="utf-8")
    (folder / ".nojekyll").touch()  # otherwise GitHub Pages leaves out _static and _images
