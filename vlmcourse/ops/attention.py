"""Self-attention: every token becomes a weighted average of all tokens (slides S23 and S24)."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from vlmcourse._checks import (
    Backend,
    check_backend,
    check_divides,
    check_floating,
    check_mask,
    check_positive_ints,
    check_same_kind,
)
from vlmcourse._precision import no_autocast, widened


def attention_weights(queries: Tensor, keys: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return α, how much query i attends to key j: the softmax over j of q·k / √d.

    The lecture leaves α open. Scores and softmax are computed in float32 or wider, also under autocast.

    Shapes:
        queries ``(..., i, d)``, keys ``(..., j, d)`` → weights ``(..., i, j)``; every row sums to one. A boolean
        ``mask``, broadcastable to these, is True where i may look at j; a row that may look nowhere is all zeros.

    Source:
        Vaswani et al. 2017, equation 1 (arXiv 1706.03762); slide S23.

    >>> tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> attention_weights(tokens, tokens)
    tensor([[0.6698, 0.3302],
            [0.3302, 0.6698]])
    """
    _check_queries_and_keys(queries, keys)
    q, k = widened(queries, keys)
    with no_autocast(queries):
        # Dividing the queries by √d, not the scores: for long sequences these are many more numbers.
        scores = einsum(q / q.shape[-1] ** 0.5, k, "... i d, ... j d -> ... i j")
    if mask is not None:
        check_mask(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(dim=-1).to(queries.dtype)
    # The softmax of a row masked entirely is NaN; let it attend to nothing, as PyTorch's kernel does on the CPU.
    return weights if mask is None else weights.masked_fill(~mask, 0.0)


def self_attention(queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mix the values: v'_i = Σ_j α_ij v_j, with α from :func:`attention_weights`.

    Equal to :func:`torch.nn.functional.scaled_dot_product_attention`, which never writes α down.

    Shapes:
        queries ``(..., i, d)``, keys ``(..., j, d)``, values ``(..., j, dv)`` → ``(..., i, dv)``.

    Source:
        Vaswani et al. 2017, equation 1 (arXiv 1706.03762); slide S23.

    >>> same = torch.zeros(1, 3, 2)  # three tokens that match equally well
    >>> self_attention(same, same, torch.tensor([[[0.0], [3.0], [6.0]]])).flatten()
    tensor([3., 3., 3.])
    """
    weights = attention_weights(queries, keys, mask=mask)
    check_floating("values", values, "... n d")
    if values.shape[:-1] != keys.shape[:-1]:
        expected = ", ".join(map(str, keys.shape[:-1]))
        raise ValueError(f"values must come one a key, shape ({expected}, dv), received {tuple(values.shape)}")
    check_same_kind(queries=queries, values=values)
    return einsum(weights, values, "... i j, ... j d -> ... i d")


class KeyValueCache:
    """The keys and values that one attention layer has computed, so that generating text need not compute them again.

    Each layer needs its own: hand it to every call, together with the new tokens alone. It makes nothing causal: of
    several new tokens each attends to all, unless a ``mask`` forbids it.

    Shapes:
        keys and values ``(b, num_heads, j, d)``, with j growing; None before the first call.

    Source:
        Shazeer 2019, section 2.4 (arXiv 1911.02150), for its cost; the language model of slide S03.

    >>> attention, cache, tokens = MultiHeadSelfAttention(6, 2), KeyValueCache(), torch.rand(1, 3, 6)
    >>> mixed = [attention(token, cache=cache) for token in tokens.split(1, dim=1)]
    >>> torch.allclose(mixed[-1], attention(tokens)[:, -1:], atol=1e-6)
    True
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of the new tokens, and return those of all tokens."""
        if self.keys is not None and self.values is not None:
            old, new = self.keys.shape, keys.shape
            if (*old[:2], old[3]) != (*new[:2], new[3]):
                raise ValueError(f"cache holds keys (b, num_heads, j, d) of shape {tuple(old)}, received {tuple(new)}")
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class MultiHeadSelfAttention(nn.Module):
    """Several attentions side by side, each with its own projections of the whole embedding.

    ``backend="fused"`` runs PyTorch's kernel; ``"einops"``, the same written out, can return α; its memory grows as n².
    You may set ``backend`` at any time. Weights are laid out as in :class:`torch.nn.MultiheadAttention`. No dropout.

    Shapes:
        tokens ``(b, n, embed_dim)`` → ``(b, n, embed_dim)``; with ``return_weights=True`` also α,
        ``(b, num_heads, n, n)``. A boolean ``mask`` is broadcast to it, True where i may look at j. With a ``cache``
        the last n counts the tokens in it too.

    Source:
        Vaswani et al. 2017, section 3.2.2 (arXiv 1706.03762); slides S23 and S24.

    >>> attention = MultiHeadSelfAttention(embed_dim=6, num_heads=2, backend="einops")
    >>> mixed, weights = attention(torch.rand(1, 5, 6), return_weights=True)
    >>> mixed.shape, weights.shape
    (torch.Size([1, 5, 6]), torch.Size([1, 2, 5, 5]))
    """

    def __init__(self, embed_dim: int, num_heads: int, *, backend: Backend = "fused") -> None:
        super().__init__()
        check_positive_ints(embed_dim=embed_dim, num_heads=num_heads)
        check_divides("num_heads", num_heads, embed_dim=embed_dim)
        check_backend(backend)
        self.embed_dim, self.num_heads, self.backend = embed_dim, num_heads, backend
        self.record: list[Tensor] | None = None  # a list here collects α, see record_attention
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the mixed tokens, and α if asked."""
        check_backend(self.backend)
        if tokens.ndim != 3 or tokens.shape[-1] != self.embed_dim:
            shape = tuple(tokens.shape)
            raise ValueError(f"tokens must have shape (b, n, embed_dim={self.embed_dim}), received {shape}")
        if return_weights and self.backend == "fused":
            raise ValueError("return_weights=True needs backend='einops': the fused kernel never forms the weights")
        projected = self.qkv_proj(tokens)
        queries, keys, values = rearrange(projected, "b n (qkv head d) -> qkv b head n d", qkv=3, head=self.num_heads)
        known = 0 if cache is None or cache.keys is None else cache.keys.shape[2]
        if mask is not None:  # before the cache grows: an error leaves it as it was
            check_mask(mask, (*queries.shape[:-1], known + keys.shape[-2]))
        if cache is not None:
            keys, values = cache.extend(keys, values)
        if self.backend == "einops" or self.record is not None:
            weights = attention_weights(queries, keys, mask=mask)
            if self.record is not None:
                self.record.append(weights)
            mixed = einsum(weights, values, "b head i j, b head j d -> b head i d")
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        mixed = self.out_proj(rearrange(mixed, "b head n d -> b n (head d)"))
        return (mixed, weights) if return_weights else mixed


def _check_queries_and_keys(queries: Tensor, keys: Tensor) -> None:
    check_floating("queries", queries, "... n d")
    check_floating("keys", keys, "... n d")
    if keys.shape[:-2] != queries.shape[:-2] or keys.shape[-1] != queries.shape[-1]:
        agree = f"agree with queries, shape {tuple(queries.shape)}, in all but the number of tokens"
        raise ValueError(f"keys must {agree}, received {tuple(keys.shape)}")
    check_same_kind(queries=queries, keys=keys)
