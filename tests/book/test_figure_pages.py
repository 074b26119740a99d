"""Figures and tables as a browser shows them: by night, on a phone, and with the keyboard. Needs a built book."""

import io
from statistics import median

import pytest
from browsers import HTML, PHONE
from PIL import Image
from test_pages import PAGES

pytestmark = pytest.mark.browser

CHAPTERS = [name for name in PAGES if name.startswith("lectures/")]
FIGURES = ".output.figure:not(.on-paper), .cell_output > img"


@pytest.mark.parametrize("name", CHAPTERS)
def test_by_night_no_figure_stands_on_white_paper(reader, name):
    page = reader.shown(name, theme="dark")
    for figure in page.query_selector_all(FIGURES):
        if not figure.is_visible():
            continue  # in a closed hint
        picture = Image.open(io.BytesIO(figure.screenshot())).convert("L")
        edges = [picture.crop((10, y, picture.width - 10, y + 1)) for y in (1, picture.height - 2)]  # round corners
        light = median(b"".join(edge.tobytes() for edge in edges))
        assert light < 100, figure.evaluate("f => (f.querySelector('svg') ?? f).outerHTML.slice(0, 200)")


@pytest.mark.parametrize("name", CHAPTERS)
def test_on_a_phone_no_type_is_below_nine_points_and_what_scrolls_can_be_reached_by_keyboard(reader, name):
    page = reader.shown(name, size=PHONE)
    smallest = """figures => figures.flatMap(figure => {
        const scale = figure.getBoundingClientRect().width / figure.viewBox.baseVal.width;
        return [...figure.querySelectorAll('text')].map(word => scale * parseFloat(getComputedStyle(word).fontSize));
    }).filter(size => size > 0 && size < 11.9)"""
    assert page.eval_on_selector_all("svg.figure", smallest) == []
    lost = "all => all.filter(b => b.scrollWidth > b.clientWidth && b.tabIndex < 0).map(b => b.innerHTML.slice(0, 99))"
    assert page.eval_on_selector_all(".output.figure", lost) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_figure_stands_in_the_middle_and_is_no_larger_than_it_was_drawn(reader, name):
    page = reader.shown(name)
    off = """figures => figures.filter(f => f.checkVisibility()).map(f => {
        const [inner, outer] = [f.getBoundingClientRect(), f.parentElement.getBoundingClientRect()];
        const aside = Math.abs(inner.left + inner.right - outer.left - outer.right) / 2;
        return [aside, inner.width - f.getAttribute('width')];
    }).filter(([aside, larger]) => aside > 1 || larger > 1)"""
    assert page.eval_on_selector_all("svg.figure", off) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_beside_the_columns_at_the_sides_there_is_room_for_a_whole_figure(reader, name):
    for width in (960, 1200):  # from here on there is a column on the left, and on the right
        page = reader.shown(name, size={"width": width, "height": 900})
        cut = "all => all.filter(f => f.scrollWidth > f.clientWidth).map(f => [f.scrollWidth, f.clientWidth])"
        assert page.eval_on_selector_all(".output.figure", cut) == [], width


def test_numbers_of_a_table_stand_on_the_right_and_columns_do_not_touch(reader):
    tables = [name for name in CHAPTERS if 'class="number' in (HTML / f"{name}.html").read_text(encoding="utf-8")]
    assert tables
    for name in tables[:3]:
        looks = reader.shown(name).eval_on_selector_all(
            ".number",
            "cells => cells.map(c => getComputedStyle(c)).map(s => [s.textAlign, parseFloat(s.paddingLeft) >= 8])",
        )
        assert set(map(tuple, looks)) == {("right", True)}


def test_the_guide_shows_a_good_example_in_the_page_and_a_bad_one_on_paper(reader):
    page = reader.shown("book/figure_style", theme="dark")
    grounds = page.eval_on_selector_all("svg.figure", "all => all.map(f => getComputedStyle(f).backgroundColor)")
    assert grounds == ["rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"]
    assert page.locator(".palette .swatch").count() > 10
