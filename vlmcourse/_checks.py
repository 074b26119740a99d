"""Argument checks for the public doors: every error says what was expected, what came, and what to try."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["fused", "einops"]
Sizes = int | Sequence[int]  # one for all axes, or one for each


def check_rank(name: str, tensor: Tensor, layout: str) -> None:
    """Raise unless ``tensor`` has one axis for every letter of ``layout``, none of them empty; "..." is any number."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor laid out as ({layout}), received {type(tensor).__name__}")
    axes = layout.removeprefix("... ").split()
    if tensor.ndim < len(axes) or (tensor.ndim > len(axes) and not layout.startswith("...")):
        raise ValueError(f"{name} must have shape ({layout}), received {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must have no empty axis in ({layout}), received {tuple(tensor.shape)}")


def check_floating(name: str, tensor: Tensor, layout: str | None = None) -> None:
    """Raise unless ``tensor`` holds real floating-point numbers, laid out as ``layout`` if one is given."""
    if layout is not None:
        check_rank(name, tensor, layout)
    if not tensor.is_floating_point():
        hint = f"{name}.float() / 255" if tensor.dtype == torch.uint8 else f"{name}.float()"
        raise TypeError(f"{name} must be floating point, received {tensor.dtype}; try {hint}")


def check_same_kind(**tensors: Tensor) -> None:
    """Raise unless the tensors share one device and one dtype (autocast, where it is on, settles the dtype itself)."""
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != reference.device:
            raise ValueError(f"{name} must be on the device of {first}, {reference.device}, received {tensor.device}")
        kind = reference.dtype
        if tensor.dtype != kind and not torch.is_autocast_enabled(reference.device.type):
            raise ValueError(f"{name} must have the dtype of {first}, {kind}, received {tensor.dtype}; try .to({kind})")


def check_input(name: str, inputs: Tensor, layout: str, *, in_channels: int, weights: Tensor) -> None:
    """Raise unless a network with ``in_channels`` and such ``weights`` can take the inputs; channels are axis 1."""
    check_floating(name, inputs, layout)
    if inputs.shape[1] != in_channels:
        raise ValueError(f"{name} must have in_channels={in_channels} channels, received {inputs.shape[1]}")
    check_same_kind(weights=weights, **{name: inputs})


def check_int(name: str, value: int, *, minimum: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, received {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, received {value}")


def check_positive_ints(**values: int) -> None:
    for name, value in values.items():
        check_int(name, value)


def check_positive(name: str, value: float | Tensor) -> None:
    """Raise unless ``value``, a number or a tensor of one number, is finite, above zero, and so is one over it."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, received {value!r}")
    if not torch.finfo(torch.float32).tiny <= value < math.inf:
        raise ValueError(f"{name} must be a finite number above zero, and so must one over it, received {value}")


def check_divides(name: str, divisor: int, **sizes: int) -> None:
    """Raise unless ``divisor`` divides every size; the message proposes the nearest numbers that do."""
    for what, size in sizes.items():
        if size % divisor:
            common = math.gcd(*sizes.values())
            fitting = [k for k in range(1, min(common, 10_000) + 1) if common % k == 0]
            nearest = sorted(sorted(fitting, key=lambda k: (abs(k - divisor), -k))[:2])
            raise ValueError(f"{name}={divisor} does not divide {what} {size}; try {' or '.join(map(str, nearest))}")


def check_backend(backend: str) -> None:
    if backend not in ("fused", "einops"):
        raise ValueError(f"backend must be 'fused' or 'einops', received {backend!r}")


def check_mask(mask: Tensor, expected: Sequence[int]) -> None:
    """Raise unless ``mask`` is boolean and can be broadcast to the shape ``expected``."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, True where a query may look, received {mask.dtype}")
    pairs = zip(reversed(mask.shape), reversed(expected), strict=False)
    if mask.ndim > len(expected) or any(m not in (1, e) for m, e in pairs):
        raise ValueError(f"mask must be broadcastable to {tuple(expected)}, received {tuple(mask.shape)}")


def as_sizes(name: str, value: Sizes, *, axes: Sequence[str], minimum: int) -> tuple[int, ...]:
    """Return one size per axis, from one integer for all of them or from a sequence of integers."""
    sizes = (value,) * len(axes) if isinstance(value, Integral) else tuple(value) if isinstance(value, Sequence) else ()
    if len(sizes) != len(axes) or any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
        raise TypeError(f"{name} must be one integer or {len(axes)} integers ({', '.join(axes)}), received {value!r}")
    if min(sizes) < minimum:
        raise ValueError(f"{name} must be at least {minimum} on every axis ({', '.join(axes)}), received {value!r}")
    return tuple(map(int, sizes))


def as_pair(name: str, value: Sizes) -> tuple[int, int]:
    """Return (height, width), from one integer for both or from two."""
    height, width = as_sizes(name, value, axes=("height", "width"), minimum=1)
    return height, width


def grid_of_patches(image_size: Sizes, patch_size: Sizes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how many patches stand below and beside each other, and the height and width of one."""
    (height, width), (ph, pw) = as_pair("image_size", image_size), as_pair("patch_size", patch_size)
    if ph == pw:
        check_divides("patch_size", ph, height=height, width=width)
    check_divides("patch_size", ph, height=height)
    check_divides("patch_size", pw, width=width)
    return (height // ph, width // pw), (ph, pw)


def check_range(name: str, value: tuple[float, float], *, low: float, high: float) -> None:
    """Raise unless ``value`` is a pair with ``low <= value[0] <= value[1] <= high``."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (smallest, largest), received {value!r}")
    if not low <= value[0] <= value[1] <= high:
        raise ValueError(f"{name} must be a pair with {low} <= smallest <= largest <= {high}, received {value!r}")


def check_number(name: str, value: float, *, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, received {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, received {value}")


def choose_names(name: str, chosen: str | Iterable[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """Return ``chosen`` as a tuple of distinct known names; ``None`` stands for all of them."""
    known = tuple(known)
    if chosen is None:
        return known
    names = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    unknown = [n for n in names if n not in known]
    if unknown:
        raise ValueError(f"{name} has unknown {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{name} must hold at least one name and none twice, received {names!r}")
    return names
