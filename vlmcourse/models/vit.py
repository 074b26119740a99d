"""Vision Transformers: the lecture's, line by line, and the standard one (slides S20 to S24)."""

from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from vlmcourse._checks import Sizes, as_pair, check_int, check_positive_ints, check_rank, grid_of_patches
from vlmcourse._precision import widened
from vlmcourse.models._config import arguments
from vlmcourse.models.transformer import MLP, TransformerBlock, record_attention, small_weights
from vlmcourse.ops.attention import MultiHeadSelfAttention
from vlmcourse.ops.patches import PatchEmbed

Pool = Literal["class", "mean", "flatten"]


class SlideViT(nn.Module):
    """The Vision Transformer as the lecture writes it: no positions, no residuals, no normalisation.

    Patches → one linear map → (self-attention → the same MLP on every vector) × depth → flatten → MLP.

    Source:
        Slide S24, with the attention weights of Vaswani et al. 2017 (arXiv 1706.03762), which the slide leaves open.

    >>> model = SlideViT(image_size=8, patch_size=4, embed_dim=6, depth=2, num_heads=2, num_classes=5)
    >>> model(torch.rand(3, 3, 8, 8)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        *,
        image_size: Sizes,
        patch_size: Sizes,
        num_classes: int,
        in_channels: int = 3,
        embed_dim: int = 64,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.image_size = as_pair("image_size", image_size)
        (nh, nw), _ = grid_of_patches(image_size, patch_size)
        check_int("depth", depth)
        hidden = round(mlp_ratio * embed_dim)
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.layers = nn.Sequential()
        for _ in range(depth):
            self.layers.extend([MultiHeadSelfAttention(embed_dim, num_heads), MLP(embed_dim, hidden)])
        self.head = MLP(nh * nw * embed_dim, hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return one score per class, ``(b, num_classes)``, of images ``(b, in_channels, *image_size)``."""
        _check_size(images, self.image_size)
        tokens = self.layers(self.patch_embed(images))
        return self.head(rearrange(tokens, "b n d -> b (n d)"))


class VisionTransformer(nn.Module):
    """The standard Vision Transformer: patches, positions, pre-norm residual layers, a final norm, one vector.

    Shapes:
        images ``(b, in_channels, *image_size)`` → vectors ``(b, embed_dim)``, or scores ``(b, num_classes)``.

    Options:
        pool: the vector is the ``"class"`` token, which takes part in every layer, the ``"mean"`` of the patches, or
        all of them by ``"flatten"``, ``n * embed_dim`` numbers, as in the lecture. positions, residual, norm: False
        takes an ingredient away. norm_eps: what every norm adds to the variance.

    Source:
        Dosovitskiy et al. 2021, equations 1 to 4, section 3.2 for other sizes (arXiv 2010.11929); slides S20 to S24.

    >>> encoder = VisionTransformer(image_size=(8, 12), patch_size=4, embed_dim=6, depth=2, num_heads=3)
    >>> images = torch.rand(5, 3, 8, 12)
    >>> encoder(images).shape, encoder.feature_map(images).shape
    (torch.Size([5, 6]), torch.Size([5, 6, 2, 3]))
    """

    def __init__(
        self,
        *,
        image_size: Sizes,
        patch_size: Sizes,
        num_classes: int | None = None,
        in_channels: int = 3,
        embed_dim: int = 64,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        pool: Pool = "class",
        positions: bool = True,
        residual: bool = True,
        norm: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.config = arguments(locals())
        self.image_size = as_pair("image_size", image_size)
        self.grid_size, _ = grid_of_patches(image_size, patch_size)
        check_positive_ints(depth=depth, num_classes=1 if num_classes is None else num_classes)
        if pool not in ("class", "mean", "flatten"):
            raise ValueError(f"pool must be 'class', 'mean' or 'flatten', received {pool!r}")
        self.embed_dim, self.pool = embed_dim, pool
        patches = self.grid_size[0] * self.grid_size[1]
        tokens = patches + 1 if pool == "class" else patches
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if pool == "class" else None
        self.position_embedding = small_weights(1, tokens, embed_dim) if positions else None
        options: dict[str, Any] = {"mlp_ratio": mlp_ratio, "residual": residual, "norm": norm, "norm_eps": norm_eps}
        self.blocks = nn.Sequential(*[TransformerBlock(embed_dim, num_heads, **options) for _ in range(depth)])
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norm else nn.Identity()
        width = patches * embed_dim if pool == "flatten" else embed_dim
        self.head = nn.Identity() if num_classes is None else nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return one vector per image, or one score per class if the model has ``num_classes``."""
        tokens = self.tokens(images)
        if self.pool == "flatten":
            return self.head(rearrange(tokens, "b n d -> b (n d)"))
        return self.head(tokens[:, 0] if self.pool == "class" else reduce(tokens, "b n d -> b d", "mean"))

    def tokens(self, images: Tensor) -> Tensor:
        """Return all tokens after the last layer, ``(b, n, embed_dim)``; a class token comes first."""
        _check_size(images, self.image_size)
        tokens = self.patch_embed(images)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding
        return self.norm(self.blocks(tokens))

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the patches' tokens at their places, ``(b, embed_dim, nh, nw)``."""
        tokens = self.tokens(images)
        patches = tokens[:, 1:] if self.pool == "class" else tokens
        return rearrange(patches, "b (nh nw) d -> b d nh nw", nh=self.grid_size[0])

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> Tensor:
        """Return α of every layer and head, ``(b, depth, num_heads, n, n)``; a class token is token 0."""
        with record_attention(self) as maps:
            self.tokens(images)
        return torch.stack(maps, dim=1)

    @torch.no_grad()
    def for_image_size(self, image_size: Sizes) -> "VisionTransformer":
        """Return a copy for images of another size, its positions interpolated as torchvision does.

        >>> model = VisionTransformer(image_size=8, patch_size=4, embed_dim=6, num_heads=3)
        >>> model.for_image_size((8, 12)).feature_map(torch.rand(2, 3, 8, 12)).shape
        torch.Size([2, 6, 2, 3])
        """
        if self.pool == "flatten" and isinstance(self.head, nn.Linear):
            raise ValueError("pool='flatten' has a head with weights for each patch; try pool='mean'")
        model = deepcopy(self)
        model.config = {**self.config, "image_size": image_size}
        model.image_size = as_pair("image_size", image_size)
        model.grid_size, _ = grid_of_patches(image_size, self.config["patch_size"])
        if (old := self.position_embedding) is not None:
            others = 1 if self.pool == "class" else 0  # the class token's
            (grid,) = widened(old[:, others:])
            grid = rearrange(grid, "1 (nh nw) d -> 1 d nh nw", nh=self.grid_size[0])
            grid = F.interpolate(grid, size=model.grid_size, mode="bicubic", align_corners=True)
            places = rearrange(grid, "1 d nh nw -> 1 (nh nw) d").to(old)
            model.position_embedding = nn.Parameter(torch.cat([old[:, :others], places], dim=1), old.requires_grad)
        return model

    @classmethod
    def from_torchvision(cls, model: Any) -> "VisionTransformer":
        """Return this network with the weights of torchvision's ``model``, such as ``torchvision.models.vit_b_16()``.

        A classifier that was replaced by ``nn.Identity()`` gives an encoder.

        >>> from torchvision.models import VisionTransformer as Theirs
        >>> theirs = Theirs(image_size=8, patch_size=4, num_layers=2, num_heads=3, hidden_dim=6, mlp_dim=12).eval()
        >>> images = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(VisionTransformer.from_torchvision(theirs)(images), theirs(images), atol=1e-6)
        True
        """
        if not all(hasattr(model, part) for part in ("conv_proj", "class_token", "encoder", "heads")):
            raise TypeError(f"model must be torchvision's VisionTransformer, received {type(model).__name__}")
        classifier = list(model.heads.children())
        plain = isinstance(model.heads, nn.Identity) or [type(layer) for layer in classifier] == [nn.Linear]
        if not plain or any(layer.bias is None for layer in classifier) or not hasattr(model.conv_proj, "in_channels"):
            raise ValueError(
                "model must make patches by one convolution, and have one linear layer with a bias, or nn.Identity(), "
                f"as its heads; received {type(model.conv_proj).__name__} and {model.heads}"
            )
        ours = cls(
            image_size=model.image_size,
            patch_size=model.patch_size,
            num_classes=classifier[0].out_features if classifier else None,
            in_channels=model.conv_proj.in_channels,
            embed_dim=model.hidden_dim,
            depth=len(model.encoder.layers),
            num_heads=model.encoder.layers[0].num_heads,
            mlp_ratio=model.mlp_dim / model.hidden_dim,
            norm_eps=model.encoder.ln.eps,  # 1e-6, a tenth of PyTorch's default
        ).to(model.class_token)  # before loading, which would round float64 to float32
        state = dict(model.state_dict())  # from input to output, as ours is, but for the positions
        state["conv_proj.weight"] = rearrange(state["conv_proj.weight"], "d c ph pw -> d (ph pw c)")
        weights = [state.pop("class_token"), state.pop("encoder.pos_embedding"), *state.values()]
        ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
        return ours.train(model.training)


def _check_size(images: Tensor, image_size: tuple[int, int]) -> None:
    check_rank("images", images, "b c h w")
    if images.shape[2:] != image_size:
        expected, received = (f"{height} × {width}" for height, width in (image_size, images.shape[2:]))
        hint = f"try F.interpolate(images, size={image_size}), or a VisionTransformer's for_image_size"
        raise ValueError(f"images must have the model's image_size, {expected}, received {received}; {hint}")
