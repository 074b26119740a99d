"""Put a colour word into a model's mouth, and see how probable each shape becomes: HTML that needs no kernel."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse._checks import choose_names
from vlmcourse.course.figures.page import MOST_PICTURES, filled, picture_to_choose
from vlmcourse.course.figures.plots import COLORS
from vlmcourse.data import scenes
from vlmcourse.data.questions import Questions
from vlmcourse.models.vlm import VisionLanguageModel
from vlmcourse.ops._modes import evaluating

MOST_MODELS = 3  # side by side at 390 pixels
SIDE = 64  # pixels; larger pictures are reduced, since none is shown larger than a thumb
PARTS = 10_000  # probabilities are stored as whole numbers of this many parts


def shapes_after(
    model: VisionLanguageModel, prompts: Sequence[str], images: Tensor, *, shapes: Sequence[str]
) -> Tensor:
    """Return how probable each shape is as the word after each prompt; the last column is every other word together.

    Shapes:
        ``b`` prompts with one ``<image>`` each and images ``(b, 3, h, w)`` → ``(b, len(shapes) + 1)``, on the CPU.
    """
    numbers = [model.tokenizer.encode(shape) for shape in shapes]
    if any(len(number) != 1 for number in numbers):
        raise ValueError(f"shapes must be single words, received {list(shapes)}")
    ids, _ = model.tokenize(prompts)
    with torch.no_grad(), evaluating(model):
        logits = model(images.to(next(model.parameters()).device), ids)[0][:, -1]
    chances = logits.float().cpu().softmax(-1)[:, [number for (number,) in numbers]]
    return torch.cat([chances, (1 - chances.sum(1, keepdim=True)).clamp(min=0)], dim=1)


def forced_word(
    models: Mapping[str, VisionLanguageModel],
    asked: Questions,
    *,
    colors: Sequence[str],
    shapes: Sequence[str],
    usual: Iterable[tuple[str, str]],
    rows: Sequence[int],
    start: tuple[int, str],
) -> str:
    """Return HTML in which a reader forces a colour word into the answer, and sees what each model says next.

    Bars show how probable each shape is after "a small purple"; the true one and those usual with purple are marked.

    Options:
        models: one to three, by the name above their bars. usual: pairs of a colour and a shape, from
        :func:`~vlmcourse.train.vlm.pairings`. asked: pictures of one object, from ``questions(..., kinds="describe")``.
        rows: which 1 to 8 of them. start: a position in ``rows`` and a colour, shown first and on paper.

    Source:
        Slides S03 and S05.

    >>> from vlmcourse import questions
    >>> from vlmcourse.train import vlm
    >>> world = {"colors": vlm.COLORS, "shapes": vlm.SHAPES}
    >>> asked, usual = questions(2, seed=0, kinds="describe", **world), vlm.pairings(2)
    >>> tiny = vlm.build_vlm(embed_dim=8, depth=1, num_heads=2)
    >>> picture = forced_word({"untrained": tiny}, asked, usual=usual, rows=[0, 1], start=(0, "red"), **world)
    >>> picture.count('type="radio"'), "http" in picture
    (8, False)
    """
    _check_models(models)
    rows = list(rows)
    colors, shapes = choose_names("colors", colors, scenes.COLORS), choose_names("shapes", shapes, scenes.SHAPES)
    pairs = _checked_pairs(usual)
    _check_choice(rows, start, colors, len(asked))
    openings, seen = zip(*(_opening(asked, row, shapes) for row in rows), strict=True)
    begun = [f"{asked.prompts[row]} {opening}" for row, opening in zip(rows, openings, strict=True)]
    prompts = [f"{words} {color}" for words in begun for color in colors]
    images = asked.images[rows].repeat_interleave(len(colors), dim=0)
    found = [PARTS * shapes_after(model, prompts, images, shapes=shapes) for model in models.values()]
    return filled(
        "forced_word.html",
        in_picture=COLORS[0],
        by_habit=COLORS[1],
        images=[picture_to_choose(_reduced(asked.images[row]), asked.answers[row]) for row in rows],
        models=list(models),
        words=[*shapes, "another word"],
        start=(start[0], colors.index(start[1])),
        content={
            "colors": colors,
            "openings": openings,
            "seen": seen,
            "usual": [[(color, shape) in pairs for shape in shapes] for color in colors],
            "chances": [parts.round().int().unflatten(0, (len(rows), -1)).tolist() for parts in found],
        },
    )


def _reduced(image: Tensor) -> Tensor:
    """Return an image ``(c, h, w)`` whose longer side has at most ``SIDE`` pixels."""
    scale = min(1.0, SIDE / max(image.shape[1:]))
    size = [max(1, round(scale * side)) for side in image.shape[1:]]
    return F.interpolate(image.detach().float().cpu()[None], size=size, mode="area")[0]


def _check_models(models: Any) -> None:
    if not isinstance(models, Mapping):
        hint = 'try {"before": model, "after": repaired}'
        raise TypeError(f"models must be a mapping of names to models, received {type(models).__name__}; {hint}")
    if not 1 <= len(models) <= MOST_MODELS:
        raise ValueError(f"models must hold from 1 to {MOST_MODELS}, received {len(models)}: {list(models)}")
    for name, model in models.items():
        if not isinstance(model, VisionLanguageModel):
            raise TypeError(f"models[{name!r}] must be a VisionLanguageModel, received {type(model).__name__}")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"models must have names to stand above their bars, received {name!r}")


def _checked_pairs(usual: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    pairs = [tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in usual]
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in scenes.COLORS or pair[1] not in scenes.SHAPES:
            raise ValueError(f"usual must hold pairs such as ('red', 'circle'), received {pair}; try vlm.pairings(2)")
    return {(color, shape) for color, shape in pairs}


def _check_choice(rows: Sequence[int], start: tuple[int, str], colors: Sequence[str], count: int) -> None:
    if not 1 <= len(rows) <= MOST_PICTURES:
        hint = f"try range({min(count, 6)})"
        raise ValueError(f"rows must choose from 1 to {MOST_PICTURES} pictures, received {len(rows)}; {hint}")
    if not all(0 <= row < count for row in rows):
        raise ValueError(f"rows must be from 0 to {count - 1}, received {rows}")
    if not 0 <= start[0] < len(rows) or start[1] not in colors:
        choice = f"a picture from 0 to {len(rows) - 1} and one of {', '.join(colors)}"
        raise ValueError(f"start must be {choice}, received {start!r}")


def _opening(asked: Questions, row: int, shapes: Sequence[str]) -> tuple[str, int]:
    """Return the words before the colour, "a small", and the position in ``shapes`` of what the picture shows."""
    things, answer = asked.objects[row], asked.answers[row]
    if len(things) != 1:
        received = f"received {len(things)} in picture {row}"
        raise ValueError(f"asked must hold pictures of one object, {received}; try questions(..., num_objects=1)")
    (thing,) = things
    opening, found, _ = answer.partition(f" {thing.color} ")
    if not found:
        raise ValueError(
            f"asked must hold answers that name the colour, such as 'a small red star on the left', received "
            f"{answer!r}; try questions(..., kinds='describe') without drop"
        )
    if thing.shape not in shapes:
        raise ValueError(f"shapes must hold the shape of each picture, received {list(shapes)} and a {thing.shape}")
    return opening, shapes.index(thing.shape)
