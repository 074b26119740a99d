"""Print the rendered book as one PDF: python -m book.tools.pdf, after make book.

The articles of all pages become one document, the solutions of the exercises move to its end, and Chromium prints it
twice: the first print tells on which page each entry of the contents lands, the second shows the numbers.
"""

import logging
import shutil
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import yaml
from bs4 import BeautifulSoup

from book.tools.address import commit_of
from book.tools.normalize import ROOT
from book.tools.site import filled

NAME = "neural-networks-for-vision.pdf"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
APPENDIX, APPENDIX_TITLE = "solutions", "Solutions of the exercises"
# What only a screen has a use for. Code that is folded on the page, mostly of pictures, stays away from paper too,
# but a solution is code.
SCREEN_ONLY = ".headerlink, .viewcode-link, noscript, .toctree-wrapper, details.hide:not(.solution details)"
READY = "async () => { await window.MathJax.startup.promise; await document.fonts.ready; }"
NUMBER = "numbers => document.querySelectorAll('[data-target]').forEach(e => e.textContent = numbers[e.dataset.target])"
Part = tuple[str, list[str]]
Tag = Any  # Beautiful Soup's own type says of every attribute that it may be missing, or a list


def parts_of(toc: Path) -> list[Part]:
    """Return the parts of the book, each with its pages, in the order of the contents."""

    def pages(nodes: list[dict[str, Any]]) -> list[str]:
        return [name for node in nodes for name in (node["file"], *pages(node.get("sections", [])))]

    contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
    return [("", [contents["root"]]), *((part["caption"], pages(part["chapters"])) for part in contents["parts"])]


def anchor(page: str, place: str = "") -> str:
    """Return the id that a page, or a place in it, has in the one document."""
    return page.replace("/", "-") + (f"--{place}" if place else "")


class Document:
    """All pages of a rendered book in one."""

    def __init__(self, html: Path, parts: list[Part]) -> None:
        self.parts = [*parts, ("Appendix", [APPENDIX])]
        self.pages = {name: read(html, name) for _, pages in parts for name in pages}
        self.articles = {name: page.select_one("article.bd-article") for name, page in self.pages.items()}
        self.targets: set[str] = set()
        for name, article in self.articles.items():
            self.mend(name, article)
        self.titles = {name: text(article.find("h1")) for name, article in self.articles.items()}
        appendix = f"<h1>{APPENDIX_TITLE}</h1>"
        for name, article in self.articles.items():
            article["id"] = anchor(name)
            for tag in article.select("[id]"):
                if anchor(name, tag["id"]) in self.targets:  # what only scripts use keeps its name
                    tag["id"] = anchor(name, tag["id"])
            if solutions := [str(solution.extract()) for solution in article.select("div.solution")]:
                appendix += f"<h2>{escape(self.titles[name])}</h2>{''.join(solutions)}"
        self.articles[APPENDIX] = f'<article class="bd-article" id="{APPENDIX}">{appendix}</article>'
        self.titles[APPENDIX] = APPENDIX_TITLE

    def mend(self, name: str, article: Tag) -> None:
        """Open what is closed, leave out what paper cannot use, and let an article's links lead where they should."""
        for useless in article.select(SCREEN_ONLY):
            useless.decompose()
        for picture in article.select("img[loading]"):
            del picture["loading"]  # else Chromium waits until somebody scrolls there
        for closed in article.select("details"):
            closed["open"] = ""
        for heading in article.select("section > :is(h1, h2, h3)"):
            self.targets.add(anchor(name, heading.parent["id"]))
        for link in article.select("a[href]"):
            path, place = urldefrag(urljoin(f"https://book/{name}.html", link["href"]))
            page = unquote(path.removeprefix("https://book/")).removesuffix(".html")
            if page in self.pages:
                target = anchor(page, unquote(place))
                self.targets.add(target)
                link["href"] = f"#{target}"
            elif path.startswith("https://book/"):  # sources and indices are not in the PDF
                del link["href"]

    def contents(self) -> str:
        """Return the contents, with room for the numbers of the pages."""
        lines = []
        for caption, pages in self.parts:
            lines += [f'<p class="part">{escape(caption)}</p>'] if caption else []
            for name in pages:
                lines.append(entry("page", anchor(name), self.titles[name]))
                if name.startswith("lectures/"):
                    sections = self.articles[name].select("section > h2")
                    lines += [entry("section", heading.parent["id"], text(heading)) for heading in sections]
        return "".join(lines)

    def whole(self, about: str) -> str:
        """Return the document, as a page that lies in the folder of the book."""
        titles, bodies = list(self.titles.values()), self.articles.values()
        scripts = [str(tag) for page in self.pages.values() for tag in page.head.select("script")]
        return filled(
            "pdf.html",
            title=escape(titles[0]),
            about=about,
            styles="".join(map(str, next(iter(self.pages.values())).select('link[rel="stylesheet"]'))),
            css=Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
            heads="".join(f'@page p{k} {{ @top-left {{ content: "{head}"; }} }}\n' for k, head in enumerate(titles)),
            # MathJax and its options, which pages without a formula do not have
            scripts="".join(dict.fromkeys(tag for tag in scripts if "mathjax" in tag.lower())),
            contents=self.contents(),
            articles="".join(
                f'<div class="bd-article-container" style="page: p{k}">{body}</div>' for k, body in enumerate(bodies)
            ),
        )


def read(html: Path, name: str) -> Tag:
    """Return a page of the book, on which everything that is fetched is found from the folder of the book."""
    page: Tag = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    for tag in page.select("[src], link[href]"):
        key = "src" if "src" in tag.attrs else "href"
        tag[key] = urljoin(name, tag[key])
    return page


def entry(kind: str, target: str, title: str) -> str:
    """Return one line of the contents."""
    return f'<p class="{kind}"><a href="#{target}">{escape(title)}</a><span data-target="{target}"></span></p>'


def text(heading: Tag) -> str:
    """Return what a heading says."""
    return " ".join(heading.get_text().split())


def page_numbers(pdf: Path) -> tuple[int, dict[str, int]]:
    """Return how many pages a PDF has, and on which of them each place lies to which a link leads."""
    from pypdf import PdfReader

    reader = PdfReader(pdf)
    places = {unquote(name).removeprefix("/"): place for name, place in reader.named_destinations.items()}
    return len(reader.pages), {name: reader.get_destination_page_number(places[name]) + 1 for name in places}


def mend_bookmarks(pdf: Path) -> None:
    """Say once what Chromium says twice: the title of a section at the top of a page, in its bookmark."""
    from pypdf import PdfWriter
    from pypdf.generic import NameObject, TextStringObject

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium's count of objects is off by some; it warns of that
    writer = PdfWriter(clone_from=pdf)
    pending = [writer.root_object["/Outlines"].get_object()]
    for mark in pending:  # which grows meanwhile
        pending += [mark[key].get_object() for key in ("/First", "/Next") if key in mark]
        title = str(mark.get("/Title", ""))
        once = title[: len(title) // 2]
        if title and title == 2 * once:
            mark[NameObject("/Title")] = TextStringObject(once)
    writer.write(pdf)


def print_book(html: Path, parts: list[Part], pdf: Path, *, about: str, chromium: str) -> int:
    """Print pages of the book in ``html``, their contents with the numbers of pages, and return how many pages it took.

    The whole document lies beside the book's pages meanwhile, because its pictures and styles do.
    """
    from playwright.sync_api import sync_playwright

    document = html / f"{pdf.stem}.whole.html"
    try:
        document.write_text(Document(html, parts).whole(about), encoding="utf-8")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=OFFLINE)
            page = browser.new_page(color_scheme="light", offline=True)
            page.set_default_timeout(0)
            page.goto(document.as_uri())
            page.evaluate(READY)
            for _ in range(2):
                page.pdf(path=pdf, outline=True, tagged=True, prefer_css_page_size=True, print_background=True)
                count, numbers = page_numbers(pdf)
                page.evaluate(NUMBER, numbers)
            browser.close()
        mend_bookmarks(pdf)
    finally:
        document.unlink(missing_ok=True)
    return count


def offer(html: Path) -> None:
    """Let the pages of the book lead to its PDF."""
    for file in html.rglob("*.html"):
        up = "../" * (len(file.relative_to(html).parts) - 1)
        page = file.read_text(encoding="utf-8").replace("<!-- pdf -->", filled("pdf_button.html", address=up + NAME))
        file.write_text(page, encoding="utf-8")


def main() -> None:
    """Print the book of this checkout."""
    html = ROOT / "_build" / "html"
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not (html / "index.html").is_file():
        raise SystemExit("There is no book yet. Build it first: make book")
    if chromium is None:
        raise SystemExit("Chromium prints the book, and there is none; install the package chromium")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    lines = config["author"], config["copyright"], f"Made from {commit_of(ROOT)}"
    about = "".join(f"<p>{escape(line)}</p>" for line in lines)
    parts = parts_of(ROOT / "book" / "_toc.yml")
    pages = print_book(html, parts, html / NAME, about=about, chromium=chromium)
    offer(html)
    print(f"{pages} pages in {html / NAME} ({(html / NAME).stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
