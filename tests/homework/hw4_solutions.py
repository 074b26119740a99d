"""Solutions of homework 4, right and wrong, as students write them."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

import vlmcourse
from vlmcourse.homework import check_conv3d, check_output_size, check_shuffle_frames


def pad(clips, padding):
    return F.pad(clips, (padding,) * 6)


def conv(clips, weight, bias=None, *, stride=1, padding=0, padded=pad, strides=None):
    st, sh, sw = strides(stride) if strides else (stride,) * 3
    kt, kh, kw = weight.shape[2:]
    windows = padded(clips, padding).unfold(2, kt, st).unfold(3, kh, sh).unfold(4, kw, sw)
    out = torch.einsum("bcthwxyz,ocxyz->bothw", windows, weight)
    return out if bias is None else out + bias[:, None, None, None]


def over_offsets(clips, weight, bias=None, *, stride=1, padding=0):
    clips, out = pad(clips, padding), 0.0
    sizes = [(n - k) // stride + 1 for n, k in zip(clips.shape[2:], weight.shape[2:], strict=True)]
    for dt in range(weight.shape[2]):
        for dy in range(weight.shape[3]):
            for dx in range(weight.shape[4]):
                seen = clips
                for axis, (start, size) in enumerate(zip((dt, dy, dx), sizes, strict=True)):
                    rows = start + stride * torch.arange(size, device=clips.device)
                    seen = seen.index_select(axis + 2, rows)
                out = out + torch.einsum("bcthw,oc->bothw", seen, weight[:, :, dt, dy, dx])
    return out if bias is None else out + bias.reshape(-1, 1, 1, 1)


def by_frames(clips, weight, bias=None, *, stride=1, padding=0):
    clips = F.pad(clips, (0, 0, 0, 0, padding, padding))
    frames = []
    for start in range(0, clips.shape[2] - weight.shape[2] + 1, stride):
        pictures = [
            F.conv2d(clips[:, :, start + k], weight[:, :, k], stride=stride, padding=padding)
            for k in range(weight.shape[2])
        ]
        frames.append(sum(pictures))
    out = torch.stack(frames, dim=2)
    return out if bias is None else out + bias[None, :, None, None, None]


def by_matrix(clips, weight, bias=None, stride=1, padding=0):
    windows = pad(clips, padding)
    for axis, k in enumerate(weight.shape[2:]):
        windows = windows.unfold(axis + 2, k, stride)
    rows = windows.movedim(1, 4).flatten(4) @ weight.flatten(1).mT
    return (rows if bias is None else rows + bias).movedim(-1, 1)


def faulty(weight=lambda w: w, bias=lambda b: b, **knobs):
    def run(clips, kernel, b=None, *, stride=1, padding=0):
        return conv(clips, weight(kernel), None if b is None else bias(b), stride=stride, padding=padding, **knobs)

    return run


def size_right(size, *, kernel, stride, padding):
    return (size + 2 * padding - kernel) // stride + 1


def size(formula):
    return lambda n, *, kernel, stride, padding: formula(n, kernel, stride, padding)


def frames(function):
    return lambda clips, orders: torch.stack([function(clip, order) for clip, order in zip(clips, orders, strict=True)])


def by_gather(clips, orders):
    index = orders[:, None, :, None, None].expand(-1, clips.shape[1], -1, *clips.shape[3:])
    return clips.gather(2, index)


def by_loops(clips, orders):
    out = torch.empty_like(clips)
    for i, order in enumerate(orders.tolist()):
        for j, k in enumerate(order):
            out[i, :, j] = clips[i, :, k]
    return out


def by_product(clips, orders):
    return torch.einsum("bjk,bckhw->bcjhw", F.one_hot(orders, clips.shape[2]).to(clips), clips)


def rows(clips):
    return torch.arange(len(clips), device=clips.device)[:, None]


RIGHT = {
    check_conv3d: [conv, over_offsets, by_frames, by_matrix],
    check_output_size: [
        size_right,
        size(lambda n, k, s, p: len(range(-p, n + p - k + 1, s))),
        size(lambda n, k, s, p: int((n + 2 * p - k) / s) + 1),
        size(lambda n, k, s, p: math.floor((n + 2 * p - k + s) / s)),
    ],
    check_shuffle_frames: [by_gather, by_loops, by_product, frames(lambda clip, order: clip[:, order])],
}
WRONG = {
    check_conv3d: [
        (faulty(weight=lambda w: w.flip(2, 3, 4)), "flipped in time, height and width"),
        (faulty(weight=lambda w: w.flip(2)), "the earliest frame"),
        (faulty(weight=lambda w: w.flip(3, 4)), "flipped in height and width"),
        (faulty(bias=lambda b: 0 * b), "the bias is missing"),
        (faulty(bias=lambda b: -b), "the bias is taken away"),
        (faulty(strides=lambda s: (1, 1, 1)), "the stride is ignored"),
        (faulty(strides=lambda s: (1, s, s)), "the stride is missing in time"),
        (faulty(strides=lambda s: (s, 1, 1)), "the stride is missing in height"),
        (faulty(padded=lambda x, p: x), "the padding is ignored"),
        (faulty(padded=lambda x, p: F.pad(x, (p, p, p, p, 0, 0))), "the padding is missing in time"),
        (faulty(padded=lambda x, p: F.pad(x, (0, 0, 0, 0, p, p))), "the padding is missing in height"),
        (faulty(padded=lambda x, p: F.pad(x, (p,) * 6, mode="replicate")), "copies of the edge"),
        (faulty(padded=lambda x, p: F.pad(x, (p, p, p, p, 2 * p, 0))), "before the first frame"),
        (faulty(weight=lambda w: w.mT), "height and width of the kernel are swapped"),
        (faulty(weight=lambda w: w.permute(0, 1, 4, 2, 3)), ""),
        (faulty(weight=lambda w: w / w[0].numel()), "you average over the window"),
        (faulty(weight=lambda w: w / w.shape[1]), "average over the input channels"),
        (lambda x, w, b=None, *, stride=1, padding=0: conv(x[:, :1], w[:, :1], b, stride=stride, padding=padding), "only the first input channel"),
        (faulty(weight=lambda w: w.flip(2), bias=lambda b: 0 * b), "earliest frame of the window; and also: the bias is missing"),
        (lambda x, w, b=None, *, stride=1, padding=0: F.conv3d(x, w, b, stride, padding), "PyTorch's `conv3d`"),
        (vlmcourse.conv3d, "which is the solution"),
    ],
    check_output_size: [
        (size(lambda n, k, s, p: (n + p - k) // s + 1), "the padding counts once"),
        (size(lambda n, k, s, p: (n + 2 * p - k) // s), "one is missing"),
        (size(lambda n, k, s, p: (n + 2 * p - k + 1) // s), "added before the division"),
        (size(lambda n, k, s, p: math.ceil((n + 2 * p - k) / s) + 1), "you round up"),
        (size(lambda n, k, s, p: round((n + 2 * p - k) / s) + 1), "you round to the nearest"),
        (size(lambda n, k, s, p: (n + 2 * p - k) / s + 1), "whole windows only"),
        (size(lambda n, k, s, p: (n + 2 * p) // s + 1), "the kernel is not taken away"),
        (size(lambda n, k, s, p: n + 2 * p - k + 1), "the stride is ignored"),
        (size(lambda n, k, s, p: (n - k) // s + 1), "the padding is ignored"),
        (size(lambda n, k, s, p: (n - 2 * p - k) // s + 1), "the padding is taken away"),
        (size(lambda n, k, s, p: n // s + 2 * p - k + 1), "only the size is divided"),
        (size(lambda n, k, s, p: (n + 2 * p - k) * s + 1), "the stride multiplies"),
        (size(lambda n, k, s, p: None), "is a `return` missing"),
    ],
    check_shuffle_frames: [
        (lambda x, o: x[:, :, o[0]], "in the order of clip 0"),
        (lambda x, o: x[:, :, o[-1]], "in the order of the last clip"),
        (lambda x, o: by_gather(x, o.argsort(1)), "the inverse order"),
        (lambda x, o: by_gather(x, o.roll(1, 0)), "the orders go to the wrong clips"),
        (lambda x, o: x.transpose(1, 2)[o % len(x), torch.arange(x.shape[2])].transpose(1, 2), "frames of different clips are mixed"),
        (lambda x, o: x, "nothing is shuffled"),
        (lambda x, o: x.flip(2), "the frames run backwards"),
        (lambda x, o: by_gather(x, o.flip(1)), "the orders are read backwards"),
        (lambda x, o: x[..., o[0] % x.shape[3], :], "the rows of the picture"),
        (lambda x, o: x[..., o[0] % x.shape[4]], "the columns of the picture"),
        (lambda x, o: x.transpose(1, 2)[rows(x), o].reshape(x.shape), "a reshape has mixed time and channel"),
        (lambda x, o: x.transpose(1, 2)[rows(x), o], "time and channel are swapped"),
        (lambda x, o: x.copy_(by_gather(x, o)), "it changes its input `x`"),
        (lambda x, o: rearrange(x, "b c t h w -> b t c h w")[:, o], "it stops with RuntimeError" if False else "the result has shape"),
    ],
}  # fmt: skip
