"""Questions about the drawn world, each with its one true answer: what a vision-language model learns from.

Answers that could be guessed are balanced, such as yes and no, left and right. Questions about a colour or a shape
point at the object by its place, so that their words say nothing about the answer.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle, islice
from typing import Any

import torch
from torch import Tensor

from vlmcourse._checks import check_int, check_number, check_positive_ints, choose_names
from vlmcourse._devices import on_cpu
from vlmcourse.data import scenes
from vlmcourse.data.scenes import ADJECTIVES, PHRASES, SceneObject, combinations_of

# What is asked, in several ways each. {thing} is the object asked about, {one} and {other} are two of them.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "describe": ("What is in this image <image>?", "What do you see in <image>?", "Describe the image <image>."),
    "color": ("What color is {thing} in <image>?", "In <image>, what is the color of {thing}?"),
    "shape": ("What shape is {thing} in <image>?", "In <image>, what is the shape of {thing}?"),
    "size": ("What size is {thing} in <image>?", "In <image>, is {thing} small or large?"),
    "place": ("Where is {thing} in <image>?", "In <image>, where do you see {thing}?"),
    "count": ("How many things are in <image>?", "In <image>, how many things are there?"),
    "exist": ("Is there {thing} in <image>?", "In <image>, do you see {thing}?"),
    "relation": ("In <image>, is {one} {sides} {other}?", "Is {one} {sides} {other} in <image>?"),
}

KINDS: tuple[str, ...] = tuple(TEMPLATES)

ENDING = " Answer:"

_NUMBERS = {1: "one", 2: "two"}
_SIDES = {  # a relation, and how it is asked
    "left of": "left or right of", "right of": "left or right of",
    "above": "above or below", "below": "above or below",
}  # fmt: skip


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not one truth value
class Questions:
    """A batch of pictures with one question about each, and its answer.

    Shapes:
        images: ``(b, 3, h, w)`` float32 in [0, 1]. prompts, answers, kinds: ``b`` strings each, ``<image>`` in a prompt
        where the picture belongs. objects, masks: as in :class:`~vlmcourse.data.scenes.CaptionedImages`.
    """

    images: Tensor = field(repr=False)
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    kinds: tuple[str, ...]
    objects: tuple[tuple[SceneObject, ...], ...] = field(repr=False)
    masks: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)


@on_cpu()
def questions(
    n: int,
    *,
    seed: int,
    kinds: str | Iterable[str] | None = None,
    image_size: int = 32,
    num_objects: int | Sequence[int] = 1,
    shapes: Iterable[str] | None = None,
    colors: Iterable[str] | None = None,
    exclude: Collection[Sequence[str]] = (),
    only: Collection[Sequence[str]] | None = None,
    phrasings: int = 2,
    drop: Mapping[str, float] | None = None,
    textures: str | Iterable[str] = "plain",
    noise: float = 0.03,
) -> Questions:
    """Draw ``n`` pictures and ask one question about each, every kind equally often.

    Options:
        kinds: names from ``KINDS``; one given twice is asked twice as often. num_objects: 1, 2 or both; without two,
        relations and numbers are not asked for. phrasings: how many ways of asking are mixed. drop: the probability
        with which a description leaves out an attribute, as in ``{"color": 0.5}``. The rest is as in
        :func:`~vlmcourse.data.scenes.captions`; ``exclude`` and ``only`` hold for the words of a question, too.

    >>> asked = questions(4, seed=0, kinds=["describe", "color"], phrasings=1)
    >>> asked.images.shape, asked.prompts[1]
    (torch.Size([4, 3, 32, 32]), '...<image>? Answer:')
    """
    check_positive_ints(n=n, phrasings=phrasings)
    check_int("seed", seed, minimum=0)
    drop = dict(drop or {})
    choose_names("drop", drop or None, scenes.ATTRIBUTES)
    for attribute, probability in drop.items():
        check_number(f"drop[{attribute!r}]", probability, low=0, high=1)
    numbers = (num_objects,) if isinstance(num_objects, int) else tuple(num_objects)
    if not numbers or any(number not in _NUMBERS for number in numbers):
        raise ValueError(f"num_objects must be 1, 2 or both, received {num_objects!r}")
    asked = _fitting_kinds(kinds, numbers)
    world: dict[str, Any] = {"shapes": shapes, "colors": colors, "textures": textures, "exclude": exclude, "only": only}
    nouns = sorted({(color, shape) for color, _, shape, _ in combinations_of(sizes=None, **world)})
    if len(nouns) < 2 and (2 in numbers or "exist" in asked):
        raise ValueError(
            f"two objects, or a question whether something is there, need at least two combinations of colour and "
            f"shape, received {nouns}; relax only or exclude, or leave out kind 'exist'"
        )
    draw = partial(scenes.captions, image_size=image_size, noise=noise, **world)

    rng = random.Random(seed)
    own = {kind: cycle([2] if kind == "relation" else numbers) for kind in asked}  # kinds rotate, and numbers in them
    plan = [(kind, next(own[kind])) for kind in islice(cycle(asked), n)]
    rng.shuffle(plan)
    images, masks, objects = _pictures([number for _, number in plan], draw, rng)
    turns: dict[object, Iterator[bool]] = defaultdict(lambda: cycle((True, False)))
    prompts, answers = [], []
    for (kind, _), record in zip(plan, objects, strict=True):
        blanks, answer = _ask(kind, record, nouns, drop, rng, turns)
        prompts.append(rng.choice(TEMPLATES[kind][:phrasings]).format(**blanks) + ENDING)
        answers.append(answer)
    return Questions(images, tuple(prompts), tuple(answers), tuple(kind for kind, _ in plan), objects, masks)


def phrasebook() -> tuple[str, ...]:
    """Return sentences that together hold every word of every question and answer: what to build a tokenizer from.

    >>> any("purple" in sentence for sentence in phrasebook())
    True
    """
    asked = [
        template.format(thing="the thing", one="the thing", other="the thing", sides=sides) + ENDING
        for template in chain.from_iterable(TEMPLATES.values())
        for sides in _SIDES.values()
    ]
    answered = ["yes", "no", *_NUMBERS.values(), *_SIDES, *scenes.COLORS, *scenes.SIZES, *scenes.SHAPES]
    described = [*(word for word in ADJECTIVES.values() if word), *PHRASES.values(), "a thing and an orange thing"]
    return (*asked, *answered, *described)


def _fitting_kinds(kinds: str | Iterable[str] | None, numbers: Sequence[int]) -> tuple[str, ...]:
    impossible = set() if 2 in numbers else {"count", "relation"}
    if kinds is None:
        return tuple(kind for kind in KINDS if kind not in impossible)
    chosen = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    choose_names("kinds", dict.fromkeys(chosen), KINDS)
    if impossible := impossible & set(chosen):
        raise ValueError(
            f"kinds {', '.join(sorted(impossible))} need pictures of two objects, received "
            f"num_objects={tuple(numbers)}; try num_objects=[1, 2]"
        )
    return chosen


def _pictures(
    numbers: Sequence[int], draw: Callable[..., scenes.CaptionedImages], rng: random.Random
) -> tuple[Tensor, Tensor, tuple[tuple[SceneObject, ...], ...]]:
    """Draw a picture with each number of objects; two objects of a picture differ in colour or in shape."""
    found: dict[int, tuple[Tensor, Tensor, tuple[SceneObject, ...]]] = {}
    missing = list(range(len(numbers)))
    while missing:
        for number in sorted({numbers[row] for row in missing}):
            rows = [row for row in missing if numbers[row] == number]
            drawn = draw(len(rows), seed=rng.randrange(2**31), num_objects=number)
            found |= zip(rows, zip(drawn.images, drawn.masks, drawn.objects, strict=True), strict=True)
        missing = [row for row in missing if len({(o.color, o.shape) for o in found[row][2]}) < numbers[row]]
    images, masks, objects = zip(*(found[row] for row in range(len(numbers))), strict=True)
    return torch.stack(images), torch.stack(masks), objects


def _ask(
    kind: str,
    objects: Sequence[SceneObject],
    nouns: Sequence[tuple[str, str]],
    drop: Mapping[str, float],
    rng: random.Random,
    turns: dict[object, Iterator[bool]],
) -> tuple[dict[str, str], str]:
    """Return what fills the blanks of the question, and its answer. ``turns`` alternate between two answers."""
    thing = rng.choice(objects)
    if kind == "describe":
        left_out = [attribute for attribute, probability in drop.items() if rng.random() < probability]
        return {}, scenes.describe(objects, drop=left_out)
    if kind == "count":
        return {}, _NUMBERS[len(objects)]
    if kind == "relation":
        one, other = objects
        sides = _SIDES[one.relation_to(other)]
        if (one.relation_to(other) in ("left of", "above")) != next(turns[sides]):
            one, other = other, one
        answer = one.relation_to(other).removesuffix(" of")
        return {"one": _the(one), "other": _the(other), "sides": sides}, answer
    if kind == "exist":
        return _exists(objects, nouns, next(turns[kind, len(objects)]), rng)
    if kind == "place":
        return {"thing": "the thing" if len(objects) == 1 else _the(thing)}, PHRASES[thing.place]
    pointed = "the thing" if len(objects) == 1 else f"the thing {PHRASES[thing.place]}"
    return {"thing": pointed}, getattr(thing, kind)


def _the(thing: SceneObject) -> str:
    return f"the {thing.color} {thing.shape}"


def _exists(
    objects: Sequence[SceneObject], nouns: Sequence[tuple[str, str]], is_there: bool, rng: random.Random
) -> tuple[dict[str, str], str]:
    """Ask whether a shape, a colour or both are there; things that are not there come from the same nouns."""
    there = [(thing.color, thing.shape) for thing in objects]
    ways = ["{0} {1}", "{1}", "{0} thing"]
    rng.shuffle(ways)
    for way in ways:  # the first by which something is absent, also for yes: else how it is asked would tell the answer
        absent = sorted({way.format(*noun) for noun in nouns} - {way.format(*noun) for noun in there})
        if absent:
            phrase = way.format(*rng.choice(there)) if is_there else rng.choice(absent)
            return {"thing": f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"}, "yes" if is_there else "no"
    raise ValueError("every colour and every shape there is stands in one picture; allow more of them")
