"""A causal transformer that reads numbers of words, or vectors, and scores each word as the next one (slide S03)."""

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vlmcourse._checks import check_number, check_positive, check_positive_ints, check_rank
from vlmcourse.models._config import arguments
from vlmcourse.models.transformer import TransformerBlock, small_weights
from vlmcourse.ops.attention import KeyValueCache


@dataclass
class Cache:
    """What a language model keeps of the tokens it has read: each layer's keys and values, and which are padding."""

    layers: list[KeyValueCache]
    attention_mask: Tensor | None = None


class LanguageModel(nn.Module):
    """A decoder: a causal transformer that scores, after every token, each word as the next one.

    Positions are learned, and counted without the padding. ``tie_output`` scores words by the vectors that embed them.
    In :class:`VisionLanguageModel` any module can take its place that has ``embed``, ``new_cache``, this ``forward``,
    ``vocabulary_size``, ``embed_dim`` and ``context_length``.

    Shapes:
        ids ``(b, n)`` int64 or vectors ``(b, n, embed_dim)`` → logits ``(b, n, vocabulary_size)``; with a ``cache``
        of :meth:`new_cache`, n new tokens. ``attention_mask`` ``(b, n)``: False on padding, whose logits say nothing.

    Source:
        Radford et al. 2019, section 2.3; Press and Wolf 2017 (arXiv 1608.05859) for the tied output. Slide S03.

    >>> LanguageModel(11, embed_dim=6, num_heads=3)(torch.tensor([[3, 1, 4, 1, 5]])).shape
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
        self.config = arguments(locals())
        check_positive_ints(vocabulary_size=vocabulary_size, context_length=context_length, depth=depth)
        self.vocabulary_size, self.context_length, self.embed_dim = vocabulary_size, context_length, embed_dim
        self.token_embedding = small_weights(vocabulary_size, embed_dim)
        self.position_embedding = small_weights(context_length, embed_dim)
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = None if tie_output else nn.Linear(embed_dim, vocabulary_size, bias=False)

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        return Cache([KeyValueCache() for _ in self.blocks])

    def embed(self, ids: Tensor) -> Tensor:
        """Return the vector of each word, ``(..., embed_dim)``, without its position."""
        compiling = torch.compiler.is_compiling()  # values are not known there
        if not compiling and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            received = f"{int(ids.min())} to {int(ids.max())}; is this the tokenizer that the model was trained with?"
            raise ValueError(f"ids must be from 0 to {self.vocabulary_size - 1}, received {received}")
        return F.embedding(ids, self.token_embedding)

    def forward(self, tokens: Tensor, *, attention_mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Return the logits of the next word after every token."""
        x = tokens if tokens.is_floating_point() else self.embed(tokens)
        check_rank("tokens", x, "b n d")
        seen = self._extended_mask(x, attention_mask, cache)
        new = x.shape[1]
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -new:]
        x = x + self.position_embedding[positions]

        # Token i looks at itself and at earlier tokens that are not padding. Padding looks at itself too: some kernels
        # return NaN for a row that looks nowhere, and the next layer would spread it.
        columns = torch.arange(seen.shape[1], device=x.device)
        rows = columns[-new:, None]
        mask = rearrange((columns <= rows) & seen[:, None] | (columns == rows), "b i j -> b 1 i j")
        layers: list[Any] = [None] * len(self.blocks) if cache is None else [copy(layer) for layer in cache.layers]
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block(x, mask=mask, cache=layer)
        if cache is not None:  # last: an error above, or Ctrl-C, leaves it as it was
            cache.layers[:], cache.attention_mask = layers, seen
        x = self.norm(x)
        return x @ self.token_embedding.T if self.head is None else self.head(x)

    def _extended_mask(self, x: Tensor, attention_mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Return which of all tokens so far are not padding, and check that they fit into the context."""
        if attention_mask is None:
            attention_mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if attention_mask.shape != x.shape[:2] or attention_mask.dtype != torch.bool:
            received = f"{attention_mask.dtype} of shape {tuple(attention_mask.shape)}"
            raise ValueError(f"attention_mask must be boolean of shape {tuple(x.shape[:2])}, received {received}")
        if cache is not None and cache.attention_mask is not None:
            if (batch := len(cache.attention_mask)) != len(x):
                raise ValueError(f"cache must be that of this batch of {len(x)}, received one of {batch}; begin anew")
            attention_mask = torch.cat([cache.attention_mask, attention_mask], dim=1)
        limit = self.context_length
        if attention_mask.shape[1] > limit and (longest := int(attention_mask.sum(1).max())) > limit:
            hint = "shorten the text, use fewer or smaller images, or build the model with a longer context"
            raise ValueError(f"tokens must fit into context_length={limit}, received {longest}; {hint}")
        return attention_mask


def next_token_loss(logits: Tensor, ids: Tensor, *, loss_mask: Tensor) -> Tensor:
    """Return the mean cross-entropy of predicting, from the tokens before, each token that ``loss_mask`` marks.

    Shapes:
        logits ``(b, n, vocabulary_size)``, ids ``(b, n)`` int64, loss_mask ``(b, n)`` boolean → a scalar, in float32.

    Source:
        Radford et al. 2019, equation 1; slide S03.

    >>> ids = torch.tensor([[0, 2, 1]])
    >>> next_token_loss(torch.zeros(1, 3, 5), ids, loss_mask=ids > 0)  # log(5): five words, all as likely
    tensor(1.6094)
    """
    marked = loss_mask[:, 1:]  # nothing comes before the first token, so nothing predicts it
    if not marked.any():
        raise ValueError("loss_mask must mark at least one token after the first, received none")
    return F.cross_entropy(logits[:, :-1][marked].float(), ids[:, 1:][marked])


def next_token_probabilities(logits: Tensor, *, temperature: float, top_p: float = 1.0) -> Tensor:
    """Return the distribution that the next word is drawn from; at ``temperature=0`` the likeliest word has all of it.

    ``top_p`` below one keeps the smallest set of likeliest words that together have at least that probability.

    Shapes:
        logits ``(..., vocabulary_size)`` → probabilities of the same shape, in float32.

    Source:
        Holtzman et al. 2020, section 3.1, for top-p (arXiv 1904.09751); slide S02.

    >>> next_token_probabilities(torch.tensor([0.5, 0.3, 0.2]).log(), temperature=1.0, top_p=0.7)
    tensor([0.6250, 0.3750, 0.0000])
    """
    check_number("top_p", top_p, low=0, high=1)
    logits = logits.float()
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    check_positive("temperature", temperature)
    probabilities = (logits / temperature).softmax(-1)
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    likelier = ranked.cumsum(-1) - ranked  # the probability of all words before this one
    ranked = ranked.masked_fill((likelier >= top_p) & (likelier > 0), 0.0)
    kept = torch.zeros_like(ranked).scatter(-1, order, ranked)
    return kept / kept.sum(-1, keepdim=True)
