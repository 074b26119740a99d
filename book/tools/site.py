"""What the book gets as a site, besides its pages: buttons, scripts of the chapters, and what a host expects.

Everything that names a repository comes from one setting (``address.py``), and everything that names the site's own
address from another, VLMCOURSE_SITE. Without them nothing of the kind is written.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from nbformat import NotebookNode

from book.tools.first_cell import with_address

TEMPLATES = Path(__file__).with_name("templates")
JINJA = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True
)
SCRIPTS = "book/_static/scripts"
ABOUT_SCRIPT = """\
# A chapter of the book as a script: text as comments, code in cells. Editors such as VS Code and Spyder run it cell by
# cell and show its figures; python FILE runs all of it."""
TEXT, MAGIC = re.compile(r"^.*$", re.MULTILINE), re.compile(r"^[%!].*$", re.MULTILINE)
NOT_READ = re.compile(r"index\.|404\.|search\.|genindex|py-modindex|_")  # pages that a search engine has no use for


def filled(template: str, **words: Any) -> str:
    """Return one of the templates with its blanks filled."""
    return JINJA.get_template(template).render(words)


def address_of_site() -> str | None:
    """Return where the rendered book will be read, with a slash at the end, or None where nobody said."""
    told = os.environ.get("VLMCOURSE_SITE", "")
    if told and not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w.~/-]*)?", told):
        raise ValueError(f"VLMCOURSE_SITE must be an address such as https://host/course, received {told!r}")
    return told.rstrip("/") + "/" if told else None


def config(text: str, repository: str | None, site: str | None) -> str:
    """Return Jupyter Book's configuration with buttons for a repository and the site's address, or as it is."""
    host = (repository or "").removeprefix("https://").partition("/")[0]
    provider = next((kind for kind in ("github", "gitlab", "bitbucket") if kind in host), None)  # that the theme knows
    if provider is None and site is None:
        return text
    made: dict[str, Any] = yaml.safe_load(text)
    if site:
        made["html"]["baseurl"] = site
    if provider:
        made["repository"] = {"url": repository, "branch": os.environ.get("VLMCOURSE_BRANCH") or "main"}
        made["repository"]["path_to_book"] = ""
        made["html"] |= {"use_issues_button": provider != "bitbucket", "use_repository_button": True}
        launchers = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
        if provider == "github":
            launchers["colab_url"] = "https://colab.research.google.com"
        if hub := os.environ.get("VLMCOURSE_JUPYTERHUB"):
            launchers["jupyterhub_url"] = hub
        made["launch_buttons"] = launchers
        options = made["sphinx"]["config"]["html_theme_options"]
        options |= {"use_source_button": True, "repository_provider": provider}
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def script(nb: NotebookNode, address: str | None) -> str:
    """Return a chapter as a plain Python file that runs from a terminal: text and magics as comments."""
    parts = [ABOUT_SCRIPT]
    for cell in nb.cells:
        source, is_text = with_address(cell.source, address, script=True), cell.cell_type == "markdown"
        source = (TEXT if is_text else MAGIC).sub(lambda line: f"# {line[0]}".rstrip(), source)
        parts.append(f"# %%{' [markdown]' if is_text else ''}\n{source}")
    return "\n\n".join(parts) + "\n"


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
