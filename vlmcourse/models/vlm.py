"""A vision-language model: an encoder, a connector and a language model, put together (slides S02 and S03).

Read :mod:`~vlmcourse.models.tokenizer`, :mod:`~vlmcourse.models.language_model` and
:mod:`~vlmcourse.models.connector` before. The image encoder is any network of the course, or your own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange, reduce
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vlmcourse._files import write_whole
from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.models.connector import Connector
from vlmcourse.models.language_model import (
    LanguageModel,
    check_sampling,
    next_token_loss,
    next_token_probabilities,
)
from vlmcourse.models.tokenizer import IMAGE, TextTokenizer, Tokenizer
from vlmcourse.models.transformer import readable_attention
from vlmcourse.models.vit import VisionTransformer
from vlmcourse.ops._checks import check_positive_int
from vlmcourse.ops._modes import evaluating

PROMPT = "What is in this image <image>? Answer:"
Images = Tensor | Sequence[Tensor] | None


class Answer(str):
    """A model's answer: a string that remembers how it came about.

    Shapes:
        words: its tokens, as text. probabilities: ``(words,)``, what the model gave each of them (and the end, if it
        came) at temperature one. attention: ``(depth, words, images, h, w)``, how much the token from which a word was
        predicted looked at each place of each image, averaged over heads; None unless asked for. finished: whether the
        model ended the answer itself.

    >>> answer = Answer("a star", words=("a", "star"), probabilities=torch.tensor([0.9, 0.8, 1.0]), finished=True)
    >>> answer, answer.words, answer.finished
    ('a star', ('a', 'star'), True)
    """

    words: tuple[str, ...]
    probabilities: Tensor
    finished: bool
    attention: Tensor | None

    def __new__(
        cls,
        text: str,
        *,
        words: Sequence[str] = (),
        probabilities: Tensor | None = None,
        finished: bool = True,
        attention: Tensor | None = None,
    ) -> "Answer":
        """Return the string with its story."""
        answer = super().__new__(cls, text)
        answer.words, answer.finished, answer.attention = tuple(words), finished, attention
        answer.probabilities = torch.ones(len(words)) if probabilities is None else probabilities
        return answer


class VisionLanguageModel(nn.Module):
    """Images and a question in, an answer out: encoder → connector → language model.

    Each ``<image>`` of a prompt is replaced by the connector's vectors of one image, in order; the language model
    reads them like words. The encoder is any module with ``feature_map(images)`` or ``tokens(images)``, or any that
    returns ``(b, c, h, w)`` or ``(b, n, d)`` when called.

    Shapes:
        images ``(b, c, h, w)``, one a prompt; ``(b, k, c, h, w)``, k a prompt; a list of ``(k, c, h, w)``, one tensor a
        prompt; or None, for prompts without images. ids and is_answer ``(b, n)`` from :meth:`tokenize` → logits
        ``(b, m, words)``, where every ``<image>`` has grown to ``connector.num_tokens`` columns, and the mean loss
        over the answers' tokens (None without ``is_answer``).

    Raises:
        ValueError: placeholders and images that do not match, unknown words, a text longer than the context, parts
            that do not fit together; the message names which.
        TypeError: arguments of the wrong kind.

    Source:
        Liu et al. 2023, section 4.1 (arXiv 2304.08485); slides S02 and S03.

    >>> import torch
    >>> tokenizer = Tokenizer.from_texts([PROMPT, "a red star", "a blue ring"])
    >>> language_model = LanguageModel(len(tokenizer), context_length=50, embed_dim=12, depth=2, num_heads=3)
    >>> encoder = ConvEncoder(width=5)
    >>> connector = Connector(20, 12, grid_size=6)
    >>> model = VisionLanguageModel(encoder, connector, language_model, tokenizer)
    >>> images = torch.rand(2, 3, 24, 24)
    >>> ids, is_answer = model.tokenize([PROMPT, PROMPT], ["a red star", "a blue ring"])
    >>> logits, loss = model(images, ids, is_answer)
    >>> logits.shape  # 8 words and 36 image tokens, then 3 words of an answer and its end
    torch.Size([2, 48, 16])
    >>> answers = model.generate(images, prompt=PROMPT, max_new_tokens=5)
    >>> len(answers), isinstance(answers[0], str)
    (2, True)
    """

    def __init__(
        self,
        encoder: nn.Module,
        connector: Connector,
        language_model: LanguageModel,
        tokenizer: TextTokenizer,
    ) -> None:
        super().__init__()
        if connector.out_features != language_model.embed_dim:
            raise ValueError(
                f"connector must give vectors as wide as the language model's, {language_model.embed_dim}, received "
                f"out_features={connector.out_features}"
            )
        if language_model.vocabulary_size != len(tokenizer):
            raise ValueError(
                f"tokenizer must have the language model's {language_model.vocabulary_size} words, received "
                f"{len(tokenizer)}"
            )
        self.encoder, self.connector, self.language_model = encoder, connector, language_model
        self.tokenizer = tokenizer

    def tokenize(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return the numbers of prompts and answers, and which of them belong to an answer, its end included.

        Rows are padded on the left, so that all end in the same column and a batch can be continued.

        Shapes:
            ``b`` prompts and as many answers → ids ``(b, n)`` int64 and is_answer ``(b, n)`` boolean, on the CPU.
        """
        if isinstance(prompts, str) or isinstance(answers, str):
            raise TypeError("prompts and answers must be several strings, received one; try [text]")
        if not prompts or (answers is not None and len(prompts) != len(answers)):
            received = f"{len(prompts)} prompts" + ("" if answers is None else f" and {len(answers)} answers")
            raise ValueError(f"prompts must hold at least one text, and answers as many, received {received}")
        rows, marks = [], []
        for k, prompt in enumerate(prompts):
            asked = self.tokenizer.encode(prompt)
            if not asked:
                raise ValueError(f"prompt {k} must hold at least one word, received {prompt!r}; try {PROMPT!r}")
            said = [] if answers is None else [*self.tokenizer.encode(answers[k]), self.tokenizer.end_id]
            rows.append(asked + said)
            marks.append([False] * len(asked) + [True] * len(said))
        longest = max(map(len, rows))
        ids = [[self.tokenizer.pad_id] * (longest - len(row)) + row for row in rows]
        return torch.tensor(ids), torch.tensor([[False] * (longest - len(mark)) + mark for mark in marks])

    def forward(self, images: Images, ids: Tensor, is_answer: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the logits after every token, and the loss on the answers if they are marked."""
        image_tokens, counts = self.image_tokens(images, batch=len(ids))
        ids, is_answer = self._make_room(ids, is_answer, counts)
        real = ids != self.tokenizer.pad_id
        logits = self.language_model(self._embed(ids, image_tokens), real=real)
        if is_answer is None:
            return logits, None
        return logits, next_token_loss(logits, ids, where=is_answer & real.roll(1, dims=1))  # nothing predicts a first

    def image_tokens(self, images: Images, *, batch: int) -> tuple[Tensor | None, list[int]]:
        """Return the connector's vectors of all images, ``(all images, num_tokens, embed_dim)``, and how many a row."""
        if images is None:
            return None, [0] * batch
        if isinstance(images, Tensor):
            if images.ndim not in (4, 5):
                raise ValueError(
                    f"images must have shape (b, c, h, w) or (b, k, c, h, w), received {tuple(images.shape)}; for one "
                    f"image try images[None]"
                )
            counts = [1 if images.ndim == 4 else images.shape[1]] * len(images)
            images = images if images.ndim == 4 else images.flatten(0, 1)
        else:
            if any(not isinstance(row, Tensor) or row.ndim != 4 for row in images):
                raise ValueError("images in a list must be tensors (k, c, h, w), one a prompt; k may be 0")
            counts = [len(row) for row in images]
            if len({row.shape[1:] for row in images}) > 1:
                raise ValueError(f"images must all have one size, received {sorted({tuple(r.shape) for r in images})}")
            images = torch.cat(list(images))
        if len(counts) != batch:
            raise ValueError(f"images must come for each of the {batch} prompts, received {len(counts)}")
        return (self.connector(self.features(images)) if len(images) else None), counts

    def features(self, images: Tensor) -> Tensor:
        """Return whatever the encoder has for places: a map, or tokens."""
        for name in ("feature_map", "tokens"):
            if hasattr(self.encoder, name):
                return getattr(self.encoder, name)(images)
        features = self.encoder(images)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            received = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"encoder must give a map (b, c, h, w) or tokens (b, n, d), received {received}; a single vector for "
                f"an image has lost its places"
            )
        return features

    def _make_room(self, ids: Tensor, is_answer: Tensor | None, counts: list[int]) -> tuple[Tensor, Tensor | None]:
        """Repeat each placeholder once for every vector of its image; rows still end in the same column."""
        ids = ids.to(next(self.language_model.parameters()).device)
        placeholder = ids == self.tokenizer.image_id
        found = placeholder.sum(1).tolist()
        for row, (wanted, received) in enumerate(zip(found, counts, strict=True)):
            if wanted != received:
                raise ValueError(
                    f"prompt {row} has {wanted} {IMAGE} placeholder{'' if wanted == 1 else 's'}, received {received} "
                    f"image{'' if received == 1 else 's'} for it; each placeholder stands for one image"
                )
        ends = torch.where(placeholder, self.connector.num_tokens, 1).cumsum(1)  # where each token's last copy lands
        columns = torch.arange(int(ends[:, -1].max()), device=ids.device)
        columns = columns - (len(columns) - ends[:, -1:])  # below zero: padding on the left
        source = torch.searchsorted(ends, columns.clamp(min=0), right=True)
        ids = ids.gather(1, source).masked_fill(columns < 0, self.tokenizer.pad_id)
        if is_answer is not None:
            is_answer = is_answer.to(ids.device).gather(1, source) & (columns >= 0)
        return ids, is_answer

    def _embed(self, ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        """Return the words' vectors, with the images' in the places that were made for them."""
        vectors = self.language_model.embed(ids)
        if image_tokens is None:
            return vectors
        is_image = (ids == self.tokenizer.image_id)[..., None]
        return vectors.masked_scatter(is_image, image_tokens.to(vectors.dtype))

    @torch.no_grad()
    def generate(
        self,
        images: Images = None,
        *,
        prompt: str | Sequence[str] = PROMPT,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        return_attention: bool = False,
    ) -> list[Answer]:
        """Answer each prompt, word by word; one prompt serves all images.

        An answer ends at the end token, after ``max_new_tokens``, or when the context is full. Answers do not depend on
        what else is in the batch, unless they are drawn at a temperature above zero.

        Options:
            temperature: 0 takes the likeliest word, 1 draws as the model predicts. top_p: see
            :func:`next_token_probabilities`. seed: of the draws, which leave the global random state alone.
            return_attention: keep where each word looked, in :class:`Answer`.

        Raises:
            ValueError: as for the model; also options out of range.
        """
        check_positive_int("max_new_tokens", max_new_tokens)
        check_sampling(temperature, top_p)
        if isinstance(prompt, str):
            prompt = [prompt] * (1 if images is None else len(images))
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
        with evaluating(self), readable_attention(self.language_model if return_attention else nn.Identity()):
            ids, _ = self.tokenize(prompt)
            image_tokens, counts = self.image_tokens(images, batch=len(ids))
            ids, _ = self._make_room(ids, None, counts)
            real = ids != self.tokenizer.pad_id
            is_image = ids == self.tokenizer.image_id
            room = (self.language_model.context_length - real.sum(1)).clamp(max=max_new_tokens)
            if int(room.min()) < 1:
                raise ValueError(
                    f"prompt {int(room.argmin())} takes {int(real.sum(1).max())} tokens, images included, and leaves "
                    f"no room for an answer in context_length={self.language_model.context_length}; shorten the prompt"
                )
            said, sure, maps = [], [], []
            tokens, cache = self._embed(ids, image_tokens), self.language_model.new_cache()
            running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            for step in range(int(room.max())):
                if return_attention:
                    logits, weights = self.language_model(tokens, real=real, cache=cache, return_weights=True)
                    maps.append(reduce(weights[..., -1, : is_image.shape[1]], "b depth head j -> b depth j", "mean"))
                else:
                    logits = self.language_model(tokens, real=real, cache=cache)
                logits = logits[:, -1].float().cpu()
                logits[:, [self.tokenizer.pad_id, self.tokenizer.image_id]] = -math.inf  # these cannot be said
                chances = next_token_probabilities(logits, temperature=temperature, top_p=top_p)
                chosen = torch.multinomial(chances, 1, generator=generator)
                sure.append(logits.softmax(-1).gather(1, chosen)[:, 0])
                chosen = chosen.to(ids.device)
                said.append(chosen[:, 0].masked_fill(~running, self.tokenizer.pad_id))
                running = running & (said[-1] != self.tokenizer.end_id) & (step + 1 < room)
                if not running.any():
                    break
                tokens, real = self.language_model.embed(chosen), running[:, None]
        return [
            self._answer(row, torch.stack(said, 1), torch.stack(sure, 1), maps, is_image) for row in range(len(ids))
        ]

    def _answer(self, row: int, said: Tensor, sure: Tensor, maps: list[Tensor], is_image: Tensor) -> Answer:
        """Gather what belongs to one row."""
        ids = [number for number in said[row].tolist() if number != self.tokenizer.pad_id]
        finished = ids[-1] == self.tokenizer.end_id
        words = ids[:-1] if finished else ids
        attention = None
        if maps:
            looks = torch.stack([step[row] for step in maps], dim=1)[:, : len(words)]
            height, width = self.connector.grid_size
            attention = rearrange(looks[..., is_image[row]], "l n (k h w) -> l n k h w", h=height, w=width).cpu()
        return Answer(
            self.tokenizer.decode(words),
            words=[self.tokenizer.decode([number]) for number in words],
            probabilities=sure[row, : len(ids)],
            finished=finished,
            attention=attention,
        )


# ---------------------------------------------------------------------------------------------------------
# One file
# ---------------------------------------------------------------------------------------------------------

_FORMAT = "vlmcourse.vlm.1"
_ENCODERS: dict[str, type[nn.Module]] = {"ConvEncoder": ConvEncoder, "VisionTransformer": VisionTransformer}


def save_vlm(model: VisionLanguageModel, path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write the whole model into one safetensors file, with how it is built and where it comes from.

    The file is written beside its place, synced and renamed, so ``path`` is never half done.

    Options:
        provenance: what is worth knowing in a year (data, seed, scores, commit, date): anything that JSON can hold.

    Raises:
        TypeError: an encoder or tokenizer that this file format does not know, or a provenance that is not JSON.
        OSError: the file cannot be written; what was there before is left as it was.

    Source:
        The safetensors format (huggingface.co/docs/safetensors).

    >>> import tempfile
    >>> tokenizer = Tokenizer.from_texts([PROMPT, "a star"])
    >>> parts = ConvEncoder(width=3), Connector(12, 6, grid_size=3), LanguageModel(len(tokenizer), embed_dim=6,
    ...     num_heads=2, depth=1, context_length=20)
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> save_vlm(VisionLanguageModel(*parts, tokenizer), path, provenance={"data": "none: random weights"})
    >>> model, provenance = load_vlm(path)
    >>> provenance
    {'data': 'none: random weights'}
    """
    kind = type(model.encoder).__name__
    if type(model.encoder) is not _ENCODERS.get(kind):
        raise TypeError(f"encoder must be one of {', '.join(_ENCODERS)} to be saved whole, received {kind}")
    if not isinstance(model.tokenizer, Tokenizer):
        raise TypeError(f"tokenizer must be a Tokenizer to be saved whole, received {type(model.tokenizer).__name__}")
    form = {
        "encoder": {"kind": kind, **cast(dict[str, Any], model.encoder.config)},
        "connector": model.connector.config,
        "language_model": model.language_model.config,
        "tokenizer": model.tokenizer.to_dict(),
    }
    metadata = {"format": _FORMAT, "form": json.dumps(form), "provenance": json.dumps(dict(provenance or {}))}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, save(state, metadata))


def load_vlm(path: str | Path) -> tuple[VisionLanguageModel, dict[str, Any]]:
    """Return a model that :func:`save_vlm` wrote, on the CPU and ready to answer, and its provenance.

    No code from the file is executed.

    Raises:
        ValueError: the file is no safetensors file, is cut short, or holds something else than such a model.
        OSError: the file cannot be read.

    >>> load_vlm("nowhere.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: No such file or directory: nowhere.safetensors
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its metadata has no format {_FORMAT!r}")
        form = json.loads(metadata["form"])
        kind = form["encoder"].pop("kind")
        model = VisionLanguageModel(
            _ENCODERS[kind](**form["encoder"]),
            Connector(**form["connector"]),
            LanguageModel(**form["language_model"]),
            Tokenizer.from_dict(form["tokenizer"]),
        )
        model.load_state_dict(state)
        return model.eval(), json.loads(metadata["provenance"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole file of save_vlm ({reason})") from error
