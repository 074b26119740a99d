"""What each page says of itself to search engines and to those who share a link, and the buttons at its top."""

import html
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx

CARD = "_static/book.png"
ORDER = ["Colab", "Kaggle", "Binder", "JupyterHub"]
LONGEST = 160  # characters of a description that search engines show


def description(doctree: nodes.document) -> str:
    """Return the first words of a page's running text, as many as fit into a description."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        running = isinstance(paragraph.parent, (nodes.section, nodes.document)) and not paragraph["classes"]
        if len(text) >= 40 and running:  # a class marks a second title, or a place that is filled later
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0].rstrip(",;:") + " …"
    return ""


def metatags(title: str, words: str, page: str, *, name: str, site: str) -> str:
    """Return the tags of a page's head; addresses only where the site's own is known."""
    tags = [("name", "description", words)] if words else []
    tags += [("property", "og:type", "article"), ("property", "og:site_name", name), ("property", "og:title", title)]
    tags += [("property", "og:description", words)] if words else []
    if site:
        tags += [("property", "og:url", f"{site}{page}"), ("property", "og:image", f"{site}{CARD}")]
        tags += [("property", "og:image:alt", "A page of the book"), ("name", "twitter:card", "summary_large_image")]
    return "".join(f'<meta {kind}="{key}" content="{html.escape(value)}" />\n' for kind, key, value in tags)


def link(text: str, address: str, tooltip: str, icon: str) -> dict[str, str]:
    """Return a button of the theme that is a link."""
    return {"type": "link", "text": text, "url": address, "tooltip": tooltip, "icon": icon}


def complete(buttons: list[dict[str, Any]], page: str, options: dict[str, Any], *, scripts: bool, site: str) -> None:
    """Add to the theme's buttons, in place: a script to download, Kaggle, and a report that asks what is needed."""
    repository, branch = options.get("repository_url", ""), options.get("repository_branch") or "main"
    groups = {button.get("label"): button.get("buttons", []) for button in buttons}
    if scripts:
        script = f"{'../' * page.count('/')}_static/scripts/{Path(page).name}.py"
        groups["download-buttons"].insert(1, link(".py", script, "Download a plain Python script", "fab fa-python"))
    if options.get("repository_provider") != "github" or not repository:
        return
    if "launch-buttons" in groups:
        launchers = groups["launch-buttons"]
        kaggle = f"https://kaggle.com/kernels/welcome?src={repository}/blob/{branch}/{page}.ipynb"
        launchers.append(link("Kaggle", kaggle, "Launch on Kaggle", "fab fa-kaggle"))
        launchers.sort(key=lambda button: ORDER.index(button["text"]) if button["text"] in ORDER else len(ORDER))
    for button in groups.get("source-buttons", []):
        if button.get("label") == "source-issues-button":
            where = quote(f"{site}{page}.html", safe="")
            button["url"] = f"{repository}/issues/new?template=problem.yml&page={where}"
            button |= {"text": "Report a problem", "tooltip": "Report a problem on this page"}
        elif button.get("label") == "source-file-button":
            button["text"] = "Source"


def furnish(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Complete one page before it is written."""
    if doctree is None:
        return
    site, head = app.config.html_baseurl or "", doctree.next_node(nodes.title)
    title = " ".join(head.astext().split()) if head else ""
    tags = metatags(title or page, description(doctree), f"{page}.html", name=app.config.project, site=site)
    context["metatags"] = (context.get("metatags") or "") + tags
    if title and title == context.get("docstitle"):
        context["docstitle"] = ""  # the first page is called as the book is; its window says so once
    if "header_buttons" in context:
        script = Path(app.srcdir) / "book" / "_static" / "scripts" / f"{Path(page).name}.py"
        scripts = page.startswith("lectures/") and script.is_file()
        complete(context["header_buttons"], page, app.config.html_theme_options, scripts=scripts, site=site)


def setup(app: Sphinx) -> None:
    """Act after the theme, which adds its buttons at 501."""
    app.connect("html-page-context", furnish, priority=600)
