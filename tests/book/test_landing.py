"""The landing page shows what the shipped model answers, and says plainly where it is wrong."""

import json
import re

import pytest
from landing import KNOWN, NEW, absent_from, asked_page, pictures

from book.experiments.landing_cards import DRAWINGS, FOLDER
from vlmcourse import scenes, shipped_vlm

TEXT = asked_page()
SHOWN = json.loads(re.search(r"const data = (\{.*?\}), figure", TEXT)[1])


@pytest.fixture(scope="module")
def shipped():
    return shipped_vlm()


def test_each_answer_is_to_the_picture_beside_it_and_judged_by_its_own_truth(shipped):
    model, provenance = shipped
    for shown, asked in zip(SHOWN["answers"], pictures(provenance), strict=True):
        for one, (prompt, truths) in zip(shown, asked.questions, strict=True):
            (said,) = model.generate(asked.image[None], prompt=prompt)
            assert one["words"] == list(said.words)
            assert one["truth"] in truths
            assert one["right"] == (str(said) in truths)


def test_the_landing_page_shows_right_answers_and_wrong_ones_and_marks_each_wrong_one():
    answers = [answer for asked in SHOWN["answers"] for answer in asked]
    wrong = [answer for answer in answers if not answer["right"]]
    assert 0 < len(wrong) < len(answers) / 2
    assert all(answer["wrong"] for answer in wrong)
    assert all(" ".join(answer["words"]) == answer["truth"] for answer in answers if answer["right"])
    assert SHOWN["answers"][0][0]["right"]  # what is shown first, and without scripts


def test_new_pairs_are_held_out_ones_and_the_page_says_so(shipped):
    _, provenance = shipped
    learned, new = ({tuple(pair) for pair in provenance[kind]} for kind in ("pairs", "held_out"))
    for picture in pictures(provenance):
        color, shape = picture.questions[1][1][0], picture.questions[2][1][0]
        assert (color, shape) in (new if picture.group == NEW else learned)
        assert picture.remark == (f"It never read of a {color} {shape}." if picture.group == NEW else "")
        assert picture.group in (KNOWN, NEW)
    weights = sum(parameter.numel() for parameter in shipped[0].parameters())
    assert f"{weights:,} weights, trained on {provenance['date']}" in TEXT
    assert (
        f"and {provenance['validation']['held out, one object described']['exact']:.0%} of those of new pairs" in TEXT
    )


def test_what_is_asked_and_is_not_there_shares_no_word_with_what_is():
    (objects,) = scenes.captions(1, seed=0, only=[("red", "star"), ("blue", "ring")], num_objects=2).objects
    assert absent_from(objects, [("red", "moon"), ("green", "star"), ("cyan", "heart")]) == "cyan heart"


def test_there_is_one_drawing_for_each_card():
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        f"{number:02}_{draw.__name__}.png" for number, draw in enumerate(DRAWINGS, start=1)
    ]
