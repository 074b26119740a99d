"""The look of the figures: one file says it, its colours have meanings, can be seen, and can be told apart."""

import base64
import io
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb, to_rgba
from PIL import Image

from vlmcourse import Chapter, plots
from vlmcourse.course.figures import style

mpl.use("agg")

# The grounds of the book's two themes; tests/book/test_figures.py holds them to the theme's own style sheet.
LIGHT, DARK = "#ffffff", "#121212"

# What colour-blind eyes make of linear RGB, Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture(autouse=True)
def _in_style():
    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")


def linear(color) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other) -> float:
    dark, light = sorted(XYZ[1] @ linear(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(color, eye: str) -> np.ndarray:
    xyz = XYZ @ np.clip(np.array(EYES[eye]) @ linear(color), 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def over(top, below: str) -> tuple[float, ...]:
    """Return a colour with some transparency as it looks on a ground."""
    *rgb, alpha = to_rgba(top)
    return tuple(alpha * a + (1 - alpha) * b for a, b in zip(rgb, to_rgb(below), strict=True))


@pytest.mark.parametrize("name", style.HUES)
@pytest.mark.parametrize("ground", [LIGHT, DARK])
def test_every_colour_stands_out_from_both_grounds_by_three_to_one(name, ground):
    assert contrast(style.HUES[name], ground) >= 3


@pytest.mark.parametrize("group", style.GROUPS)
@pytest.mark.parametrize("eye", EYES)
def test_concepts_of_one_group_can_be_told_apart_by_every_eye(group, eye):
    hues = {style.HUES[hue] for hue in style.GROUPS[group].values()}
    near = [pair for pair in combinations(hues, 2) if np.linalg.norm(lab(pair[0], eye) - lab(pair[1], eye)) < 10]
    assert near == []


SAME = [{"contrastive", "label-free", "all views"}, {"attention", "Transformer", "ViT"}, {"new", "held out"}]


@pytest.mark.parametrize("group", style.GROUPS)
def test_within_a_group_only_names_of_the_same_thing_share_a_hue(group):
    hues = style.GROUPS[group]
    shared = [pair for pair in combinations(hues, 2) if hues[pair[0]] == hues[pair[1]]]
    assert [pair for pair in shared if not any(set(pair) <= names for names in SAME)] == [], (
        "give one of the two another hue or, where both name the same thing, put them into SAME above"
    )


def test_the_style_file_is_valid_and_its_cycle_is_the_palette():
    assert [to_rgb(f"#{entry['color'].strip('#')}") for entry in plt.rcParams["axes.prop_cycle"]] == [
        to_rgb(color) for color in style.COLORS
    ], "each colour stands in two files, in this order: HUES in style.py, axes.prop_cycle in vlmcourse.mplstyle"
    assert to_hex(plt.rcParams["text.color"]) == style.INK


def test_a_figure_has_no_frame_no_small_type_and_ink_alone_besides_the_data():
    figure, ax = plt.subplots()
    ax.plot([1, 2], label="data")
    ax.set(xlabel="x", ylabel="y", title="t")
    ax.legend(title="legend")
    figure.canvas.draw()
    assert [side for side in ax.spines if ax.spines[side].get_visible()] == ["left", "bottom"]
    words = [text for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert min(text.get_fontsize() for text in words) >= 9
    assert {to_hex(text.get_color()) for text in words} == {style.INK}
    assert ax.get_facecolor()[3] == 0


@pytest.mark.parametrize("base", [2, 10])
def test_numbers_on_a_logarithmic_axis_have_no_small_exponents(base):
    with plt.rc_context():
        style.use_style()
        figure, ax = plt.subplots()
        ax.plot([1e-8, 1e6], [1, 1])
        ax.set_xscale("log", base=base)
        figure.canvas.draw()
        words = [label.get_text() for label in ax.get_xticklabels() if label.get_text()]
    assert words
    assert [word for word in words if "^" in word] == []


def test_a_word_on_an_amount_can_be_read_on_both_grounds():
    inks = {LIGHT: style.INK, DARK: "#ced6dd"}  # what the page makes of the ink
    for share in np.linspace(0, 1, 21):
        for ground, ink in inks.items():
            word = style.ink_on(share)
            shown = contrast(ink if word == style.INK else word, over(style.AMOUNT(share), ground))
            assert shown >= 3, f"{shown:.1f} at {share} on {ground}"


def test_scales_of_amounts_start_with_nothing_at_all():
    assert style.AMOUNT(0.0)[3] == 0
    assert style.AMOUNT(1.0) == to_rgba(style.HUES["blue"])
    assert style.SIGNED(0.5)[3] < 0.01
    assert [style.SIGNED(end) for end in (0.0, 1.0)] == [to_rgba(style.HUES[hue]) for hue in ("blue", "vermillion")]


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("random ViT", "random"),
        ("supervised, tied", "supervised"),
        ("held-out pairs", "held out"),
        ("raw pixels", "pixels"),
        ("real image", "real image"),  # and not "image", which is shorter
        ("unseen shapes", None),
        ("keyboard", None),
    ],
)
def test_a_concept_is_found_as_a_word_in_a_name(name, concept):
    assert style.concept_in(name) == concept


def test_names_without_a_concept_get_colours_of_their_own():
    colors = style.colors_of(["x", "contrastive", "y", "random", "z"])
    assert len(set(colors.values())) == 5
    assert colors["contrastive"] == style.CONCEPTS["contrastive"]
    assert list(colors) == ["x", "contrastive", "y", "random", "z"]


def test_two_lines_of_one_concept_differ_by_their_dashes():
    from vlmcourse.course.chapter import Measurement

    curves = {name: Measurement(name, [2.0, 1.0], ()) for name in ("attention", "attention + positions", "MLP")}
    lines = plots.show_training(curves).lines
    assert [line.get_color() for line in lines[:2]] == [style.CONCEPTS["attention"]] * 2
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 3


def drawing() -> str:
    _, ax = plt.subplots()
    ax.plot([3, 1, 2], "o", label="a")
    ax.imshow([[0, 1], [2, 3]])
    file = io.StringIO()
    plt.gcf().savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def test_drawing_again_gives_the_same_file_in_which_words_are_words():
    first = drawing()
    assert first == drawing()
    assert "<text" in first
    assert len(first) < 20_000


def test_a_chapter_draws_in_the_style():
    plt.rcdefaults()
    Chapter("00_no_such_chapter")
    assert to_hex(plt.rcParams["axes.edgecolor"]) == style.INK


@pytest.mark.slow
@pytest.mark.parametrize(("wanted", "form"), [("", "image/png"), ("svg", "image/svg+xml")])
def test_a_notebook_gets_files_that_every_viewer_shows_and_the_book_gets_svg(tmp_path, wanted, form):
    import nbformat

    from book.tools.execute import execute

    source = "from vlmcourse import Chapter, plots\nChapter('00')\nplots.plt.subplots(figsize=(plots.NARROW, 3));"
    notebooks = [nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]) for _ in range(2)]
    for notebook in notebooks:
        execute(notebook, folder=tmp_path, environment={"VLMCOURSE_FIGURES": wanted})
    first, second = ([output.data for output in nb.cells[0].outputs] for nb in notebooks)
    assert [sorted(data) for data in first] == [[form, "text/plain"]]
    assert first == second
    if wanted:
        assert 'width="360pt"' in first[0][form]
    else:
        picture = Image.open(io.BytesIO(base64.b64decode(first[0][form])))
        assert picture.size == (500, 300)
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
