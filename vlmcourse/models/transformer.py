"""The two halves of a transformer layer: mixing between tokens, and one MLP on each (slides S21 to S24)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, overload

from torch import Tensor, nn

from vlmcourse.ops._checks import check_floating, check_positive_int
from vlmcourse.ops.attention import KeyValueCache, MultiHeadSelfAttention


class MLP(nn.Module):
    """One hidden layer with GELU, applied to the last axis: to every token, the same.

    Shapes:
        ``(..., in_features)`` → ``(..., out_features)``; ``out_features`` is ``in_features`` unless given.

    Raises:
        ValueError: a size below one, or an input of another width.
        TypeError: an input that is not floating point.

    Source:
        Vaswani et al. 2017, section 3.3 (arXiv 1706.03762), with the GELU of ViT; slides S21 and S24.

    >>> import torch
    >>> MLP(6, 12)(torch.rand(2, 5, 6)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int | None = None) -> None:
        super().__init__()
        out_features = in_features if out_features is None else out_features
        check_positive_int("in_features", in_features)
        check_positive_int("hidden_features", hidden_features)
        check_positive_int("out_features", out_features)
        self.in_proj = nn.Linear(in_features, hidden_features)
        self.activation = nn.GELU()
        self.out_proj = nn.Linear(hidden_features, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output, one vector for each input vector."""
        check_floating("inputs", inputs)
        if inputs.shape[-1] != self.in_proj.in_features:
            raise ValueError(f"inputs must have width {self.in_proj.in_features}, received {inputs.shape[-1]}")
        return self.out_proj(self.activation(self.in_proj(inputs)))


class TransformerBlock(nn.Module):
    """Mix the tokens, then transform each one; both add to what came in (pre-norm residuals).

    The lecture's layer has neither the residuals nor the normalisation: ``residual=False`` and ``norm=False`` take
    them away, so that their effect can be measured.

    Shapes:
        tokens ``(b, n, embed_dim)`` → ``(b, n, embed_dim)``. A boolean ``mask``, broadcastable to
        ``(b, num_heads, n, n)``, is True where i may look at j. A ``cache`` holds the keys and values of earlier
        tokens; the last n then counts them too. ``return_weights=True`` adds α, ``(b, num_heads, n, n)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``embed_dim``, a size below one, or tokens of another shape.
        TypeError: tokens that are not floating point, or a mask that is not boolean.

    Source:
        Dosovitskiy et al. 2021, equations 2 and 3 (arXiv 2010.11929); slide S24.

    >>> import torch
    >>> TransformerBlock(embed_dim=6, num_heads=2)(torch.rand(2, 5, 6)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, mlp_ratio: float = 4.0, residual: bool = True, norm: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention_norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()
        self.attention = MultiHeadSelfAttention(embed_dim, num_heads)
        self.mlp_norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()
        self.mlp = MLP(embed_dim, round(mlp_ratio * embed_dim))

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = ...,
        cache: KeyValueCache | None = ...,
        return_weights: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = ...,
        cache: KeyValueCache | None = ...,
        return_weights: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the tokens after one layer, and the attention's α if asked."""
        normed = self.attention_norm(tokens)
        if return_weights:
            mixed, weights = self.attention(normed, mask=mask, cache=cache, return_weights=True)
        else:
            mixed = self.attention(normed, mask=mask, cache=cache)
        tokens = tokens + mixed if self.residual else mixed
        transformed = self.mlp(self.mlp_norm(tokens))
        tokens = tokens + transformed if self.residual else transformed
        return (tokens, weights) if return_weights else tokens


@contextmanager
def readable_attention(model: nn.Module) -> Iterator[None]:
    """Let every attention in ``model`` run its readable form for a while, the one that can return its weights.

    >>> import torch
    >>> block = TransformerBlock(embed_dim=6, num_heads=2)
    >>> with readable_attention(block):
    ...     tokens, weights = block(torch.rand(1, 5, 6), return_weights=True)
    >>> weights.shape, block.attention.backend
    (torch.Size([1, 2, 5, 5]), 'fused')
    """
    attentions = [part for part in model.modules() if isinstance(part, MultiHeadSelfAttention)]
    before = [attention.backend for attention in attentions]
    for attention in attentions:
        attention.backend = "einops"
    try:
        yield
    finally:
        for attention, backend in zip(attentions, before, strict=True):
            attention.backend = backend
