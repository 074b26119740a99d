"""A 3D convolution, one output at a time: the kernel, the lit cells of the clip, the output cell and its sum."""

from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from vlmcourse._checks import check_floating
from vlmcourse.course.figures.page import filled
from vlmcourse.course.figures.plots import COLORS
from vlmcourse.ops.convolution import conv3d

CELL = 10  # units of the drawing; a gap of one cell parts two frames
MOST_CELLS = 1200  # of clip and output together, so that the HTML stays below 200 kB
MOST_TERMS = 9  # written out in the sum


def convolution_stepper(clip: Tensor, weight: Tensor, *, label: str) -> str:
    """Return HTML in which a reader steps a kernel over a clip, and sees for each output what is summed.

    The largest output is shown first, and on paper. Products whose weight is zero are left out of the sum.

    Shapes:
        clip ``(1, t, h, w)``, from 0 to 1, weight ``(1, 1, kt, kh, kw)``.

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
    step = int(outputs.argmax())
    place = list(product(*map(range, outputs.shape)))[step]
    largest_weight, largest_output = (values.abs().max().clamp(min=1e-12) for values in (kernel, outputs))
    sums = [round(value, 4) for value in outputs.flatten().tolist()]
    content = {
        "clip": frames.flatten().tolist(), "kernel": kernel.flatten().tolist(), "outputs": sums,
        "shape": list(frames.shape), "size": list(kernel.shape), "grid": list(outputs.shape), "cell": CELL,
        "terms": MOST_TERMS,
    }  # fmt: skip
    return filled(
        "stepper.html",
        label=label,
        weights=_cells(kernel, partial(_weight, largest=largest_weight.item())),
        clip=_cells(frames, _gray),
        outputs=_cells(outputs / largest_output, _gray),
        step=step,
        window=_corner(place, frames),
        frames=[_corner((t, 0, 0), frames) for t in range(len(kernel))],
        lit=[_corner(at, frames) for at in kernel.nonzero().tolist()],
        says=_sum(frames, kernel, place, sums[step]),
        content=content,
    )


def _corner(place: Sequence[int], frames: Tensor) -> tuple[int, int]:
    """Return where the cell of a value is drawn; frames stand side by side, a cell apart."""
    t, row, column = place
    return CELL * (t * (frames.shape[2] + 1) + column), CELL * row


def _cells(values: Tensor, look: Callable[[float], dict[str, str]]) -> list[dict[str, Any]]:
    places = product(*map(range, values.shape))
    return [{"at": _corner(place, values), **look(values[place].item())} for place in places]


def _gray(value: float) -> dict[str, str]:
    return {"fill": f"#{3 * f'{round(255 * min(max(value, 0), 1)):02x}'}"}


def _weight(value: float, *, largest: float) -> dict[str, str]:
    """Return the look of a weight: blue above zero, orange below, with its value where it is not zero."""
    fill, says = COLORS[0 if value > 0 else 1], _short(value) if value else ""
    return {"fill": fill, "strength": f"{abs(value) / largest:.2f}", "says": says}


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}".replace("-", "−")


def _two_digits(value: float) -> str:
    """Return a number as JavaScript's ``toFixed(2)`` writes it: one half is rounded away from zero."""
    return f"{Decimal(value).quantize(Decimal('0.01'), ROUND_HALF_UP)}".replace("-", "−")


def _sum(frames: Tensor, kernel: Tensor, place: tuple[int, ...], result: float) -> str:
    """Return one output as the sum that it is; the script in the template writes the same."""
    window = frames[tuple(slice(at, at + size) for at, size in zip(place, kernel.shape, strict=True))]
    lit = kernel.nonzero().tolist()
    terms = [f"{_short(kernel[*at].item())} × {_two_digits(window[*at].item())}" for at in lit[:MOST_TERMS]]
    more = [f"… {len(lit) - MOST_TERMS} more"] if len(lit) > MOST_TERMS else []
    u, i, j = place
    return f"Output at time {u}, row {i}, column {j}: {' + '.join([*terms, *more])} = {_two_digits(result)}"
