"""The two halves of a transformer layer: mixing between tokens, and one MLP on each (slides S21 to S24)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vlmcourse._checks import check_positive_ints
from vlmcourse.ops.attention import KeyValueCache, MultiHeadSelfAttention


def small_weights(*shape: int) -> nn.Parameter:
    """Return learned vectors that start small, with a standard deviation of 0.02."""
    weights = torch.empty(*shape)
    # The meta device stores no numbers, and a draw there would import half of PyTorch's compiler.
    return nn.Parameter(weights if weights.is_meta else weights.normal_().mul_(0.02))


class MLP(nn.Module):
    """One hidden layer with GELU, applied to the last axis: to every token, the same.

    Shapes:
        ``(..., in_features)`` → ``(..., out_features)``; ``out_features`` is ``in_features`` unless given.

    Source:
        Vaswani et al. 2017, section 3.3 (arXiv 1706.03762), with the GELU of ViT; slides S21 and S24.

    >>> MLP(6, 12)(torch.rand(2, 5, 6)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int | None = None) -> None:
        super().__init__()
        out_features = in_features if out_features is None else out_features
        check_positive_ints(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        self.in_proj = nn.Linear(in_features, hidden_features)
        self.activation = nn.GELU()
        self.out_proj = nn.Linear(hidden_features, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output, one vector for each input vector."""
        return self.out_proj(self.activation(self.in_proj(inputs)))


class TransformerBlock(nn.Module):
    """Mix the tokens, then transform each one; both add to what came in (pre-norm residuals).

    The lecture's layer has no residuals and no norms: ``residual=False`` and ``norm=False`` take them away.

    Shapes:
        tokens ``(b, n, embed_dim)`` → the same shape; ``mask``, ``cache``: :class:`~vlmcourse.MultiHeadSelfAttention`.

    Source:
        Dosovitskiy et al. 2021, equations 2 and 3 (arXiv 2010.11929); slide S24.

    >>> TransformerBlock(embed_dim=6, num_heads=2)(torch.rand(2, 5, 6)).shape
    torch.Size([2, 5, 6])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        residual: bool = True,
        norm: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention_norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norm else nn.Identity()
        self.attention = MultiHeadSelfAttention(embed_dim, num_heads)
        self.mlp_norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norm else nn.Identity()
        self.mlp = MLP(embed_dim, round(mlp_ratio * embed_dim))

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Return the tokens after one layer."""
        mixed = self.attention(self.attention_norm(tokens), mask=mask, cache=cache)
        tokens = tokens + mixed if self.residual else mixed
        transformed = self.mlp(self.mlp_norm(tokens))
        return tokens + transformed if self.residual else transformed


@contextmanager
def record_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect α, ``(b, num_heads, n, n)``, of every attention in ``model`` that runs meanwhile, with ``"einops"``.

    >>> block = TransformerBlock(embed_dim=6, num_heads=2)
    >>> with record_attention(block) as maps:
    ...     tokens = block(torch.rand(1, 5, 6))
    >>> [weights.shape for weights in maps]
    [torch.Size([1, 2, 5, 5])]
    """
    before = {part: part.record for part in model.modules() if isinstance(part, MultiHeadSelfAttention)}
    if not before:
        raise ValueError(f"model must hold MultiHeadSelfAttention to be recorded, received {type(model).__name__}")
    maps: list[Tensor] = []
    try:
        for attention in before:
            attention.record = maps
        yield maps
    finally:
        for attention, record in before.items():
            attention.record = record
