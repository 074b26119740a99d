"""From an encoder's vectors to vectors that stand among the words' (slide S03)."""

from einops import rearrange
from torch import Tensor, nn

from vlmcourse._checks import as_pair, check_divides, check_positive_ints
from vlmcourse.models._config import arguments
from vlmcourse.models.transformer import MLP, small_weights


class Connector(nn.Module):
    """Map an encoder's vectors into the space of word embeddings: a norm, an MLP, and a learned position.

    With ``reduction=2``, 2 × 2 neighbouring vectors are joined into one before the MLP ("pixel shuffle").

    Shapes:
        feature map ``(b, in_features, h, w)`` or tokens ``(b, h*w, in_features)`` → ``(b, num_tokens, out_features)``,
        row by row, with ``num_tokens = h * w / reduction**2``. The argument ``grid_size`` is ``(h, w)``, or ``(1, n)``
        for n tokens in no grid; the attribute is the grid after the reduction.

    Source:
        Liu et al. 2023, "Improved baselines", section 3, for the MLP (arXiv 2310.03744); Laurençon et al. 2024,
        section 2, for pixel shuffle (arXiv 2408.12637). Slide S03.

    >>> import torch
    >>> Connector(5, 7, grid_size=(4, 6), reduction=2)(torch.rand(3, 5, 4, 6)).shape
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
        self.config = arguments(locals())
        check_positive_ints(in_features=in_features, out_features=out_features, reduction=reduction)
        height, width = as_pair("grid_size", grid_size)
        check_divides("reduction", reduction, height=height, width=width)
        self.in_features, self.out_features, self.reduction = in_features, out_features, reduction
        self.in_grid = (height, width)
        self.grid_size = (height // reduction, width // reduction)
        self.num_tokens = self.grid_size[0] * self.grid_size[1]
        joined = in_features * reduction**2
        self.norm = nn.LayerNorm(joined)
        self.mlp = MLP(joined, 2 * out_features if hidden_features is None else hidden_features, out_features)
        self.position_embedding = small_weights(self.num_tokens, out_features)

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per place, as wide as a word's."""
        (height, width), r = self.in_grid, self.reduction
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if shape[1:] == (height * width, self.in_features):
            features = rearrange(features, "b (h w) d -> b d h w", h=height)
        elif shape[1:] != (self.in_features, height, width):
            expected = f"(b, {self.in_features}, {height}, {width}) or (b, {height * width}, {self.in_features})"
            hint = "set in_features and grid_size to what the encoder gives for each place; a class token counts as one"
            raise ValueError(f"features must have shape {expected}, received {shape}; {hint}")
        joined = rearrange(features, "b d (h rh) (w rw) -> b (h w) (rh rw d)", rh=r, rw=r)
        return self.mlp(self.norm(joined)) + self.position_embedding
