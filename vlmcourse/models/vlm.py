"""A vision-language model: an encoder, a connector and a language model, put together (slides S02 and S03)."""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vlmcourse._checks import check_floating, check_int
from vlmcourse._devices import on_cpu
from vlmcourse._files import write_whole
from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.models.connector import Connector
from vlmcourse.models.language_model import LanguageModel, next_token_loss
from vlmcourse.models.tokenizer import IMAGE, Tokenizer
from vlmcourse.models.transformer import record_attention
from vlmcourse.models.vit import VisionTransformer
from vlmcourse.ops._modes import evaluating

PROMPT = "What is in this image <image>? Answer:"


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's answer, and how it came about; ``str(answer)`` is its text, to compare and to print.

    Shapes:
        words: its tokens, as text. probabilities: ``(words,)``, what the model gave each of them, and one more for the
        end if it came. finished: whether the model ended the answer itself. attention: ``(depth, words, 1, h, w)``, for
        the one image: how much the token from which a word was predicted looked at each place, averaged over heads.

    >>> print(Answer("a star", words=("a", "star"), probabilities=torch.tensor([0.9, 0.8, 1.0]), finished=True))
    a star
    """

    text: str
    words: tuple[str, ...]
    probabilities: Tensor
    finished: bool
    attention: Tensor | None = None

    def __str__(self) -> str:
        return self.text


class VisionLanguageModel(nn.Module):
    """Images and a question in, an answer out: encoder → connector → language model.

    The ``<image>`` of a prompt is replaced by the connector's vectors of its image. The encoder is any module with
    ``feature_map(images)`` or ``tokens(images)``, or that returns ``(b, c, h, w)`` or ``(b, n, d)`` when called.

    Shapes:
        images ``(b, c, h, w)``, one per prompt, or None for prompts without; ids and is_answer ``(b, n)`` from
        :meth:`tokenize` → logits ``(b, m, vocabulary_size)``, where ``<image>`` has grown to ``connector.num_tokens``
        columns, and the mean loss over the answers' tokens (None without ``is_answer``).

    Source:
        Liu et al. 2023, section 4.1 (arXiv 2304.08485); slides S02 and S03.

    >>> tokenizer = Tokenizer.from_texts([PROMPT, "a red star", "a blue ring"])
    >>> language_model = LanguageModel(len(tokenizer), context_length=50, embed_dim=12, depth=2, num_heads=3)
    >>> model = VisionLanguageModel(ConvEncoder(width=5), Connector(20, 12, grid_size=6), language_model, tokenizer)
    >>> ids, is_answer = model.tokenize([PROMPT, PROMPT], ["a red star", "a blue ring"])
    >>> model(torch.rand(2, 3, 24, 24), ids, is_answer)[0].shape  # 8 words, 36 image tokens, an answer of 3 and its end
    torch.Size([2, 48, 16])
    """

    def __init__(
        self, encoder: nn.Module, connector: Connector, language_model: LanguageModel, tokenizer: Tokenizer
    ) -> None:
        super().__init__()
        if (given := connector.out_features) != (width := language_model.embed_dim):
            raise ValueError(f"connector must have the language model's width, out_features={width}, received {given}")
        if (words := language_model.vocabulary_size) != len(tokenizer):
            raise ValueError(f"tokenizer must have the language model's {words} words, received {len(tokenizer)}")
        self.encoder, self.connector, self.language_model = encoder, connector, language_model
        self.tokenizer = tokenizer

    @on_cpu()
    def tokenize(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return the ids of prompts and answers, and which of them belong to an answer, its end included.

        Both are ``(b, n)`` on the CPU, int64 and boolean, padded on the left, so that a batch can be continued.
        """
        if isinstance(prompts, str) or isinstance(answers, str):
            raise TypeError("prompts and answers must be several strings, received one; try [text]")
        if answers is not None and len(prompts) != len(answers):
            raise ValueError(f"answers must be as many, received {len(prompts)} prompts and {len(answers)} answers")
        asked, end = [self.tokenizer.encode(prompt) for prompt in prompts], [self.tokenizer.end_id]
        if [] in asked:
            raise ValueError(f"prompt {asked.index([])} must hold at least one word, received none; try {PROMPT!r}")
        said = [[]] * len(asked) if answers is None else [self.tokenizer.encode(answer) + end for answer in answers]
        ids = _left_padded([torch.tensor(a + b) for a, b in zip(asked, said, strict=True)], self.tokenizer.pad_id)
        from_the_end = torch.arange(ids.shape[1], 0, -1)
        return ids, from_the_end <= torch.tensor([[len(answer)] for answer in said])

    def forward(
        self, images: Tensor | None, ids: Tensor, is_answer: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits after every token, and the loss on the answers if they are marked."""
        ids, is_answer, vectors = self._splice(images, ids, is_answer)
        attention_mask = ids != self.tokenizer.pad_id
        logits = self.language_model(vectors, attention_mask=attention_mask)
        if is_answer is None:
            return logits, None
        follows_a_token = attention_mask.roll(1, dims=1)  # nothing predicts a first token
        return logits, next_token_loss(logits, ids, loss_mask=is_answer & follows_a_token)

    def image_tokens(self, images: Tensor | None, *, batch: int) -> tuple[Tensor | None, int]:
        """Return the connector's vectors, ``(b, num_tokens, embed_dim)``, and how many images each prompt has."""
        if images is None:
            return None, 0
        if len(images) != batch:
            raise ValueError(f"images must come for each of the {batch} prompts, received {len(images)}")
        return self.connector(self.features(images)), 1

    def features(self, images: Tensor) -> Tensor:
        """Return the encoder's feature map, or its tokens, or, if it has neither method, what calling it returns."""
        return getattr(self.encoder, "feature_map", getattr(self.encoder, "tokens", self.encoder))(images)

    def _splice(
        self, images: Tensor | None, ids: Tensor, is_answer: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Repeat each placeholder for every vector of its image, and embed; rows still end in the same column."""
        image_tokens, count = self.image_tokens(images, batch=len(ids))
        device, ids = next(self.language_model.parameters()).device, ids.cpu()
        placeholder = ids == self.tokenizer.image_id
        for k, found in enumerate(placeholder.sum(1).tolist()):
            if found != count:
                raise ValueError(f"prompt {k} has {found} of the placeholder {IMAGE}, one per image, received {count}")
        times = torch.where(placeholder, self.connector.num_tokens, 1)

        def repeated(tokens: Tensor, padding: int) -> Tensor:
            return _left_padded([row.repeat_interleave(n) for row, n in zip(tokens, times, strict=True)], padding)

        ids = repeated(ids, self.tokenizer.pad_id).to(device)
        is_answer = None if is_answer is None else repeated(is_answer.cpu(), False).to(device)
        vectors = self.language_model.embed(ids)
        if image_tokens is not None:
            is_image = (ids == self.tokenizer.image_id)[..., None]
            vectors = vectors.masked_scatter(is_image, image_tokens.to(vectors.dtype))
        return ids, is_answer, vectors

    @torch.no_grad()
    def generate(
        self,
        images: Tensor | None = None,
        *,
        prompt: str | Sequence[str] = PROMPT,
        max_new_tokens: int = 32,
        return_attention: bool = False,
    ) -> list[Answer]:
        """Answer each prompt greedily, always with the likeliest next word; a single prompt is asked of every image.

        Images ``(b, c, h, w)`` lie in [0, 1]; without them, give a ``prompt`` without ``<image>``. An answer ends at
        the end token, after ``max_new_tokens``, or when the context is full, and does not depend on what else is in the
        batch. ``return_attention`` keeps where each word looked, in :class:`Answer`.
        """
        check_int("max_new_tokens", max_new_tokens)
        tokenizer, language_model = self.tokenizer, self.language_model
        recorder = record_attention(language_model) if return_attention else nullcontext[list[Tensor]]([])
        generated, probabilities, looks = [], [], []
        with evaluating(self), recorder as maps:
            ids, tokens, room = self._read(images, prompt)
            attention_mask, cache = ids != tokenizer.pad_id, language_model.new_cache()
            running = room > 0
            for step in range(max_new_tokens):
                logits = language_model(tokens, attention_mask=attention_mask, cache=cache)[:, -1].float().cpu()
                if logits[running.cpu()].isnan().any():  # the likeliest of them would be whichever comes first
                    raise FloatingPointError("the model's logits are not numbers; look for nan in its weights")
                logits[:, [tokenizer.pad_id, tokenizer.image_id]] = -inf  # these cannot be said
                chosen = logits.argmax(-1, keepdim=True)
                probabilities.append(logits.softmax(-1).gather(1, chosen)[:, 0])
                chosen = chosen.to(ids.device)
                generated.append(chosen[:, 0].masked_fill(~running, tokenizer.pad_id))
                if maps:
                    last = torch.stack([weights[..., -1, : ids.shape[1]] for weights in maps], dim=1)
                    looks.append(reduce(last, "b depth head j -> b depth j", "mean"))
                    maps.clear()
                running = running & (generated[-1] != tokenizer.end_id) & (step + 1 < room)
                if not running.any():
                    break
                tokens, attention_mask = language_model.embed(chosen), running[:, None]
        attention = torch.stack(looks, dim=2) if looks else [None] * len(ids)
        rows = zip(ids, torch.stack(generated, dim=1), torch.stack(probabilities, dim=1), attention, strict=True)
        return [self._answer(*row) for row in rows]

    def _read(self, images: Tensor | None, prompt: str | Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prompts' ids with room for the images, their vectors, and how many tokens may follow."""
        if images is not None:
            _check_pixels(images)
        if isinstance(prompt, str):
            prompt = [prompt] * (1 if images is None else len(images))
        ids, _, vectors = self._splice(images, self.tokenize(prompt)[0])
        lengths, context_length = (ids != self.tokenizer.pad_id).sum(1), self.language_model.context_length
        if int(lengths.max()) >= context_length:
            takes = f"prompt {int(lengths.argmax())} takes {int(lengths.max())} tokens, images included"
            raise ValueError(f"{takes}, and leaves no room for an answer in {context_length=}; shorten it")
        return ids, vectors, context_length - lengths

    def _answer(self, ids: Tensor, generated: Tensor, probabilities: Tensor, attention: Tensor | None) -> Answer:
        """Gather what belongs to one row; the attention ``(depth, steps, tokens of the prompt)`` keeps the images'."""
        said = [number for number in generated.tolist() if number != self.tokenizer.pad_id]
        finished = said[-1] == self.tokenizer.end_id
        words = said[:-1] if finished else said
        if attention is not None:
            height, width = self.connector.grid_size
            attention = attention[:, : len(words), ids == self.tokenizer.image_id].cpu()
            attention = rearrange(attention, "depth n (k h w) -> depth n k h w", h=height, w=width)
        texts = tuple(self.tokenizer.decode([number]) for number in words)
        return Answer(self.tokenizer.decode(words), texts, probabilities[: len(said)], finished, attention)


def _left_padded(rows: list[Tensor], padding: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=padding, padding_side="left")


def _check_pixels(images: Tensor) -> None:
    check_floating("images", images, "b c h w")
    low, high = map(float, images.aminmax())
    if not isfinite(low + high):
        raise ValueError(f"images must hold finite numbers, received values from {low} to {high}")
    if low < -0.1 or high > 1.1:
        advice = "try images / 255, or the images before they were normalised"
        warnings.warn(f"images should lie in [0, 1], received from {low:.3g} to {high:.3g}; {advice}", stacklevel=5)


# ---------------------------------------------------------------------------------------------------------
# Saving and loading
# ---------------------------------------------------------------------------------------------------------

_FORMAT = "vlmcourse.vlm.1"
_PARTS = {"encoder": (ConvEncoder, VisionTransformer), "connector": (Connector,), "language_model": (LanguageModel,)}


def save_vlm(model: VisionLanguageModel, path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write the whole model into one safetensors file, with how it is built and where it comes from, or nothing at all.

    ``provenance`` is anything that JSON can hold. A part of your own class is refused: no file could build it again.

    >>> import tempfile
    >>> tokenizer = Tokenizer.from_texts([PROMPT])
    >>> parts = ConvEncoder(width=3), Connector(12, 8, grid_size=3), LanguageModel(len(tokenizer), embed_dim=8)
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> save_vlm(VisionLanguageModel(*parts, tokenizer), path, provenance={"data": "none"})
    >>> load_vlm(path)[1]
    {'data': 'none'}
    """
    parts = {name: getattr(model, name) for name in _PARTS}
    known = {"model": (VisionLanguageModel,), **_PARTS, "tokenizer": (Tokenizer,)}
    for name, part in {"model": model, **parts, "tokenizer": model.tokenizer}.items():
        if type(part) not in known[name]:
            expected, received = " or ".join(kind.__name__ for kind in known[name]), type(part).__name__
            hint = "for a model that you build in code try torch.save(model.state_dict(), path)"
            raise TypeError(f"{name} must be a {expected} to be saved whole, received {received}; {hint}")
    form: dict[str, Any] = {name: part.config for name, part in parts.items()}
    form["encoder"] = {"kind": type(model.encoder).__name__, **form["encoder"]}
    form["tokenizer"] = {"words": model.tokenizer.words}
    metadata = {"format": _FORMAT, "form": json.dumps(form), "provenance": json.dumps(dict(provenance or {}))}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        again = _build(form)
    if others := _layers_of(model) ^ _layers_of(again):
        names = sorted({name for name, _ in others})
        raise ValueError(f"model must have the layers it was built with, or no file could build it again; see {names}")
    write_whole(path, save(state, metadata))


def load_vlm(path: str | Path) -> tuple[VisionLanguageModel, dict[str, Any]]:
    """Return a model that :func:`save_vlm` wrote, on the CPU in evaluation mode, and its provenance; executes no code.

    A damaged file, or one that something else wrote, raises ValueError.

    >>> load_vlm("nowhere.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: No such file or directory: ...nowhere.safetensors...
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is not a file; name the one that save_vlm wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its metadata has no format {_FORMAT!r}")
            form, provenance = json.loads(metadata["form"]), dict(json.loads(metadata["provenance"]))
            encoder, names = form["encoder"], list(file.keys())
            depths = [form["language_model"]["depth"], encoder.get("depth", 0), *encoder.get("depths", ())]
            if max(depths) > len(names):
                raise ValueError(f"its form has {max(depths)} layers, and the file {len(names)} tensors")
            with torch.device("meta"):  # no memory yet: a damaged form may have any size
                model = _build(form)
            model.load_state_dict({name: file.get_tensor(name).clone() for name in names}, assign=True)
            return model.eval(), provenance
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path} is not a whole file of save_vlm ({type(error).__name__}: {error})") from error


def _layers_of(model: nn.Module) -> set[tuple[str, str]]:
    # The names of all layers and weights, with what a layer says of itself and the shape of a weight.
    layers = {(name, repr(part)) for name, part in model.named_modules() if not list(part.children())}
    return layers | {(name, str(tuple(tensor.shape))) for name, tensor in model.state_dict().items()}


def _build(form: Mapping[str, Any]) -> VisionLanguageModel:
    options = dict(form["encoder"])
    encoder = {known.__name__: known for known in _PARTS["encoder"]}[options.pop("kind")](**options)
    connector, language_model = Connector(**form["connector"]), LanguageModel(**form["language_model"])
    return VisionLanguageModel(encoder, connector, language_model, Tokenizer(form["tokenizer"]["words"]))
