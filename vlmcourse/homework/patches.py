"""Homework 1: an image as a sequence of patches (slides S21 and S22)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vlmcourse.homework.checking import ONES, Case, Draw, check
from vlmcourse.ops.patches import patchify, unpatchify

ROWS_FIRST = "nh nw"
PIXELS = "ph pw c"
WHOLE = "b c (nh ph) (nw pw)"


def _cut(
    images: Tensor, *, patch_size: int, grid: str = ROWS_FIRST, pixel: str = PIXELS, read: str = WHOLE, out: str = ""
) -> Tensor:
    """Cut as :func:`vlmcourse.patchify` does, or with an axis in another place."""
    pattern = out or f"b ({grid}) ({pixel})"
    if read == "reshape":
        return images.reshape(len(images), -1, patch_size**2 * images.shape[1])
    if read == "channels last":
        return images.permute(0, 2, 3, 1).reshape(len(images), -1, patch_size**2 * images.shape[1])
    if read == "short rows":
        return _cut(images[..., :-patch_size], patch_size=patch_size)
    if read == "windows":
        images = images.unfold(2, patch_size, 1).unfold(3, patch_size, 1)
        return rearrange(images, "b c nh nw ph pw -> b (nh nw) (ph pw c)")
    if read in ("unfolded", "wide steps", "high steps"):
        steps = (1 if read == "high steps" else patch_size, 1 if read == "wide steps" else patch_size)
        images = images.unfold(2, patch_size, steps[0]).unfold(3, patch_size, steps[1])
        if read == "unfolded":
            return images.reshape(len(images), -1, patch_size**2 * images.shape[1])
        return rearrange(images, "b c nh nw ph pw -> b (nh nw) (ph pw c)")
    if read in ("snake", "row length"):
        patches, nh, nw = _cut(images, patch_size=patch_size), *(n // patch_size for n in images.shape[2:])
        row, column = torch.arange(nh)[:, None], torch.arange(nw)
        if read == "snake":
            return patches[:, torch.where(row % 2 == 0, row * nw + column, row * nw + nw - 1 - column).flatten()]
        written = torch.zeros_like(patches)
        for k, place in enumerate((row * nh + column).flatten().tolist()):
            written[:, min(place, nh * nw - 1)] = patches[:, k]
        return written
    if read == "count":
        return rearrange(images, f"{WHOLE} -> {pattern}", nh=patch_size, nw=patch_size)
    if read == "mean":
        return F.avg_pool2d(images, patch_size).flatten(2).mT
    return rearrange(images, f"{read} -> {pattern}", ph=patch_size, pw=patch_size)


GRID_MISTAKES = {
    "your patches are in column-major order: patch 1 should be right of patch 0, not below it": {"grid": "nw nh"},
}
PIXEL_MISTAKES = {
    "inside a patch your numbers go channel by channel; the order is (row, column, channel), so the channel runs "
    "fastest": {"pixel": "c ph pw"},
    "inside a patch you read down the columns; a patch's rows come one after the other": {"pixel": "pw ph c"},
    "inside a patch your numbers go channel by channel, and down the columns; the order is (row, column, channel)": {
        "pixel": "c pw ph"
    },
    "inside a patch the channel stands between row and column; the order is (row, column, channel)": {
        "pixel": "ph c pw"
    },
}
READ_MISTAKES = {
    "a patch gets pixels from all over the image, every nh-th row: split height as (nh ph), the patch outside and the "
    "pixel inside": {"read": "b c (ph nh) (pw nw)"},
    "height is split right, but along the width a patch gets every nw-th pixel: split it as (nw pw)": {
        "read": "b c (nh ph) (pw nw)"
    },
    "along the width it is right, but along the height a patch gets every nh-th row: split it as (nh ph)": {
        "read": "b c (ph nh) (nw pw)"
    },
    "a plain reshape cuts memory, not the picture: one row of pixels after the other ends in a patch. Split height and "
    "width first, then move the axes": {"read": "reshape"},
    "the channels are moved behind, but a plain reshape cuts memory, not the picture: split height and width first, then "
    "move the axes": {"read": "channels last"},
    "your images are read as (b, c, w, h): height comes before width": {"read": "b c (nw pw) (nh ph)"},
}


@check(
    "patchify(images, *, patch_size)",
    patchify,
    layout="b n d",
    variant=_cut,
    mistakes=GRID_MISTAKES | PIXEL_MISTAKES | READ_MISTAKES | {
        "the two last axes are swapped: a patch is a row, (b, n, p*p*c)": {"out": "b (ph pw c) (nh nw)"},
        "the batch is mixed into the patches: keep the first axis as it is": {"out": "(b nh nw) (ph pw c)"},
        "the grid is still there, (b, nh, nw, ...): join its two axes into one sequence": {"out": "b nh nw (ph pw c)"},
        "a patch is still a small picture: flatten it into one vector": {"out": "b (nh nw) ph pw c"},
        "a patch is still a small picture, with its channel in front: flatten it into one vector, (row, column, "
        "channel)": {"out": "b (nh nw) c ph pw"},
        "the patches overlap: they stand side by side, a step of patch_size": {"read": "windows"},
        "the patches overlap along the width: the step is patch_size there too": {"read": "wide steps"},
        "the patches overlap along the height: the step is patch_size there too": {"read": "high steps"},
        "`unfold` leaves the axes (b, c, nh, nw, ph, pw), and a reshape mixes channels and patches: move c to the end first": {"read": "unfolded"},
        "every second row of patches runs from right to left: all run from left to right": {"read": "snake"},
        "patch (row, column) has the number row * nw + column: yours multiplies the row by nh": {"read": "row length"},
        "the last patch of each row is missing: `range(w // patch_size)` stops before its end by itself": {"read": "short rows"},
        "patch_size is taken for the number of patches in a row: it is the side of a patch, in pixels": {"read": "count"},
        "each patch is averaged to one pixel: it keeps all its numbers": {"read": "mean"},
        "each channel became a patch of its own: a patch holds all channels": {"out": "b (c nh nw) (ph pw)"},
        "each patch became as many as it has pixels: `(ph pw)` belongs into the last axis": {"out": "b (ph pw) (nh nw c)"},
    },
)  # fmt: skip
def check_patchify(draw: Draw) -> Iterator[Case]:
    """Check ``patchify(images, *, patch_size)`` → ``(b, n, p*p*c)``, row by row, each (row, column, channel).

    >>> check_patchify(lambda images, *, patch_size: images.flatten(1)).passed
    False
    """
    b, c, nh, nw, p = draw.primes(5)
    yield Case("an oblong image", (draw.normal(b, c, nh * p, nw * p),), {"patch_size": p})
    yield Case("a square image", (draw.normal(b, c, nh * p, nh * p),), {"patch_size": p})
    yield Case("one patch per pixel", (draw.normal(b, c, nh, nw),), {"patch_size": 1})
    yield Case("one patch in all", (draw.normal(1, c, p, p),), {"patch_size": p}, ONES)
    yield Case("one pixel in all", (draw.normal(1, 1, 1, 1),), {"patch_size": 1}, ONES)


def _paste(
    patches: Tensor,
    *,
    patch_size: int,
    image_size: tuple[int, int],
    grid: str = ROWS_FIRST,
    pixel: str = PIXELS,
    read: str = WHOLE,
    swapped: bool = False,
) -> Tensor:
    """Put together as :func:`vlmcourse.unpatchify` does, or with an axis in another place."""
    nh, nw = (size // patch_size for size in (image_size[::-1] if swapped else image_size))
    if read == "reshape":
        return patches.reshape(len(patches), -1, *image_size)
    if read == "channels last":
        return patches.reshape(len(patches), *image_size, -1).permute(0, 3, 1, 2)
    if read == "row length":
        row, column = torch.arange(nh)[:, None], torch.arange(nw)
        patches = patches[:, (row * nh + column).clamp(max=nh * nw - 1).flatten()]
        read = WHOLE
    if read == "square":
        nh = nw = int(patches.shape[1] ** 0.5)
        patches, read = patches[:, : nh * nw], WHOLE
    return rearrange(patches, f"b ({grid}) ({pixel}) -> {read}", nh=nh, nw=nw, ph=patch_size, pw=patch_size)


@check(
    "unpatchify(patches, *, patch_size, image_size)",
    unpatchify,
    layout="b c h w",
    variant=_paste,
    mistakes=GRID_MISTAKES | PIXEL_MISTAKES | READ_MISTAKES | {
        "the grid has nw rows of nh patches: image_size is (height, width)": {"swapped": True},
        "row and column of the grid hold patch number row * nw + column: yours multiplies the row by nh": {"read": "row length"},
        "the grid is taken to be square, as if the number of patches were a square number: image_size says its shape": {"read": "square"},
        "the channels come last: images are (b, c, h, w)": {"read": "b (nh ph) (nw pw) c"},
        "the patches are still apart: join (nh ph) and (nw pw)": {"read": "b (nh nw) c ph pw"},
        "height and width are still split: join (nh ph) and (nw pw)": {"read": "b c nh ph nw pw"},
    },
)  # fmt: skip
def check_unpatchify(draw: Draw) -> Iterator[Case]:
    """Check ``unpatchify(patches, *, patch_size, image_size)`` → ``(b, c, h, w)``, the inverse of patchify.

    >>> check_unpatchify(lambda patches, *, patch_size, image_size: patches).passed
    False
    """
    b, c, nh, nw, p = draw.primes(5)
    for what, height, width, size, channels in (
        ("an oblong image", nh, nw, p, c),
        ("a square image", nh, nh, p, c),
        ("one patch per pixel", nh, nw, 1, c),
        ("one channel", nw, nh, p, 1),
    ):
        options = {"patch_size": size, "image_size": (height * size, width * size)}
        yield Case(what, (draw.normal(b, height * width, size * size * channels),), options)
    yield Case("one pixel in all", (draw.normal(1, 1, 1),), {"patch_size": 1, "image_size": (1, 1)}, ONES)


OF_CHANNELS, OF_OUTPUTS, ROOT = -1, -2, -3


def _embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    flip: tuple[int, ...] = (),
    flat: str = "c ph pw",
    order: str = "c ph pw",
    scale: float = 1,
    use_bias: float = 1,
    out: str = "b (nh nw) d",
    stride: int | None = None,
    after: Any = None,
) -> Tensor:
    """Embed by a strided convolution, or by something near it."""
    _, c, ph, pw = weight.shape
    stride = c if stride == OF_CHANNELS else len(weight) if stride == OF_OUTPUTS else stride
    weight = weight.flip(flip)
    if flat == "view":
        weight, flat = weight.reshape(-1, len(weight)).T.reshape(weight.shape), "c ph pw"
    if scale == ROOT:
        scale = weight[0].numel() ** -0.5
    if out == "bias along tokens":
        tokens = F.conv2d(images, weight, stride=ph).flatten(2)
        return (tokens + bias.repeat(tokens.shape[2])[: tokens.shape[2]]).mT
    weight = rearrange(rearrange(weight, f"d c ph pw -> d ({flat})"), f"d ({order}) -> d c ph pw", ph=ph, pw=pw)
    embedded = F.conv2d(
        images, weight * scale, bias * use_bias, stride=stride or ph, padding=ph // 2 if out == "padded" else 0
    )
    if out == "reshape":
        return embedded.reshape(len(embedded), -1, embedded.shape[1])
    embedded = rearrange(embedded, f"b d nh nw -> {out if out != 'padded' else 'b (nh nw) d'}")
    return after(embedded) if after else embedded


@check(
    "patch_embed(images, weight, bias)",
    _embed,
    layout="b n d",
    variant=_embed,
    mistakes={
        "the bias is missing": {"use_bias": 0},
        "the bias is taken away, not added": {"use_bias": -1},
        "the bias comes twice": {"use_bias": 2},
        "your windows overlap: the stride of the convolution is the patch size": {"stride": 1},
        "the stride is the number of channels, weight.shape[1]: it is the patch size, weight.shape[-1]": {"stride": OF_CHANNELS},
        "the stride is the number of outputs, weight.shape[0]: it is the patch size, weight.shape[-1]": {"stride": OF_OUTPUTS},
        "`weight.reshape(-1, d)` cuts memory anew where the flattened weight should be transposed: `weight.flatten(1).T`": {"flat": "view"},
        "the products are divided by the root of a patch's length: a convolution does not scale": {"scale": ROOT},
        "the bias is added along the tokens: each of its numbers belongs to one feature, the last axis": {"out": "bias along tokens"},
        "your tokens are in column-major order: token 1 should be right of token 0": {"out": "b (nw nh) d"},
        "the two last axes are swapped: a token is a row, (b, n, d)": {"out": "b d (nh nw)"},
        "the grid is still there: flatten its rows and columns into one sequence of tokens": {"out": "b d nh nw"},
        "the grid is still there, (b, nh, nw, d): join its two axes into one sequence": {"out": "b nh nw d"},
        "the image is padded: patches stand side by side, without a border": {"out": "padded"},
        "a reshape turns (b, d, n) into (b, n, d) and mixes both: move the axis (transpose, rearrange)": {"out": "reshape"},
        "the kernel is flipped: deep learning's convolution multiplies it as it is": {"flip": (2, 3)},
        "the flattened patch is (ph, pw, c) and the flattened weight (c, ph, pw): give both one order": {"order": "ph pw c"},
        "the flattened patch is (c, ph, pw) and the flattened weight (ph, pw, c): give both one order": {"flat": "ph pw c"},
        "rows and columns of the kernel are swapped": {"order": "c pw ph"},
        "channel and rows of the weight are in another order than the patch's": {"order": "ph c pw"},
        "an activation follows: the embedding is linear": {"after": F.relu},
        "an activation follows (GELU): the embedding is linear": {"after": F.gelu},
        "the embedding is normalised: it is linear, and nothing follows it": {"after": lambda x: F.layer_norm(x, x.shape[-1:])},
    },
    symptoms=[
        lambda case, got, right: "the values are a mean over the patch where a sum is expected: the product is a dot "
        "product" if _proportional(case, got) else None,
    ],
)  # fmt: skip
def check_patch_embed(draw: Draw) -> Iterator[Case]:
    """Check ``patch_embed(images, weight, bias)`` → ``(b, n, d)``, with weight ``(d, c, p, p)`` as in a convolution.

    >>> check_patch_embed(lambda images, weight, bias: images).passed
    False
    """
    b, c, nh, nw, p, d = draw.primes(6)
    weights = draw.normal(d, c, p, p), draw.normal(d)
    yield Case("an oblong image", (draw.normal(b, c, nh * p, nw * p), *weights))
    yield Case("a square image", (draw.normal(b, c, nh * p, nh * p), *weights))
    yield Case("one patch in all", (draw.normal(b, c, p, p), *weights))
    yield Case("one patch per pixel", (draw.normal(b, c, nh, nw), draw.normal(d, c, 1, 1), draw.normal(d)))
    one = draw.normal(1, 1, 1, 1), draw.normal(1, 1, 1, 1), draw.normal(1)
    yield Case("one number in all", one, hint=ONES)


def _proportional(case: Case, got: Tensor) -> bool:
    images, weight, bias = case.args
    mean = _embed(images, weight, bias, scale=1 / weight[0].numel())
    return bool((got - mean).abs().max() < 1e-4 * max(1.0, float(mean.abs().max())))
