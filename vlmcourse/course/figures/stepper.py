"""A 3D convolution, one output at a time: the kernel, the lit cells of the clip, the output cell and its sum."""

import html
import json
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal

from torch import Tensor

from vlmcourse._checks import check_floating
from vlmcourse.course.figures.page import check_label, filled, name_of
from vlmcourse.course.figures.plots import COLORS
from vlmcourse.ops.convolution import conv3d

CELL = 10  # units of the drawing; a gap of one cell parts two frames
MOST_CELLS = 1200  # of clip and output together, so that the HTML stays below 200 kB
MOST_TERMS = 9  # written out in the sum


def convolution_stepper(clip: Tensor, weight: Tensor, *, label: str, start: tuple[int, int, int] | None = None) -> str:
    """Return HTML in which a reader steps a kernel over a clip, and sees for each output what is summed.

    The outputs are those of :func:`~vlmcourse.ops.convolution.conv3d`. Back, on, a slider, and a press on an output
    choose the place; the products whose weight is zero are left out of the sum.

    Shapes:
        clip ``(1, t, h, w)``, from 0 to 1, weight ``(1, 1, kt, kh, kw)``.

    Options:
        start: what is shown first, and on paper: time, row and column of an output, counted from 0. Left out, it is
        the largest output.

    Source:
        Slide S12; Tran et al. 2015 (arXiv 1412.0767).

    >>> import torch
    >>> clip = torch.tensor([0.0, 0.25, 0.5]).reshape(1, 3, 1, 1)  # one pixel, three frames
    >>> picture = convolution_stepper(clip, torch.tensor([-1.0, 2.0]).reshape(1, 1, 2, 1, 1), label="a pixel")
    >>> "−1 × 0.25 + 2 × 0.50 = 0.75" in picture
    True
    """
    check_floating("clip", clip, "c t h w")
    check_floating("weight", weight, "c_out c_in kt kh kw")
    check_label(label, "clip")
    if clip.shape[0] != 1 or weight.shape[:2] != (1, 1):
        raise ValueError(
            f"clip and weight must have one channel, received {tuple(clip.shape)} and {tuple(weight.shape)}"
        )
    # To four digits, here and in the page, so that a sum in the page adds up.
    frames, kernel = (tensor.detach().cpu().double().round(decimals=4) for tensor in (clip[0], weight[0, 0]))
    outputs = conv3d(frames[None, None], kernel[None, None])[0, 0]
    if frames.numel() + outputs.numel() > MOST_CELLS:
        raise ValueError(
            f"clip and output must have at most {MOST_CELLS} cells together, received {frames.numel()} and "
            f"{outputs.numel()}; cut out a part of the clip"
        )
    place = int(outputs.argmax()) if start is None else _number(start, outputs)
    content = {
        "clip": _rounded(frames), "kernel": _rounded(kernel), "outputs": _rounded(outputs), "shape": list(frames.shape),
        "size": list(kernel.shape), "grid": list(outputs.shape), "start": place, "cell": CELL, "terms": MOST_TERMS,
    }  # fmt: skip
    u, i, j = _indices(place, outputs)
    largest = outputs.abs().max().clamp(min=1e-12)
    return filled(
        "stepper.html",
        name=name_of("stepper", json.dumps([content, label])),
        label=html.escape(label, quote=True),
        kernel=_drawn(kernel, "kernel", _weight_cells(kernel)),
        clip=_drawn(frames, "clip", _grey_cells(frames), _window(kernel, (u, i, j), frames)),
        output=_drawn(outputs, "output", _grey_cells(outputs / largest, later=place), _now((u, i, j), outputs)),
        last=outputs.numel() - 1,
        step=place,
        says=_sum(frames, kernel, outputs, (u, i, j)),
        content=json.dumps(content),
    )


def _number(place: tuple[int, int, int], outputs: Tensor) -> int:
    if len(place) != 3 or not all(0 <= k < size for k, size in zip(place, outputs.shape, strict=True)):
        raise ValueError(f"start must be an index into the outputs {tuple(outputs.shape)}, received {place}")
    return (place[0] * outputs.shape[1] + place[1]) * outputs.shape[2] + place[2]


def _indices(number: int, outputs: Tensor) -> tuple[int, int, int]:
    rest, column = divmod(number, outputs.shape[2])
    return (*divmod(rest, outputs.shape[1]), column)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]


def _places(frames: Tensor) -> Iterator[tuple[float, int, int]]:
    """Yield each value with the corner of its cell; frames stand side by side, a cell apart."""
    t, h, w = frames.shape
    for k, row, column in ((k, row, column) for k in range(t) for row in range(h) for column in range(w)):
        yield frames[k, row, column].item(), CELL * (k * (w + 1) + column), CELL * row


def _grey_cells(frames: Tensor, *, later: int | None = None) -> str:
    """Return a grey cell for each value, pale after the place ``later``."""
    cells = []
    for number, (value, x, y) in enumerate(_places(frames)):
        grey = f"{round(255 * min(max(value, 0), 1)):02x}"
        pale = ' class="pale"' if later is not None and number > later else ""
        cells.append(f'<rect{pale} x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="#{grey * 3}"/>')
    return "".join(cells)


def _weight_cells(kernel: Tensor) -> str:
    """Return a cell for each weight: blue above zero, orange below, with its value where it is not zero."""
    cells, largest = [], kernel.abs().max().clamp(min=1e-12)
    for value, x, y in _places(kernel):
        color, strength = COLORS[0 if value > 0 else 1], abs(value) / largest
        fill = f'fill="{color}" fill-opacity="{strength:.2f}"' if value else 'fill="none"'
        cells.append(f'<rect class="weight" x="{x}" y="{y}" width="{CELL}" height="{CELL}" {fill}/>')
        if value:
            cells.append(f'<text x="{x + CELL / 2}" y="{y + 0.68 * CELL}">{_short(value)}</text>')
    return "".join(cells)


def _window(kernel: Tensor, place: tuple[int, int, int], frames: Tensor) -> str:
    """Return the window: its outline in each frame, and a mark on every cell whose weight is not zero."""
    pitch, shapes = CELL * (frames.shape[2] + 1), []
    for t, rows in enumerate(kernel):
        wide, high = CELL * kernel.shape[2], CELL * kernel.shape[1]
        shapes.append(f'<rect class="outline" x="{t * pitch}" y="0" width="{wide}" height="{high}"/>')
        for row, column in rows.nonzero().tolist():
            x, y = t * pitch + CELL * column + 1.5, CELL * row + 1.5
            shapes.append(f'<rect class="lit" x="{x}" y="{y}" width="{CELL - 3}" height="{CELL - 3}"/>')
    return f'<g class="window" transform="{_shift(place, frames.shape[2])}">{"".join(shapes)}</g>'


def _now(place: tuple[int, int, int], outputs: Tensor) -> str:
    outline = f'<rect class="outline" width="{CELL}" height="{CELL}"/>'
    return f'<g class="now" transform="{_shift(place, outputs.shape[2])}">{outline}</g>'


def _shift(place: tuple[int, int, int], columns: int) -> str:
    u, i, j = place
    return f"translate({CELL * (u * (columns + 1) + j)} {CELL * i})"


def _drawn(frames: Tensor, kind: str, cells: str, over: str = "") -> str:
    """Return a drawing of frames side by side, wide enough for the outline at its edges."""
    t, h, w = frames.shape
    wide, high = CELL * (t * (w + 1) - 1) + 2, CELL * h + 2
    box = f'viewBox="-1 -1 {wide} {high}" style="--wide: {wide}"'
    return f'<svg class="{kind}" {box} aria-hidden="true">{cells}{over}</svg>'


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}".replace("-", "−")


def _two_digits(value: float) -> str:
    """Return a number as JavaScript's ``toFixed(2)`` writes it: one half is rounded away from zero."""
    return f"{Decimal(value).quantize(Decimal('0.01'), ROUND_HALF_UP)}".replace("-", "−")


def _sum(frames: Tensor, kernel: Tensor, outputs: Tensor, place: tuple[int, int, int]) -> str:
    """Return one output as the sum that it is; the script in the template writes the same."""
    u, i, j = place
    kt, kh, kw = kernel.shape
    window = frames[u : u + kt, i : i + kh, j : j + kw]
    lit = kernel.nonzero().tolist()
    terms = [f"{_short(kernel[*at].item())} × {_two_digits(window[*at].item())}" for at in lit[:MOST_TERMS]]
    more = [f"… {len(lit) - MOST_TERMS} more"] if len(lit) > MOST_TERMS else []
    result = _two_digits(round(outputs[place].item(), 4))
    return f"Output at time {u}, row {i}, column {j}: {' + '.join([*terms, *more])} = {result}"
