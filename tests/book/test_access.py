"""The rendered book for those who read with a screen reader, a keyboard or a finger.

axe, which comes with the package axe-playwright-python, judges every page. By default it looks at it on a
phone, and leaves contrast to test_pages.py; with VLMCOURSE_AXE=all it looks at everything, in both modes and at three
widths, which takes several times as long. Needs what test_pages.py needs.
"""

import importlib.util
import os
import re
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from browsers import DESKTOP, HTML, PHONE, TYPESET, unavailable
from test_pages import PAGES

pytestmark = pytest.mark.browser

ALL = os.environ.get("VLMCOURSE_AXE") == "all"
WIDTHS = (390, 768, 1280)
SETTINGS = list(product(("light", "dark"), WIDTHS)) if ALL else [("light", 390)]
OTHER_PAGES = ["genindex", "py-modindex", "search", "_modules/index", "_modules/vlmcourse/ops/attention"]
CHAPTER = next(name for name in PAGES if name.startswith("lectures/03"))

# A figure is one picture to a screen reader, and a program is one text. axe would look at every line of the one and at
# every word of the other all the same, for two thirds of its time.
AXE = """
async everything => {
  const whole = everything ? [] : [...document.querySelectorAll('svg.figure, .highlight pre:not(:has(a, [id]))')];
  const parts = whole.map(element => [...element.childNodes]);
  whole.forEach(element => element.replaceChildren(...(element.matches('pre') ? [element.textContent] : [])));
  const found = await axe.run(document, {
    resultTypes: ['violations'],
    rules: {'color-contrast': {enabled: everything}, 'label-content-name-mismatch': {enabled: true}},
  });
  whole.forEach((element, k) => element.replaceChildren(...parts[k]));
  return found.violations
    .filter(kind => ['serious', 'critical'].includes(kind.impact))
    .map(kind => `${kind.id} (${kind.impact}): `
      + kind.nodes.slice(0, 3).map(node => node.html.slice(0, 120)).join(' … '));
}
"""
# The theme lets the keyboard reach code that scrolls, some time after the window has changed its size.
REACHED = "() => [...document.querySelectorAll('pre[tabindex=\"-1\"]')].every(p => p.scrollWidth <= p.clientWidth)"
# Everything that the Tab key reaches and that shows no outline when it gets there.
FAINT_FOCUS = """
() => [...document.querySelectorAll('a[href], button, summary, input, select, [tabindex="0"]')]
  .filter(element => element.tabIndex >= 0)
  .filter(element => element.checkVisibility({visibilityProperty: true, opacityProperty: true}))
  .filter(element => {
    element.focus();
    if (document.activeElement !== element) return false;
    const style = getComputedStyle(element);
    return style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2;
  })
  .map(element => `<${element.tagName.toLowerCase()} class="${element.className}">`)
"""
SCROLLERS = """
() => [...document.querySelectorAll('.bd-article *')]
  .filter(box => ['auto', 'scroll'].includes(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth + 1)
  .filter(box => box.tabIndex < 0 && !box.querySelector('a[href], button, [tabindex="0"]'))
  .map(box => `<${box.tagName.toLowerCase()} class="${box.className}">`)
"""
SMALL = """
selector => [...document.querySelectorAll(selector)]
  .filter(button => button.checkVisibility())
  .map(button => [button.className, button.getBoundingClientRect(), getComputedStyle(button).opacity])
  .filter(([name, box, opacity]) => box.width < 43.5 || box.height < 43.5 || opacity < 0.9)
  .map(([name, box, opacity]) => `${name}: ${Math.round(box.width)} by ${Math.round(box.height)}, opacity ${opacity}`)
"""

FINGER = ".header-article__inner button:not(.dropdown-item), button.copybtn"


@cache
def axe() -> str:
    """Return the script of axe."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        unavailable("there is no axe; install the package axe-playwright-python")
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def opened(browser, url: str, *, mode: str = "light", size=DESKTOP, **options):
    """Return a page whose formulas are typeset."""
    page = browser.new_context(viewport=size, color_scheme=mode, **options).new_page()
    page.goto(url)
    page.wait_for_function(TYPESET)
    return page


@pytest.mark.parametrize("name", [*PAGES, *OTHER_PAGES])
def test_a_page_holds_nothing_that_a_screen_reader_stumbles_over(reader, name):
    found = {}
    for mode, width in SETTINGS:
        page = reader.shown(name, theme=mode, size={**PHONE, "width": width})
        page.wait_for_function(REACHED)
        if not page.evaluate("() => 'axe' in window"):
            page.add_script_tag(content=axe())
        noticed = deepcopy(reader.noticed)
        if faults := page.evaluate(AXE, ALL or name in OTHER_PAGES):
            found[mode, width] = faults
        # axe asks for stylesheets where there are none, which is no fault of the page's.
        reader.noticed.missing[:], reader.noticed.errors[:] = noticed.missing, noticed.errors
    assert found == {}


def test_no_id_stands_twice_on_a_page(address):
    twice = {}
    for file in HTML.rglob("*.html"):
        ids = re.findall(r'<[^<>]*\sid="([^"]*)"', file.read_text(encoding="utf-8"))
        if repeated := {one for one in ids if ids.count(one) > 1}:
            twice[file.relative_to(HTML).as_posix()] = repeated
    assert twice == {}


def test_formulas_are_no_stops_of_the_tab_key_and_are_still_read_aloud(browser, address):
    page = opened(browser, f"{address}{CHAPTER}.html")
    assert page.locator("mjx-container").count() > 20
    assert page.locator("mjx-container mjx-assistive-mml math").count() == page.locator("mjx-container").count()
    assert page.locator("mjx-container:not([display='true'])[tabindex='0']").count() == 0
    page.context.close()


@pytest.mark.parametrize("name", ["book/api/train", CHAPTER])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_where_the_keyboard_is_can_be_seen(browser, address, name, size):
    page = opened(browser, f"{address}{name}.html", size=size)
    page.keyboard.press("Tab")  # the browser shows where the focus is once somebody uses the keyboard
    assert page.evaluate(FAINT_FOCUS) == []
    page.context.close()


def test_the_theme_button_keeps_the_focus(browser, address):
    page = opened(browser, f"{address}{PAGES[0]}.html")
    page.keyboard.press("Tab")
    button = page.locator(".theme-switch-button:visible").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.evaluate("button => button === document.activeElement")
    page.context.close()


@pytest.mark.parametrize("side", ["primary", "secondary"])
def test_escape_from_a_drawer_goes_back_to_its_button(browser, address, side):
    page = opened(browser, f"{address}{CHAPTER}.html", size=PHONE)
    page.keyboard.press("Tab")
    toggle = page.locator(f".{side}-toggle:visible").first
    toggle.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#pst-{side}-sidebar-modal[open]")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"#pst-{side}-sidebar-modal[open]", state="detached")
    assert toggle.evaluate("toggle => toggle === document.activeElement")
    page.context.close()


@pytest.mark.parametrize("name", [CHAPTER, "book/cheat_sheet", "book/claims", "book/api/train"])
def test_what_scrolls_sideways_on_a_phone_can_be_reached_with_the_keyboard(browser, address, name):
    page = opened(browser, f"{address}{name}.html", size=PHONE)
    page.wait_for_timeout(500)  # the theme looks again when nothing has moved for a while
    assert page.evaluate(SCROLLERS) == []
    page.context.close()


@pytest.mark.parametrize(
    ("name", "there"), [(CHAPTER, ".toggle-button"), (CHAPTER, ".sd-summary-title"), ("book/homework/hw1", "summary")]
)
def test_a_finger_finds_the_buttons(browser, address, name, there):
    page = opened(browser, f"{address}{name}.html", size=PHONE, has_touch=True, is_mobile=True)
    assert page.locator("button.copybtn").count() > 5
    assert page.locator(f".bd-article {there}").count() > 2
    assert page.evaluate(SMALL, f"{FINGER}, .bd-article {there}") == []
    page.context.close()


def test_the_button_of_something_folded_is_named_after_it(browser, address):
    page = opened(browser, f"{address}{CHAPTER}.html")
    page.wait_for_load_state("load")
    names = page.eval_on_selector_all(".toggle-button", "all => all.map(button => button.getAttribute('aria-label'))")
    assert len(names) > 2
    assert [name for name in names if not name.startswith("Solution to Exercise")] == []
    assert len(set(names)) == len(names)
    page.context.close()


def test_a_page_without_a_formula_loads_no_mathjax_and_icons_are_the_few_that_the_book_shows(address):
    with_formulas, loading = set(), set()
    for name in PAGES:
        html = (HTML / f"{name}.html").read_text(encoding="utf-8")
        with_formulas |= {name} if 'class="math' in html else set()
        loading |= {name} if re.search(r"<script[^>]*mathjax/", html) else set()
    assert loading == with_formulas
    assert 0 < len(loading) < len(PAGES)
    assert (HTML / "_static" / "scripts" / "fontawesome.js").stat().st_size < 200_000


def test_every_icon_is_drawn(browser, address):
    page = opened(browser, f"{address}{CHAPTER}.html")
    page.wait_for_selector("svg.svg-inline--fa", state="attached")
    assert page.locator("svg.svg-inline--fa").count() > 5
    assert page.locator("i[class*='fa-'], svg.svg-inline--fa:not(:has(> path))").count() == 0
    page.context.close()
