"""A causal transformer that reads numbers of words, or vectors, and scores each word as the next one (slide S03)."""

from dataclasses import dataclass
from typing import Literal, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vlmcourse.models.transformer import TransformerBlock
from vlmcourse.ops._checks import check_positive, check_positive_int, check_rank
from vlmcourse.ops.attention import KeyValueCache


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
    check_sampling(temperature, top_p)
    logits = logits.float()
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probabilities = (logits / temperature).softmax(-1)
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    likelier = ranked.cumsum(-1) - ranked  # the probability of all words before this one
    ranked = ranked.masked_fill((likelier >= top_p) & (likelier > 0), 0.0)
    kept = torch.zeros_like(ranked).scatter(-1, order, ranked)
    return kept / kept.sum(-1, keepdim=True)


def check_sampling(temperature: float, top_p: float) -> None:
    """Refuse a temperature or a top-p that no distribution has."""
    if temperature != 0:
        check_positive("temperature", temperature)
    check_positive("top_p", top_p)
    if top_p > 1:
        raise ValueError(f"top_p must be above 0 and at most 1, received {top_p}")
