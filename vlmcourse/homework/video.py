"""Homework 4: convolution over time from its formula, and what the order of frames is worth (slides S10 to S12)."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vlmcourse.homework.checking import ONES, Case, Draw, check
from vlmcourse.ops.convolution import conv3d

ALL = (True, True, True)


def _conv3d(
    clips: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    flip: tuple[int, ...] = (),
    strided: tuple[bool, bool, bool] = ALL,
    padded: tuple[bool, bool, bool] = ALL,
    use_bias: float = 1,
    order: str = "",
    mode: str = "constant",
    scale: str = "",
    one_sided: str = "",
) -> Tensor:
    """Convolve with PyTorch's kernel, with one step done otherwise if asked."""
    sides = [padding * on for on in padded]
    pads = [p for side in reversed(sides) for p in (side, side)]  # F.pad begins with the last axis
    if one_sided:
        pads[4:] = [2 * padding, 0] if one_sided == "past" else [0, 2 * padding]
    if mode == "same":
        pads, mode = [n // 2 for n in reversed(weight.shape[2:]) for _ in range(2)], "constant"
        padding = 1
    if one_sided == "all":
        pads = [0, 2 * padding] * 3
    if padding:
        clips = F.pad(clips, pads, value=1.0) if mode == "ones" else F.pad(clips, pads, mode=mode)
    kernel = weight.flip(flip)
    kernel = rearrange(kernel, f"o c kt kh kw -> o c {order}") if order else kernel
    if scale == "one channel":
        clips, kernel = clips[:, :1], kernel[:, :1]
    if scale == "channel mean":
        kernel = kernel / weight.shape[1]
    if scale == "mean":
        kernel = kernel / weight[0].numel()
    if scale == "last offsets":
        kernel = F.pad(kernel[:, :, :-1, :-1, :-1], (0, 1) * 3)
    if scale == "frames together":
        kernel = torch.cat([kernel.sum(2, keepdim=True), torch.zeros_like(kernel[:, :, 1:])], dim=2)
    if scale == "one frame":
        kernel = kernel * (torch.arange(kernel.shape[2], device=kernel.device) == 0)[:, None, None]
    steps = tuple(stride if on else 1 for on in strided)
    out = F.conv3d(clips, kernel, None if bias is None else bias * use_bias, stride=steps)
    if scale == "neighbours":
        t, h, w = ((n - 1) // stride + 1 for n in out.shape[2:])
        return out[:, :, :t, :h, :w]
    return out


@check(
    "conv3d(clips, weight, bias=None, *, stride=1, padding=0)",
    conv3d,
    layout="b c_out t h w",
    variant=_conv3d,
    mistakes={
        "the kernel is flipped in time, height and width: deep learning's convolution multiplies it as it is": {"flip": (2, 3, 4)},
        "the kernel is flipped in time: offset 0 belongs to the earliest frame of the window": {"flip": (2,)},
        "the kernel is flipped in height and width": {"flip": (3, 4)},
        "the bias is missing": {"use_bias": 0},
        "the bias is taken away, not added": {"use_bias": -1},
        "the bias comes once for every input channel or offset: add it once, at the end": {"use_bias": 2},
        "the stride is ignored": {"strided": (False, False, False)},
        "the stride is missing in time": {"strided": (False, True, True)},
        "the stride is missing in height and width": {"strided": (True, False, False)},
        "the padding is ignored": {"padded": (False, False, False)},
        "the padding is missing in time": {"padded": (False, True, True)},
        "the padding is missing in height and width": {"padded": (True, False, False)},
        "the border is padded by copies of the edge: pad with zeros": {"mode": "replicate"},
        "the border is filled from the opposite side (circular): pad with zeros": {"mode": "circular"},
        "the border is a mirror of the clip (reflect): pad with zeros": {"mode": "reflect"},
        "the border is filled with ones: pad with zeros": {"mode": "ones"},
        "the padding is half of the kernel, whatever was asked for: it is an option": {"mode": "same"},
        "all padding comes behind: half of it belongs before": {"one_sided": "all"},
        "the size of the result follows the stride, and the windows are neighbours still: they begin at multiples of the stride": {
            "strided": (False, False, False), "scale": "neighbours"
        },
        "all padding in time comes before the first frame: half of it belongs behind the last": {"one_sided": "past"},
        "all padding in time comes after the last frame: half of it belongs before the first": {"one_sided": "future"},
        "height and width of the kernel are swapped": {"order": "kt kw kh"},
        "the axes of the kernel are taken as (height, width, time): they are (time, height, width)": {"order": "kw kt kh"},
        "only the first input channel is used: sum over all": {"scale": "one channel"},
        "you average over the input channels: sum": {"scale": "channel mean"},
        "you average over the window: sum": {"scale": "mean"},
        "the last offset of the kernel is left out in time, height and width: `range(kt)` ends before its end by itself": {"scale": "last offsets"},
        "only one frame of each window is used: sum over time too": {"scale": "one frame"},
        "the kernel is summed over time and meets one frame alone: its offset i belongs to frame i of the window": {"scale": "frames together"},
    },
    forbidden=frozenset({"conv3d", "convolution", "_convolution"}),
)  # fmt: skip
def check_conv3d(draw: Draw) -> Iterator[Case]:
    """Check ``conv3d(clips, weight, bias=None, *, stride=1, padding=0)`` → ``(b, c_out, t', h', w')``.

    >>> check_conv3d(lambda clips, weight, bias=None, stride=1, padding=0: clips).passed
    False
    """
    b, c_in, c_out = draw.primes(3)
    t, h, w = (size + 5 for size in draw.primes(3))
    cubic, oblong = (3, 3, 3), (2, 3, 5)
    if draw.small:  # an example that a person can read
        b, c_in, c_out, t, h, w = 1, draw.integer(1, 3), draw.integer(1, 3), *(draw.integer(2, 4) for _ in range(3))
        cubic, oblong = (2, 2, 2), (1, 2, 2)
    clips = draw.normal(b, c_in, t, h, w)
    cube = draw.normal(c_out, c_in, *cubic)
    bias = draw.normal(c_out)
    yield Case("a kernel with equal sides", (clips, cube))
    yield Case("a bias", (clips, cube, bias))
    yield Case("stride 2", (clips, cube, bias), {"stride": 2})
    yield Case("padding 1", (clips, cube, bias), {"padding": 1})
    yield Case("an oblong kernel", (clips, draw.normal(c_out, c_in, *oblong), bias))
    yield Case("stride 3 with padding 2", (clips, cube, bias), {"stride": 3, "padding": 2})
    one = draw.normal(1, 1, 1, 1, 1), draw.normal(1, 1, 1, 1, 1), draw.normal(1)
    yield Case("one number in all", one, hint=ONES)


Size = Callable[[int, int, int, int], int | float]


def _right_size(n: int, k: int, s: int, p: int) -> int:
    return (n + 2 * p - k) // s + 1


def _output_size(size: int, *, kernel: int, stride: int, padding: int, formula: Size = _right_size) -> int | float:
    """Return how many windows fit, or what a mistaken formula gives."""
    return formula(size, kernel, stride, padding)


@check(
    "output_size(size, *, kernel, stride, padding)",
    _output_size,
    variant=_output_size,
    mistakes={
        "the padding counts once: it comes at both ends": {"formula": lambda n, k, s, p: (n + p - k) // s + 1},
        "one is missing: the first window needs no step": {"formula": lambda n, k, s, p: (n + 2 * p - k) // s},
        "one is added before the division: divide, then add the first window": {"formula": lambda n, k, s, p: (n + 2 * p - k + 1) // s},
        "you round to the nearest: a window that does not fit whole is left out": {"formula": lambda n, k, s, p: round((n + 2 * p - k) / s) + 1},
        "you round up: a window that does not fit whole is left out": {"formula": lambda n, k, s, p: -((k - n - 2 * p) // s) + 1},
        "the last place where a window may begin is left out (a range ends before its end): it is size + 2 * padding - kernel, "
        "counted from 0": {"formula": lambda n, k, s, p: -((k - n - 2 * p) // s)},
        "the result is a fraction: whole windows only, `//`": {"formula": lambda n, k, s, p: (n + 2 * p - k) / s + 1},
        "the result is no whole number: use `//`, or int(...)": {"formula": lambda n, k, s, p: float((n + 2 * p - k) // s + 1)},
        "the kernel is not taken away": {"formula": lambda n, k, s, p: (n + 2 * p) // s + 1},
        "the kernel is not taken away, and the first window is missing": {"formula": lambda n, k, s, p: (n + 2 * p) // s},
        "the stride is ignored": {"formula": lambda n, k, s, p: n + 2 * p - k + 1},
        "the padding is ignored": {"formula": lambda n, k, s, p: (n - k) // s + 1},
        "the padding is taken away: it makes the input longer": {"formula": lambda n, k, s, p: (n - 2 * p - k) // s + 1},
        "only the size is divided: all of n + 2p - k is": {"formula": lambda n, k, s, p: n // s + 2 * p - k + 1},
        "two are added: the first window needs one": {"formula": lambda n, k, s, p: (n + 2 * p - k) // s + 2},
        "the padding is added after the division: it makes the input longer": {"formula": lambda n, k, s, p: (n - k) // s + 1 + 2 * p},
        "the kernel is taken away after the division: before": {"formula": lambda n, k, s, p: (n + 2 * p) // s - k + 1},
        "kernel and stride are swapped": {"formula": lambda n, k, s, p: (n + 2 * p - s) // k + 1},
        "half of the kernel is taken away: all of it": {"formula": lambda n, k, s, p: (n + 2 * p - k // 2) // s + 1},
        "this is the size with 'same' padding, size / stride rounded up: here kernel and padding count": {"formula": lambda n, k, s, p: -(-n // s)},
        "the padding is squared: it comes at two ends, twice": {"formula": lambda n, k, s, p: (n + p**2 - k) // s + 1},
        "each term is divided and rounded by itself: add them up first, and divide once": {"formula": lambda n, k, s, p: n // s + 2 * p // s - k // s + 1},
        "the stride multiplies: divide by it": {"formula": lambda n, k, s, p: (n + 2 * p - k) * s + 1},
    },
)  # fmt: skip
def check_output_size(draw: Draw) -> Iterator[Case]:
    """Check ``output_size(size, *, kernel, stride, padding)`` → how many outputs a convolution has along one axis.

    >>> check_output_size(lambda size, *, kernel, stride, padding: size - kernel + 1).passed
    False
    """
    for what, stride, padding in (("a plain convolution", 1, 0), ("a stride", 3, 0), ("a padding", 1, 2)):
        for _ in range(2):
            kernel = draw.integer(2, 6)
            options = {"kernel": kernel, "stride": stride, "padding": padding}
            yield Case(what, (draw.integer(9, 20),), options)
    for _ in range(8):
        kernel, stride, padding = draw.integer(1, 6), draw.integer(2, 5), draw.integer(1, 4)
        options = {"kernel": kernel, "stride": stride, "padding": padding}
        yield Case("stride and padding", (draw.integer(6, 30),), options)
    for size in (20, 23):  # 21 / 5 and 24 / 5: rounding up, down and to the nearest differ on one of them
        yield Case("stride and padding", (size,), {"kernel": 1, "stride": 5, "padding": 1})


def _clobbered(frames: Tensor, orders: Tensor) -> Tensor:
    frames, rows = frames.clone(), torch.arange(len(frames))
    for j in range(frames.shape[1]):
        frames[:, j] = frames[rows, orders[:, j]]
    return frames


def _exchanged(frames: Tensor, orders: Tensor) -> Tensor:
    frames, rows = frames.clone(), torch.arange(len(frames))
    for j in range(frames.shape[1]):
        frames[rows, orders[:, j]], frames[:, j] = frames[:, j].clone(), frames[rows, orders[:, j]]
    return frames


def _shuffle(clips: Tensor, orders: Tensor, *, how: str = "right") -> Tensor:
    """Reorder the frames of each clip, or something else."""
    b, _, t, h, w = clips.shape
    rows = torch.arange(b, device=clips.device)[:, None]
    frames = rearrange(clips, "b c t h w -> b t c h w")
    picked = {
        "right": lambda: frames[rows, orders],
        "first": lambda: frames[:, orders[0]],
        "last": lambda: frames[:, orders[-1]],
        "inverse": lambda: frames[rows, orders.argsort(1)],
        "other clip": lambda: frames[rows, orders.roll(1, 0)],
        "mixed clips": lambda: frames[orders % b, torch.arange(t, device=clips.device)],
        "as they were": lambda: frames,
        "reversed": lambda: frames.flip(1),
        "backwards": lambda: frames[rows, orders.flip(1)],
        "rows": lambda: frames[..., orders[0] % h, :],
        "columns": lambda: frames[..., orders[0] % w],
        "own rows": lambda: torch.stack([clip[..., order % h, :] for clip, order in zip(frames, orders, strict=True)]),
        "view": lambda: frames[rows, orders].reshape(clips.shape).transpose(1, 2),
        "time first": lambda: frames[rows, orders],
        "clobbered": lambda: _clobbered(frames, orders),
        "exchanged": lambda: _exchanged(frames, orders),
        "all but the last": lambda: torch.cat([frames[rows, orders[:, :-1]], frames[:, -1:]], dim=1),
        "every order": lambda: clips[:, :, orders],
        "channels": lambda: torch.stack([clip[order % clips.shape[1]] for clip, order in zip(clips, orders, strict=True)]),
    }[how]()  # fmt: skip
    return picked if how in ("time first", "every order", "channels") else rearrange(picked, "b t c h w -> b c t h w")


@check(
    "shuffle_frames(clips, orders)",
    _shuffle,
    layout="b c t h w",
    variant=_shuffle,
    mistakes={
        "all clips are shuffled in the order of clip 0: every clip has its own row of orders, or the same shuffled motion "
        "stays readable": {"how": "first"},
        "all clips are shuffled in the order of the last clip: is a loop's result overwritten?": {"how": "last"},
        "this is the inverse order: new frame j is old frame orders[i, j]": {"how": "inverse"},
        "the orders go to the wrong clips: row i of orders belongs to clip i": {"how": "other clip"},
        "frames of different clips are mixed: each clip keeps its own frames": {"how": "mixed clips"},
        "nothing is shuffled": {"how": "as they were"},
        "the frames run backwards, whatever the orders say": {"how": "reversed"},
        "the orders are read backwards": {"how": "backwards"},
        "the rows of the picture are shuffled: axis 2 of (b, c, t, h, w) is time": {"how": "rows"},
        "each clip's rows of the picture are shuffled: axis 2 of (b, c, t, h, w) is time": {"how": "own rows"},
        "the columns of the picture are shuffled: axis 2 of (b, c, t, h, w) is time": {"how": "columns"},
        "frames are overwritten before they are read: read from the old clip, write to a new one": {"how": "clobbered"},
        "a reshape has mixed time and channel: move the axis (transpose, rearrange) instead": {"how": "view"},
        "frames are exchanged in pairs, one pair after the other, in the clip that is read: read from the old clip, write to a new "
        "one": {"how": "exchanged"},
        "the last frame stays as it was: `range(t)` ends before t by itself": {"how": "all but the last"},
        "each clip comes in the orders of all clips: row i of orders is for clip i alone": {"how": "every order"},
        "the orders pick channels: axis 2 of (b, c, t, h, w) is time": {"how": "channels"},
        "time and channel are swapped in the result: (b, c, t, h, w)": {"how": "time first"},
    },
)  # fmt: skip
def check_shuffle_frames(draw: Draw) -> Iterator[Case]:
    """Check ``shuffle_frames(clips, orders)`` → new frame j of clip i is its old frame ``orders[i, j]``.

    >>> check_shuffle_frames(lambda clips, orders: clips).passed
    False
    """
    b, c, t, h, w = draw.primes(5)
    t = max(t, 3)
    for what, clips, channels in (("several clips", b, c), ("one clip", 1, c), ("two channels", b, 2)):
        orders = torch.stack([draw.order(t) for _ in range(clips)])
        yield Case(what, (draw.normal(clips, channels, t, h, w), orders))
    yield Case("one number in all", (draw.normal(1, 1, 1, 1, 1), draw.order(1)[None]), hint=ONES)
