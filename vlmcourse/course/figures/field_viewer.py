"""What one output of a stack of convolutions sees of a photograph, for each depth, kernel and stride measured."""

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from vlmcourse._checks import check_floating
from vlmcourse.course.figures.page import base64_of, filled

Settings = tuple[int, int, int]


def field_viewer(image: Tensor, fields: Mapping[Settings, Tensor], *, start: Settings, label: str) -> str:
    """Return HTML in which a reader sets layers, kernel and stride, and sees what the output in the middle can see.

    The photograph keeps its colours as far as a pixel moves the output; a frame holds all that move it at all.

    Shapes:
        image ``(3, h, w)``, from 0 to 1. fields: for every combination of (layers, kernel, stride) a map ``(h, w)``,
        as :func:`~vlmcourse.ops.convolution.receptive_field` measures it.

    Source:
        Luo et al. 2016 (arXiv 1701.04128); slides S16 to S19.

    >>> from vlmcourse import receptive_field
    >>> one_layer = receptive_field(torch.nn.Conv2d(1, 2, 3, padding=1), torch.randn(2, 1, 9, 9))
    >>> picture = field_viewer(torch.rand(3, 9, 9), {(1, 3, 1): one_layer}, start=(1, 3, 1), label="noise")
    >>> "sees 3 × 3 pixels" in picture
    True
    """
    check_floating("image", image, "c h w")
    axes = [sorted(set(values)) for values in zip(*fields, strict=True)]
    if set(product(*axes)) != set(fields) or not fields:
        raise ValueError(f"fields must hold every combination of its settings, received {sorted(fields)}")
    if start not in fields:
        raise ValueError(f"start must be one of the settings of fields, received {start}")
    shown = {settings: _described(fields[settings], settings, image) for settings in product(*axes)}
    return filled(
        "field_viewer.html",
        label=label,
        photo=base64_of(image.expand(3, -1, -1), "JPEG", quality=90),
        shape=f"{image.shape[2]} / {image.shape[1]}",
        start=start,
        shown=shown[start],
        content={"axes": axes, "fields": list(shown.values())},
    )


def _described(field: Tensor, settings: Settings, image: Tensor) -> dict[str, str]:
    """Return the veil over what is not seen, the frame round what is, and a sentence."""
    field = field.detach().cpu().double()
    if field.shape != image.shape[1:] or not field.any():
        raise ValueError(
            f"fields{settings} must be a map of {tuple(image.shape[1:])} with some value above 0, received "
            f"{tuple(field.shape)} with a maximum of {field.max() if field.numel() else 0:.3g}"
        )
    veil = 1 - (field / field.max()).sqrt()
    rows, columns = (field.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
    top, left, high, wide = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    h, w = field.shape
    layers, kernel, stride = settings
    half = _side_of_half(field)
    return {
        "veil": base64_of(torch.stack([torch.zeros_like(veil), veil]), "PNG", optimize=True),
        "frame": f"left: {100 * left / w:.3f}%; top: {100 * top / h:.3f}%; "
        f"width: {100 * wide / w:.3f}%; height: {100 * high / h:.3f}%",
        "says": f"{layers} layer{'s' * (layers > 1)} of {kernel} × {kernel} with stride {stride}: the output in "
        f"the middle sees {wide} × {high} pixels, and half of what moves it lies in the middle {half} × {half}.",
    }


def _side_of_half(field: Tensor) -> int:
    """Return the side of the smallest square round the middle that holds half of the sum."""
    h, w = field.shape
    row, column = h // 2, w // 2
    for reach in range(max(h, w)):
        box = field[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        if box.sum() >= field.sum() / 2:
            break
    return 2 * reach + 1
