"""Convolution over space and time, and how far a network looks (slides S12 and S16 to S19)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from vlmcourse.ops._checks import (
    Backend,
    as_sizes,
    check_backend,
    check_floating,
    check_positive_int,
    check_rank,
    check_same_kind,
)

AXES = ("time", "height", "width")


def conv3d(
    clips: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """Convolve clips over time, height and width, in readable form.

    Each output is the sum, over a window kt × kh × kw and all input channels, of weight times input, plus a bias. The
    windows are a view, but the product over them is not: this form needs many times the memory of PyTorch's
    :func:`torch.nn.functional.conv3d`, which it equals.

    Shapes:
        clips ``(b, c_in, t, h, w)``, weight ``(c_out, c_in, kt, kh, kw)``, bias ``(c_out,)`` →
        ``(b, c_out, t', h', w')`` with ``t' = (t + 2·padding - kt) // stride + 1``, and so for the other axes.

    Units:
        ``stride`` and ``padding`` count frames and pixels: one integer, or three as (time, height, width).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a stride below one, a negative padding, or a kernel
            larger than the padded clip.
        TypeError: tensors that are not floating point, or a stride or padding that is not made of integers.

    Source:
        Slide S12, with its indices repaired: the kernel offset and the output time were the same letter, and space
        and time shared one stride. Tran et al. 2015 (arXiv 1412.0767).

    >>> import torch
    >>> clip = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4, 1, 1)  # one pixel, four frames
    >>> difference = torch.tensor([-1.0, 1.0]).reshape(1, 1, 2, 1, 1)
    >>> conv3d(clip, difference).flatten()
    tensor([1., 2., 4.])
    """
    stride_t, stride_h, stride_w = _triple("stride", stride, minimum=1)
    pad_t, pad_h, pad_w = _triple("padding", padding, minimum=0)
    _check_conv3d(clips, weight, bias, padding=(pad_t, pad_h, pad_w))
    kt, kh, kw = weight.shape[2:]
    padded = F.pad(clips, (pad_w, pad_w, pad_h, pad_h, pad_t, pad_t))
    windows = padded.unfold(2, kt, stride_t).unfold(3, kh, stride_h).unfold(4, kw, stride_w)
    out = einsum(windows, weight, "b c_in t h w kt kh kw, c_out c_in kt kh kw -> b c_out t h w")
    return out if bias is None else out + rearrange(bias, "c_out -> c_out 1 1 1").to(out.dtype)


class Conv3d(nn.Conv3d):
    """A 3D convolution layer with the weights and initialisation of :class:`torch.nn.Conv3d`.

    ``backend="fused"`` runs PyTorch's kernel, ``backend="einops"`` the readable :func:`conv3d`; ``backend`` may be
    changed on the module at any time.

    Shapes:
        clips ``(b, in_channels, t, h, w)`` → ``(b, out_channels, t', h', w')``, see :func:`conv3d`.

    Units:
        ``kernel_size``, ``stride`` and ``padding`` count frames and pixels: one integer, or three as
        (time, height, width).

    Raises:
        ValueError: sizes below their minimum, an unknown backend, or clips that do not fit the weights.
        TypeError: sizes that are not integers, or clips that are not floating point.

    Source:
        Tran et al. 2015 (arXiv 1412.0767); slides S11 and S12.

    >>> import torch
    >>> layer = Conv3d(3, 5, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2))
    >>> layer(torch.rand(1, 3, 8, 20, 20)).shape
    torch.Size([1, 5, 8, 10, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        bias: bool = True,
        backend: Backend = "fused",
    ) -> None:
        check_positive_int("in_channels", in_channels)
        check_positive_int("out_channels", out_channels)
        check_backend(backend)
        super().__init__(
            in_channels,
            out_channels,
            _triple("kernel_size", kernel_size, minimum=1),
            stride=_triple("stride", stride, minimum=1),
            padding=_triple("padding", padding, minimum=0),
            bias=bias,
        )
        self.backend = backend

    def forward(self, clips: Tensor) -> Tensor:
        """Return the convolved clips."""
        check_backend(self.backend)
        assert not isinstance(self.padding, str)  # nn.Conv3d would allow a word, this constructor does not
        if self.backend == "einops":
            return conv3d(clips, self.weight, self.bias, stride=self.stride, padding=self.padding)
        _check_conv3d(clips, self.weight, self.bias, padding=self.padding)
        return super().forward(clips)


def receptive_field(module: nn.Module, inputs: Tensor, *, position: Sequence[int] | None = None) -> Tensor:
    """Measure by gradients how strongly each input location moves one output location.

    The map is the mean over the batch, and the sum over input channels, of ``|∂ output / ∂ input|``. Where it is zero
    the output cannot see; that border is the theoretical receptive field, and the bulk of the map inside it is
    the effective one. The module is measured in eval mode, so that batch statistics do not connect what the layers
    leave apart, and is handed back in the mode it came in. Its parameters collect no gradient.

    Shapes:
        inputs ``(b, c, h, w)`` or ``(b, c, t, h, w)``, usually noise; the module must return ``(b, c', ...)`` with as
        many axes. ``position`` is an index into the output's space (and time), by default its centre. → ``(h, w)`` or
        ``(t, h, w)``.

    Raises:
        ValueError: inputs or outputs of another rank, or a position outside the output.
        TypeError: inputs that are not floating point.

    Source:
        Luo et al. 2016 (arXiv 1701.04128); slides S16 to S19.

    >>> import torch
    >>> two_layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
    >>> seen = receptive_field(two_layers, torch.randn(2, 1, 9, 9)) > 0
    >>> seen.any(dim=0).sum().item(), seen.any(dim=1).sum().item()  # 1 + 2 + 2 pixels each way
    (5, 5)
    """
    layout = "b c t h w" if inputs.ndim == 5 else "b c h w"
    check_rank("inputs", inputs, layout)
    check_floating("inputs", inputs)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.enable_grad():
            probe = inputs.detach().clone().requires_grad_()
            outputs = module(probe)
            check_rank("the module's output", outputs, layout)
            index = tuple(size // 2 for size in outputs.shape[2:]) if position is None else tuple(position)
            if len(index) != outputs.ndim - 2 or any(
                not 0 <= i < size for i, size in zip(index, outputs.shape[2:], strict=True)
            ):
                raise ValueError(f"position must be an index into {tuple(outputs.shape[2:])}, received {position}")
            (gradient,) = torch.autograd.grad(outputs[(slice(None), slice(None), *index)].sum(), probe)
    finally:
        for part, training in modes.items():
            part.training = training
    return reduce(gradient.abs(), "b c ... -> b ...", "sum").mean(dim=0)


def _triple(name: str, value: int | Sequence[int], *, minimum: int) -> tuple[int, int, int]:
    time, height, width = as_sizes(name, value, axes=AXES, minimum=minimum)
    return time, height, width


def _check_conv3d(clips: Tensor, weight: Tensor, bias: Tensor | None, *, padding: Sequence[int]) -> None:
    check_rank("clips", clips, "b c t h w")
    check_rank("weight", weight, "c_out c_in kt kh kw")
    check_floating("clips", clips)
    check_same_kind(clips=clips, weight=weight)
    if weight.shape[1] != clips.shape[1]:
        raise ValueError(f"weight must take the clips' {clips.shape[1]} channels, received c_in={weight.shape[1]}")
    for axis, size, kernel, pad in zip(AXES, clips.shape[2:], weight.shape[2:], padding, strict=True):
        if kernel > size + 2 * pad:
            raise ValueError(
                f"weight must fit into the padded clips: expected at most {size + 2 * pad} along {axis}, "
                f"received {kernel}; try a smaller kernel or more padding"
            )
    if bias is not None:
        check_rank("bias", bias, "c_out")
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(
                f"bias must have one entry for each of {weight.shape[0]} outputs, received {bias.shape[0]}"
            )
        check_same_kind(clips=clips, bias=bias)
