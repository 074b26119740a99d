"""Interactive pictures stand on their own: whole, deterministic, without a network, and right in a real browser."""

import base64
import json
import re
from itertools import pairwise

import pytest
import torch
from browsers import opened
from html_tags import parsed
from jinja2 import UndefinedError

from vlmcourse import nt_xent_loss, slide_contrastive_loss
from vlmcourse.course.figures.interactive import attention_picture, contrastive_circle, path_picture
from vlmcourse.course.figures.page import filled
from vlmcourse.train.vlm import build_vlm

ROWS, COLUMNS, DEPTH, HEADS = 3, 5, 2, 3
N = ROWS * COLUMNS


def make(seed=0, label="a face", **changes):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(DEPTH, HEADS, N, N, generator=generator).square()
    arguments = {
        "image": torch.rand(3, 30, 50, generator=generator),
        "weights": weights / weights.sum(-1, keepdim=True),
        "grid_size": (ROWS, COLUMNS),
        **changes,
    }
    return attention_picture(**arguments, label=label), arguments["weights"]


def test_a_value_fills_its_place_once_and_a_place_without_a_value_is_refused():
    film = {"label": "{{film}} & <more>", "film": "", "frames": 1, "frame": [1, 1], "seconds": 1, "width": 1}
    assert 'aria-label="{{film}} &amp; &lt;more&gt;"' in filled("player.html", **film)
    with pytest.raises(UndefinedError, match="frames"):
        filled("player.html", **{name: value for name, value in film.items() if name != "frames"})


def test_every_tag_is_closed_and_every_id_occurs_once():
    tags = parsed(make()[0])
    assert tags.wrong == []
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched_from_anywhere():
    text = make()[0]
    assert not re.search(r"https?:|src=|href=|@import|fetch\(|import\(", text)
    assert re.findall(r"url\(.{6}", text) == ['url("data:']


def test_the_same_data_give_the_same_html_and_other_data_another_id():
    assert make(seed=1)[0] == make(seed=1)[0]
    names = {re.search(r'id="(attention-\w+)"', make(seed=seed)[0])[1] for seed in (1, 2)}
    assert len(names) == 2


def test_the_embedded_bytes_give_the_weights_back():
    text, weights = make()
    content = json.loads(re.search(r"const data = (\{.*?\}), figure", text)[1])
    levels = torch.frombuffer(bytearray(base64.b64decode(content["weights"])), dtype=torch.uint8).double()
    recovered = (levels / 255).square().reshape(DEPTH, HEADS, N, N)
    recovered = recovered / recovered.sum(-1, keepdim=True)
    torch.testing.assert_close(recovered, weights.double(), atol=1e-3, rtol=0)
    assert (content["rows"], content["columns"], content["heads"]) == (ROWS, COLUMNS, HEADS)


def chosen(text):
    return [
        attributes["value"] for tag, attributes in parsed(text).seen if tag == "option" and "selected" in attributes
    ]


def test_it_opens_on_the_head_with_the_sharpest_look_unless_told_otherwise():
    weights = torch.full((DEPTH, HEADS, N, N), 1 / N)
    weights[0, 2] = torch.eye(N)
    layer, head = chosen(make(weights=weights)[0])
    assert (int(layer), int(head)) == (0, 2)
    assert [int(value) for value in chosen(make(weights=weights, layer=1)[0])] == [1, -1]  # the mean of its heads
    assert [int(value) for value in chosen(make(weights=weights[:, :1])[0])] == [DEPTH - 1, -1]


def test_there_is_one_tile_a_patch_and_one_option_a_layer_and_head():
    tags = parsed(make()[0]).seen
    assert sum(tag == "i" for tag, _ in tags) == N
    assert sum(tag == "option" for tag, _ in tags) == DEPTH + HEADS + 1


def test_the_picture_says_what_it_shows_and_can_be_focused_and_announces_changes():
    text = make(label='a "face" & <more>')[0]
    tags = parsed(text).seen
    photo = next(attributes for _, attributes in tags if attributes.get("class") == "photo")
    assert photo["aria-label"] == 'a "face" & <more>'
    assert photo["tabindex"] == "0"
    assert any(attributes.get("aria-live") == "polite" for _, attributes in tags)
    assert "<more>" not in text


def test_a_dozen_maps_of_a_photograph_stay_below_200_kilobytes():
    smooth = torch.linspace(0, 1, 224).expand(3, 224, 224)  # noise would be no photograph
    text = attention_picture(smooth, torch.rand(4, 3, 144, 144), grid_size=(12, 12), label="the worst case")
    assert len(text.encode()) < 185_000  # a photograph takes some more


@pytest.mark.browser
def test_where_there_are_many_weights_they_are_coarser_and_still_those_of_the_network(browser, monkeypatch):
    monkeypatch.setattr("vlmcourse.course.figures.interactive.MOST_BYTES", 100)
    text, weights = make()
    content = json.loads(re.search(r"const data = (\{.*?\}), figure", text)[1])
    assert len(base64.b64decode(content["weights"])) == DEPTH * HEADS * N * N // 2
    page = opened(browser, text)
    for layer, head, patch in ((1, 0, 7), (0, 2, 3), (1, None, 14)):
        page.locator(".layer").select_option(index=layer)
        page.locator(".head").select_option(index=0 if head is None else head + 1)
        page.mouse.move(*centre(page, patch))
        assert opacities(page) == pytest.approx(expected(weights, layer, patch, head), abs=0.06)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": torch.rand(2, 3, 16, 16)}, ValueError, r"3 × 5 patches.*received \(2, 3, 16, 16\); leave a class"),
        ({"weights": torch.rand(3, N, N)}, ValueError, r"\(depth head i j\), received \(3, 15, 15\)"),
        ({"weights": -torch.rand(2, 3, N, N)}, ValueError, "must not be negative"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, TypeError, "image must be floating point"),
        ({"image": torch.rand(1, 3, 8, 8)}, ValueError, r"image must have shape \(c h w\)"),
        ({"label": " "}, ValueError, "label must describe"),
        ({"names": ["one"]}, ValueError, "names must be one for each of 2 layers"),
        ({"layer": 2}, ValueError, "within 2 layers and 3 × 5 patches, received 2"),
        ({"start": (3, 0), "layer": 1}, ValueError, r"received 1 and \(3, 0\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


# --- in a real browser -----------------------------------------------------------------------------------------------


def swipe(page, here, there):
    """Draw one finger over the page, in ten steps."""
    finger = page.context.new_cdp_session(page)

    def touch(kind, *points):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", here)
    for k in range(1, 11):
        touch("touchMove", [a + (b - a) * k / 10 for a, b in zip(here, there, strict=True)])
    touch("touchEnd")


def opacities(page):
    return page.locator(".photo i").evaluate_all("tiles => tiles.map(t => +t.style.opacity)")


def expected(weights, layer, query, head=None):
    row = weights[layer, :, query].mean(0) if head is None else weights[layer, head, query]
    return (1 - (row / row.max()).sqrt()).tolist()


def asked(page):
    return page.locator(".photo i").evaluate_all("tiles => tiles.findIndex(t => t.className === 'query')")


def centre(page, patch):
    box = page.locator(".photo").bounding_box()
    row, column = divmod(patch, COLUMNS)
    return box["x"] + (column + 0.5) * box["width"] / COLUMNS, box["y"] + (row + 0.5) * box["height"] / ROWS


@pytest.mark.browser
def test_pointing_shows_what_the_patch_attends_to_in_the_chosen_layer_and_head(browser):
    text, weights = make()
    page = opened(browser, text)
    for layer, head, patch in ((1, None, 7), (0, 2, 3), (1, 0, 14)):
        page.locator(".layer").select_option(index=layer)
        page.locator(".head").select_option(index=0 if head is None else head + 1)
        page.mouse.move(*centre(page, patch))
        assert asked(page) == patch
        assert opacities(page) == pytest.approx(expected(weights, layer, patch, head), abs=0.02)
    assert page.errors == []


@pytest.mark.browser
def test_a_tap_chooses_a_patch(browser):
    page = opened(browser, make()[0], has_touch=True, is_mobile=True)
    page.touchscreen.tap(*centre(page, 11))
    assert asked(page) == 11
    assert page.errors == []


@pytest.mark.browser
def test_a_finger_that_scrolls_the_page_over_the_picture_chooses_nothing(browser):
    page = opened(browser, make()[0] + "<p style='height: 3000px'></p>", has_touch=True, is_mobile=True)
    start, (x, y) = asked(page), centre(page, 11)
    swipe(page, (x, y), (x, y - 120))
    page.wait_for_function("scrollY > 50")
    assert asked(page) == start


@pytest.mark.browser
def test_arrow_keys_move_and_stop_at_the_edge_and_the_change_is_announced(browser):
    page = opened(browser, make()[0])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "photo"
    start = asked(page)
    before = page.locator(".says").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert asked(page) == start + 1 + COLUMNS
    assert page.locator(".says").inner_text() != before
    for _ in range(COLUMNS):
        page.keyboard.press("ArrowRight")
    assert asked(page) % COLUMNS == COLUMNS - 1
    page.keyboard.press("Home")
    assert asked(page) == start
    page.evaluate("addEventListener('keydown', event => { window.kept = !event.defaultPrevented; })")
    page.keyboard.press("Alt+ArrowRight")  # forward, to the browser
    assert page.evaluate("kept")
    assert asked(page) == start


@pytest.mark.browser
def test_in_high_contrast_where_no_shadow_is_drawn_the_patch_is_framed(browser):
    page = opened(browser, make()[0], forced_colors="active")
    look = "mark => { const style = getComputedStyle(mark); return [style.boxShadow, style.outlineStyle]; }"
    assert page.locator("i.query").evaluate(look) == ["none", "solid"]


@pytest.mark.browser
def test_what_is_shown_before_scripts_run_is_what_they_show_first(browser):
    text, _ = make()
    still = opened(browser, text, java_script_enabled=False)
    assert 'class="query"' in text
    tiles = re.findall(r"opacity:([\d.]+)", still.locator(".photo").inner_html())
    moving = opened(browser, text)
    shown = opacities(moving)
    assert [float(t) for t in tiles] == pytest.approx(shown, abs=0.03)
    assert still.locator(".says").inner_text() == moving.locator(".says").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("draw", [lambda: make()[0], lambda: circle()], ids=["attention", "circle"])
def test_without_scripts_and_in_print_no_dead_control_is_shown(browser, draw):
    text = draw()
    still, printed = opened(browser, text, java_script_enabled=False), opened(browser, text)
    assert printed.locator("select").first.is_visible()
    printed.emulate_media(media="print")
    for page in (still, printed):
        assert not any(control.is_visible() for control in page.locator("select, input, button").all())
    assert "Without scripts" in still.locator("noscript").inner_text()


@pytest.mark.browser
def test_the_patch_that_is_asked_about_is_framed_and_unveiled(browser):
    page = opened(browser, make()[0])
    style = page.locator(".photo i.query").evaluate(
        "tile => { const s = getComputedStyle(tile); return [s.opacity, s.backgroundColor, s.boxShadow]; }"
    )
    assert style[:2] == ["1", "rgba(0, 0, 0, 0)"]
    assert "rgb(0, 0, 0)" in style[2]
    assert "rgb(255, 255, 255)" in style[2]


@pytest.mark.browser
def test_several_networks_are_shown_by_name_from_the_patch_that_the_author_chose(browser):
    text, weights = make(names=["by look", "<trained>"], layer=0, start=(2, 1))
    page = opened(browser, text)
    assert page.locator(".layer option").all_inner_texts() == ["by look", "<trained>"]
    assert asked(page) == 2 * COLUMNS + 1
    assert opacities(page) == pytest.approx(expected(weights, 0, 11), abs=0.02)
    only = opened(browser, make(weights=weights[:1, :1])[0])
    assert not only.locator("select").first.is_visible()  # one layer of one head: nothing to choose
    assert page.errors == only.errors == []


@pytest.mark.browser
def test_patches_fade_into_one_pale_grey_in_both_themes(browser):  # black clothes would not fade into a dark page
    for theme in ("--pst-color-background: #121212", ""):
        page = opened(browser, make()[0], theme=theme)
        tile = page.locator(".photo i:not(.query)").first
        assert tile.evaluate("tile => getComputedStyle(tile).backgroundColor") == "rgb(179, 179, 179)"


def test_the_path_of_an_image_shows_the_shapes_it_takes_and_links_only_where_told():
    torch.manual_seed(0)
    model, image = build_vlm(image_size=16, embed_dim=24, depth=1, num_heads=2), torch.rand(3, 16, 16)
    picture = path_picture(model, image)
    for shape in ("3 × 16 × 16", "64 × 4 × 4", "4 × 24", "12 tokens × 24"):  # 8 words and 4 image tokens
        assert shape in picture
    assert "<a " not in picture
    assert picture == path_picture(model, image)
    weights = sum(p.numel() for p in model.connector.parameters())
    assert f"{weights:,} weights" in picture
    linked = path_picture(model, image, links={"connector": 'a"b.html'})
    assert ("a", {"href": 'a"b.html'}) in parsed(linked).seen
    assert linked.count("<a ") == 1


@pytest.mark.browser
def test_on_a_phone_the_path_runs_down_and_its_arrows_point_at_what_comes_next(browser):
    torch.manual_seed(0)
    model, image = build_vlm(image_size=16, embed_dim=24, depth=1, num_heads=2), torch.rand(3, 16, 16)
    page = opened(browser, path_picture(model, image, links=dict.fromkeys(("encoder", "connector"), "#there")))
    page.set_viewport_size({"width": 390, "height": 800})
    boxes = [item.bounding_box() for item in page.locator("li").all()]
    assert all(above["y"] + above["height"] <= below["y"] for above, below in pairwise(boxes))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    arrow = page.locator(".work > span").first
    assert arrow.evaluate("arrow => getComputedStyle(arrow).transform").startswith(
        "matrix(0, 1, -1, 0"
    )  # a quarter turn
    assert all(link.bounding_box()["height"] >= 40 for link in page.locator("a").all())
    page.set_viewport_size({"width": 1000, "height": 800})
    assert arrow.evaluate("arrow => getComputedStyle(arrow).transform") == "none"


# --- embeddings on a circle ------------------------------------------------------------------------------------------

ANGLES = torch.tensor([[0.4, 1.3, 3.6], [1.9, 2.6, 5.2]])


def circle(angles=ANGLES, temperature=0.2, label="three images"):
    return contrastive_circle(angles, temperature=temperature, label=label)


def loss_and_gradient(angles, temperature, *, slide=False):
    """What a loss of the package and autograd say of views at these angles, ``(2n,)``."""
    angles = angles.double().clone().requires_grad_()
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    loss = nt_xent_loss(*points.chunk(2), temperature=temperature)
    if slide:
        n = len(points)
        partner = torch.arange(n).roll(n // 2)
        others = [[j for j in range(n) if j not in (i, int(partner[i]))] for i in range(n)]
        loss = slide_contrastive_loss(points, points[partner], points[torch.tensor(others)], temperature=temperature)
    return loss.item(), torch.autograd.grad(loss, angles)[0].tolist()


def shown_angles(page):
    places = page.locator(".view").evaluate_all("views => views.map(v => v.getAttribute('transform'))")
    x, y = (
        torch.tensor([[float(number) for number in re.findall(r"-?\d[\d.e-]*", place)] for place in places]).double().T
    )
    return torch.atan2(-y, x)


def shown_lines(page, kind):
    sides = "['x1', 'y1', 'x2', 'y2'].map(side => +line.getAttribute(side))"
    return torch.tensor(page.locator(kind).evaluate_all(f"lines => lines.map(line => {sides})")).double()


def shown_numbers(page):
    figure = page.locator(".contrastive-circle")
    return float(figure.get_attribute("data-loss")), json.loads(figure.get_attribute("data-gradient"))


def test_the_circle_is_whole_fetches_nothing_and_is_the_same_each_time():
    text = circle()
    tags = parsed(text)
    assert tags.wrong == []
    assert not re.search(r"https?:|src=|href=|@import|fetch\(|import\(", text)
    assert re.findall(r"url\(.", text) == ["url(#"] * 6
    assert text == circle()
    names = {re.search(r'id="(circle-\w+)"', other)[1] for other in (text, circle(ANGLES + 1), circle(label="x"))}
    assert len(names) == 3
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_each_view_on_the_circle_can_be_focused_and_says_what_it_is():
    text = circle(label='a "ring" & <more>')
    views = [attributes for _, attributes in parsed(text).seen if attributes.get("class") == "view"]
    assert [view["aria-label"] for view in views[:4]] == [
        "view 1 of image A", "view 1 of image B", "view 1 of image C", "view 2 of image A",
    ]  # fmt: skip
    assert all((view["tabindex"], view["role"]) == ("0", "slider") for view in views)
    assert int(views[0]["aria-valuenow"]) == 67  # 0.4 radians are 23 degrees from the right, 67 from the top
    assert 'aria-live="polite"' in text
    assert "<more>" not in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"angles": torch.rand(3, 2)}, ValueError, r"shape \(2, n\) with n from 2 to 6"),
        ({"angles": torch.rand(2, 7)}, ValueError, "n from 2 to 6"),
        ({"angles": torch.rand(2, 3) / 0}, ValueError, "angles must be finite"),
        ({"angles": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "angles must be floating point"),
        ({"temperature": 0.01}, ValueError, "from 0.05 to 1, received 0.01"),
        ({"label": ""}, ValueError, "label must describe"),
    ],
)
def test_a_circle_that_cannot_be_drawn_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        circle(**options)


@pytest.mark.browser
def test_the_circle_computes_nt_xent_and_its_gradient_at_every_temperature(browser):
    page = opened(browser, circle())
    for temperature in ("0.2", "0.05", "1", "0.45"):
        page.locator(".temperature").fill(temperature)
        loss, gradient = shown_numbers(page)
        expected_loss, expected_gradient = loss_and_gradient(ANGLES.flatten(), float(temperature))
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert gradient == pytest.approx(expected_gradient, abs=1e-4)
        assert f"Loss {loss:.2f}. Guessing among 5 costs 1.61." in page.locator(".says").inner_text()
    assert page.errors == []


@pytest.mark.browser
def test_the_circle_computes_the_slides_loss_and_its_gradient_where_the_switch_says_so(browser):
    page = opened(browser, circle())
    page.locator(".which").select_option("slide")
    for temperature in ("0.2", "0.05", "1"):
        page.locator(".temperature").fill(temperature)
        loss, gradient = shown_numbers(page)
        expected_loss, expected_gradient = loss_and_gradient(ANGLES.flatten(), float(temperature), slide=True)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert gradient == pytest.approx(expected_gradient, abs=1e-4)
        assert page.locator(".says").inner_text() == f"Loss {loss:.2f}. Where all views are alike it is 0."
    assert page.errors == []


@pytest.mark.browser
def test_what_the_circle_shows_without_scripts_is_what_they_show_first(browser):
    still, moving = (opened(browser, circle(), java_script_enabled=scripts) for scripts in (False, True))
    for kind in (".arrow", ".pair"):
        written = re.findall(rf'<line class="{kind[1:]}" x1="(.+?)" y1="(.+?)" x2="(.+?)" y2="(.+?)"', circle())
        before = torch.tensor([[float(number) for number in line] for line in written]).double()
        torch.testing.assert_close(before, shown_lines(moving, kind), atol=2e-3, rtol=0)
    assert still.locator(".says").inner_text() == moving.locator(".says").inner_text()


@pytest.mark.browser
def test_arrows_start_at_their_views_and_point_downhill(browser):
    page = opened(browser, circle())
    _, gradient = loss_and_gradient(ANGLES.flatten(), 0.2)
    for (x1, y1, x2, y2), angle, slope in zip(
        shown_lines(page, ".arrow"), ANGLES.flatten().double(), gradient, strict=True
    ):
        torch.testing.assert_close(torch.stack([x1, -y1]), torch.stack([angle.cos(), angle.sin()]), atol=1e-4, rtol=0)
        against_the_clock = -(x2 - x1) * angle.sin() - (y2 - y1) * angle.cos()
        assert against_the_clock.item() == pytest.approx(-0.35 * 6 * 0.2 * slope, abs=1e-3)


@pytest.mark.browser
def test_a_view_is_dragged_with_mouse_and_keys_and_only_that_view(browser):
    page = opened(browser, circle())
    box, view = page.locator("svg").bounding_box(), page.locator(".view").nth(1).bounding_box()
    page.mouse.move(view["x"] + view["width"] / 2, view["y"] + view["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.9 * box["height"])  # straight below the middle
    page.mouse.up()
    page.mouse.move(box["x"], box["y"])  # let go: nothing follows any longer
    angles = ANGLES.flatten().double().clone()
    angles[1] = -torch.pi / 2
    torch.testing.assert_close(torch.cos(shown_angles(page) - angles), torch.ones(6).double(), atol=1e-4, rtol=0)
    assert shown_numbers(page)[0] == pytest.approx(loss_and_gradient(angles, 0.2)[0], rel=1e-3)

    page.keyboard.press("ArrowLeft")  # five degrees against the clock
    angles[1] += torch.pi / 36
    torch.testing.assert_close(torch.cos(shown_angles(page) - angles), torch.ones(6).double(), atol=1e-4, rtol=0)
    page.keyboard.press("Home")
    torch.testing.assert_close(
        torch.cos(shown_angles(page) - ANGLES.flatten()), torch.ones(6).double(), atol=1e-4, rtol=0
    )
    assert page.errors == []


@pytest.mark.browser
def test_a_finger_drags_a_view_and_does_not_scroll_the_page(browser):
    page = opened(browser, circle() + "<p style='height: 3000px'></p>", has_touch=True, is_mobile=True)
    box, view = page.locator("svg").bounding_box(), page.locator(".grip").nth(1).bounding_box()
    here = (view["x"] + view["width"] / 2, view["y"] + view["height"] / 2)
    swipe(page, here, (box["x"] + box["width"] / 2, box["y"] + 0.9 * box["height"]))
    assert shown_angles(page)[1].item() == pytest.approx(-torch.pi / 2, abs=1e-3)
    assert page.evaluate("scrollY") == 0
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    swipe(page, middle, (middle[0], middle[1] - 120))  # beside the views a finger scrolls
    page.wait_for_function("scrollY > 50")


@pytest.mark.browser
def test_a_view_tells_a_screen_reader_where_it_is_and_left_and_down_lower_the_value(browser):
    page = opened(browser, circle())
    view = page.locator(".view").first
    view.focus()
    for key, value in (("ArrowLeft", 62), ("ArrowDown", 57), ("ArrowRight", 62), ("ArrowUp", 67)):
        page.keyboard.press(key)
        assert view.get_attribute("aria-valuenow") == str(value)
        assert view.get_attribute("aria-valuetext") == f"{value} degrees clockwise from the top"


@pytest.mark.browser
def test_views_that_meet_hide_no_letter_and_a_press_outside_takes_the_capital(browser):
    page = opened(browser, circle(torch.full((2, 2), torch.pi / 2)))  # all four at the top
    first, second = (page.locator(".view text").nth(k).bounding_box() for k in (0, 2))
    assert first["y"] + first["height"] < second["y"]
    middle = first["x"] + first["width"] / 2
    for letter, expected in ((first, [0]), (second, [0, 2])):
        page.mouse.move(middle, letter["y"] + letter["height"] / 2)
        page.mouse.down()
        page.mouse.move(middle + 150, letter["y"] + 150)
        page.mouse.up()
        moved = (shown_angles(page) - torch.pi / 2).abs() > 0.1
        assert moved.nonzero().flatten().tolist() == expected


@pytest.mark.browser
def test_every_control_of_the_circle_is_as_large_as_a_fingertip(browser):
    page = opened(browser, circle(), has_touch=True, is_mobile=True)
    for control in page.locator("input, select, button, .grip").all():
        assert control.bounding_box()["height"] >= 43.5


@pytest.mark.browser
def test_descending_lowers_the_loss_and_starting_again_brings_all_back(browser):
    page = opened(browser, circle())
    losses = [shown_numbers(page)[0]]
    for button in (".step", ".many"):
        page.locator(button).click()
        losses.append(shown_numbers(page)[0])
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.1
    page.locator(".temperature").fill("0.8")
    page.locator(".reset").click()
    assert page.locator(".shown").inner_text() == "0.2"
    assert shown_numbers(page)[0] == pytest.approx(losses[0])
