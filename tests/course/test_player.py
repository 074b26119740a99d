"""A clip in the page stands on its own, shows every frame once, and stops when a reader wants it to."""

import base64
import io
import re

import pytest
import torch
from browsers import opened
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from vlmcourse.course.figures.player import clip_player


def make(channels=3, t=5, h=7, w=11, **options):
    clip = torch.rand(channels, t, h, w, generator=torch.Generator().manual_seed(0))
    return clip, clip_player(clip, **{"label": "a digit that rises", "width": 110, **options})


@pytest.mark.parametrize("channels", [1, 3])
def test_the_film_holds_every_frame_side_by_side(channels):
    clip, text = make(channels)
    film = pil_to_tensor(Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1]))))
    assert film.shape == (channels, 7, 5 * 11)
    for t in range(5):
        torch.testing.assert_close(film[:, :, 11 * t : 11 * t + 11] / 255, clip[:, t], atol=1 / 255, rtol=0)


def test_the_sizes_on_the_page_follow_the_clip():
    _, text = make(frames_per_second=4)
    assert "max-width: 110px" in text
    assert "aspect-ratio: 11 / 7" in text
    assert "500% 100%" in text
    assert "1.25s steps(5, jump-none)" in text
    assert "steps(2, jump-none)" in make(t=1)[1]


def test_the_same_clip_gives_the_same_html_and_another_gives_another_name():
    assert make()[1] == make()[1]
    names = {re.search(r'id="([^"]+)"', make(**options)[1])[1] for options in ({}, {"label": "x"}, {"width": 55})}
    assert len(names) == 3


def test_the_label_is_escaped_and_nothing_comes_from_elsewhere():
    text = make(label='"><script>alert(1)</script>')[1]
    assert "<script" not in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("clip", "options", "error", "message"),
    [
        (torch.rand(2, 5, 7, 11), {}, ValueError, "clip must have 1 or 3 channels, received 2"),
        (torch.rand(5, 7, 11), {}, ValueError, r"\(c t h w\), received \(5, 7, 11\)"),
        (torch.zeros(1, 5, 7, 11, dtype=torch.uint8), {}, TypeError, "clip must be floating point"),
        (torch.rand(1, 5, 7, 11), {"label": " "}, ValueError, "label must describe"),
        (torch.rand(1, 5, 7, 11), {"frames_per_second": 0}, ValueError, "frames_per_second must be a finite number"),
        (torch.rand(1, 5, 7, 11), {"width": -1}, ValueError, "width must be a finite number"),
    ],
)
def test_what_cannot_be_played_is_refused(clip, options, error, message):
    with pytest.raises(error, match=message):
        clip_player(clip, **{"label": "noise", **options})


def at(page, milliseconds):
    """What the film shows at a moment of its run: how far the strip has moved, in percent."""
    return page.locator(".film").evaluate(
        f"film => {{ const a = film.getAnimations()[0]; a.currentTime = {milliseconds};"
        " return parseFloat(getComputedStyle(film).backgroundPositionX); }"
    )


def state(page):
    return page.locator(".film").evaluate("film => getComputedStyle(film).animationPlayState")


@pytest.mark.browser
def test_frames_follow_each_other_forwards_and_backwards(browser):
    page = opened(browser, make(frames_per_second=5)[1])
    moments = [100 + 200 * k for k in range(5)]
    assert [at(page, m) for m in moments] == [0, 25, 50, 75, 100]
    page.get_by_label("backwards").check()
    assert [at(page, m) for m in moments] == [100, 75, 50, 25, 0]


@pytest.mark.browser
def test_on_a_narrow_page_the_whole_frame_shrinks(browser):
    for page_width, film_width in ((400, 110), (80, 64)):  # the page has margins of 8
        page = opened(browser, make()[1], viewport={"width": page_width, "height": 300})
        box = page.locator(".film").bounding_box()
        assert (round(box["width"]), round(box["height"])) == (film_width, round(film_width * 7 / 11))


@pytest.mark.browser
@pytest.mark.parametrize(("wish", "first"), [("no-preference", "running"), ("reduce", "paused")])
def test_play_plays_and_pause_pauses_whatever_motion_a_reader_asked_for(browser, wish, first):
    page = opened(browser, make()[1], reduced_motion=wish)
    assert state(page) == first
    page.get_by_label("Play").focus()
    page.keyboard.press("Space")
    assert state(page) == "running"
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Pause").is_checked()
    assert state(page) == "paused"
    page.get_by_label("Play").click()
    assert state(page) == "running"


@pytest.mark.browser
def test_the_clip_plays_and_stops_without_scripts_and_by_finger(browser):
    page = browser.new_context(java_script_enabled=False, has_touch=True).new_page()
    page.set_content(make()[1])
    page.locator("label", has_text="Pause").tap()
    assert page.locator("figure:has(.pause:checked)").count() == 1
    assert all(label.bounding_box()["height"] >= 43.5 for label in page.locator("label").all())


@pytest.mark.browser
def test_on_paper_all_frames_stand_side_by_side_without_controls(browser):
    page = opened(browser, make()[1], viewport={"width": 900, "height": 300})
    page.emulate_media(media="print")
    box = page.locator(".film").bounding_box()
    assert (round(box["width"]), round(box["height"])) == (5 * 110, round(110 * 7 / 11))
    assert not page.get_by_label("Play").is_visible()
    assert page.locator(".film").evaluate("film => film.getAnimations().length") == 0
