"""Homework 6: what joins an image encoder to a language model, and what shows that it looks (slides S02 to S06)."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vlmcourse.homework.checking import ONES, Case, Draw, check
from vlmcourse.train.vlm import STAGES


def _connect(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    reduction: int,
    read: str = "b d (h rh) (w rw)",
    grid: str = "h w",
    joined: str = "rh rw d",
    pool: str = "",
    use_bias: float = 1,
    out: str = "b n d",
) -> Tensor:
    """Join squares of neighbours and project them, or do one step otherwise."""
    squares = rearrange(features, f"{read} -> b ({grid}) rh rw d", rh=reduction, rw=reduction)
    if pool == "mean":
        squares = squares.mean((2, 3), keepdim=True).expand(squares.shape)
    if pool == "max":
        squares = squares.amax((2, 3), keepdim=True).expand(squares.shape)
    if pool == "corner":
        squares = squares[:, :, :1, :1].expand(squares.shape)
    if pool == "sum":
        squares = squares.sum((2, 3), keepdim=True).expand(squares.shape)
    vectors = rearrange(squares, f"b n rh rw d -> b n ({joined})")
    vectors = torch.nn.functional.layer_norm(vectors, vectors.shape[-1:]) if pool == "norm" else vectors
    if pool == "reshape":
        vectors = features.reshape(len(features), -1, weight.shape[1])
    if pool == "reshape tokens":
        vectors = rearrange(features, "b d h w -> b (h w) d").reshape(len(features), -1, weight.shape[1])
    if pool == "divided":
        vectors = vectors / vectors.shape[-1]
    if pool == "divided by root":
        vectors = vectors / vectors.shape[-1] ** 0.5
    projected = torch.nn.functional.linear(vectors, weight, use_bias * bias)
    if pool == "overlap":
        kernel = rearrange(weight, "o (rh rw d) -> o d rh rw", rh=reduction, rw=reduction)
        return torch.nn.functional.conv2d(features, kernel, bias).flatten(2).mT
    return rearrange(projected, f"b n d -> {out}")


@check(
    "connect(features, weight, bias, *, reduction)",
    _connect,
    layout="b n d",
    variant=_connect,
    mistakes={
        "the tokens are in column-major order: token 1 should be right of token 0": {"grid": "w h"},
        "the joined vector goes feature by feature: its order is (row, column, feature)": {"joined": "d rh rw"},
        "the joined vector goes down the columns first: its order is (row, column, feature)": {"joined": "rw rh d"},
        "the feature stands between row and column: the order is (row, column, feature)": {"joined": "rh d rw"},
        "places far apart are joined: a token joins a square of neighbours, split height as (h rh) and width as (w rw)": {
            "read": "b d (rh h) (rw w)"
        },
        "along the width places far apart are joined: split it as (w rw)": {"read": "b d (h rh) (rw w)"},
        "along the height places far apart are joined: split it as (h rh)": {"read": "b d (rh h) (w rw)"},
        "features are read as (b, d, w, h): height comes before width": {"read": "b d (w rw) (h rh)"},
        "the neighbours are averaged: join them, so that nothing is lost": {"pool": "mean"},
        "the largest of the neighbours is taken: join them, so that nothing is lost": {"pool": "max"},
        "the neighbours are added: join them, so that nothing is lost": {"pool": "sum"},
        "the projection is divided by the length of the joined vector: one linear map is all": {"pool": "divided"},
        "the projection is divided by the root of the joined vector's length: one linear map is all": {"pool": "divided by root"},
        "the vectors are normalised: one linear map is all": {"pool": "norm"},
        "the squares overlap: they stand side by side, a stride of `reduction`": {"pool": "overlap"},
        "only the first of the neighbours is used": {"pool": "corner"},
        "a plain reshape cuts memory, not the map: split height and width, then move the axes": {"pool": "reshape"},
        "neighbours in a row are joined, not squares: split height and width both": {"pool": "reshape tokens"},
        "the bias is missing": {"use_bias": 0},
        "the two last axes are swapped: a token is a row, (b, n, out)": {"out": "b d n"},
    },
)  # fmt: skip
def check_connector(draw: Draw) -> Iterator[Case]:
    """Check ``connect(features, weight, bias, *, reduction)`` → ``(b, n, out)``: squares of neighbours, one linear map.

    Features are ``(b, d, h, w)``; a square of ``reduction`` x ``reduction`` places becomes one vector, (row, column,
    feature), and is projected as in ``nn.Linear`` by ``weight`` ``(out, reduction**2 * d)`` and ``bias``.

    >>> check_connector(lambda features, weight, bias, reduction: features.flatten(2).mT).passed
    False
    """
    b, d, h, w, out = draw.primes(5)
    for what, height, width, r in (("an oblong map", h, w, 2), ("a square map", h, h, 3), ("reduction 1", h, w, 1)):
        weights = draw.normal(out, r * r * d), draw.normal(out)
        yield Case(what, (draw.normal(b, d, height * r, width * r), *weights), {"reduction": r})
    one = draw.normal(1, 1, 1, 1), draw.normal(1, 1), draw.normal(1)
    yield Case("one number in all", one, {"reduction": 1}, ONES)


def _splice(words: Tensor, ids: Tensor, image: Tensor, *, image_id: int, how: str = "right") -> Tensor:
    """Put each row's image in the place of its placeholder, or somewhere else."""
    k, places = image.shape[1], (ids == image_id).long().argmax(1).tolist()
    if how == "same place":
        places = [places[0]] * len(places)
    if how == "other image":
        image = image.roll(1, 0)
    if how == "first image":
        image = image[:1].expand(image.shape)
    if how == "backwards":
        image = image.flip(1)
    if how == "last place":
        places = [places[-1]] * len(places)
    if how in ("largest id", "smallest id"):
        places = (ids.argmax(1) if how == "largest id" else ids.argmin(1)).tolist()
    if how == "id as place":
        places = [image_id] * len(places)
    if how == "reshaped":
        image = image.mT.reshape(image.shape)
    if how == "first word":
        places = (ids != image_id).long().argmax(1).tolist()
    rows = []
    for row, picture, at in zip(words, image, places, strict=True):
        parts = {
            "kept before": [row[: at + 1], picture, row[at + 1 :]],
            "kept behind": [row[:at], picture, row[at:]],
            "in front": [picture, row[:at], row[at + 1 :]],
            "at the end": [row[:at], row[at + 1 :], picture],
            "a word lost": [row[:at], picture, row[at + 2 :]],
            "tail backwards": [row[:at], picture, row[at + 1 :].flip(0)],
            "one early": [row[: max(at - 1, 0)], picture, row[max(at, 1) :]],
            "one late": [row[: at + 1], picture, row[at + 2 :]],
            "exchanged": [row[at + 1 :], picture, row[:at]],
            "rest at the end": [row[:at], picture[:1], row[at + 1 :], picture[1:]],
            "overwritten": [row[:at], picture[: len(row) - at], row[at + k :]],
            "mean": [row[:at], picture.mean(0, keepdim=True).expand(k, -1), row[at + 1 :]],
            "mean alone": [row[:at], picture.mean(0, keepdim=True), row[at + 1 :]],
            "added": [row[:at], picture + row[at], row[at + 1 :]],
            "one vector": [row[:at], picture[:1], row[at + 1 :]],
        }.get(how, [row[:at], picture, row[at + 1 :]])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@check(
    "splice(words, ids, image, *, image_id)",
    _splice,
    layout="b m d",
    variant=_splice,
    mistakes={
        "the placeholder's own vector is still there, before the image: the image takes its place": {"how": "kept before"},
        "the placeholder's own vector is still there, behind the image: the image takes its place": {"how": "kept behind"},
        "the image stands in front of all words: it belongs where the placeholder is": {"how": "in front"},
        "the image stands behind all words: it belongs where the placeholder is": {"how": "at the end"},
        "the image stands one word too early, and a word is lost": {"how": "one early"},
        "the image stands one word too late, and the placeholder is still there": {"how": "one late"},
        "the image overwrites the words after the placeholder: the row grows by k - 1": {"how": "overwritten"},
        "every row gets its image where row 0 has its placeholder: look in each row": {"how": "same place"},
        "every row gets its image where the last row has its placeholder: look in each row": {"how": "last place"},
        "the image stands at the first word that is no placeholder: compare with ==": {"how": "first word"},
        "the word behind the placeholder is lost: go on at the next one, [place + 1 :]": {"how": "a word lost"},
        "the words behind the image are in reverse order": {"how": "tail backwards"},
        "a reshape has mixed the image's vectors": {"how": "reshaped"},
        "the images go to the wrong rows": {"how": "other image"},
        "every row gets the image of row 0": {"how": "first image"},
        "the image's vectors are in reverse order": {"how": "backwards"},
        "the image is averaged: keep its k vectors": {"how": "mean"},
        "the image is averaged to one vector: keep its k vectors": {"how": "mean alone"},
        "the image stands where the largest id is: look for image_id, with ==": {"how": "largest id"},
        "the image stands where the smallest id is: look for image_id, with ==": {"how": "smallest id"},
        "image_id is taken for the place of the placeholder: it is the number of a word, look where ids == image_id": {"how": "id as place"},
        "the words before and behind the image are exchanged": {"how": "exchanged"},
        "only the image's first vector takes the placeholder's place, and the others stand at the end": {"how": "rest at the end"},
        "the placeholder's vector is added to the image's: it goes": {"how": "added"},
        "only one vector of the image is put in: all k are": {"how": "one vector"},
    },
)  # fmt: skip
def check_splice(draw: Draw) -> Iterator[Case]:
    """Check ``splice(words, ids, image, *, image_id)`` → ``(b, n - 1 + k, d)``: k vectors for one placeholder.

    ``words`` ``(b, n, d)`` are the vectors of ``ids`` ``(b, n)``; every row has one ``image_id``, each in its own
    place, and ``image`` is ``(b, k, d)``.

    >>> check_splice(lambda words, ids, image, image_id: torch.cat([image, words], dim=1)).passed
    False
    """
    b, n, d, k = draw.primes(4)
    b = max(b, 2)
    n, k = (n + 4, k + 1) if draw.small else (2 * n + 4, 3 * k)  # even, and odd or 6: no length is that of another axis

    image_ids = iter(draw.order(4).tolist())

    def case(what: str, places: Tensor) -> Case:
        image_id = 2 + next(image_ids)  # neither the smallest number nor the largest, and another one in each case
        ids = draw.integers(9, b, n)
        ids = (ids + (ids >= image_id)).scatter(1, places[:, None], image_id)
        return Case(what, (draw.normal(b, n, d), ids, draw.normal(b, k, d)), {"image_id": image_id})

    def places(low: int, high: int) -> Tensor:
        found = draw.integers(high - low, b) + low
        found[0], found[1] = low, high - 1  # rows that differ, always
        return found

    yield case("placeholders in different places", places(1, n - 2))
    yield case("a placeholder in front", places(0, n - 1))
    yield case("a placeholder at the end", places(1, n))
    one = draw.normal(1, 1, 1), torch.full((1, 1), 3, device=draw.device), draw.normal(1, 1, 1)
    yield Case("a placeholder alone", one, {"image_id": 3}, ONES)


Parts = Mapping[str, nn.Module]
PARTS = ("encoder", "connector", "language_model")


KEPT = (
    "parts holds other modules afterwards: change those that it holds, and put no copies in their place",
    "numbers of a part are changed, or their dtype: what is frozen stays as it is, and so does what learns",
    "gradients are switched off for all that comes after (torch.set_grad_enabled), the training too: freeze parameters",
)


def _trained(function: Callable[[Parts, str], Any]) -> Callable[[Sequence[str]], tuple[Tensor, ...]]:
    """Return a function from stages, one after the other, to what is trainable after each, part by part.

    The last of its results says what else was left as it was, in the order of ``KEPT``.
    """

    def run(stages: Sequence[str]) -> tuple[Tensor, ...]:
        own = {name: nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)) for name in PARTS}
        for part in own.values():
            part.scale = nn.Parameter(torch.ones(3))  # its own, as a language model's embeddings are, in no layer
        numbers = [p for part in own.values() for p in part.parameters()]
        before, recording = [p.detach().clone() for p in numbers], torch.is_grad_enabled()
        parts, after = dict(own), []
        for stage in stages:
            function(parts, stage)
            after.append(torch.tensor([[p.requires_grad for p in own[name].parameters()] for name in PARTS]))
        same = all(p.dtype == old.dtype and torch.equal(p, old) for p, old in zip(numbers, before, strict=True))
        return (*after, torch.tensor([parts == own, same, torch.is_grad_enabled() == recording]))

    return run


def _set_stage(parts: Parts, stage: str, table: Mapping[Any, Sequence[str]] = STAGES, how: str = "") -> None:
    """Let the parts of one stage learn, and freeze all others; or make a mistake."""
    for name, part in parts.items():
        learns = name in table[stage]
        if how == "only freezes" and learns:
            continue
        if how == "only thaws" and not learns:
            continue
        part.requires_grad_(learns if how != "inverted" else not learns)
        if how == "weights only":
            part.requires_grad_(True)
            part[0].weight.requires_grad_(learns)  # type: ignore[index]
        if how == "first layer":
            part.requires_grad_(True)
            part[0].requires_grad_(learns)  # type: ignore[index]
        if how == "nothing":
            part.requires_grad_(True)
        if how == "biases only":
            for name_, parameter in part.named_parameters():
                parameter.requires_grad_(learns or "bias" not in name_)


def _stage_variant(stages: Sequence[str], **knobs: Any) -> tuple[Tensor, ...]:
    return _trained(lambda parts, stage: _set_stage(parts, stage, **knobs))(stages)


def _with(**changes: Sequence[str]) -> dict[str, Any]:
    return {"table": {**STAGES, **{name.replace("_", " "): parts for name, parts in changes.items()}}}


def _wrong_part(case: Case, got: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> str | None:
    """Say what else was changed, or which part learns, or not, in which stage."""
    for sentence, kept in zip(KEPT, got[-1], strict=True):
        if not kept:
            return sentence
    for stage, flags, wanted in zip(case.args[0], got[:-1], right[:-1], strict=True):
        for name, part, want in zip(PARTS, flags, wanted, strict=True):
            words = name.replace("_", " ")
            if part.any() and not part.all():
                return (
                    f"some parameters of the {words} learn in stage {stage!r} and others do not: weights, biases and norms go "
                    "together, part.requires_grad_(...)"
                )
            if not torch.equal(part, want):
                states = ("learns: it is to be frozen", "is frozen: it is to learn")
                return f"in stage {stage!r} the {words} {states[bool(want.all())]}"
    return None


@check(
    "set_stage(parts, stage)",
    _stage_variant,
    variant=_stage_variant,
    adapt=_trained,
    mistakes={
        "nothing is frozen: set requires_grad of every part's parameters": {"how": "nothing"},
        "parts are frozen, but never thawed: the next stage finds them frozen still": {"how": "only freezes"},
        "parts are thawed, but nothing is ever frozen": {"how": "only thaws"},
        "it is the wrong way round: the parts of a stage learn, all others are frozen": {"how": "inverted"},
        "only weights are frozen: norms and biases learn on; use part.requires_grad_(...)": {"how": "weights only"},
        "only biases are frozen: weights learn on; use part.requires_grad_(...)": {"how": "biases only"},
        "only the first layer is frozen: use part.requires_grad_(...) for all": {"how": "first layer"},
        "stage 'connector' trains the encoder too: it is what the connector is fitted to": _with(
            connector=("encoder", "connector")
        ),
        "stage 'connector' trains the language model too: it is to stay as it was": _with(
            connector=("connector", "language_model")
        ),
        "stage 'connector' trains everything: only the connector learns": _with(connector=PARTS),
        "stage 'connector' trains the encoder instead of the connector": _with(connector=("encoder",)),
        "stage 'joint' leaves the encoder frozen: all three learn": _with(joint=("connector", "language_model")),
        "stage 'joint' leaves the language model frozen: all three learn": _with(joint=("encoder", "connector")),
        "stage 'joint' leaves the connector frozen: all three learn": _with(joint=("encoder", "language_model")),
        "stage 'language model' trains the connector too: it sees no images, only the language model learns": _with(
            language_model=("connector", "language_model")
        ),
        "stage 'language model' trains everything: it sees no images, only the language model learns": _with(
            language_model=PARTS
        ),
        "stage 'language model' freezes the language model: it is the one that learns": _with(language_model=()),
    },
    symptoms=[_wrong_part],
)  # fmt: skip
def check_stages(draw: Draw) -> Iterator[Case]:
    """Check ``set_stage(parts, stage)``: what learns in the stages "language model", "connector" and "joint".

    ``parts`` maps "encoder", "connector" and "language_model" to modules.

    >>> check_stages(lambda parts, stage: None).passed
    False
    """
    for stages in itertools.permutations(STAGES):
        yield Case(f"the stages {', then '.join(map(repr, stages))}", (stages,))


def _wrong_order(case: Case, got: tuple[Tensor, Tensor], right: Any) -> str | None:
    back = got[::-1]
    if (
        _wrong_blank(case, got, right)
        and not _wrong_blank(case, back, right)
        and not _wrong_shuffled(case, back, right)
    ):
        return "the two results come in the wrong order: blank, then shuffled"
    return None


def _wrong_blank(case: Case, got: tuple[Tensor, Tensor], _right: Any) -> str | None:
    images, blank = case.args[0], got[0]
    if not blank.isfinite().all():
        return "blank holds NaN or infinity: any plain colour will do"
    if blank.shape != images.shape:
        return f"blank has shape {tuple(blank.shape)}, expected that of the images, {tuple(images.shape)}"
    if not torch.equal(blank, blank[:1].expand(blank.shape)):
        return "the blank images differ from each other, so the model can still tell them apart"
    if not torch.equal(blank, blank[..., :1, :1].expand(blank.shape)):
        return "a blank image has structure: every pixel must be the same (not noise, not a mean image)"
    if blank.min() < 0 or blank.max() > 1:
        return f"blank holds {float(blank.flatten()[0]):.3g}, which is no colour: colours are from 0 to 1"
    return None


def _wrong_shuffled(case: Case, got: tuple[Tensor, Tensor], _right: Any) -> str | None:
    images, shuffled = case.args[0], got[1]
    if shuffled.shape != images.shape:
        return f"shuffled has shape {tuple(shuffled.shape)}, expected that of the images, {tuple(images.shape)}"
    same = (shuffled[:, None] == images[None]).flatten(2).all(-1)
    if not same.any(1).all():
        return "shuffled holds pictures that are none of the images: exchange whole images, leave their pixels alone"
    if len(images) > 2 and not same.any(0).all():
        return "some images appear twice and others never: exchange them, each goes to one other question"
    if same.diagonal().any():
        row = int(same.diagonal().nonzero()[0])
        return f"image {row} is still with its own question: everyone needs another's (randperm leaves some in place)"
    return "some images appear twice and others never: exchange them" if not same.any(0).all() else None


def _other_kind(case: Case, got: tuple[Tensor, Tensor], _right: Any) -> str | None:
    images = case.args[0]
    for name, part in zip(("blank", "shuffled"), got, strict=True):
        if (part.dtype, part.device) != (images.dtype, images.device):
            received = f"{part.dtype} on {part.device}"
            return (
                f"{name} is {received}, the images are {images.dtype} on {images.device}: the model expects their kind"
            )
    return None


@check(
    "image_controls(images)",
    lambda images: (torch.zeros_like(images), images.roll(1, 0)),
    property_only=True,
    symptoms=[
        lambda case, got, right: None if isinstance(got, tuple | list) and len(got) == 2
        and all(isinstance(part, Tensor) for part in got) else "two tensors are expected, (blank, shuffled)",
        _other_kind,
        _wrong_order,
        _wrong_blank,
        _wrong_shuffled,
    ],
)  # fmt: skip
def check_controls(draw: Draw) -> Iterator[Case]:
    """Check ``image_controls(images)`` → ``blank, shuffled``: pictures that say nothing, and another question's.

    >>> check_controls(lambda images: (images * 0, images.flip(0))).passed
    False
    """
    c, h, w = draw.primes(3)
    for n in (3, 2, 7, 23):
        yield Case(f"{n} images", (draw.normal(n, c, h, w).sigmoid(),))
    yield Case("images of one pixel", (draw.normal(3, 1, 1, 1).sigmoid(),))
