"""Ask a picture: a model's answers to questions about a few pictures, computed beforehand for a page without kernel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest

from torch import Tensor

from vlmcourse.course.figures.page import MOST_PICTURES, filled, picture_to_choose
from vlmcourse.data.questions import ENDING
from vlmcourse.models.vlm import Answer, VisionLanguageModel
from vlmcourse.train.vlm import without_image


@dataclass(frozen=True)
class AskedPicture:
    """One picture with the questions that a reader may ask of it.

    Options:
        image: ``(3, h, w)``, from 0 to 1. seen_as: what it shows, for those who do not see it. group: the heading under
        which it stands. remark: a sentence that is added where an answer is wrong. questions: pairs of a prompt with
        ``<image>`` in it and its true answers, such as "a star left of a ring" and "a ring right of a star".
    """

    image: Tensor = field(repr=False)
    seen_as: str
    group: str
    remark: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def answers_of(model: VisionLanguageModel, pictures: Sequence[AskedPicture]) -> list[list[dict[str, object]]]:
    """Return what a model answers to each question of each picture: words, their probabilities, the truth, a verdict.

    ``truth`` is the true answer nearest to what the model said, ``wrong`` the places of the words that differ from it.
    """
    found = []
    for picture in pictures:
        prompts = [prompt for prompt, _ in picture.questions]
        images = picture.image.expand(len(prompts), -1, -1, -1)
        said = model.generate(images.to(next(model.parameters()).device), prompt=prompts)
        found.append([_judged(*question, answer) for question, answer in zip(picture.questions, said, strict=True)])
    return found


def _judged(prompt: str, truths: Sequence[str], answer: Answer) -> dict[str, object]:
    mistakes = {
        truth: [k for k, (word, true) in enumerate(zip_longest(answer.words, truth.split())) if word != true]
        for truth in truths
    }
    truth = min(truths, key=lambda truth: len(mistakes[truth]))
    chances = answer.probabilities[: len(answer.words)].tolist()
    return {
        "question": without_image(prompt).removesuffix(ENDING),
        "words": list(answer.words),
        "sure": [_percent(chance) for chance in chances],
        "truth": truth,
        "right": not mistakes[truth],
        "wrong": [k for k in mistakes[truth] if k < len(answer.words)],
    }


def _percent(chance: float) -> str:
    return "< 1 %" if chance < 0.005 else "> 99 %" if chance >= 0.995 else f"{100 * chance:.0f} %"


def ask_a_picture(model: VisionLanguageModel, pictures: Sequence[AskedPicture], *, source: str) -> str:
    """Return HTML in which a reader picks a picture and a question, and sees what the model answered.

    ``source`` is a sentence that says where the answers come from.

    Source:
        Slides S02 and S05.
    """
    if not 1 <= len(pictures) <= MOST_PICTURES:
        raise ValueError(f"pictures must be 1 to {MOST_PICTURES}, received {len(pictures)}")
    numbers = {len(picture.questions) for picture in pictures}
    if len(numbers) > 1 or numbers == {0}:
        raise ValueError(f"every picture must have as many questions as the others, received {sorted(numbers)}")
    groups = groupby(range(len(pictures)), key=lambda k: pictures[k].group)
    return filled(
        "asked.html",
        images=[picture_to_choose(picture.image, picture.seen_as) for picture in pictures],
        groups=[(title, list(places)) for title, places in groups],
        start=(0, 0),  # the first question of the first picture
        source=source,
        content={"answers": answers_of(model, pictures), "remarks": [picture.remark for picture in pictures]},
    )
