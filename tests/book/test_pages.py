"""The rendered book in a real browser: offline, without script errors, legible, and whole.

Needs Chromium and a built book (``make book``, then ``make test-pages``). Where one is missing the tests are skipped,
unless VLMCOURSE_REQUIRE_BROWSER=1 makes that a failure.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
import yaml
from browsers import DESKTOP, HTML, PHONE, Noticed, Reader, open_page
from bs4 import BeautifulSoup

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]


def listed_pages() -> list[str]:
    """Return the pages in the order of the contents, which is where the book says what it has."""

    def walk(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from walk(child)

    return list(walk(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))))


PAGES = listed_pages()

# Contrast as WCAG 2 computes it: text against the first opaque background behind it.
CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const faint = [];
  const walker = document.createTreeWalker(document.querySelector('.bd-main'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest('script, style, svg, mjx-assistive-mml, .headerlink, .tooltip')) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    const below = behind(element), above = over(rgba(style.color), below);
    const [light, dark] = [luminance(above), luminance(below)].sort((x, y) => y - x);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(1)}: ${text.slice(0, 40)} <${element.className}>`);
  }
  return [...new Set(faint)];
}
"""

OVERFLOW = """
() => {
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide <= 1) return [];
  const scrolls = e => e && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const guilty = [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .filter(e => !scrolls(e.parentElement))
    .map(e => `${e.tagName}.${e.className} ends at ${Math.round(e.getBoundingClientRect().right)}`);
  return [`the page is ${wide} px too wide`, ...guilty.slice(0, 5)];
}
"""

# Names in tables that are broken into several lines, letter by letter at worst.
BROKEN_NAMES = """
() => [...document.querySelectorAll('.bd-article td code .pre')]
  .filter(word => word.checkVisibility() && word.getClientRects().length > 1)
  .map(word => word.textContent)
"""


@dataclass
class Visit:
    """What there is to see on one page."""

    noticed: Noticed
    without_alt: list[str] = field(default_factory=list)
    broken_images: list[str] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    formulas: int = 0
    rendered_formulas: int = 0
    formula_errors: list[str] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    broken_names: list[str] = field(default_factory=list)
    faint: dict[str, list[str]] = field(default_factory=dict)


def look_at(reader: Reader, name: str) -> Visit:
    """Look at one page as a reader would: on a phone, and on a desk by day and by night."""
    page = reader.shown(name, size=PHONE)
    visit = Visit(reader.noticed, overflow=page.evaluate(OVERFLOW), broken_names=page.evaluate(BROKEN_NAMES))
    page = reader.shown(name)
    article = page.locator(".bd-article")
    visit.formulas = article.locator(".math:not(.math .math)").count()
    visit.rendered_formulas = article.locator(".math:has(mjx-container):not(.math .math)").count()
    visit.formula_errors = article.locator("mjx-merror").all_inner_texts()
    for image in page.locator(".bd-main img").all():
        described = image.get_attribute("alt")
        if not described or described.startswith(("../", "data:", "_images/")):
            visit.without_alt.append(image.get_attribute("src"))
    visit.broken_images = page.evaluate(
        """async () => {
            const images = [...document.querySelectorAll('img')];
            images.forEach(image => image.loading = 'eager');
            await Promise.allSettled(images.map(image => image.decode()));
            return images.filter(image => !image.naturalWidth).map(image => image.src);
        }"""
    )
    visit.headings = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article :is(h1, h2, h3, h4, h5, h6)')].map(h => +h.tagName[1])"
    )
    visit.broken_names += page.evaluate(BROKEN_NAMES)
    visit.faint["light"] = page.evaluate(CONTRAST)
    visit.faint["dark"] = reader.shown(name, theme="dark").evaluate(CONTRAST)
    return visit


@functools.cache
def parsed(file: Path) -> BeautifulSoup:
    """Return a page without the drawings that stand in it, which are most of its bytes and hold no link."""
    text = file.read_text(encoding="utf-8")
    return BeautifulSoup(re.sub(r"<svg\b.*?</svg>", "", text, flags=re.DOTALL), "html.parser")


@pytest.fixture(scope="module")
def visit(reader):
    """Look at each page once, whatever is asked about it."""
    return functools.cache(functools.partial(look_at, reader))


on_every_page = pytest.mark.parametrize("name", PAGES)


def test_what_a_page_asks_of_other_hosts_is_noticed_and_never_arrives(browser, address):
    noticed, failed = Noticed(), {}
    page = open_page(browser, address, noticed)
    page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    elsewhere = ["https://example.org/x.png", "http://192.0.2.7/y.png"]
    page.set_content("".join(f"<img src='{url}'>" for url in elsewhere), wait_until="load")
    assert sorted(noticed.outside) == sorted(elsewhere)
    assert failed == dict.fromkeys(elsewhere, "net::ERR_NAME_NOT_RESOLVED")  # not by chance


@on_every_page
def test_a_page_asks_no_other_host_for_anything(visit, name):
    assert visit(name).noticed.outside == []


@on_every_page
def test_a_page_raises_no_script_error_and_misses_no_file(visit, name):
    assert visit(name).noticed.missing == []
    assert visit(name).noticed.errors == []


@on_every_page
def test_every_formula_is_typeset(visit, name):
    seen = visit(name)
    assert seen.rendered_formulas == seen.formulas
    assert seen.formula_errors == []


@on_every_page
def test_every_picture_loads_and_is_described_for_those_who_cannot_see_it(visit, name):
    assert visit(name).without_alt == []
    assert visit(name).broken_images == []


@on_every_page
def test_headings_start_with_one_title_and_skip_no_level(visit, name):
    levels = visit(name).headings
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    assert all(lower <= upper + 1 for upper, lower in pairwise(levels)), levels


@on_every_page
def test_a_page_fits_a_phone_without_scrolling_sideways(visit, name):
    assert visit(name).overflow == []


@on_every_page
def test_code_in_a_table_is_not_broken_inside_a_name(visit, name):
    assert visit(name).broken_names == []


@on_every_page
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_stands_out_from_its_background(visit, name, mode):
    assert visit(name).faint[mode] == []


def test_some_page_has_formulas_and_some_has_pictures(address):
    """Without this, a book that lost them all would pass."""
    assert sum((HTML / f"{name}.html").read_text(encoding="utf-8").count('class="math') for name in PAGES) > 20
    assert any(parsed(HTML / f"{name}.html").select(".cell_output img") for name in PAGES)


def test_the_search_finds_a_chapter_and_a_function(browser, address):
    found = Noticed()
    page = open_page(browser, address, found)
    for words, target in {"contrastive": "lectures/", "patchify": "book/api/ops"}.items():
        page.goto(f"{address}search.html?q={words}")
        page.wait_for_selector("#search-results li a", timeout=10_000)
        links = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
        assert any(target in link for link in links), f"searching {words} found {links}"
    assert found.errors == []
    assert found.outside == []


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ("temperature", "lectures/03_contrastive_learning.html#temperature-"),
        ("receptive field", "lectures/06_convolution_to_vit.html#"),
        ("causal mask", "lectures/09_language_model.html#"),
    ],
)
def test_the_search_leads_to_the_section_that_explains_a_word(browser, address, words, target):
    page = open_page(browser, address, Noticed())
    page.goto(f"{address}search.html?q={words.replace(' ', '+')}")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.wait_for_timeout(500)  # results come one after another
    links = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href'))")
    assert any("glossary.html#term-" in link for link in links[:3]), links[:5]
    assert any(link.startswith(target) for link in links[:6]), links[:6]


@on_every_page
def test_a_page_says_in_its_head_what_it_is_about(address, name):
    soup = parsed(HTML / f"{name}.html")
    (described,) = soup.select('meta[property="og:title"]')
    assert described["content"]
    for tag in soup.select('meta[name="description"]'):
        assert 20 <= len(tag["content"]) <= 162


def test_every_chapter_is_offered_as_notebook_and_as_script(address):
    for name in (name for name in PAGES if name.startswith("lectures/")):
        file = HTML / f"{name}.html"
        links = parsed(file).select("a[download]")
        assert {Path(link["href"]).suffix for link in links} == {".ipynb", ".py"}
        assert all((file.parent / link["href"]).is_file() for link in links)


def test_the_theme_button_switches_to_dark_and_stays_there(browser, address):
    page = open_page(browser, address, Noticed())
    page.goto(f"{address}{PAGES[0]}.html")
    button = page.locator(".theme-switch-button:visible").first
    for _ in range(3):
        if page.evaluate("() => document.documentElement.dataset.theme") == "dark":
            break
        button.click()
    page.goto(f"{address}{PAGES[-1]}.html")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"


def test_every_link_inside_the_book_leads_somewhere(address):
    files = {file: parsed(file) for file in HTML.rglob("*.html")}
    anchors = {file: {tag["id"] for tag in soup.select("[id]")} for file, soup in files.items()}
    broken = []
    for file, soup in files.items():
        here = f"https://book/{file.relative_to(HTML).as_posix()}"
        for link in soup.select("a[href]"):
            url, fragment = urldefrag(urljoin(here, link["href"]))
            if not url.startswith("https://book/"):
                continue
            target = (
                HTML / unquote(url.removeprefix("https://book/")) if url != "https://book/" else HTML / "index.html"
            )
            if not target.is_file():
                broken.append(f"{file.name}: {link['href']}")
            elif fragment and target.suffix == ".html" and unquote(fragment) not in anchors[target]:
                broken.append(f"{file.name}: {link['href']} (no such place)")
    assert sorted(set(broken)) == []


def test_every_file_of_the_book_is_free_of_addresses_that_it_would_fetch(address):
    fetching = []
    for file in HTML.rglob("*.html"):
        soup = parsed(file)
        for tag in soup.select("script[src], img[src], link[href], iframe[src], video[src], source[src]"):
            url = tag.get("src") or tag.get("href")
            if url.startswith(("http:", "https:", "//")) and "canonical" not in tag.get("rel", []):
                fetching.append(f"{file.name}: {url}")
    assert sorted(set(fetching)) == []


# --- pictures that answer to the reader ------------------------------------------------------------------------------

LIVE = {
    "book/intro": (".asked-picture",),
    "lectures/01_vision_language_models": (".path-picture",),
    "lectures/03_contrastive_learning": (".contrastive-circle",),
    "lectures/05_video": (".clip-player", ".convolution-stepper"),
    "lectures/06_convolution_to_vit": (".field-viewer",),
    "lectures/07_self_attention": (".attention-picture", ".patch-slider"),
    "lectures/08_vision_transformer": (".attention-picture",),
    "lectures/10_a_small_vlm": (".forced-word",),
}


@pytest.mark.parametrize("name", LIVE)
def test_each_live_picture_is_there_within_200_kilobytes_and_within_a_phone(browser, address, name):
    page = open_page(browser, address, Noticed())
    page.set_viewport_size(PHONE)
    page.goto(f"{address}{name}.html", wait_until="load")
    for kind in LIVE[name]:
        for picture in page.locator(kind).all():
            assert picture.evaluate("picture => new Blob([picture.outerHTML]).size") < 200_000
            box = picture.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]
            assert picture.evaluate("picture => picture.scrollWidth - picture.clientWidth") <= 1
        assert page.locator(kind).count() > 0
    page.context.close()


@pytest.mark.parametrize("name", LIVE)
def test_without_scripts_no_live_picture_shows_a_control_that_does_nothing(browser, address, name):
    page = browser.new_context(viewport=DESKTOP, java_script_enabled=False).new_page()
    page.goto(f"{address}{name}.html", wait_until="load")
    for kind in set(LIVE[name]) - {".clip-player", ".path-picture"}:  # these need no script
        for picture in page.locator(kind).all():
            dead = [control for control in picture.locator("input, select, button").all() if control.is_visible()]
            assert dead == []
            assert "Without scripts" in picture.locator("noscript").inner_text()
    page.context.close()


def test_without_scripts_a_page_is_light_and_its_header_hides_what_scrolls_under_it(browser, address):
    page = browser.new_context(viewport=DESKTOP, java_script_enabled=False, color_scheme="dark").new_page()
    page.goto(f"{address}{PAGES[0]}.html", wait_until="load")
    assert page.locator("html").get_attribute("data-theme") == "light"
    solid = "e => { const c = getComputedStyle(e).backgroundColor; return c.startsWith('rgb(') ? c : ''; }"
    assert page.locator(".bd-header-article").first.evaluate(solid) == "rgb(255, 255, 255)"
    page.context.close()


def test_each_card_of_the_landing_page_leads_to_the_chapter_whose_number_it_bears(browser, address):
    landing = HTML / f"{PAGES[0]}.html"
    cards = parsed(landing).select(".lecture-path .sd-card")
    assert len(cards) == sum(bool(re.match(r"lectures/\d", name)) for name in PAGES)
    for card in cards:
        page = (landing.parent / card.select_one("a.sd-stretched-link")["href"].partition("#")[0]).resolve()
        title = re.search(r"<h1>([^<]+)<a class=\"headerlink", page.read_text(encoding="utf-8"))[1]
        number, name = card.select_one(".sd-card-title").get_text().strip().split(" · ")
        assert title.startswith(f"{number}. {name}")
    page = open_page(browser, address, Noticed())
    page.goto(f"{address}{PAGES[0]}.html", wait_until="load")
    page.locator(".lecture-path .sd-card").nth(3).click(position={"x": 20, "y": 20})  # all of a card is a link
    assert page.url.startswith(f"{address}lectures/04_")
    page.context.close()


def test_the_landing_page_opens_with_a_question_asked_of_a_picture(browser, address):
    page = open_page(browser, address, Noticed())
    page.goto(f"{address}{PAGES[0]}.html", wait_until="load")
    first, _, rest = page.title().partition(" — ")
    assert first != rest  # no title twice
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        page.evaluate("scrollTo(0, 0)")
        for part in (".shown", ".question", ".answer", ".verdict"):
            box = page.locator(f".asked-picture {part}").bounding_box()
            assert box["y"] + box["height"] <= viewport["height"], f"{part} is below the first screen"
    page.locator(".asked-picture .pictures label").nth(4).click()
    assert page.locator(".asked-picture .verdict").inner_text().startswith("Wrong.")
    page.context.close()
