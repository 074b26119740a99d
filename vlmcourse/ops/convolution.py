"""Convolution over space and time, and how far a network looks (slides S12 and S16 to S19)."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlmcourse._checks import Backend, Sizes, as_sizes, check_backend, check_floating, check_rank, check_same_kind
from vlmcourse.ops._modes import evaluating

AXES = ("time", "height", "width")


def conv3d(
    clips: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: Sizes = 1, padding: Sizes = 0
) -> Tensor:
    """Convolve clips over time, height and width, in readable form.

    Each output is the sum, over a window kt × kh × kw and all input channels, of weight times input, plus a bias, as
    in :func:`torch.nn.functional.conv3d`, which is faster. One row of the window is taken at a time, and again in the
    backward pass, to save memory (so ``torch.func`` cannot differentiate it); in half precision float32 sums the rows.

    Shapes:
        clips ``(b, c_in, t, h, w)``, weight ``(c_out, c_in, kt, kh, kw)``, bias ``(c_out,)`` →
        ``(b, c_out, t', h', w')`` with ``t' = (t + 2·padding - kt) // stride + 1``, and so for the other axes.
        ``stride`` and ``padding`` count frames and pixels: one integer, or three as (time, height, width).

    Source:
        Slide S12, its indices repaired as the errata say; Tran et al. 2015 (arXiv 1412.0767).

    >>> clip = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4, 1, 1)  # one pixel, four frames
    >>> difference = torch.tensor([-1.0, 1.0]).reshape(1, 1, 2, 1, 1)
    >>> conv3d(clip, difference).flatten()
    tensor([1., 2., 4.])
    """
    step_t, step_h, step_w = _triple("stride", stride, minimum=1)
    pad_t, pad_h, pad_w = _triple("padding", padding, minimum=0)
    check_rank("weight", weight, "c_out c_in kt kh kw")
    _check_clips(clips, weight, (pad_t, pad_h, pad_w), channels="c_in", kernel="weight")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have one entry for each of {len(weight)} outputs, received {tuple(bias.shape)}")
    padded = F.pad(clips, (pad_w, pad_w, pad_h, pad_h, pad_t, pad_t))
    kt, kh, kw = weight.shape[2:]
    fits_t, fits_h = padded.shape[2] - kt + 1, padded.shape[3] - kh + 1  # positions of the window at stride 1
    # With the channels last in memory, what follows is a plain product of matrices.
    padded = rearrange(padded, "b c_in t h w -> b t h w c_in").contiguous()
    rows = rearrange(weight, "c_out c_in kt kh kw -> (kt kh) c_out kw c_in").contiguous()

    def one_row(padded: Tensor, row: Tensor, t: int, h: int) -> Tensor:
        stretches = padded[:, t : t + fits_t : step_t, h : h + fits_h : step_h].unfold(3, kw, step_w)
        return einsum(stretches, row, "b t h w c_in kw, c_out kw c_in -> b t h w c_out")

    terms = (
        checkpoint(one_row, padded, row, *place, use_reentrant=False, preserve_rng_state=False)
        for row, place in zip(rows.unbind(), product(range(kt), range(kh)), strict=True)
    )
    out = first = next(terms)
    for term in terms:
        out = out + term.to(torch.promote_types(term.dtype, torch.float32))
    out = rearrange(out.to(first.dtype), "b t h w c_out -> b c_out t h w")
    return out if bias is None else out + rearrange(bias, "c_out -> c_out 1 1 1").to(out)


class Conv3d(nn.Conv3d):
    """A 3D convolution layer with the weights and initialisation of :class:`torch.nn.Conv3d`.

    ``backend="fused"`` runs PyTorch's kernel, ``"einops"`` the readable :func:`conv3d`; ``backend`` may change.

    Shapes:
        clips ``(b, in_channels, t, h, w)`` → ``(b, out_channels, t', h', w')``, as for :func:`conv3d`.

    Source:
        Tran et al. 2015 (arXiv 1412.0767); slides S11 and S12.

    >>> Conv3d(3, 5, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2))(torch.rand(1, 3, 8, 20, 20)).shape
    torch.Size([1, 5, 8, 10, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        stride: Sizes = 1,
        padding: Sizes = 0,
        bias: bool = True,
        backend: Backend = "fused",
    ) -> None:
        check_backend(backend)
        kernel = _triple("kernel_size", kernel_size, minimum=1)
        strides, pads = _triple("stride", stride, minimum=1), _triple("padding", padding, minimum=0)
        super().__init__(in_channels, out_channels, kernel, stride=strides, padding=pads, bias=bias)
        self.backend = backend

    def forward(self, clips: Tensor) -> Tensor:
        """Return the convolved clips."""
        check_backend(self.backend)
        assert not isinstance(self.padding, str)  # nn.Conv3d would allow a word, this constructor does not
        _check_clips(clips, self.weight, self.padding, channels="in_channels", kernel="kernel_size")
        if self.backend == "einops":
            return conv3d(clips, self.weight, self.bias, stride=self.stride, padding=self.padding)
        return super().forward(clips)


def receptive_field(module: nn.Module, inputs: Tensor, *, position: Sequence[int] | None = None) -> Tensor:
    """Measure by gradients how strongly each input location moves one output location.

    The map is ``|∂ output / ∂ input|`` in eval mode, the output's channels summed first (opposite signs may cancel),
    averaged over the batch and summed over input channels. Where it is not zero lies the theoretical receptive field,
    and where its bulk lies the effective one.

    Shapes:
        inputs ``(b, c, h, w)`` or ``(b, c, t, h, w)``, usually noise → ``(h, w)`` or ``(t, h, w)``. ``position`` is an
        index into the output's space (and time), by default its centre.

    Source:
        Luo et al. 2016 (arXiv 1701.04128); slides S16 to S19.

    >>> two_layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
    >>> seen = receptive_field(two_layers, torch.randn(2, 1, 9, 9)) > 0
    >>> seen.any(dim=0).sum().item(), seen.any(dim=1).sum().item()  # 1 + 2 + 2 pixels each way
    (5, 5)
    """
    layout = "b c t h w" if inputs.ndim == 5 else "b c h w"
    check_floating("inputs", inputs, layout)
    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        probe = inputs.detach().clone().requires_grad_()
        outputs = module(probe)
        check_rank("the module's output", outputs, layout)
        sizes = outputs.shape[2:]
        index = tuple(size // 2 for size in sizes) if position is None else tuple(position)
        if len(index) != len(sizes) or not all(0 <= i < size for i, size in zip(index, sizes, strict=True)):
            raise ValueError(f"position must be an index into {tuple(sizes)}, received {position}")
        (gradient,) = torch.autograd.grad(outputs[:, :, *index].sum(), probe)
    return reduce(gradient.abs(), "b c ... -> b ...", "sum").mean(dim=0)


def _triple(name: str, value: Sizes, *, minimum: int) -> tuple[int, int, int]:
    time, height, width = as_sizes(name, value, axes=AXES, minimum=minimum)
    return time, height, width


def _check_clips(clips: Tensor, weight: Tensor, padding: Sequence[int], *, channels: str, kernel: str) -> None:
    """Raise unless the weight fits the clips; ``channels`` and ``kernel`` are the names of the caller's arguments."""
    check_floating("clips", clips, "b c t h w")
    check_same_kind(clips=clips, weight=weight)
    if clips.shape[1] != weight.shape[1]:
        raise ValueError(f"clips must have {channels}={weight.shape[1]} channels, received {clips.shape[1]}")
    for axis, size, length, pad in zip(AXES, clips.shape[2:], weight.shape[2:], padding, strict=True):
        if length > size + 2 * pad:
            expected, hint = f"at most {size + 2 * pad} along {axis}", "try a smaller kernel or more padding"
            raise ValueError(f"{kernel} must fit into the padded clips: {expected}, received {length}; {hint}")
