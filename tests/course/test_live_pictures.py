"""What every picture in the page that answers to the reader has in common, and what the newer ones show."""

import base64
import io
import json
import re
from importlib.resources import files
from itertools import product

import pytest
import torch
from browsers import opened
from html_tags import parsed
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor

from vlmcourse import conv3d, patchify, receptive_field, unpatchify
from vlmcourse.course.figures.asked import AskedPicture, answers_of, ask_a_picture
from vlmcourse.course.figures.field_viewer import field_viewer
from vlmcourse.course.figures.interactive import attention_picture, contrastive_circle
from vlmcourse.course.figures.patch_slider import patch_slider
from vlmcourse.course.figures.stepper import convolution_stepper
from vlmcourse.train.vlm import build_vlm

LIMIT = 200_000  # bytes of one picture
TEMPLATES = sorted(path.name for path in files("vlmcourse.course.figures").joinpath("templates").iterdir())

torch.manual_seed(0)
PHOTO = torch.rand(3, 24, 36)
SIZES = (2, 3, 4, 6, 12)
SETTINGS = ((1, 2, 3), (3, 5), (1, 2))


def stack(depth, kernel, stride):
    layers = [nn.Conv2d(1, 1, kernel, stride=stride, padding=kernel // 2) for _ in range(depth)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.1)
    return nn.Sequential(*layers)


FIELDS = {key: receptive_field(stack(*key), torch.randn(1, 1, 65, 65)) for key in product(*SETTINGS)}
CLIP, KERNEL = torch.rand(1, 4, 5, 6), torch.tensor([0.0, 1.0, -0.5, 0.25, 0.0, 2.0, 0.0, 0.0]).reshape(1, 1, 2, 2, 2)
MODEL = build_vlm(image_size=16, embed_dim=16, depth=1, num_heads=2)
ASKED = [
    AskedPicture(torch.rand(3, 16, 16), f"noise {k} & <more>", group, f"Remark {k}.", (
        ("What is in this image <image>? Answer:", (f"truth {k}",)),
        ("How many things are in <image>? Answer:", ("two",)),
    ))
    for k, group in enumerate(("first", "first", "second"))
]  # fmt: skip


def slider(label="noise"):
    return patch_slider(PHOTO, sizes=SIZES, start=4, label=label)


def viewer(label="noise", start=(2, 3, 1)):
    return field_viewer(
        torch.rand(3, 65, 65, generator=torch.Generator().manual_seed(0)), FIELDS, start=start, label=label
    )


def stepper(label="noise"):
    return convolution_stepper(CLIP, KERNEL, label=label)


def asked(label="noise"):
    return ask_a_picture(MODEL, ASKED, source=label)


def attention(label="noise"):
    weights = torch.rand(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    return attention_picture(PHOTO, weights, grid_size=(2, 3), label=label)


def circle(label="noise"):
    return contrastive_circle(torch.tensor([[0.4, 1.3], [1.9, 2.6]]), label=label)


PICTURES = {f.__name__: f for f in (slider, viewer, stepper, asked, attention, circle)}
every_picture = pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)


@every_picture
def test_a_picture_is_whole_small_the_same_each_time_and_fetches_nothing(make):
    text = make()
    tags = parsed(text.replace("<noscript>", "<div>").replace("</noscript>", "</div>"))
    assert tags.wrong == []
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert text == make()
    assert re.search(r'<figure id="([^"]+)"', make("other words"))[1] != ids[0]
    assert len(text.encode()) < LIMIT
    assert not re.search(r"https?:|href=|@import|fetch\(|import\(", text)
    assert not re.search(r"(src=\"|url\([\"']?)(?!data:|#|\")", text)
    assert "{{" not in text
    assert '"><script>' not in make('"><script>alert(1)</script>')


def test_the_rules_that_pictures_share_are_put_into_each():
    assert ".live-picture button" in slider()


# --- in a real browser -----------------------------------------------------------------------------------------------


# How large each word of a picture is shown, in pixels.
TYPE = """() => [...document.querySelectorAll('.live-picture, .live-picture *')]
  .filter(e => !e.closest('script, style, noscript') && e.checkVisibility())
  .filter(e => [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()))
  .map(e => [parseFloat(getComputedStyle(e).fontSize) * (e.getScreenCTM?.().a ?? 1), e.textContent.trim().slice(0, 20)])
"""


def says(page):
    return " ".join(page.locator("[aria-live]").inner_text().split())


@pytest.mark.browser
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".html")])
def test_every_script_is_good_javascript(browser, name):
    text = files("vlmcourse.course.figures").joinpath("templates", name).read_text(encoding="utf-8")
    page = browser.new_page()
    for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
        source = f'"use strict";{script.replace("{{content|tojson}}", "{}")}'
        assert (
            page.evaluate("source => { try { new Function(source); } catch (e) { return String(e); } }", source) is None
        )
    assert text.count("<script") == len(re.findall(r"<script>\n\(\(\) => \{.*?\}\)\(\);\n</script>", text, re.DOTALL))
    page.close()


@every_picture
@pytest.mark.browser
def test_a_picture_runs_without_errors_leaves_no_global_name_and_fits_a_phone(browser, make):
    empty, page = opened(browser, ""), opened(browser, make() + make("other words"))
    names = "() => Object.getOwnPropertyNames(window).filter(name => !name.match(/^\\d+$/))"
    assert set(page.evaluate(names)) - set(empty.evaluate(names)) == set()
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@every_picture
@pytest.mark.browser
def test_without_scripts_a_still_picture_and_a_sentence_stay_and_no_dead_control(browser, make):
    still, moving, printed = (
        opened(browser, make(), java_script_enabled=False), opened(browser, make()), opened(browser, make())
    )  # fmt: skip
    assert moving.locator("input, select, button").first.is_visible()
    printed.emulate_media(media="print")
    for page in (still, printed):
        assert not any(control.is_visible() for control in page.locator("select, input, button").all())
        assert page.locator("figure").bounding_box()["height"] > 150
    assert still.locator("noscript").inner_text().startswith("Without scripts")
    assert says(still) == says(moving)
    assert len(says(still)) > 20 or make is asked


@every_picture
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_no_type_is_below_nine_points(browser, make, width):
    shown = opened(browser, make(), viewport={"width": width, "height": 900}).evaluate(TYPE)
    assert len(shown) > 3
    assert [(size, word) for size, word in shown if size < 11.9] == []


@every_picture
@pytest.mark.browser
def test_every_control_is_as_large_as_a_fingertip_and_has_a_name(browser, make):
    page = opened(browser, make(), has_touch=True, is_mobile=True)
    for control in page.locator("input, select, button").all():
        radio = control.get_attribute("type") == "radio"
        target = control.locator("xpath=ancestor::label") if radio else control
        if target.is_visible():
            assert target.bounding_box()["height"] >= 43.5
            spoken = "l => l.innerText + (l.querySelector('img')?.alt ?? '')"
            assert control.evaluate(f"c => [...(c.labels ?? [])].map({spoken}).join() + c.innerText").strip()


@pytest.mark.browser
def test_the_slider_shows_the_patches_that_patchify_cuts(browser):
    page = opened(browser, slider())
    assert says(page).startswith("Patches of 4 × 4 pixels: 9 × 6 = 54 tokens of 48 numbers")
    page.locator("input").focus()
    for _ in SIZES:
        page.keyboard.press("ArrowLeft")
    most = patchify(PHOTO[None], patch_size=min(SIZES)).shape[1]
    for size in sorted(SIZES):
        tokens = patchify(PHOTO[None], patch_size=size)
        n = tokens.shape[1]
        assert f"= {n:,} tokens of {tokens.shape[2]} numbers each" in says(page)
        assert says(page).endswith(f"= {n * n:,} pairs.")
        assert (
            page.locator("output").inner_text()
            == page.locator("input").get_attribute("aria-valuetext")
            == f"{size} pixels"
        )
        grid = page.locator(".grid").evaluate("g => ['--columns', '--rows'].map(k => +g.style.getPropertyValue(k))")
        assert grid == [PHOTO.shape[2] / size, PHOTO.shape[1] / size]
        assert unpatchify(tokens, patch_size=size, image_size=(24, 36)).shape[2:] == (grid[1] * size, grid[0] * size)
        square = page.locator(".pairs").bounding_box()["width"] / page.locator(".matrix").evaluate("m => m.clientWidth")
        assert square == pytest.approx(max(n / most, 0.006), abs=0.004)
        page.keyboard.press("ArrowRight")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": 5}, "start must be one of the sizes"), ({"sizes": (5, 4)}, "divide"), ({"label": " "}, "label must")],
)
def test_a_slider_that_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        patch_slider(PHOTO, **{"sizes": SIZES, "start": 4, "label": "noise", **options})


def unseen(text):
    """The map that is drawn over a photograph, from 0, seen best, to 1, not seen at all."""
    return pil_to_tensor(Image.open(io.BytesIO(base64.b64decode(text))))[1] / 255


def test_the_viewer_holds_each_field_as_it_was_measured():
    content = json.loads(re.search(r"const data = (\{.*?\}), figure", viewer())[1])
    assert content["axes"] == [list(axis) for axis in SETTINGS]
    for shown, key in zip(content["fields"], product(*SETTINGS), strict=True):
        expected = 1 - (FIELDS[key] / FIELDS[key].max()).sqrt()
        torch.testing.assert_close(unseen(shown["veil"]), expected, atol=1 / 255, rtol=0)


@pytest.mark.browser
def test_the_viewer_frames_the_theoretical_field_for_every_network(browser):
    page = opened(browser, viewer())
    for places in product(*(range(len(axis)) for axis in SETTINGS)):
        for name, place in zip(("layers", "kernel", "stride"), places, strict=True):
            page.locator(f"input.{name}").fill(str(place))
        depth, kernel, stride = (axis[place] for axis, place in zip(SETTINGS, places, strict=True))
        side = 1 + (kernel - 1) * sum(stride**k for k in range(depth))
        assert f"{depth} layer{'s' * (depth > 1)} of {kernel} × {kernel} with stride {stride}" in says(page)
        assert f"sees {side} × {side} pixels" in says(page)
        frame, photo = page.locator(".frame").bounding_box(), page.locator(".photo").bounding_box()
        assert frame["width"] / photo["width"] == pytest.approx(side / 65, abs=0.005)
        assert frame["x"] + frame["width"] / 2 == pytest.approx(photo["x"] + photo["width"] / 2, abs=2)
    assert page.errors == []


def test_half_of_a_flat_field_lies_within_the_smallest_square_with_half_of_its_area():
    flat = torch.zeros(9, 9)
    flat[1:8, 1:8] = 1  # 49 pixels; 5 × 5 = 25 of them are more than half
    picture = field_viewer(torch.rand(3, 9, 9), {(1, 7, 1): flat}, start=(1, 7, 1), label="flat")
    assert "half of what moves it lies in the middle 5 × 5" in picture


@pytest.mark.parametrize(
    ("fields", "start", "message"),
    [
        ({(1, 3, 1): torch.ones(9, 9), (2, 5, 1): torch.ones(9, 9)}, (1, 3, 1), "every combination"),
        ({(1, 3, 1): torch.ones(9, 9)}, (2, 3, 1), "start must be one"),
        ({(1, 3, 1): torch.ones(9, 8)}, (1, 3, 1), r"must be a map of \(9, 9\)"),
        ({(1, 3, 1): torch.zeros(9, 9)}, (1, 3, 1), "some value above 0"),
    ],
)
def test_fields_that_cannot_be_shown_are_refused(fields, start, message):
    with pytest.raises(ValueError, match=message):
        field_viewer(torch.rand(3, 9, 9), fields, start=start, label="noise")


def the_sum(place):
    """An output and its products, from the definition, of a clip kept to four digits."""
    clip = CLIP[0].double().round(decimals=4)
    u, i, j = place
    window = clip[u : u + 2, i : i + 2, j : j + 2]
    return [(w.item(), window[*at].item()) for at in KERNEL[0, 0].nonzero().tolist() for w in [KERNEL[0, 0][*at]]]


def said_sum(text):
    where, _, rest = text.partition(": ")
    left, _, right = rest.replace("−", "-").partition(" = ")
    place = tuple(map(int, re.findall(r"\d+", where)))
    return place, [tuple(map(float, term.split(" × "))) for term in left.split(" + ")], float(right)


@pytest.mark.browser
def test_the_stepper_says_the_sum_of_every_output_and_the_library_agrees(browser):
    page = opened(browser, stepper())
    page.locator("input").fill("0")
    outputs = conv3d(CLIP[None], KERNEL)[0, 0]
    page.locator("input").focus()
    for place in product(*map(range, outputs.shape)):
        found, terms, result = said_sum(says(page))
        assert found == place
        assert terms == [(pytest.approx(w), pytest.approx(x, abs=0.0051)) for w, x in the_sum(place)]
        assert result == pytest.approx(outputs[place].item(), abs=0.0056)
        page.keyboard.press("ArrowRight")
    assert page.errors == []


@pytest.mark.browser
def test_the_window_lies_over_the_cells_that_are_summed_and_a_press_chooses_an_output(browser):
    page = opened(browser, stepper(), has_touch=True, is_mobile=True)
    outputs = conv3d(CLIP[None], KERNEL)[0, 0]
    start, _, _ = said_sum(says(page))
    assert outputs[start] == outputs.max()
    t, h, w = outputs.shape
    cells = page.locator(".output rect:not(.outline)")
    for place in ((1, 2, 3), (2, 3, 0), (0, 0, 0)):
        number = (place[0] * h + place[1]) * w + place[2]
        cells.nth(number).tap()
        assert said_sum(says(page))[0] == place
        assert page.locator(".output .pale").count() == t * h * w - 1 - number
        lit = page.locator(".window .lit").first.bounding_box()  # under the first weight that is not zero: 0, 0, 1
        under = (place[0] * 5 + place[1]) * 6 + place[2] + 1
        cell = page.locator(".clip > rect").nth(under).bounding_box()
        assert lit["x"] + lit["width"] / 2 == pytest.approx(cell["x"] + cell["width"] / 2, abs=0.5)
        assert lit["y"] + lit["height"] / 2 == pytest.approx(cell["y"] + cell["height"] / 2, abs=0.5)


@pytest.mark.browser
def test_the_stepper_goes_on_and_back_by_buttons_that_stop_at_the_ends(browser):
    page = opened(browser, stepper())
    page.locator("input").fill("1")
    page.locator(".back").click()
    assert said_sum(says(page))[0] == (0, 0, 0)
    assert page.locator(".back").is_disabled()
    page.locator(".on").click()
    page.locator(".on").click()
    assert said_sum(says(page))[0] == (0, 0, 2)


@pytest.mark.parametrize(
    ("clip", "weight", "message"),
    [
        (CLIP.expand(3, -1, -1, -1), KERNEL, "must have one channel"),
        (torch.rand(1, 5, 20, 20), KERNEL, "at most 1200 cells"),
        (CLIP, torch.rand(1, 1, 5, 2, 2), "must fit into"),
    ],
)
def test_a_clip_that_cannot_be_stepped_through_is_refused(clip, weight, message):
    with pytest.raises(ValueError, match=message):
        convolution_stepper(clip, weight, label="noise")


def test_an_answer_is_judged_by_the_truth_that_is_nearest_to_it():
    prompts = [prompt for prompt, _ in ASKED[0].questions]
    said = [MODEL.generate(ASKED[0].image[None], prompt=prompt)[0] for prompt in prompts]
    truths = (("another thing", said[0].text), (f"x {said[1].text}",))
    picture = AskedPicture(ASKED[0].image, "noise", "", "", tuple(zip(prompts, truths, strict=True)))
    (right, wrong), = answers_of(MODEL, [picture])  # fmt: skip
    assert (right["words"], right["truth"], right["right"], right["wrong"]) == (
        list(said[0].words),
        said[0].text,
        True,
        [],
    )
    assert not wrong["right"]
    assert 0 in wrong["wrong"]
    for answer, one in ((right, said[0]), (wrong, said[1])):
        percents = [float(re.search(r"\d+", shown)[0]) for shown in answer["sure"]]
        assert percents == pytest.approx(
            [100 * chance for chance in one.probabilities[: len(percents)].tolist()], abs=1
        )


@pytest.mark.browser
def test_a_reader_picks_a_picture_and_a_question_and_sees_the_models_answer(browser):
    page = opened(browser, asked(), has_touch=True, is_mobile=True)
    answers = answers_of(MODEL, ASKED)
    for picture, question in product(range(3), range(2)):
        page.locator(".pictures label").nth(picture).tap()
        page.locator(".questions label").nth(question).tap()
        expected = answers[picture][question]
        assert page.locator(".answer b").all_inner_texts() == expected["words"]
        assert page.locator(".answer small").all_inner_texts() == expected["sure"]
        assert (
            page.locator(".answer span").evaluate_all("all => all.flatMap((s, k) => s.className ? [k] : [])")
            == expected["wrong"]
        )
        assert (
            page.locator(".verdict").inner_text()
            == f"Wrong. The true answer is: {expected['truth']}. Remark {picture}."
        )
        assert page.locator(".question").inner_text() == expected["question"]
        assert page.locator(".shown").get_attribute("alt") == f"noise {picture} & <more>"
    page.locator(".pictures :checked").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".shown").get_attribute("alt") == "noise 1 & <more>"
    assert page.errors == []


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "1 to 8, received 0"),
        ([*ASKED, AskedPicture(PHOTO, "x", "x", "", ())], "as many questions"),
    ],
)
def test_pictures_that_cannot_be_asked_are_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        ask_a_picture(MODEL, pictures, source="noise")
