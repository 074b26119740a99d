"""The book on paper: a page from the browser's dialog, and a PDF of several pages as make pdf makes one of all.

Needs what test_pages.py needs, and pypdf.
"""

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from browsers import CHROMIUM, HTML, TYPESET, unavailable
from test_pages import PAGES

from book.tools.pdf import anchor, pages_of, print_book

pytestmark = pytest.mark.browser

APPENDIX = "solutions"
CHAPTER = "lectures/04_linear_probe"
PARTS = [("", ["book/intro"]), ("Chapters", [CHAPTER]), ("Reference", ["book/api/ops", "book/glossary"])]
TOO_WIDE = """
() => {
  const end = document.querySelector('.bd-article').getBoundingClientRect().right + 1;
  const cut = box => box.tagName === 'PRE' && box.scrollWidth > box.clientWidth + 1;
  return [...document.querySelectorAll('.bd-article :is(pre, td, th, img, mjx-math)')]
    .filter(box => box.checkVisibility() && (cut(box) || box.getBoundingClientRect().right > end))
    .map(box => `<${box.tagName.toLowerCase()}> ${box.textContent.slice(0, 60)}`);
}
"""


@pytest.fixture(scope="module")
def pdf(address, tmp_path_factory):
    """Print some pages of the book, one of every kind."""
    if importlib.util.find_spec("pypdf") is None:
        unavailable("there is no pypdf; install it")
    from pypdf import PdfReader

    html, path = tmp_path_factory.mktemp("html"), tmp_path_factory.mktemp("pdf") / "some.pdf"
    for entry in HTML.iterdir():  # the document that is printed lies beside the pages, which other tests are reading
        (html / entry.name).symlink_to(entry)
    chromium = CHROMIUM or unavailable("there is no Chromium")
    with ThreadPoolExecutor() as pool:  # playwright starts a second browser in another thread only
        pool.submit(print_book, html, PARTS, path, about=["Some pages"], chromium=chromium).result()
    return PdfReader(path)


@pytest.fixture(scope="module")
def titles():
    """Return the title of each page of the book that is printed."""
    return {page.name: page.title for page in pages_of(HTML, PARTS)}


@pytest.fixture(scope="module")
def texts(pdf):
    """Return what stands on each page, with single spaces."""
    return [" ".join(page.extract_text().split()) for page in pdf.pages]


def places(pdf) -> dict[str, int]:
    """Return the index of the page on which each place lies."""
    return {name.strip("/"): pdf.get_destination_page_number(at) for name, at in pdf.named_destinations.items()}


def test_the_contents_give_the_page_on_which_each_title_stands(pdf, texts, titles):
    first = places(pdf)[anchor("book/intro")]
    contents = " ".join(texts[1:first])
    for name, title in [
        *((anchor(name), title) for name, title in titles.items()),
        (APPENDIX, "Solutions of the exercises"),
    ]:
        page = places(pdf)[name]
        assert title in texts[page]
        assert f"{title} {page + 1}" in contents


def test_pages_are_numbered_and_named_at_their_head(pdf, texts, titles):
    assert all(str(number) in text.split() for number, text in enumerate(texts[1:], start=2))
    begin, end = places(pdf)[anchor(CHAPTER)], places(pdf)[anchor("book/api/ops")]
    assert end > begin + 3
    assert all(titles[CHAPTER] in text for text in texts[begin:end])


def test_headings_are_bookmarks_in_the_order_of_the_pages(pdf, titles):
    def walk(outline):
        for entry in outline:
            yield from walk(entry) if isinstance(entry, list) else [entry]

    marks = list(walk(pdf.outline))
    marked = [mark.title for mark in marks]
    assert list(dict.fromkeys(title for title in marked if title in titles.values())) == list(titles.values())
    assert len(marked) > 20
    assert {title for title in marked if title[: len(title) // 2] * 2 == title} == set()
    pages = [pdf.get_destination_page_number(mark) for mark in marks]
    assert all(earlier <= later for earlier, later in pairwise(pages))


def test_links_lead_to_places_of_the_document_or_out_of_the_book(pdf):
    inside, outside, known = [], [], set(pdf.named_destinations)
    for page in pdf.pages:
        for note in page.get("/Annots") or []:
            note = note.get_object()
            if "/Dest" in note:
                inside.append(str(note["/Dest"]))
            elif "/A" in note:
                outside.append(str(note["/A"].get("/URI")))
    assert len(inside) > 60
    assert {name for name in inside if name not in known and name.strip("/") not in places(pdf)} == set()
    assert [url for url in outside if not url.startswith(("https://", "http://", "mailto:"))] == []


def test_the_document_is_tagged_for_screen_readers_and_has_a_title_and_a_language(pdf, titles):
    root = pdf.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert pdf.metadata.title == titles["book/intro"]


def test_solutions_stand_in_the_appendix_alone(pdf, texts):
    appendix = places(pdf)[APPENDIX]
    with_solutions = [number for number, text in enumerate(texts) if re.search(r"Solution to Exercise \d+", text)]
    assert with_solutions
    assert min(with_solutions) >= appendix
    assert any(re.search(r"Exercise [\d.]+ \(", text) for text in texts[:appendix])


def untouched(html: str) -> str:
    """Return HTML without what scripts of the theme change on their own."""
    return re.sub(r'\s*(open|style|tabindex)="[^"]*"', "", html)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_on_paper(reader, name):
    between_margins_of_a4 = {"width": 660, "height": 900}
    assert reader.shown(name, size=between_margins_of_a4, media="print").evaluate(TOO_WIDE) == []


def test_on_paper_solutions_follow_at_the_end_and_hints_are_open_and_afterwards_all_is_as_before(browser, address):
    page = browser.new_page()
    page.goto(f"{address}{CHAPTER}.html", wait_until="load")
    article = page.locator("article.bd-article")
    before = untouched(article.inner_html())
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".printed-solutions .solution").count() == page.locator(".solution").count() > 0
    assert article.evaluate("article => article.lastElementChild.className") == "printed-solutions"
    for hint in page.locator("details.sd-dropdown p").all():
        assert hint.is_visible()
    page.emulate_media(media="screen")
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.locator(".printed-solutions").count() == 0
    assert untouched(article.inner_html()) == before
    page.close()


def test_the_cheat_sheet_is_one_page_of_a4(browser, address, tmp_path):
    if importlib.util.find_spec("pypdf") is None:
        unavailable("there is no pypdf; install it")
    from pypdf import PdfReader

    page = browser.new_page()
    page.goto(f"{address}book/cheat_sheet.html")
    page.wait_for_function(TYPESET)
    page.pdf(path=tmp_path / "sheet.pdf", prefer_css_page_size=True, print_background=True)
    page.close()
    sheet = PdfReader(tmp_path / "sheet.pdf")
    assert len(sheet.pages) == 1
    width, height = (round(float(side) / 72 * 25.4) for side in sheet.pages[0].mediabox[2:])
    assert (width, height) == (210, 297)
