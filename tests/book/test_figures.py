"""Figures and tables of the pages: what the extension makes of them, and what figure cells may write."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from vlmcourse import plots
from vlmcourse.course.figures import style

ROOT = Path(__file__).parents[2]
figures = pytest.importorskip("figures", reason="needs the extra [book]")

FIGURE = """<?xml version="1.0"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" width="360pt" height="216pt"
 viewBox="0 0 360 216">
 <metadata>made by somebody</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style></defs>
 <g id="figure_1">
  <g id="patch_1"><path d="M 0 0 L 360 0 z" style="fill: #ffffff"/></g>
  <g id="axes_1">
   <defs><path id="m1" d="M 0 0" style="stroke: #222832"/><clipPath id="p1"><rect/></clipPath></defs>
   <use xlink:href="#m1" style="fill: #222832; stroke: #0072b2"/>
   <path id="patch_2" clip-path="url(#p1)" d="M 1 1" style="fill: #ffffff; stroke: #ffffff"/>
   <text style="font-size: 9px; font-family: 'DejaVu Sans'; fill: #222832">loss</text>
   <text style="fill: #ffffff">0.9</text>
   <text>black on purpose</text>
   <image xlink:href="data:image/png;base64,AAAA" width="9"/>
  </g>
 </g>
</svg>"""


@pytest.fixture
def shown():
    html = figures.inline(FIGURE, label='a "curve" < 1', prefix="f7")
    return BeautifulSoup(html, "html.parser").find("svg")


def test_a_figure_is_an_image_with_words_and_a_size(shown):
    assert shown["role"] == "img"
    assert shown["aria-label"] == 'a "curve" < 1'
    assert (shown["width"], shown["height"]) == ("480", "288")  # CSS pixels
    assert shown["viewbox"] == "0 0 360 216"
    assert not shown.has_attr("style")


def test_its_paper_is_gone_and_white_areas_show_the_page(shown):
    white = [tag for tag in shown.select("[style*='fill: #ffffff']") if tag.name != "text"]
    assert white == []
    area = shown.select_one("path[clip-path]")
    assert figures.PAPER in area["style"]
    assert "stroke: #ffffff" in area["style"]  # a white line is meant to be white
    assert "M 0 0 L 360 0 z" not in str(shown)


def test_ink_follows_the_page_and_nothing_else_does(shown):
    assert style.INK not in str(shown)
    assert shown.select_one("use")["style"] == "fill: currentColor; stroke: #0072b2"
    plain, white, black = shown.select("text")
    assert plain["style"] == "font-size: 9px; fill: currentColor"
    assert white["style"] == "fill: #ffffff"
    assert not black.has_attr("style")


def test_its_rules_and_names_concern_no_other_figure(shown):
    assert shown.find("style") is None
    assert (shown["stroke-linejoin"], shown["stroke-linecap"]) == ("round", "butt")
    assert [tag["id"] for tag in shown.select("[id]")] == ["f7-m1", "f7-p1"]
    assert shown.select_one("use")["href"] == "#f7-m1"
    assert shown.select_one("path[clip-path]")["clip-path"] == "url(#f7-p1)"
    assert shown.select_one("image")["href"] == "data:image/png;base64,AAAA"


def test_a_figure_without_a_size_is_refused():
    with pytest.raises(ValueError, match="100%"):
        figures.inline(FIGURE.replace("360pt", "100%"), label="x", prefix="x")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["22.0% ± 0.7%", "15.4 %", "–"], True),
        (["1,024", "3.5 M", ""], True),
        (["1e-3", "−4", "12 s"], True),
        (["S07", "S08"], False),
        (["3 × 3", "5 × 5"], False),
        (["35.1–41.2 ms", "1,230–1,410 ms", ""], True),
        (["0.08 to 0.10", "0.2"], False),
        (["", ""], False),
    ],
)
def test_a_column_of_numbers_is_one_that_holds_nothing_else(cells, expected):
    assert figures.numeric(cells) is expected


def test_numbers_of_pandas_stand_under_their_heads():
    import pandas as pd

    table = pd.DataFrame({"network": ["a", "b"], "steps": [5, 10], "share": ["5 %", "50 %"]}, index=["x", "y"])
    shown = BeautifulSoup(figures.aligned(table._repr_html_()), "html.parser")
    assert [th.get_text() for th in shown.select("thead th.number")] == ["steps", "share"]
    assert [td.get_text() for td in shown.select("td.number")] == ["5", "5 %", "10", "50 %"]
    assert not shown.select("[border], tr[style]")


# ---------------------------------------------------------------------------------------------------------
# What figure cells may write
# ---------------------------------------------------------------------------------------------------------

NAMED_SCALE = r"(?:cmap=|colormaps\[|get_cmap\()[\"']\w"  # white or dark at zero, where the page has another ground
BY_HAND = {
    "a colour by position": r"COLORS\[\d|color=f?[\"']C\d|color=f[\"']C\{",
    "a colour by its number": r"[\"']#[0-9A-Fa-f]{6}[\"']",
    "a width of its own": r"figsize=\((?!(?:vlmcourse\.)?plots\.(?:WIDE|NARROW),|width,)"
    r"|set_size_inches\((?!plots\.(?:WIDE|NARROW),)",
    "type under nine points": r"fontsize=[1-8](?:\.\d+)?\b|\"fontsize\": [1-8]\b|labelsize=[1-8]\b",
    "a scale by its name": NAMED_SCALE,
}


def by_hand(source: str) -> list[str]:
    return [what for what, pattern in BY_HAND.items() if re.search(pattern, source)]


def figure_cells() -> list[tuple[str, str]]:
    notebooks = {path.name: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "lectures").glob("*.ipynb"))}
    cells = [(name, cell) for name, notebook in notebooks.items() for cell in notebook["cells"]]
    return [(name, "".join(cell["source"])) for name, cell in cells if "figure" in cell["metadata"].get("tags", [])]


def test_no_cell_whether_tagged_or_not_names_a_scale():
    found = []
    for path in sorted((ROOT / "lectures").glob("*.ipynb")):
        code = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
        found += [(path.name, line) for cell in code for line in cell["source"] if re.search(NAMED_SCALE, line)]
    assert found == []


def test_figure_cells_leave_looks_to_the_style():
    assert len(figure_cells()) > 50
    assert [(name, why, source[:80]) for name, source in figure_cells() if (why := by_hand(source))] == []


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("ax.plot(x, color=plots.COLORS[2])", "a colour by position"),
        ("ax.plot(x, color='C1')", "a colour by position"),
        ('box = {"facecolor": "#56B4E9"}', "a colour by its number"),
        ("plt.subplots(figsize=(6, 3))", "a width of its own"),
        ("ax.figure.set_size_inches(8, 3)", "a width of its own"),
        ('ax.text(0, 0, "a", fontsize=7)', "type under nine points"),
        ('ax.imshow(x, cmap="RdBu")', "a scale by its name"),
        ("ax.pcolormesh(x, cmap='gray')", "a scale by its name"),
    ],
)
def test_looks_by_hand_are_noticed(source, why):
    assert by_hand(source) == [why]


def test_what_draws_for_chapters_has_no_scale_of_its_own():
    source = Path(plots.__file__).read_text(encoding="utf-8")
    assert "cmap=AMOUNT" in source
    assert re.findall(r"cmap=[\"']\w+", source) == []


def test_every_name_of_the_style_that_a_chapter_uses_exists():
    used, concepts = set(), set()
    for path in (ROOT / "lectures").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"\bplots\.(\w+)", text))
        concepts |= set(re.findall(r'CONCEPTS\[\\?"([^"\\]+)\\?"\]', text))
    assert {"WIDE", "show_images"} < used
    assert used - {"plt"} - set(plots.__all__) == set()
    assert concepts
    assert concepts - set(style.CONCEPTS) == set()


def test_the_grounds_that_colours_are_held_to_are_those_of_the_theme():
    from tests.course.test_figure_style import DARK, LIGHT

    def grounds(package: str) -> list[str]:
        sheet = f"theme/{package}/static/styles/{package.replace('_', '-')}.css"
        css = files(package).joinpath(sheet).read_text(encoding="utf-8")
        return re.findall(r"--pst-color-background:\s*(#\w+)", css)

    assert grounds("pydata_sphinx_theme")[0] == LIGHT[:4]
    assert grounds("sphinx_book_theme")[-1] == DARK  # it darkens the other theme's dark
