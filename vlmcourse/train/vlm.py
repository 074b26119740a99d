"""Train a small vision-language model in three stages, and measure whether it looks at the image (slides S02 to S06).

The world is correlated, like the real one: each colour comes with few shapes, as bananas come in yellow. Some pairs are
held out, so that a model which recites can be told from one that composes.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlmcourse._checks import check_int, choose_names
from vlmcourse.data import scenes
from vlmcourse.data.questions import Questions, phrasebook
from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.models.connector import Connector
from vlmcourse.models.language_model import LanguageModel
from vlmcourse.models.tokenizer import Tokenizer
from vlmcourse.models.vlm import VisionLanguageModel
from vlmcourse.ops._modes import evaluating
from vlmcourse.train import runtime
from vlmcourse.train._identity import identity_of
from vlmcourse.train.loop import fit

Pair = tuple[str, str]
Stage = Literal["language model", "connector", "joint"]
Control = Literal["real image", "blank", "shuffled", "text only"]

COLORS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "heart")
WEIGHTS = Path(__file__).parents[1] / "weights" / "contrastive_encoder.safetensors"
CONTROLS: tuple[Control, ...] = ("real image", "blank", "shuffled", "text only")
METRICS: tuple[str, ...] = ("exact", "color", "size", "shape", "place")

# Which parts learn in each stage. The joint stage may leave the encoder frozen.
STAGES: dict[Stage, tuple[str, ...]] = {
    "language model": ("language_model",),
    "connector": ("connector",),
    "joint": ("encoder", "connector", "language_model"),
}


def pairings(partners: int) -> list[Pair]:
    """Return a world's pairs: colour k comes with the ``partners`` shapes k, k + 1, … around the list.

    >>> pairings(1)[:2], len(pairings(2))
    ([('red', 'circle'), ('green', 'square')], 12)
    """
    check_int("partners", partners)
    if partners >= len(SHAPES):
        raise ValueError(f"partners must be below the number of shapes, {len(SHAPES)}, received {partners}")
    return [(color, SHAPES[(k + step) % len(SHAPES)]) for k, color in enumerate(COLORS) for step in range(partners)]


def held_out() -> list[Pair]:
    """Return for each colour the one shape that no world of :func:`pairings` shows it with.

    >>> held_out()[0], set(held_out()) & set(pairings(5))
    (('red', 'heart'), set())
    """
    return [(color, SHAPES[k - 1]) for k, color in enumerate(COLORS)]


def build_vlm(
    encoder: ConvEncoder | None = None,
    *,
    image_size: int = 32,
    embed_dim: int = 96,
    depth: int = 2,
    num_heads: int = 4,
    context_length: int | None = None,
) -> VisionLanguageModel:
    """Return an untrained model for the drawn world, around ``encoder`` if one is given.

    By default the context has room for one image and 48 words. New weights come from the global generator.
    """
    encoder = ConvEncoder() if encoder is None else encoder
    if not isinstance(encoder, ConvEncoder):
        hint = "for another, put VisionLanguageModel together from its parts"
        raise TypeError(f"encoder must be a ConvEncoder, received {type(encoder).__name__}; {hint}")
    with torch.no_grad(), evaluating(encoder):  # or BatchNorm would learn from the blank image
        blank = torch.zeros(1, encoder.in_channels, image_size, image_size, device=_device(encoder))
        channels, height, width = encoder.feature_map(blank).shape[1:]
    if height % 2 or width % 2:
        received = f"{image_size}: {height} × {width}; try a power of two"
        raise ValueError(f"image_size must give a map of even sides, received {received}")
    tokenizer = Tokenizer.from_texts(phrasebook())
    context_length = context_length or height * width // 4 + 48
    language_model = LanguageModel(
        len(tokenizer), context_length=context_length, embed_dim=embed_dim, depth=depth, num_heads=num_heads
    )
    connector = Connector(channels, embed_dim, grid_size=(height, width), reduction=2)
    return VisionLanguageModel(encoder, connector, language_model, tokenizer)


def small_encoder() -> ConvEncoder:
    """Return the untrained encoder of the VLM chapter: two stages, and a map of a quarter of the picture's side."""
    return ConvEncoder(width=24, depths=(1, 1), strides=(2, 1, 2))


def contrastive_encoder() -> ConvEncoder:
    """Return a :func:`small_encoder` trained without labels on single shapes in every colour; its weights are shipped.

    >>> contrastive_encoder().embed_dim
    192
    """
    encoder = small_encoder()
    encoder.load_state_dict(load_file(WEIGHTS))
    return encoder.eval()


def train_stage(
    model: VisionLanguageModel,
    asked: Questions,
    stage: Stage,
    *,
    freeze: Iterable[str] = (),
    lr: float = 2e-3,
    began_with: Mapping[str, str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train the parts of one stage, without those that ``freeze`` names, and return the history.

    ``"language model"`` reads questions and answers without images, ``"connector"`` learns between two frozen parts,
    ``"joint"`` moves everything. The loss counts the answer's words only. Options: those of
    :func:`~vlmcourse.train.loop.fit` but ``clip_norm``, which is 1; a checkpoint of a stage that ``began_with`` other
    weights is refused. Afterwards all parts require gradients.

    Source:
        Liu et al. 2023, section 4.2, for the two stages with images (arXiv 2304.08485); slides S02 and S03.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, received {stage!r}")
    freeze = choose_names("freeze", freeze, STAGES["joint"]) if freeze else ()
    parts = [part for part in STAGES[stage] if part not in freeze]
    if not parts:
        raise ValueError(f"freeze={freeze} leaves nothing to train in stage {stage!r}")
    for name, part in model.named_children():
        part.requires_grad_(name in parts)
    images, prompts = _under("text only" if stage == "language model" else "real image", asked)
    words = model.tokenize(prompts, asked.answers)

    # ``began_with`` is never read: as a default it becomes part of what a checkpoint keeps of the loss.
    def loss_fn(model: nn.Module, batch: Sequence[Tensor], began_with: object = began_with) -> Tensor:
        *images, ids, is_answer = batch
        return model(images[0] if images else None, ids, is_answer)[1]

    if torch.device(options.get("device") or runtime.device()).type == "cpu":
        options.setdefault("autocast", False)  # bfloat16 slows the narrow language model there
    try:
        return fit(model, loss_fn, words if images is None else (images, *words), lr=lr, clip_norm=1.0, **options)
    finally:
        model.requires_grad_(True)


def train_vlm(
    encoder: ConvEncoder | None,
    asked: Questions,
    *,
    steps: Mapping[Stage, int],
    freeze: Iterable[str] = (),
    embed_dim: int = 64,
    depth: int = 2,
    seed: int = 0,
    **options: Any,
) -> tuple[VisionLanguageModel, pd.DataFrame]:
    """Build a model around a copy of ``encoder``, train it in the stages that ``steps`` names, and return it.

    With it comes the history of all stages. With ``checkpoint="run.pt"`` each has a file, such as ``run-connector.pt``,
    which is refused when an earlier stage or the encoder is another one now. The global generators get the ``seed``.

    >>> from vlmcourse.data.questions import questions
    >>> asked = questions(8, seed=0, kinds="describe", image_size=16)
    >>> options = {"steps": {"connector": 1, "joint": 2}, "embed_dim": 8}
    >>> options |= {"device": "cpu", "progress": False}
    >>> train_vlm(ConvEncoder(width=2), asked, **options)[1]["stage"].tolist()
    ['connector', 'joint', 'joint']
    """
    runtime.seed_everything(seed)
    height, image_size = asked.images.shape[-2:]
    if height != image_size or not steps or (freeze and "joint" not in steps):
        raise ValueError(
            f"images must be square, steps name a stage or more, and freeze needs a joint stage; received images of "
            f"{height} × {image_size}, steps={dict(steps)}, freeze={tuple(freeze)}"
        )
    file = options.pop("checkpoint", None)
    model = build_vlm(deepcopy(encoder), image_size=image_size, embed_dim=embed_dim, depth=depth)
    histories = []
    for stage, count in steps.items():
        options["checkpoint"] = file and Path(file).with_stem(f"{Path(file).stem}-{stage.replace(' ', '-')}")
        frozen = freeze if stage == "joint" else ()
        options["began_with"] = identity_of(model.state_dict()) if file else None
        histories.append(train_stage(model, asked, stage, freeze=frozen, steps=count, seed=seed, **options))
    return model, pd.concat(histories, keys=steps, names=["stage"]).reset_index("stage")


def without_image(prompt: str) -> str:
    """Return the question as text alone; where it has no word before ``<image>``, "the image" takes its place.

    >>> without_image("What is in this image <image>? Answer:")
    'What is in this image? Answer:'
    """
    return prompt.replace("image <image>", "image").replace("<image>", "the image")


def answers(model: VisionLanguageModel, asked: Questions, *, control: Control = "real image") -> list[str]:
    """Return greedy answers under one of ``CONTROLS``: ``"blank"`` is dark, ``"shuffled"`` has another's image."""
    images, prompts = _under(control, asked)
    said: list[str] = []
    for rows in torch.arange(len(asked), device="cpu").split(500):
        some = None if images is None else images[rows].to(_device(model))
        said += map(str, model.generate(some, prompt=[prompts[row] for row in rows.tolist()]))
    return said


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _under(control: Control, asked: Questions) -> tuple[Tensor | None, Sequence[str]]:
    if control not in CONTROLS:
        raise ValueError(f"control must be one of {', '.join(CONTROLS)}, received {control!r}")
    if control == "text only":
        return None, tuple(map(without_image, asked.prompts))
    if control == "blank":
        return torch.full_like(asked.images, 0.175), asked.prompts  # the middle of the backgrounds
    if control == "shuffled" and len(asked) < 2:
        raise ValueError(f"asked must hold two questions or more to be shuffled, received {len(asked)}")
    return asked.images.roll(1, dims=0) if control == "shuffled" else asked.images, asked.prompts


@torch.no_grad()
def teacher_forced(model: VisionLanguageModel, asked: Questions, *, control: Control = "real image") -> Tensor:
    """Return how probable each right word, then the end, is after those before it: ``(words + 1,)``.

    Averaged over questions, whose answers must have one length.
    """
    images, prompts = _under(control, asked)
    ids, is_answer = model.tokenize(prompts, asked.answers)
    lengths = is_answer.sum(1)
    if int(lengths.min()) != int(lengths.max()):
        raise ValueError(f"answers must have one length, received from {lengths.min()} to {lengths.max()} words")
    where, length = _device(model), int(lengths[0])
    with evaluating(model):
        logits = model(None if images is None else images.to(where), ids)[0]
    probabilities = logits[:, -length - 1 : -1].float().softmax(-1)  # each token predicts the one after it
    return probabilities.gather(2, ids[:, -length:, None].to(where))[..., 0].mean(0).cpu()


def named(answer: str, attribute: str) -> tuple[str, ...]:
    """Return the words of one attribute that an answer names, in order.

    >>> named("a small red star left of a large blue ring", "color")
    ('red', 'blue')
    """
    if attribute == "place":
        phrases = ["left of", "right of", "above", "below", *scenes.PHRASES.values()]
        found = sorted((answer.find(phrase), -len(phrase), phrase) for phrase in phrases if phrase in answer)
        return tuple(phrase for _, _, phrase in found)
    words = {"color": tuple(scenes.COLORS), "size": tuple(scenes.SIZES), "shape": scenes.SHAPES}[attribute]
    return tuple(word for word in answer.split() if word in words)


def score(said: Sequence[str], asked: Questions) -> dict[str, float]:
    """Return the share of answers that are exact, and the share that name each attribute as it is."""
    pairs = list(zip(said, asked.answers, strict=True))
    right = {"exact": [answer == truth for answer, truth in pairs]}
    for attribute in METRICS[1:]:
        both = [(named(answer, attribute), named(truth, attribute)) for answer, truth in pairs]
        right[attribute] = [answered == true for answered, true in both if true]
    return {metric: sum(found) / len(found) for metric, found in right.items() if found}


def evaluate(model: VisionLanguageModel, batches: Mapping[str, Questions]) -> pd.DataFrame:
    """Return the score of every batch under every control, in fractions: a row for each, a column per metric."""
    rows = {
        (name, control): score(answers(model, asked, control=control), asked)
        for name, asked in batches.items()
        for control in CONTROLS
    }
    return pd.DataFrame(rows).T.reindex(columns=list(METRICS)).rename_axis(["pictures", "control"])


def confusion(said: Sequence[str], asked: Questions) -> pd.DataFrame:
    """Count how often a lone object with the row's shape is named with the column's; "other" is none or several."""
    told = [named(answer, "shape") for answer in said]
    table = pd.crosstab(
        pd.Series([named(truth, "shape")[0] for truth in asked.answers], name="true"),
        pd.Series([names[0] if len(names) == 1 else "other" for names in told], name="said"),
    )
    columns = [*SHAPES, *table.columns.difference(SHAPES)]
    return table.reindex(index=list(SHAPES), columns=columns, fill_value=0)


def next_words(model: VisionLanguageModel, asked: Questions, openings: Sequence[str]) -> list[str]:
    """Begin each answer with the words of its opening, and return the one word that the model says next."""
    prompts = [f"{prompt} {opening}" for prompt, opening in zip(asked.prompts, openings, strict=True)]
    return [str(said) for said in model.generate(asked.images.to(_device(model)), prompt=prompts, max_new_tokens=1)]


def leading(model: VisionLanguageModel, asked: Questions) -> dict[str, float]:
    """Say a wrong colour first; return whether the next word, the shape, fits the picture or the wrong colour.

    For pictures of one object in the world of two partners. If a blue thing is called "a small purple", ``"picture"``
    is the share of answers that go on with the shape in the picture, ``"said color"`` with one that usually comes with
    purple, ``"true color"`` with one that usually comes with blue.
    """
    usual, things = pairings(2), [objects[0] for objects in asked.objects]
    said = [COLORS[(COLORS.index(thing.color) + 2) % len(COLORS)] for thing in things]
    shapes = next_words(model, asked, [f"a {thing.size} {color}" for thing, color in zip(things, said, strict=True)])
    follows = [
        (shape == thing.shape, (color, shape) in usual, (thing.color, shape) in usual)
        for shape, thing, color in zip(shapes, things, said, strict=True)
    ]
    shares = torch.tensor(follows).float().mean(0).tolist()
    return dict(zip(("picture", "said color", "true color"), shares, strict=True))


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of a model's weights and of the running statistics of its norms."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def movement(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how far each part has moved since ``before``: the largest change of any of its numbers.

    >>> model = build_vlm(image_size=16, embed_dim=8, depth=1, num_heads=2)
    >>> before = copy_weights(model)
    >>> _ = model.connector.position_embedding.data.add_(1)
    >>> movement(model, before)
    {'encoder': 0.0, 'connector': 1.0, 'language_model': 0.0}
    """
    moved = {part: 0.0 for part, _ in model.named_children()}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():  # BatchNorm also counts its batches
            part = name.split(".")[0]
            moved[part] = max(moved[part], (tensor.cpu() - before[name].cpu()).abs().max().item())
    return moved
