"""A photograph under a grid of patches: a slider for their size, and how many tokens and pairs there are."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vlmcourse._checks import check_floating
from vlmcourse.course.figures.page import base64_of, filled
from vlmcourse.ops.patches import patchify


def patch_slider(image: Tensor, *, sizes: Sequence[int], start: int, label: str) -> str:
    """Return HTML in which a reader turns the side of the patches, and sees tokens and pairs become fewer or more.

    Shapes:
        image ``(1 or 3, h, w)``, from 0 to 1; every size in pixels divides height and width.

    Source:
        Slides S20 to S23.

    >>> import torch
    >>> picture = patch_slider(torch.rand(3, 16, 24), sizes=(8, 4), start=4, label="noise")
    >>> "6 × 4 = 24 tokens" in picture, "24 × 24 = 576 pairs" in picture
    (True, True)
    """
    check_floating("image", image, "c h w")
    sizes = sorted(set(sizes))
    if start not in sizes:
        raise ValueError(f"start must be one of the sizes {sizes}, received {start}")
    choices = [_counted(image, size) for size in sizes]
    return filled(
        "patch_slider.html",
        label=label,
        photo=base64_of(image.expand(3, -1, -1), "JPEG", quality=85),
        shape=f"{image.shape[2]} / {image.shape[1]}",
        first=sizes.index(start),
        content={"choices": choices, "most": max(choice["tokens"] for choice in choices)},
    )


def _counted(image: Tensor, size: int) -> dict[str, Any]:
    _, tokens, numbers = patchify(image[None], patch_size=size).shape
    columns = image.shape[2] // size
    rows = tokens // columns
    says = (
        f"Patches of {size} × {size} pixels: {columns} × {rows} = {tokens:,} tokens of {numbers:,} numbers each. "
        f"Attention compares {tokens:,} × {tokens:,} = {tokens**2:,} pairs."
    )
    return {"size": size, "columns": columns, "rows": rows, "tokens": tokens, "says": says}
