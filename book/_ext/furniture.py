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


def description(doctree: nodes.document | None) -> str:
    """Return the first words of a page's running text, as many as fit into a description."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        parents, node = [], paragraph.parent
        while node is not None:
            parents.append(node)
            node = node.parent
        text = " ".join(paragraph.astext().split())
        if len(text) >= 40 and all(isinstance(parent, (nodes.section, nodes.document)) for parent in parents):
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


def kaggle(repository: str, branch: str, path: str) -> dict[str, str]:
    """Return a launch button that the theme does not have."""
    address = f"https://kaggle.com/kernels/welcome?src={repository}/blob/{branch}/{path}"
    return {"type": "link", "text": "Kaggle", "tooltip": "Launch on Kaggle", "icon": "fab fa-kaggle", "url": address}


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
        launchers.append(kaggle(repository, branch, f"{page}.ipynb"))
        launchers.sort(key=lambda button: ORDER.index(button["text"]) if button["text"] in ORDER else len(ORDER))
    for button in groups.get("source-buttons", []):
        if button.get("label") == "source-issues-button":
            where = quote(f"{site}{page}.html", safe="")
            button |= {
                "text": "Report a problem",
                "tooltip": "Report a problem on this page",
                "url": f"{repository}/issues/new?template=problem.yml&page={where}",
            }
        elif button.get("label") == "source-file-button":
            button["text"] = "Source"


def furnish(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Complete one page before it is written."""
    site = app.config.html_baseurl or ""
    title = (
        " ".join(doctree.next_node(nodes.title).astext().split()) if doctree and doctree.next_node(nodes.title) else ""
    )
    tags = metatags(title or page, description(doctree), f"{page}.html", name=app.config.project, site=site)
    context["metatags"] = f"{context.get('metatags') or ''}{tags if doctree is not None else ''}"
    if title and title == context.get("docstitle"):
        context["docstitle"] = ""  # the first page is called as the book is; its window says so once
    scripts = (Path(app.srcdir) / "book" / "_static" / "scripts" / f"{Path(page).name}.py").is_file()
    scripts = scripts and page.startswith("lectures/")
    if "header_buttons" in context and doctree is not None:
        complete(context["header_buttons"], page, app.config.html_theme_options, scripts=scripts, site=site)


def setup(app: Sphinx) -> dict[str, bool]:
    """Act after the theme, which adds its buttons at 501."""
    app.connect("html-page-context", furnish, priority=600)
    return {"parallel_read_safe": True}
