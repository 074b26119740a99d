"""Convolutional encoders: a residual network that turns a small image into a vector (slides S04 to S06)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vlmcourse._checks import as_sizes, check_input, check_positive_ints
from vlmcourse.models._config import arguments


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions, added to their own input, which a 1 × 1 convolution fits to a new size."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's input plus what its two convolutions make of it."""
        change = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        # A 1 × 1 convolution with a stride is one without, on every stride-th pixel. Written so, because on a CPU the
        # former's gradient writes past its memory when channels are few and come last (CHANGELOG, Known).
        return F.relu(self.shortcut(x[..., :: self.stride, :: self.stride]) + change)


class ConvEncoder(nn.Module):
    """A residual network for small images: feature map and vector.

    A 3 × 3 convolution, then stages of residual blocks; after the first, each doubles the channels and halves the map.

    Shapes:
        images ``(b, in_channels, h, w)`` → vectors ``(b, embed_dim)``, any height and width from 2.

    Options:
        width: channels of the first stage. depths: residual blocks in each stage. strides: by how much the stem and
        each stage shrink the map. pool_size: the map is averaged to so many rows and columns, then flattened.

    Source:
        He et al. 2016 (arXiv 1512.03385): figure 3 and section 3.3, option B, for a block, section 4.2 for the stem,
        table 1 for ``resnet18``; Chen et al. 2020, appendix B.9, for its stem (arXiv 2002.05709). Slide S04.

    >>> import torch
    >>> encoder, images = ConvEncoder(), torch.rand(2, 3, 24, 24)
    >>> encoder(images).shape, encoder.feature_map(images).shape
    (torch.Size([2, 256]), torch.Size([2, 64, 6, 6]))
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 16,
        depths: Sequence[int] = (1, 1, 1),
        strides: Sequence[int] | None = None,
        pool_size: int = 2,
    ) -> None:
        super().__init__()
        self.config = arguments(locals())
        check_positive_ints(in_channels=in_channels, width=width, pool_size=pool_size)
        stages = [f"stage {number}" for number in range(1, len(depths) + 1)]
        depths = as_sizes("depths", depths, axes=stages, minimum=1)
        strides = (1, 1, *[2] * (len(depths) - 1)) if strides is None else strides
        strides = as_sizes("strides", strides, axes=["stem", *stages], minimum=1)
        self.in_channels, self.pool_size = in_channels, pool_size
        convolution = nn.Conv2d(in_channels, width, 3, stride=strides[0], padding=1, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential()
        channels = width
        for stage, depth in enumerate(depths):
            out_channels = width * 2**stage
            for stride in (strides[1 + stage], *[1] * (depth - 1)):
                self.stages.append(ResidualBlock(channels, out_channels, stride=stride))
                channels = out_channels
        self.embed_dim = channels * pool_size**2

    @classmethod
    def resnet18(cls, *, in_channels: int = 3) -> "ConvEncoder":
        """Return torchvision's ``resnet18`` with the stem usual for small images, and without the classifier."""
        return cls(in_channels=in_channels, width=64, depths=(2, 2, 2, 2), pool_size=1)

    def feature_map(self, images: Tensor) -> Tensor:
        """Return one vector per place, ``(b, c, h', w')``: the sides divided by all the strides, rounded up."""
        check_input("images", images, "b c h w", in_channels=self.in_channels, weights=next(self.parameters()))
        return self.stages(self.stem(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return one vector per image, ``(b, embed_dim)``: the feature map averaged and flattened."""
        return F.adaptive_avg_pool2d(self.feature_map(images), self.pool_size).flatten(1)
