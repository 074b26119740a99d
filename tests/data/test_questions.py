"""Every answer is true of the pixels, no answer can be guessed from the question, and nothing held out is ever said."""

import re
from collections import Counter
from itertools import pairwise

import pytest
import torch
from scipy import ndimage

from vlmcourse.data import scenes
from vlmcourse.data.questions import KINDS, phrasebook, questions
from vlmcourse.data.scenes import COLORS, PLACES, SHAPES, SIZES

PLACE_OF = {f"{'in' if p == 'middle' else 'at' if p[0] in 'tb' else 'on'} the {p}": p for p in PLACES}


def seen(image, mask):
    """What is in a picture according to its pixels alone: colour, shape, size and middle of every connected piece."""
    things = []
    pieces, count = ndimage.label(mask.numpy() > 0, structure=torch.ones(3, 3).numpy())
    rows, columns = torch.meshgrid(torch.linspace(1, -1, len(mask)), torch.linspace(-1, 1, len(mask)), indexing="ij")
    for piece in range(1, count + 1):
        inside = torch.from_numpy(pieces == piece)
        if inside.sum() < 8:  # a thin tip, cut off by the grid of pixels
            continue
        tint = image[:, inside].median(dim=1).values
        color = min(COLORS, key=lambda name: (tint - torch.tensor(COLORS[name])).norm())
        shape = SHAPES[int(mask[inside].mode().values) - 1]
        x, y = columns[inside], rows[inside]
        width = max(x.max() - x.min(), y.max() - y.min()).item()
        things.append({"color": color, "shape": shape, "x": x.mean().item(), "y": y.mean().item(), "width": width})
    return things


def at_place(thing, phrase):
    x, y = PLACES[PLACE_OF[phrase]]
    return abs(thing["x"] - x) < 0.3 and abs(thing["y"] - y) < 0.3


def matches(thing, phrase):
    """Whether "a red star", "a star", "a red thing" or "the red star" describes the thing."""
    words = [word for word in phrase.split() if word not in ("a", "an", "the", "thing")]
    return all(word in (thing["color"], thing["shape"]) for word in words)


def pointed_at(prompt, things):
    phrases = [phrase for phrase in PLACE_OF if phrase in prompt]
    found = [t for t in things if not phrases or at_place(t, max(phrases, key=len))]
    assert len(found) == 1, (prompt, things)
    return found[0]


def is_true(kind, prompt, answer, things):
    if kind == "count":
        return answer == {1: "one", 2: "two"}[len(things)]
    if kind in ("color", "shape"):
        return pointed_at(prompt, things)[kind] == answer
    if kind == "size":
        width = pointed_at(prompt, things)["width"]
        return (width < 0.66) if answer == "small" else (width > 0.54)
    if kind == "place":
        asked = re.search(r"the thing|the (\w+ \w+)(?= in| \?|\?)", prompt)[0]
        return any(matches(t, asked) and at_place(t, answer) for t in things)
    if kind == "exist":
        return any(matches(t, re.search(r"an? \w+ ?\w*?(?= in|\?)", prompt)[0]) for t in things) == (answer == "yes")
    if kind == "relation":
        one, other = (
            next(t for t in things if matches(t, phrase))
            for phrase in re.findall(r"the \w+ \w+(?= left| above| in|\?)", prompt)
        )
        right, up = one["x"] - other["x"], one["y"] - other["y"]
        return {"left": -right, "right": right, "above": up, "below": -up}[answer] > 0.5
    words = answer.split()
    return all(any(w in (t["color"], t["shape"]) for t in things) for w in words if w in COLORS or w in SHAPES) and all(
        any(at_place(t, phrase) for t in things) for phrase in PLACE_OF if answer.endswith(phrase)
    )


@pytest.fixture(scope="module")
def asked():
    return questions(
        640,
        seed=3,
        image_size=64,
        num_objects=[1, 2],
        phrasings=3,
        drop=dict.fromkeys(scenes.ATTRIBUTES, 0.3),
        noise=0.0,
    )


def rows_of(batch, kind):
    return [row for row, name in enumerate(batch.kinds) if name == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true_of_the_pixels(asked, kind):
    rows = rows_of(asked, kind)
    assert len(rows) == 640 // len(KINDS)
    for row in rows:
        things = seen(asked.images[row], asked.masks[row])
        assert is_true(kind, asked.prompts[row], asked.answers[row], things), (
            asked.prompts[row], asked.answers[row], things,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["color", "shape", "count", "exist", "relation", "place"])
def test_the_check_against_the_pixels_finds_a_wrong_answer(asked, kind):
    wrong = 0
    rows = rows_of(asked, kind)
    for row, other in pairwise(rows):
        if asked.answers[row] != asked.answers[other]:
            things = seen(asked.images[row], asked.masks[row])
            sides = {"left": "right", "right": "left", "above": "below", "below": "above"}
            answer = sides[asked.answers[row]] if kind == "relation" else asked.answers[other]
            wrong += not is_true(kind, asked.prompts[row], answer, things)
    assert wrong > 10


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [("exist", [("yes", "no")]), ("relation", [("left", "right"), ("above", "below")]), ("count", [("one", "two")])],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_sided_answers_come_equally_often(kind, pairs, seed):
    batch = questions(202, seed=seed, kinds=kind, image_size=16, num_objects=2 if kind == "relation" else [1, 2])
    said = Counter(batch.answers)
    for one, other in pairs:
        assert abs(said[one] - said[other]) <= 2
        assert said[one] > 20


def test_yes_and_no_come_equally_often_for_each_number_of_objects():
    batch = questions(400, seed=0, kinds="exist", image_size=16, num_objects=[1, 2])
    said = Counter((len(objects), answer) for objects, answer in zip(batch.objects, batch.answers, strict=True))
    assert set(said.values()) == {100}


@pytest.mark.parametrize("kind", ["color", "shape"])
def test_colours_and_shapes_are_asked_for_without_naming_either(kind):
    batch = questions(300, seed=0, kinds=kind, image_size=16, num_objects=[1, 2])
    assert not {word.strip("?") for prompt in batch.prompts for word in prompt.split()} & {*COLORS, *SHAPES}
    names = COLORS if kind == "color" else SHAPES
    said = Counter(batch.answers)
    assert set(said) == set(names)
    assert max(said.values()) < 2.2 * 300 / len(names)


def test_the_same_phrases_are_affirmed_and_denied():
    batch = questions(1000, seed=0, kinds="exist", image_size=16, colors=["red", "blue"], shapes=["star", "ring"])
    yes, no = (
        Counter(p for p, a in zip(batch.prompts, batch.answers, strict=True) if a == answer) for answer in ("yes", "no")
    )
    assert set(yes) == set(no)
    assert all(0.5 < yes[prompt] / no[prompt] < 2 for prompt in yes if yes[prompt] + no[prompt] > 40)


@pytest.mark.parametrize("only", [[("red", "star"), ("blue", "ring"), ("green", "moon")]])
def test_held_out_combinations_are_neither_shown_nor_said(only):
    batch = questions(400, seed=0, image_size=16, num_objects=[1, 2], only=only)
    assert {(o.color, o.shape) for objects in batch.objects for o in objects} == set(only)
    for text in (*batch.prompts, *batch.answers):
        for color, shape in re.findall(r"(\w+) (\w+)", text) + re.findall(r"(?<= )(\w+) (\w+)", text):
            assert not (color in COLORS and shape in SHAPES) or (color, shape) in only, text


def test_excluded_combinations_are_neither_shown_nor_said():
    batch = questions(600, seed=1, image_size=16, exclude=[("red", "star")])
    assert not any("red star" in text for text in (*batch.prompts, *batch.answers))
    assert ("red", "star") not in {(o.color, o.shape) for objects in batch.objects for o in objects}


def test_two_objects_of_a_picture_can_be_told_apart_by_the_words_of_a_question():
    batch = questions(
        300, seed=0, kinds="relation", image_size=16, num_objects=2, colors=["red"], shapes=["star", "ring"]
    )
    assert all(len({(o.color, o.shape) for o in objects}) == 2 for objects in batch.objects)


def test_dropping_leaves_out_each_attribute_about_as_often_as_asked():
    batch = questions(
        1000, seed=0, kinds="describe", image_size=16, drop=dict.fromkeys(["color", "size", "shape"], 0.25)
    )
    for names in (COLORS, SIZES, SHAPES):
        named = sum(any(word in names for word in answer.split()) for answer in batch.answers) / 1000
        assert 0.70 < named < 0.80
    assert questions(50, seed=0, kinds="describe").answers == tuple(
        scenes.describe(objects) for objects in questions(50, seed=0, kinds="describe").objects
    )


def test_dropping_the_colour_leaves_the_rest_of_the_sentence():
    full, dropped = (questions(80, seed=0, kinds="describe", drop=drop).answers for drop in ({}, {"color": 1.0}))
    assert dropped == tuple(re.sub("|".join(f"{color} " for color in COLORS), "", answer) for answer in full)


def test_the_phrasebook_holds_every_word():
    def words(texts):
        return {word for text in texts for word in re.findall(r"<image>|\w+|[^\w\s]", text)}

    drop = dict.fromkeys(scenes.ATTRIBUTES, 0.3)
    batch = questions(3000, seed=0, image_size=16, num_objects=[1, 2], phrasings=3, drop=drop, textures=scenes.TEXTURES)
    assert words([*batch.prompts, *batch.answers]) <= words(phrasebook())
    assert len(words(phrasebook())) < 100


def test_the_same_seed_gives_the_same_questions_and_another_seed_others():
    options = {"image_size": 16, "num_objects": [1, 2], "drop": {"color": 0.3}}
    one, again, other = (questions(60, seed=seed, **options) for seed in (5, 5, 6))
    torch.testing.assert_close(one.images, again.images, rtol=0, atol=0)
    assert (one.prompts, one.answers, one.kinds) == (again.prompts, again.answers, again.kinds)
    assert one.answers != other.answers


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    questions(20, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "colour"}, r"kinds has unknown 'colour'; known: describe, color"),
        ({"kinds": "relation"}, r"relation need pictures of two objects.*num_objects=\[1, 2\]"),
        ({"num_objects": 3}, r"num_objects must be 1, 2 or both, received 3"),
        ({"drop": {"color": 1.5}}, r"drop\['color'\] must lie between 0 and 1"),
        ({"drop": {"colour": 0.5}}, r"drop has unknown 'colour'; known: size, texture, color"),
        ({"only": [("red", "star")]}, r"at least two combinations"),
        ({"phrasings": 0}, r"phrasings must be at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        questions(4, seed=0, **options)
