"""Print the rendered book as one PDF: python -m book.tools.pdf, after make book.

The articles of all pages become one document, the solutions of the exercises move to its end, and Chromium prints it
twice: the first print tells on which page each entry of the contents lands, the second shows the numbers.
"""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import yaml
from bs4 import BeautifulSoup

from book.tools.address import commit_of
from book.tools.normalize import ROOT
from book.tools.templates import filled

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
NAME = "neural-networks-for-vision.pdf"
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LIVE = ".cell_output *, .live-picture, .live-picture *, svg *"  # whose ids their own scripts and styles go by
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


class Page:
    """One page of the rendered book, on its way into the document; with a caption it begins a part."""

    def __init__(self, html: Path, name: str, caption: str, names: list[str]) -> None:
        soup: Tag = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for tag in soup.select("[src], link[href]"):  # found from the folder of the book, where the document lies
            key = "src" if "src" in tag.attrs else "href"
            tag[key] = urljoin(name, tag[key])
        self.name, self.caption, self.head = name, caption, soup.head
        self.article = soup.select_one("article.bd-article")
        for mark in self.article.select(".headerlink"):  # else a part of titles
            mark.decompose()
        for picture in self.article.select("img[loading]"):
            del picture["loading"]  # else Chromium waits until somebody scrolls there
        for place in self.article.select(f"[id]:not({LIVE})"):
            place["id"] = anchor(name, place["id"])
        self.article["id"] = anchor(name)
        self.mend_links(names)
        self.title = " ".join(self.article.h1.get_text().split())
        self.solutions = [solution.extract() for solution in self.article.select("div.solution")]

    def mend_links(self, names: list[str]) -> None:
        """Let links to the pages called ``names`` lead to places of the document."""
        for link in self.article.select("a[href]"):
            path, place = urldefrag(urljoin(f"https://book/{self.name}.html", link["href"]))
            page = unquote(path.removeprefix("https://book/")).removesuffix(".html")
            if page in names:
                link["href"] = f"#{anchor(page, unquote(place))}"
            elif path.startswith("https://book/"):  # sources and indices are not in the PDF
                del link["href"]

    def contents(self) -> list[tuple[str, str, str]]:
        """Return what leads here from the contents: each entry's kind, target and words."""
        sections = self.article.select("section > h2") if self.name.startswith("lectures/") else []
        found = [("section", heading.parent["id"], heading.get_text()) for heading in sections]
        return [("page", anchor(self.name), self.title), *found]


def pages_of(html: Path, parts: list[Part]) -> list[Page]:
    """Return all pages, with ids that no two of them share, and their solutions taken out."""
    names = [name for _, pages in parts for name in pages]
    captions = {pages[0]: caption for caption, pages in parts}
    return [Page(html, name, captions.get(name, ""), names) for name in names]


def whole(pages: list[Page], about: list[str]) -> str:
    """Return the document, as a page that lies in the folder of the book."""
    scripts = [str(tag) for page in pages for tag in page.head.select("script")]
    return filled(
        "pdf.html",
        title=pages[0].title,
        about=about,
        pages=pages,
        styles="".join(map(str, pages[0].head.select('link[rel="stylesheet"]'))),
        # MathJax and its options, which pages without a formula do not have
        scripts="".join(dict.fromkeys(tag for tag in scripts if "mathjax" in tag.lower())),
    )


def page_numbers(pdf: Path) -> tuple[int, dict[str, int]]:
    """Return how many pages a PDF has, and on which of them each place lies to which a link leads."""
    from pypdf import PdfReader

    reader = PdfReader(pdf)
    places = {unquote(name).removeprefix("/"): place for name, place in reader.named_destinations.items()}
    return len(reader.pages), {name: reader.get_destination_page_number(places[name]) + 1 for name in places}


def print_book(html: Path, parts: list[Part], pdf: Path, *, about: list[str], chromium: str) -> int:
    """Print pages of the book in ``html``, their contents with the numbers of pages, and return how many it took."""
    from playwright.sync_api import sync_playwright

    document = html / f"{pdf.stem}.whole.html"  # beside the book's pages, as its pictures and styles are
    try:
        document.write_text(whole(pages_of(html, parts), about), encoding="utf-8")
        with sync_playwright() as driver, driver.chromium.launch(executable_path=chromium, args=OFFLINE) as browser:
            page = browser.new_page(color_scheme="light", offline=True)
            page.set_default_timeout(0)
            page.goto(document.as_uri())
            page.evaluate(READY)
            for _ in range(2):
                page.pdf(path=pdf, outline=True, tagged=True, prefer_css_page_size=True, print_background=True)
                count, numbers = page_numbers(pdf)
                page.evaluate(NUMBER, numbers)
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
    html = ROOT / "_build" / "html"
    if not (html / "index.html").is_file():
        raise SystemExit("There is no book yet. Build it first: make book")
    if CHROMIUM is None:
        raise SystemExit("Chromium prints the book, and there is none; install the package chromium")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    about = [config["author"], config["copyright"], f"Made from {commit_of(ROOT)}"]
    parts = parts_of(ROOT / "book" / "_toc.yml")
    pages = print_book(html, parts, html / NAME, about=about, chromium=CHROMIUM)
    offer(html)
    print(f"{pages} pages in {html / NAME} ({(html / NAME).stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
