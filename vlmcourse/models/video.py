"""Networks that classify clips: each frame for itself, frames as a sequence, or space and time at once (S10 to S12).

All four take a clip of any length, from one frame, and have at their defaults about the same number of parameters.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from vlmcourse._checks import Backend, as_sizes, check_floating, check_positive_ints
from vlmcourse._precision import no_autocast
from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.models.transformer import MLP, TransformerBlock
from vlmcourse.ops.convolution import AXES, Conv3d


class FrameEncoder(nn.Module):
    """One encoder for every frame of a clip; its vectors are centred by batch normalisation (arXiv 1502.03167)."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.encoder = ConvEncoder(in_channels=in_channels, width=width)
        self.embed_dim = self.encoder.embed_dim
        self.norm = nn.BatchNorm1d(self.embed_dim)

    def forward(self, clips: Tensor) -> Tensor:
        """Return one vector per frame, ``(b, t, embed_dim)``, of clips ``(b, in_channels, t, h, w)``."""
        check_clips(clips)
        vectors = self.norm(self.encoder(rearrange(clips, "b c t h w -> (b t) c h w")))
        return rearrange(vectors, "(b t) d -> b t d", b=len(clips))


class FrameAverage(nn.Module):
    """Look at each frame alone and average what was seen: the baseline that cannot know the order of the frames.

    ``width`` counts channels of the frame encoder's first stage, ``embed_dim`` the numbers that are classified.

    Source:
        Karpathy et al. 2014, the single-frame and late-fusion baselines. Slide S11.

    >>> FrameAverage(num_classes=5)(torch.rand(2, 3, 8, 20, 20)).shape
    torch.Size([2, 5])
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, width: int = 8, embed_dim: int = 64) -> None:
        super().__init__()
        check_positive_ints(num_classes=num_classes, embed_dim=embed_dim)
        self.frames = FrameEncoder(in_channels, width)
        self.mlp = MLP(self.frames.embed_dim, 4 * embed_dim, embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return one score per class, ``(b, num_classes)``, of clips ``(b, in_channels, t, h, w)``."""
        vectors = self.mlp(self.frames(clips))
        return self.head(reduce(vectors, "b t d -> b d", "mean"))


class CNNLSTM(nn.Module):
    """Turn each frame into a vector, read the vectors in order with an LSTM, and classify its last state.

    Source:
        Hochreiter and Schmidhuber 1997; Donahue et al. 2015 (arXiv 1411.4389). Slide S11.

    >>> CNNLSTM(num_classes=5)(torch.rand(2, 3, 8, 20, 20)).shape
    torch.Size([2, 5])
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, width: int = 8, embed_dim: int = 64) -> None:
        super().__init__()
        check_positive_ints(num_classes=num_classes, embed_dim=embed_dim)
        self.frames = FrameEncoder(in_channels, width)
        self.lstm = nn.LSTM(self.frames.embed_dim, embed_dim, batch_first=True)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return one score per class, ``(b, num_classes)``, of clips ``(b, in_channels, t, h, w)``."""
        vectors = self.frames(clips)
        with no_autocast(vectors):  # cuDNN's LSTM would take float16, whatever autocast is set to
            states, _ = self.lstm(vectors.to(self.lstm.weight_ih_l0.dtype))
        return self.head(states[:, -1])


class CNNTransformer(nn.Module):
    """Turn each frame into a vector, add when it was shown, let the frames attend to each other, and average.

    Source:
        Vaswani et al. 2017, section 3.5 for the sinusoids (arXiv 1706.03762). Slide S11.

    >>> CNNTransformer(num_classes=5)(torch.rand(2, 3, 8, 20, 20)).shape
    torch.Size([2, 5])
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, width: int = 8, embed_dim: int = 64) -> None:
        super().__init__()
        check_positive_ints(num_classes=num_classes, embed_dim=embed_dim)
        self.frames = FrameEncoder(in_channels, width)
        self.frame_proj = nn.Linear(self.frames.embed_dim, embed_dim)
        self.blocks = nn.Sequential(TransformerBlock(embed_dim, num_heads=4))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return one score per class, ``(b, num_classes)``, of clips ``(b, in_channels, t, h, w)``."""
        tokens = self.frame_proj(self.frames(clips))
        tokens = self.norm(self.blocks(tokens + sinusoids(tokens)))
        return self.head(reduce(tokens, "b t d -> b d", "mean"))


class CNN3D(nn.Module):
    """Convolve over space and time at once: three 3D convolutions, then the average over all places and times.

    The first has ``width`` channels; each further one doubles them and halves height and width. ``kernel_size`` is odd,
    one number or (time, height, width). ``backend``: see :class:`~vlmcourse.Conv3d`.

    Source:
        Tran et al. 2015 (arXiv 1412.0767), with batch normalisation and strides in place of pooling. Slides S11, S12.

    >>> CNN3D(num_classes=5)(torch.rand(2, 3, 8, 20, 20)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: int = 16,
        kernel_size: int | Sequence[int] = 3,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        check_positive_ints(num_classes=num_classes, in_channels=in_channels, width=width)
        kernel = as_sizes("kernel_size", kernel_size, axes=AXES, minimum=1)
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(f"kernel_size must be odd, so that the clip keeps its length, received {kernel_size}")
        self.layers = nn.Sequential()
        options: dict[str, Any] = {"padding": [size // 2 for size in kernel], "bias": False, "backend": backend}
        for stride, out_channels in ((1, width), (2, 2 * width), (2, 4 * width)):
            convolution = Conv3d(in_channels, out_channels, kernel, stride=(1, stride, stride), **options)
            self.layers.extend([convolution, nn.BatchNorm3d(out_channels), nn.ReLU()])
            in_channels = out_channels
        self.head = nn.Linear(4 * width, num_classes)

    def feature_map(self, clips: Tensor) -> Tensor:
        """Return one vector for every place and time, ``(b, 4 * width, t, h', w')``."""
        check_clips(clips)
        return self.layers(clips)

    def forward(self, clips: Tensor) -> Tensor:
        """Return one score per class, ``(b, num_classes)``, of clips ``(b, in_channels, t, h, w)``."""
        return self.head(reduce(self.feature_map(clips), "b d t h w -> b d", "mean"))


def sinusoids(tokens: Tensor) -> Tensor:
    """Return the sinusoidal position encoding of the times 0 to t - 1.

    Shapes:
        tokens ``(b, t, d)``, of which only shape, dtype and device count → ``(t, d)``, with d even.

    Source:
        Vaswani et al. 2017, section 3.5 (arXiv 1706.03762).

    >>> sinusoids(torch.zeros(1, 2, 4))
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    t, d = tokens.shape[-2:]
    if d % 2:
        raise ValueError(f"embed_dim must be even, a sine and a cosine for each wave, received {d}")
    # On the CPU, since Apple's GPUs have no float64.
    frequencies = 10_000 ** (-torch.arange(0, d, 2, dtype=torch.float64, device="cpu") / d)
    angles = torch.arange(t, dtype=torch.float64, device="cpu")[:, None] * frequencies
    return rearrange(torch.stack([angles.sin(), angles.cos()]), "pair t d -> t (d pair)").to(tokens)


def check_clips(clips: Tensor) -> None:
    """Raise unless ``clips`` are floating point, (b, c, t, h, w); for images the message says how to make clips."""
    if isinstance(clips, Tensor) and clips.ndim == 4:
        hint = "for a clip of one frame try images[:, :, None]"
        raise ValueError(f"clips must have shape (b c t h w), received {tuple(clips.shape)}; {hint}")
    check_floating("clips", clips, "b c t h w")
