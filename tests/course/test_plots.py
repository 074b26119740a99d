"""Figures show what they say they show: positions, frames and bands are read back from the axes."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlmcourse.course.chapter import Measurement
from vlmcourse.course.figures import plots

mpl.use("agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def frames(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_images_stand_row_by_row_with_gaps_that_show_the_page():
    images = torch.linspace(0, 0.8, 5)[:, None, None, None].expand(5, 3, 7, 11)
    shown = plots.show_images(images, columns=3).get_images()[0].get_array()
    assert shown.shape == (7 + 1 + 7, 11 + 1 + 11 + 1 + 11, 4)
    assert shown[0, 12, 0] == pytest.approx(0.2)  # second image: first row, after 11 pixels and the gap
    assert shown[8, 0, 0] == pytest.approx(0.6)  # fourth image starts the second row
    assert (shown[8:, 24:] == 0).all()  # no sixth image
    assert (shown[:, 11] == 0).all()
    assert (shown[7] == 0).all()
    assert (shown[:7, :11, 3] == 1).all()


def test_an_image_of_nan_leaves_its_place_empty():
    images = torch.cat([torch.full((1, 3, 5, 5), torch.nan), torch.zeros(1, 3, 5, 5)])
    shown = plots.show_images(images).get_images()[0].get_array()
    assert (shown[:, :5] == 0).all()
    assert (shown[:, 6:, 3] == 1).all()


def test_grey_images_keep_their_grey_and_titles_stand_above_their_image():
    ax = plots.show_images(torch.full((2, 1, 5, 5), 0.25), titles=["a", "b"])
    shown = ax.get_images()[0].get_array()
    assert (shown[:, :5, :3] == 0.25).all()
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert ax.texts[0].get_position()[0] == 2.0  # the middle of pixels 0 to 4
    assert ax.texts[1].get_position()[0] == 8.0


def test_positives_are_framed_and_self_pairs_crossed_out():
    patches = frames(plots.show_similarity(torch.eye(6)))
    crossed = {(p.get_x() + 0.5, p.get_y() + 0.5) for p in patches if p.get_hatch()}
    framed = {(p.get_x() + 0.5, p.get_y() + 0.5) for p in patches if not p.get_hatch()}
    assert crossed == {(i, i) for i in range(6)}
    assert not {(p.get_facecolor()[3], p.get_hatch()) for p in patches} - {(0, None), (0, "xxx")}  # no paper
    assert framed == {(0, 3), (1, 4), (2, 5), (3, 0), (4, 1), (5, 2)}


def test_a_band_reaches_from_the_lowest_run_to_the_highest():
    ax = plots.show_band([1, 2, 3], [[0.0, 5.0, 1.0], [2.0, 1.0, 1.0], [1.0, 3.0, 4.0]], label="x", ax=plt.gca())
    assert ax.lines[0].get_ydata().tolist() == [1.0, 3.0, 2.0]
    corners = {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(1, 0), (1, 2), (2, 1), (2, 5), (3, 1), (3, 4)} <= corners


def test_embeddings_are_drawn_by_direction_alone_and_each_in_its_color():
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0]])
    ax = plots.show_on_circle(torch.tensor([[3.0, 0.0], [0.0, 0.1], [-2.0, 0.0], [0.0, -7.0]]), colors)
    (points,) = ax.collections
    assert points.get_offsets().tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert points.get_facecolor()[:, :3].tolist() == colors.tolist()


def test_pairs_join_the_two_views_of_one_image():
    views = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    lines = plots.show_on_circle(views, torch.rand(4, 3), pairs=True).lines
    assert [line.get_xydata().tolist() for line in lines] == [[[1, 0], [-1, 0]], [[0, 1], [0, -1]]]


def test_reach_is_drawn_below_the_accuracies_on_the_same_axis():
    near = Measurement("near", [1.0, 0.2, 0.4], ([1.0, 0.3, 0.3], [1.0, 0.4, 0.2]))
    far = Measurement("far", None, ([1.0, 0.9, 1.0], [1.0, 1.0, 0.8]))
    reaches = {"far": 4, "near": 2}
    upper, lower = plots.show_reach([0, 2, 4], {"near": near, "far": far}, reaches=reaches, chance=0.25)
    assert [bar.get_width() for bar in lower.patches] == [2, 4]
    assert [label.get_text() for label in lower.get_yticklabels()] == ["near", "far"]
    assert upper.get_xlim() == lower.get_xlim()
    curves = {line.get_label(): line.get_ydata() for line in upper.lines}
    assert curves["near"] == pytest.approx([1.0, 0.2, 0.4])  # this run
    assert curves["far"] == pytest.approx([1.0, 0.95, 0.9])  # none here: the mean of the recorded ones
    assert {text.get_text() for text in upper.texts} == {"near", "far", "chance"}
    walls = [line.get_xdata()[0] for line in upper.lines if line.get_linestyle() == ":"]
    assert walls == [2]  # who sees everything has no wall


def test_names_of_rows_are_whole_however_long():
    for name in ("a", "output as it rises", "the widest words: WWWWWWWWWWWW"):
        for columns in (2, 5, 12):
            ax = plots.show_rows({name: torch.rand(columns, 1, 20, 20), "b": torch.rand(columns, 1, 20, 20)})
            ax.figure.canvas.draw()
            assert ax.texts[0].get_window_extent().x0 >= 0


def test_scores_fade_into_the_page_and_their_numbers_take_the_ink_that_can_be_read():
    (ax,) = plots.show_scores({"seen": pd.DataFrame([[1.0, 0.3]], index=["blank"], columns=["exact", "colour"])})
    assert ax.get_images()[0].get_cmap().name == plots.AMOUNT.name
    assert {text.get_text(): text.get_color() for text in ax.texts} == {"100": "white", "30": plots.INK}


def test_a_name_far_from_its_mark_on_a_timeline_is_joined_to_it():
    events = [(2020.0 + k / 12, name, 0) for k, name in enumerate("abcd")]
    joined = {text.get_text() for text in plots.show_timeline(events, names=["lane"]).texts if text.arrow_patch}
    assert joined == {"c", "d"}  # the first two stand beside their marks


def test_lines_of_networks_that_are_equally_right_do_not_hide_each_other():
    curves = {name: Measurement(name, [1.0, 1.0], ()) for name in ("a", "b")}
    upper, _ = plots.show_reach([0, 2], curves, reaches={"a": 2, "b": 2}, chance=0.5)
    first, second = (line.get_transform().transform((0.0, 1.0))[1] for line in upper.lines[:2])
    assert first - second == pytest.approx(3 * upper.figure.dpi / 72)


def test_a_timeline_is_to_scale_and_has_a_lane_for_each_group():
    events = [(2020.8, "later", 1), (1989.0, "first", 0), (2012.9, "between", 1)]
    ax = plots.show_timeline(events, names=["old", "new"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["old", "new"]
    assert [marks.get_offsets().tolist() for marks in ax.collections] == [[[1989.0, 0]], [[2012.9, 1], [2020.8, 1]]]
    assert {text.get_text(): text.xy for text in ax.texts} == {
        "first": (1989.0, 0),
        "between": (2012.9, 1),
        "later": (2020.8, 1),
    }


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.show_images(torch.rand(3, 8, 8)), r"received \(3, 8, 8\)"),
        (lambda: plots.show_images(torch.rand(3, 1, 8, 8), titles=["a"]), "each of 3 images, received 1"),
        (lambda: plots.show_similarity(torch.eye(5)), r"received \(5, 5\)"),
        (
            lambda: plots.show_reach([0], {"a": Measurement("a", [1.0], ())}, reaches={"b": 0}, chance=0.1),
            r"\['a'\], received \['b'\]",
        ),
        (
            lambda: plots.show_reach([0, 2], {"a": Measurement("a", [1.0], ())}, reaches={"a": 0}, chance=0.1),
            "each of 2 distances, a does not",
        ),
        (lambda: plots.show_timeline([(2000, "x", 2)], names=["a", "b"]), "groups 0 to 1"),
        (lambda: plots.show_band([1, 2], [[1, 2, 3]], label="", ax=plt.gca()), r"\(seeds, 2\), received \(1, 3\)"),
        (lambda: plots.show_on_circle(torch.rand(4, 3), torch.rand(4, 3)), r"received \(4, 3\)"),
        (lambda: plots.show_on_circle(torch.rand(4, 2), torch.rand(2, 3)), r"colors \(2, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_a_query_lights_the_patches_it_looks_at_and_greys_the_others():
    image = torch.rand(3, 10, 15, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(6, 6)
    weights[3, 2], weights[3, 0] = 0.4, 0.2  # the patch at (1, 0) looks at the upper right, and half as much at (0, 0)
    shown = plots.show_attention(image, weights, queries=[(1, 0)], patch_size=5).get_images()[0].get_array()
    shown, image = torch.tensor(shown)[..., :3], image.permute(1, 2, 0)
    pale = (0.7 + 0.2 * ((image.mean(2, keepdim=True) * 8).round() / 8 - 0.5)).expand(-1, -1, 3)
    torch.testing.assert_close(shown[:3, 12:], image[:3, 12:])
    torch.testing.assert_close(shown[:3, :3], (image + pale)[:3, :3] / 2)
    torch.testing.assert_close(shown[:3, 7], pale[:3, 7])
    torch.testing.assert_close(shown[5:, :5], image[5:, :5])  # the query itself, to be recognised
    assert (shown[4, :5] == 1).all()
    assert (shown[3, :6] == 0).all()


def test_every_query_gets_a_panel_and_its_title():
    ax = plots.show_attention(
        torch.rand(1, 10, 10), torch.full((4, 4), 0.25), queries=[(0, 0), (1, 1), (1, 0)], patch_size=5, titles="abc"
    )
    assert ax.get_images()[0].get_array().shape == (10, 10 + 1 + 10 + 1 + 10, 4)
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]


def test_the_attention_matrix_has_queries_for_rows_and_starts_at_zero():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    ax = plots.show_attention_matrix(weights)
    picture = ax.get_images()[0]
    assert picture.get_array().tolist() == weights.tolist()
    assert picture.norm.vmin == 0
    assert picture.norm(0.2).item() == pytest.approx(0.5)  # a quarter of the largest weight, half way up the scale


def test_every_run_is_a_point_and_the_mean_a_line():
    ax = plots.show_runs({"a": [0.1, 0.3], "b": [0.9]}, chance=0.5)
    assert [points.get_offsets().tolist() for points in ax.collections[::2]] == [[[0.1, 0], [0.3, 0]], [[0.9, 1]]]
    assert [line.get_segments()[0][0][0] for line in ax.collections[1::2]] == pytest.approx([0.2, 0.9])
    assert ax.lines[0].get_xdata() == [0.5, 0.5]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first method on top


def test_rows_of_pictures_come_in_order_with_grey_ones_as_grey():
    colour, grey = torch.rand(3, 3, 5, 7), torch.rand(3, 1, 5, 7)
    ax = plots.show_rows({"above": colour, "below": grey}, titles=["x", "y", "z"])
    drawn = ax.get_images()[0].get_array()[..., :3]
    assert drawn[:5, 8:15].tolist() == colour[1].permute(1, 2, 0).tolist()
    assert drawn[6:11, 16:23].tolist() == grey[2].expand(3, -1, -1).permute(1, 2, 0).tolist()
    names, titles = ax.texts[:2], ax.texts[2:]
    assert [(text.get_text(), text.xy[1]) for text in names] == [("above", 2.0), ("below", 8.0)]
    assert [(text.get_text(), text.get_position()[0]) for text in titles] == [("x", 3.0), ("y", 11.0), ("z", 19.0)]


def test_grouped_runs_keep_tasks_apart_and_methods_recognisable():
    results = {"known": {"a": [0.9, 1.0], "b": [0.8]}, "new": {"a": [0.4], "b": [0.7]}}
    ax = plots.show_grouped_runs(results, chance={"known": 0.5, "new": 0.25})
    points = [marks.get_offsets().tolist() for marks in ax.collections if len(marks.get_offsets())]
    points = [marks for marks in points if marks != [[0.0, 0.0]]]
    assert [[x for x, _ in marks] for marks in points] == [[0.9, 1.0], [0.8], [0.4], [0.7]]
    assert [round(marks[0][1]) for marks in points] == [0, 0, 1, 1]
    assert points[0][0][1] < points[1][0][1]  # methods stand below one another within a task
    assert len(ax.get_legend().get_texts()) == 2


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (
            lambda: plots.show_attention(torch.rand(3, 8, 8), torch.rand(5, 5), queries=[(0, 0)], patch_size=4),
            r"received weights \(5, 5\)",
        ),
        (
            lambda: plots.show_attention(torch.rand(3, 9, 8), torch.rand(4, 4), queries=[(0, 0)], patch_size=4),
            r"image \(3, 9, 8\)",
        ),
        (
            lambda: plots.show_attention(torch.rand(3, 8, 8), torch.rand(4, 4), queries=[(0, 2)], patch_size=4),
            r"grid of 2 × 2 patches, received \[\(0, 2\)\]",
        ),
        (lambda: plots.show_attention_matrix(torch.rand(1, 3, 3)), r"received \(1, 3, 3\)"),
        (lambda: plots.show_runs({}), "at least one run"),
        (lambda: plots.show_runs({"a": []}), "at least one run"),
        (lambda: plots.show_rows({}), "rows must all have one shape"),
        (lambda: plots.show_rows({"a": torch.rand(2, 3, 5, 7), "b": torch.rand(3, 3, 5, 7)}), r"\(3, 3, 5, 7\)"),
        (lambda: plots.show_rows({"a": torch.rand(2, 3, 5, 7)}, titles=["one"]), "each of 2 columns, received 1"),
        (lambda: plots.show_grouped_runs({}), "the same methods for every task"),
        (lambda: plots.show_grouped_runs({"x": {"a": [1.0]}, "y": {"b": [1.0]}}), "the same methods for every task"),
        (lambda: plots.show_grouped_runs({"x": {"a": []}}), "each with a run"),
    ],
)
def test_attention_and_runs_that_do_not_fit_are_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_a_reader_who_trains_longer_than_the_recorded_runs_still_sees_both():
    loss = Measurement("loss", [3.0, 2.0, 1.0], ([3.1, 1.2], [2.9, 0.9]))
    ax = plots.show_training({"contrastive": loss})
    (line,) = (line for line in ax.lines if line.get_label() == "contrastive, here")
    assert list(line.get_xdata()) == [1, 2, 3]
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() == 2
