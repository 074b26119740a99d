"""The forced word stands in the page whole: the model's own probabilities, by mouse, finger, key and on paper."""

import json
import re
from dataclasses import replace

import pytest
import torch
from browsers import opened
from html_tags import parsed

from vlmcourse import ConvEncoder, questions
from vlmcourse.course.figures.forced_word import forced_word, shapes_after
from vlmcourse.train import vlm

PAIRS = [*vlm.pairings(2)[::4], *vlm.held_out()[::2]]
WORLD = {"colors": vlm.COLORS, "shapes": vlm.SHAPES}
ASKED = questions(40, seed=3, kinds="describe", phrasings=1, only=PAIRS, **WORLD)
SHOWN = [(things[0].color, things[0].shape) for things in ASKED.objects]
ROWS = [SHOWN.index(pair) for pair in PAIRS]


def tiny(seed):
    """An untrained model that is sure of a shape, and of another one with another picture or word."""
    torch.manual_seed(seed)
    model = vlm.build_vlm(ConvEncoder(width=4), embed_dim=16, depth=1, num_heads=2)
    numbers = [model.tokenizer.encode(shape)[0] for shape in vlm.SHAPES]
    with torch.no_grad():
        model.language_model.token_embedding[numbers] *= 60
    return model


MODELS = {"before": tiny(0), "after <two> repairs": tiny(1)}


def make(models=MODELS, asked=ASKED, **changes):
    return forced_word(
        models, asked, **{**WORLD, "usual": vlm.pairings(2), "rows": ROWS, "start": (0, "green"), **changes}
    )


def expected(model, row, color, *, shapes=vlm.SHAPES):
    """One prompt, one image, as the chapter's forward pass would have it."""
    thing = ASKED.objects[row][0]
    prompt = f"{ASKED.prompts[row]} a {thing.size} {color}"
    ids = torch.tensor([model.tokenizer.encode(prompt)])
    with torch.no_grad():
        logits = model.eval()(ASKED.images[row : row + 1], ids)[0]
    chances = logits[0, -1].softmax(-1)
    named = [chances[model.tokenizer.encode(shape)[0]].item() for shape in shapes]
    return [*named, 1 - sum(named)]


def content(text):
    return json.loads(re.search(r"const data = (\{.*?\}), figure", text)[1])


def test_the_embedded_numbers_are_each_models_softmax_after_the_forced_word():
    data = content(make())
    assert (len(data["chances"]), len(data["chances"][0]), len(data["chances"][0][0])) == (2, 6, 6)
    for chances, model in zip(data["chances"], MODELS.values(), strict=True):
        for picture, row in enumerate(ROWS):
            for word, color in enumerate(vlm.COLORS):
                shown = [part / 10_000 for part in chances[picture][word]]
                assert shown == pytest.approx(expected(model, row, color), abs=1e-4)
    some = torch.tensor(data["chances"]).float()
    assert some.std(dim=1).max() > 500  # pictures differ
    assert some.std(dim=2).max() > 500  # and so do words; else any mistake of order would pass


def test_scoring_leaves_a_model_in_its_mode_and_sums_to_one():
    model = tiny(2).train()
    prompts = [f"{prompt} a small red" for prompt in ASKED.prompts[:3]]
    chances = shapes_after(model, prompts, ASKED.images[:3], shapes=vlm.SHAPES)
    assert model.training
    assert chances.shape == (3, 7)
    torch.testing.assert_close(chances.sum(1), torch.ones(3))
    assert not chances.requires_grad


def test_the_marks_are_the_shape_in_the_picture_and_those_usual_with_the_said_colour():
    data = content(make())
    assert [vlm.SHAPES[k] for k in data["seen"]] == [shape for _, shape in PAIRS]
    for color, marked in zip(vlm.COLORS, data["usual"], strict=True):
        usual = {shape for said, shape in vlm.pairings(2) if said == color}
        assert {shape for shape, is_usual in zip(vlm.SHAPES, marked, strict=True) if is_usual} == usual


def test_without_scripts_and_on_paper_one_choice_stands_in_a_table():
    text = make(start=(1, "purple"))
    table = re.search(r"<tbody>.*</tbody>", text)[0]
    shares = [float(share) / 100 for share in re.findall(r"--share: ([\d.]+)%", table)]
    columns = [expected(model, ROWS[1], "purple") for model in MODELS.values()]
    assert shares == pytest.approx([share for row in zip(*columns, strict=True) for share in row], abs=1e-4)
    marks = dict(re.findall(r"<span>(\w[\w ]*)</span><small>([^<]*)</small>", table))
    assert marks == {
        "circle": "", "square": "", "triangle": "in the picture", "star": "", "cross": "usual with purple",
        "heart": "usual with purple", "another word": "",
    }  # fmt: skip
    size = ASKED.objects[ROWS[1]][0].size
    assert f"<q>a {size} purple</q>" in text
    assert re.search(r"<noscript>.*one choice", text)
    assert re.search(r'<div class="controls" hidden>', text)  # what would do nothing is not shown
    assert re.search(r"@media print \{[^}]*\.controls \{ display: none", text)
    assert ("img", ASKED.answers[ROWS[1]]) in [
        (tag, attributes["alt"]) for tag, attributes in parsed(text).seen if attributes.get("class") == "shown"
    ]


def test_a_shape_in_the_picture_that_is_usual_too_is_marked_as_both():
    text = make(start=(0, "red"))  # a red circle
    assert '<tr class="seen usual"><th scope="row"><span>circle</span><small>in the picture, usual with red' in text


def test_every_control_has_a_label_and_each_group_a_legend():
    tags = parsed(make())
    assert tags.wrong == []
    assert tags.open == []
    radios = [attributes for tag, attributes in tags.seen if tag == "input"]
    assert len(radios) == 12
    groups = {radio["name"] for radio in radios}
    assert len(groups) == 2
    for group in groups:
        assert sum(radio["name"] == group and "checked" in radio for radio in radios) == 1
    labels = re.findall(r"<label>(<input[^>]*>)(.*?)</label>", make())
    assert len(labels) == 12
    spoken = [re.search(r'alt="([^"]+)"', shown)[1] if "<img" in shown else shown for _, shown in labels]
    assert spoken == [*(ASKED.answers[row] for row in ROWS), *vlm.COLORS]
    assert len(re.findall(r"<fieldset[^>]*><legend>\w", make())) == 2
    assert all(attributes["alt"].strip() for tag, attributes in tags.seen if tag == "img")
    assert any(attributes.get("aria-live") == "polite" for _, attributes in tags.seen)


def test_nothing_is_fetched_and_names_are_escaped():
    text = make()
    sources = [attributes["src"] for _, attributes in parsed(text).seen if "src" in attributes]
    assert len(sources) == 7
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|href=|url\(|@import|fetch\(|import\(", text)
    assert "after &lt;two&gt; repairs" in text
    assert "<two>" not in text
    odd = replace(ASKED, answers=tuple(f'{answer} "<script>' for answer in ASKED.answers))
    assert make(asked=odd).count("<script>") == 1


def test_the_same_data_give_the_same_html_and_other_data_another_id():
    assert make() == make()
    names = {
        re.search(r'id="(forced_word-\w+)"', text)[1] for text in (make(), make(rows=ROWS[:5]), make(start=(0, "cyan")))
    }
    assert len(names) == 3


@pytest.mark.parametrize("size", [32, 96])
def test_it_stays_below_200_kilobytes_in_the_worst_case(size):
    torch.manual_seed(0)
    noise = replace(ASKED, images=torch.rand(len(ASKED), 3, size, size))
    model = vlm.build_vlm(ConvEncoder(width=2), image_size=size, embed_dim=8, depth=1, num_heads=2)
    text = make(dict.fromkeys(("one", "two", "three"), model), noise, rows=range(8))
    assert len(text.encode()) < 200_000


def two_objects():
    return questions(2, seed=0, kinds="describe", num_objects=2, **WORLD)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": MODELS["before"]}, TypeError, r"received VisionLanguageModel; try \{"),
        ({"models": {}}, ValueError, "models must hold from 1 to 3, received 0"),
        ({"models": {"a": torch.nn.Linear(2, 2)}}, TypeError, r"models\['a'\] must be a Vision.*received Linear"),
        ({"models": {" ": MODELS["before"]}}, ValueError, "models must have names"),
        ({"colors": ["red", "purpel"]}, ValueError, "colors has unknown 'purpel'; known: red"),
        ({"shapes": ["star", "star"]}, ValueError, "shapes must hold at least one name and none twice"),
        ({"shapes": ["star", "cross"]}, ValueError, "shapes must hold the shape of each picture.* a circle"),
        ({"usual": [("circle", "red")]}, ValueError, r"pairs such as \('red', 'circle'\), received \('circle', 'red'"),
        ({"usual": [1]}, ValueError, r"usual must hold pairs.*received \(1,\)"),
        ({"rows": range(9)}, ValueError, r"from 1 to 8 pictures, received 9; try range\(6\)"),
        ({"rows": []}, ValueError, "from 1 to 8 pictures, received 0"),
        ({"rows": [0, 40]}, ValueError, r"rows must be from 0 to 39, received \[0, 40\]"),
        ({"start": (6, "red")}, ValueError, r"a picture from 0 to 5 and one of red.*received \(6, 'red'\)"),
        ({"start": (0, "pink")}, ValueError, "start must be a picture"),
        ({"asked": two_objects(), "rows": [0, 1]}, ValueError, "pictures of one object, received 2 in picture 0; try"),
        (
            {"asked": questions(2, seed=0, kinds="color", **WORLD), "rows": [0, 1]},
            ValueError,
            "answers that name the colour.*kinds='describe'",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


# --- in a real browser -----------------------------------------------------------------------------------------------


def as_shown(page):
    """All that a reader sees of a choice."""
    bars = (
        "bars => bars.map(bar => bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width)"
    )
    return {
        "sentence": page.locator("q").inner_text(),
        "picture": page.locator(".shown").get_attribute("alt"),
        "rows": page.locator("tbody tr").all_inner_texts(),
        "classes": page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.className)"),
        "says": page.locator(".says").inner_text(),
        "bars": [round(share, 3) for share in page.locator("td i").evaluate_all(bars)],
    }


@pytest.mark.browser
def test_each_choice_shows_what_a_page_that_starts_with_it_shows_without_scripts(browser):
    page = opened(browser, make(), reduced_motion="reduce")
    for picture, color in ((1, "purple"), (0, "red"), (5, "cyan")):
        page.locator(".pictures input").nth(picture).check()
        page.get_by_label(color, exact=True).check()
        still = opened(browser, make(start=(picture, color)), java_script_enabled=False, reduced_motion="reduce")
        assert as_shown(page) == as_shown(still)
        assert not still.locator(".controls").is_visible()
    assert page.errors == []


@pytest.mark.browser
def test_bars_are_as_long_as_probabilities_and_on_one_scale(browser):
    page = opened(browser, make(start=(1, "purple")), reduced_motion="reduce")
    tracks = page.locator("td div").evaluate_all(
        "cells => cells.map(cell => { const style = getComputedStyle(cell);"
        " return [parseFloat(style.gridTemplateColumns), cell.firstChild.getBoundingClientRect().width]; })"
    )
    columns = [expected(model, ROWS[1], "purple") for model in MODELS.values()]
    shares = [share for row in zip(*columns, strict=True) for share in row]
    assert len({round(track) for track, _ in tracks}) == 1
    for (track, width), share in zip(tracks, shares, strict=True):
        assert width == pytest.approx(max(1, share * track), abs=0.6)


@pytest.mark.browser
def test_the_arrow_keys_and_a_finger_choose(browser):
    page = opened(browser, make(start=(0, "green")), has_touch=True, is_mobile=True)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator(".shown").get_attribute("alt") == ASKED.answers[ROWS[1]]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert page.locator("q").inner_text().endswith(" red")
    page.locator(".words label").nth(5).tap()
    assert page.locator("q").inner_text().endswith(" cyan")
    page.locator(".pictures label").nth(4).tap()
    assert page.locator(".shown").get_attribute("alt") == ASKED.answers[ROWS[4]]
    assert min(box["height"] for box in (label.bounding_box() for label in page.locator("label").all())) >= 40
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []


@pytest.mark.browser
def test_on_paper_the_choice_stays_and_the_controls_go(browser):
    page = opened(browser, make())
    page.get_by_label("yellow", exact=True).check()
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert page.locator("table").is_visible()
    assert page.locator("q").inner_text().endswith(" yellow")
