"""A vision-language model in four parts: tokenizer, language model, connector, and the whole (slides S02 and S03).

Read from top to bottom: words become numbers, a causal transformer predicts the next number, a connector turns an
encoder's vectors into vectors that stand among the words', and :class:`VisionLanguageModel` puts them together. The
image encoder is any network of the course, or your own.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol, cast, overload

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.models.transformer import MLP, TransformerBlock, readable_attention
from vlmcourse.models.vit import VisionTransformer
from vlmcourse.ops._checks import (
    as_sizes,
    check_divides,
    check_floating,
    check_positive,
    check_positive_int,
    check_rank,
)
from vlmcourse.ops.attention import KeyValueCache

PROMPT = "What is in this image <image>? Answer:"

# ---------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------

PAD, END, IMAGE = "<pad>", "<end>", "<image>"
_WORD = re.compile(r"<image>|<end>|\w+(?:['-]\w+)*|[^\w\s]")


class TextTokenizer(Protocol):
    """What the model asks of a tokenizer: three special numbers, there and back, and how many numbers there are."""

    pad_id: int
    end_id: int
    image_id: int

    def encode(self, text: str) -> list[int]:
        """Return the text's numbers."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the numbers, without padding and end."""
        ...

    def __len__(self) -> int: ...


class Tokenizer:
    """One number a word: enough for a small world, and every number can be read.

    A word is a run of letters and digits; punctuation marks are words of their own, and so is the placeholder
    ``<image>``. Capital letters matter.

    Shapes:
        ``encode`` gives a list of integers, one a word, each below ``len(tokenizer)``.

    Raises:
        ValueError: no words, a word twice, a text with unknown words (all of them are named), or a number out of range.
        TypeError: a text that is not a string.

    Source:
        Slide S02, whose question it reads.

    >>> tokenizer = Tokenizer.from_texts(["What is in this image <image>? Answer:", "a red star"])
    >>> tokenizer.encode("a red image <image>?")
    [7, 11, 8, 2, 4]
    >>> tokenizer.decode([7, 11, 8, 2, 4, 1])
    'a red image <image>?'
    """

    pad_id, end_id, image_id = 0, 1, 2

    def __init__(self, words: Sequence[str]) -> None:
        special = (PAD, END, IMAGE)
        self.words = (*special, *(word for word in words if word not in special))
        if len(self.words) == len(special):
            raise ValueError("words must hold at least one word, received none")
        self._id_of = {word: number for number, word in enumerate(self.words)}
        if len(self._id_of) < len(self.words):
            twice = sorted({word for word in self.words if self.words.count(word) > 1})
            raise ValueError(f"words must differ, received twice: {', '.join(map(repr, twice))}")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Tokenizer":
        """Return a tokenizer that knows every word of ``texts``, in alphabetical order."""
        if isinstance(texts, str):
            raise TypeError("texts must be several strings, received one; try [text]")
        return cls(sorted({word for text in texts for word in _split(text)}))

    def encode(self, text: str) -> list[int]:
        """Return the number of each word."""
        words = _split(text)
        unknown = list(dict.fromkeys(word for word in words if word not in self._id_of))
        if unknown:
            known = self.words[3:]
            hints = []
            for word in unknown:
                near = get_close_matches(word, known, n=3, cutoff=0.5)
                hints.append(f"{word!r} (near: {', '.join(near)})" if near else repr(word))
            raise ValueError(f"text has words that this tokenizer does not know: {', '.join(hints)}")
        return [self._id_of[word] for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words of the numbers, joined; padding and end leave no trace."""
        numbers = [int(number) for number in ids]
        if any(not 0 <= number < len(self) for number in numbers):
            raise ValueError(f"ids must be from 0 to {len(self) - 1}, received {numbers}")
        words = [self.words[number] for number in numbers if number not in (self.pad_id, self.end_id)]
        return re.sub(r" ([.,:;!?])", r"\1", " ".join(words))

    def __len__(self) -> int:
        return len(self.words)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and strings, from which :meth:`from_dict` makes the tokenizer again."""
        return {"words": list(self.words)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Tokenizer":
        """Return the tokenizer that :meth:`to_dict` described."""
        return cls(state["words"])


def _split(text: str) -> list[str]:
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, received {type(text).__name__}")
    return _WORD.findall(text)


# ---------------------------------------------------------------------------------------------------------
# The language model
# ---------------------------------------------------------------------------------------------------------


@dataclass
class Cache:
    """What a language model keeps of the tokens it has read: each layer's keys and values, and which are real."""

    layers: list[KeyValueCache]
    real: Tensor | None = None


class LanguageModel(nn.Module):
    """A decoder: a causal transformer that scores, after every token, each word as the next one.

    The tokens may be numbers of words, or vectors that :meth:`embed` or something else made: this is the door by which
    images enter. Positions are learned, and counted over real tokens only, so that padding changes nothing.

    Any module can take its place in :class:`VisionLanguageModel` that has ``embed``, ``new_cache``,
    ``vocabulary_size``, ``embed_dim``, ``context_length`` and this ``forward``.

    Shapes:
        ids ``(b, n)`` int64 or vectors ``(b, n, embed_dim)`` → logits ``(b, n, vocabulary_size)``. ``real``
        ``(b, n)`` is False on padding; what comes out there means nothing. With ``return_weights=True`` also α,
        ``(b, depth, num_heads, n, all tokens so far)``.

    Options:
        tie_output: score words by the same vectors that embed them. cache: from :meth:`new_cache`; the call then reads
        the new tokens only, and remembers them for the next call.

    Raises:
        ValueError: a size below one, heads that do not divide, more tokens than ``context_length``, or numbers that
            name no word.
        TypeError: tokens that are neither integers nor floating point.

    Source:
        Radford et al. 2019, section 2.3, for the pre-norm decoder; Press and Wolf 2017 (arXiv 1608.05859) for the tied
        output. Slide S03.

    >>> import torch
    >>> model = LanguageModel(11, context_length=7, embed_dim=6, depth=2, num_heads=3)
    >>> model(torch.tensor([[3, 1, 4, 1, 5]])).shape
    torch.Size([1, 5, 11])
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        context_length: int = 64,
        embed_dim: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        tie_output: bool = True,
    ) -> None:
        super().__init__()
        check_positive_int("vocabulary_size", vocabulary_size)
        check_positive_int("context_length", context_length)
        check_positive_int("embed_dim", embed_dim)
        check_positive_int("depth", depth)
        self.config = {
            "vocabulary_size": vocabulary_size, "context_length": context_length, "embed_dim": embed_dim,
            "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio, "tie_output": tie_output,
        }  # fmt: skip
        self.vocabulary_size, self.context_length, self.embed_dim = vocabulary_size, context_length, embed_dim
        self.token_embedding = nn.Parameter(0.02 * torch.randn(vocabulary_size, embed_dim))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(context_length, embed_dim))
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = None if tie_output else nn.Linear(embed_dim, vocabulary_size, bias=False)

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        return Cache([KeyValueCache() for _ in self.blocks])

    def embed(self, ids: Tensor) -> Tensor:
        """Return the vector of each word, ``(..., embed_dim)``, without its position."""
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise TypeError(f"ids must be integers, received {ids.dtype}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise ValueError(
                f"ids must be from 0 to {self.vocabulary_size - 1}, received {int(ids.min())} to {int(ids.max())}; is "
                f"this the tokenizer that the model was trained with?"
            )
        return F.embedding(ids, self.token_embedding)

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        real: Tensor | None = ...,
        cache: Cache | None = ...,
        return_weights: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, *, real: Tensor | None = ..., cache: Cache | None = ..., return_weights: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, tokens: Tensor, *, real: Tensor | None = None, cache: Cache | None = None, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of the next word after every token, and α if asked."""
        x = tokens if tokens.is_floating_point() else self.embed(tokens)
        check_rank("tokens", x, "b n d")
        batch, new = x.shape[:2]
        real = torch.ones(batch, new, dtype=torch.bool, device=x.device) if real is None else real
        if real.shape != (batch, new):
            raise ValueError(f"real must have one entry a token, ({batch}, {new}), received {tuple(real.shape)}")
        seen = real if cache is None or cache.real is None else torch.cat([cache.real, real], dim=1)
        lengths = seen.sum(1)
        if seen.shape[1] > self.context_length and int(lengths.max()) > self.context_length:
            raise ValueError(
                f"tokens must fit into context_length={self.context_length}, received {int(lengths.max())}; shorten "
                f"the text, use fewer or smaller images, or build the model with a longer context"
            )
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -new:]
        x = x + self.position_embedding[positions]

        # Token i looks at real tokens that are not later. Padding also looks at itself: some kernels make NaN of a
        # row that looks nowhere, and the next layer would spread it.
        columns = torch.arange(seen.shape[1], device=x.device)
        rows = columns[-new:, None]
        mask = rearrange((columns <= rows) & seen[:, None] | (columns == rows), "b i j -> b 1 i j")

        maps = []
        for k, block in enumerate(self.blocks):
            layer_cache = None if cache is None else cache.layers[k]
            if return_weights:
                x, weights = block(x, mask=mask, cache=layer_cache, return_weights=True)
                maps.append(weights)
            else:
                x = block(x, mask=mask, cache=layer_cache)
        if cache is not None:
            cache.real = seen  # last: an error above leaves it as it was
        x = self.norm(x)
        logits = x @ self.token_embedding.T if self.head is None else self.head(x)
        return (logits, torch.stack(maps, dim=1)) if return_weights else logits


def next_token_loss(logits: Tensor, ids: Tensor, *, where: Tensor) -> Tensor:
    """Return the mean cross-entropy of predicting, from the tokens before, each token that ``where`` marks.

    Shapes:
        logits ``(b, n, words)``, ids ``(b, n)`` int64, where ``(b, n)`` boolean → a scalar, in float32.

    Raises:
        ValueError: nothing is marked, or shapes that do not agree.

    Source:
        Radford et al. 2019, equation 1; slide S03.

    >>> ids = torch.tensor([[0, 2, 1]])
    >>> loss = next_token_loss(torch.zeros(1, 3, 5), ids, where=torch.tensor([[False, True, True]]))
    >>> bool(loss.isclose(torch.tensor(5.0).log()))  # five words, all as likely
    True
    """
    if logits.shape[:2] != ids.shape or where.shape != ids.shape:
        raise ValueError(
            f"logits (b, n, words), ids (b, n) and where (b, n) must agree, received {tuple(logits.shape)}, "
            f"{tuple(ids.shape)} and {tuple(where.shape)}"
        )
    where = where[:, 1:]  # nothing comes before the first token, so nothing predicts it
    if not where.any():
        raise ValueError("where must mark at least one token after the first, received none")
    return F.cross_entropy(logits[:, :-1][where].float(), ids[:, 1:][where])


def next_token_probabilities(logits: Tensor, *, temperature: float, top_p: float = 1.0) -> Tensor:
    """Return the distribution that the next word is drawn from.

    ``temperature=0`` puts everything on the likeliest word. ``top_p`` below one keeps the likeliest words that together
    have at least that probability, and forgets the others.

    Shapes:
        logits ``(..., words)`` → probabilities ``(..., words)``, in float32.

    Raises:
        ValueError: a negative temperature, or ``top_p`` outside (0, 1].

    Source:
        Holtzman et al. 2020, section 3.1, for top-p (arXiv 1904.09751); slide S02.

    >>> logits = torch.tensor([0.5, 0.3, 0.2]).log()
    >>> next_token_probabilities(logits, temperature=1.0, top_p=0.7)
    tensor([0.6250, 0.3750, 0.0000])
    """
    _check_sampling(temperature, top_p)
    logits = logits.float()
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probabilities = (logits / temperature).softmax(-1)
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    likelier = ranked.cumsum(-1) - ranked  # the probability of all words before this one
    ranked = ranked.masked_fill((likelier >= top_p) & (likelier > 0), 0.0)
    kept = torch.zeros_like(ranked).scatter(-1, order, ranked)
    return kept / kept.sum(-1, keepdim=True)


def _check_sampling(temperature: float, top_p: float) -> None:
    if temperature != 0:
        check_positive("temperature", temperature)
    check_positive("top_p", top_p)
    if top_p > 1:
        raise ValueError(f"top_p must be above 0 and at most 1, received {top_p}")


# ---------------------------------------------------------------------------------------------------------
# The connection
# ---------------------------------------------------------------------------------------------------------


class Connector(nn.Module):
    """From an encoder's vectors to vectors among the words: a norm, one hidden layer, and a learned place.

    With ``reduction=2``, each square of 2 × 2 neighbouring vectors is joined into one of four times the width before
    the MLP ("pixel shuffle"): a quarter of the tokens, and nothing averaged away. The place is added here because a
    convolution's vectors do not know where they are, and an image may stand anywhere in the prompt.

    Shapes:
        feature map ``(b, in_features, h, w)`` or tokens ``(b, n, in_features)`` → ``(b, num_tokens, out_features)``,
        with ``num_tokens = h * w / reduction**2``, row by row, or n.

    Options:
        grid_size: height and width of the feature maps to come; for tokens in no grid, ``(1, n)``.

    Raises:
        ValueError: a size below one, a reduction that does not divide the map, inputs of another shape.
        TypeError: inputs that are not floating point.

    Source:
        Liu et al. 2023, "Improved baselines", section 3.2, for the MLP (arXiv 2310.03744); Laurençon et al. 2024,
        section 2, for pixel shuffle (arXiv 2408.12637). Slide S03.

    >>> import torch
    >>> connector = Connector(5, 7, grid_size=(4, 6), reduction=2)
    >>> connector(torch.rand(3, 5, 4, 6)).shape
    torch.Size([3, 6, 7])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid_size: int | tuple[int, int],
        reduction: int = 1,
        hidden_features: int | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("in_features", in_features)
        check_positive_int("reduction", reduction)
        height, width = as_sizes("grid_size", grid_size, axes=("height", "width"), minimum=1)
        check_divides("reduction", reduction, height=height, width=width)
        hidden = 2 * out_features if hidden_features is None else hidden_features
        self.config = {
            "in_features": in_features, "out_features": out_features, "grid_size": [height, width],
            "reduction": reduction, "hidden_features": hidden,
        }  # fmt: skip
        self.in_features, self.out_features, self.reduction = in_features, out_features, reduction
        self.in_grid = (height, width)
        self.grid_size = (height // reduction, width // reduction)
        self.num_tokens = self.grid_size[0] * self.grid_size[1]
        joined = in_features * reduction**2
        self.norm = nn.LayerNorm(joined)
        self.mlp = MLP(joined, hidden, out_features)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(self.num_tokens, out_features))

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector a place, as wide as a word's."""
        if isinstance(features, Tensor) and features.ndim == 3:
            check_rank("features", features, "b n d")
            if features.shape[1] != self.in_grid[0] * self.in_grid[1]:
                raise ValueError(
                    f"features must be {self.in_grid[0] * self.in_grid[1]} tokens (grid_size={self.in_grid}), received "
                    f"{features.shape[1]}; a class token counts as one"
                )
            features = rearrange(features, "b (h w) d -> b d h w", h=self.in_grid[0])
        check_rank("features", features, "b d h w")
        check_floating("features", features)
        if features.shape[1:] != (self.in_features, *self.in_grid):
            raise ValueError(
                f"features must have shape (b, {self.in_features}, {self.in_grid[0]}, {self.in_grid[1]}), received "
                f"{tuple(features.shape)}; set in_features and grid_size to what the encoder gives for these images"
            )
        r = self.reduction
        joined = rearrange(features, "b d (h rh) (w rw) -> b (h w) (rh rw d)", rh=r, rw=r)
        return self.mlp(self.norm(joined)) + self.position_embedding


# ---------------------------------------------------------------------------------------------------------
# The whole
# ---------------------------------------------------------------------------------------------------------

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
        _check_sampling(temperature, top_p)
        if isinstance(prompt, str):
            prompt = [prompt] * (1 if images is None else len(images))
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
        with _evaluating(self), readable_attention(self.language_model if return_attention else nn.Identity()):
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and each part back into its own mode afterwards."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


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
    _write_whole(Path(path), save(state, metadata))


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


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the place, sync, rename: killed at any moment, the old file or the new one is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
