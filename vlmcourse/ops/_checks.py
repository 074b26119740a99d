"""Argument checks shared by the formulas: every error says what was expected and what came."""

from collections.abc import Sequence

from torch import Tensor


def check_rank(name: str, tensor: Tensor, layout: str) -> None:
    """Raise unless ``tensor`` has one axis for every letter of ``layout``, none of them empty."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor laid out as ({layout}), received {type(tensor).__name__}")
    if tensor.ndim != len(layout.split()):
        raise ValueError(f"{name} must have shape ({layout}), received {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty: every axis of ({layout}) needs at least one entry, received {tuple(tensor.shape)}")


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise unless ``tensor`` holds real floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, received {tensor.dtype}; try {name}.float() (and / 255 for uint8 images)")


def check_same(axis: str, **tensors: Tensor) -> None:
    """Raise unless the tensors agree in ``axis``, which is one of ``shape``, ``dtype`` and ``device``."""
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        expected, received = getattr(reference, axis), getattr(tensor, axis)
        if expected != received:
            shown = [tuple(v) if axis == "shape" else v for v in (expected, received)]
            raise ValueError(f"{name} must have the {axis} of {first}: expected {shown[0]}, received {shown[1]}")


def check_positive_int(name: str, value: int) -> None:
    """Raise unless ``value`` is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, received {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, received {value}")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, received {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a finite number above zero, received {value}")


def check_divides(name: str, divisor: int, **sizes: int) -> None:
    """Raise unless ``divisor`` divides every size; the message proposes the nearest divisors."""
    for what, size in sizes.items():
        if size % divisor:
            fitting = [k for k in range(1, size + 1) if all(s % k == 0 for s in sizes.values())]
            nearest = sorted(sorted(fitting, key=lambda k: abs(k - divisor))[:2])
            raise ValueError(f"{name}={divisor} does not divide {what} {size}; try {' or '.join(map(str, nearest))}")


def as_triple(name: str, value: int | Sequence[int], *, minimum: int) -> tuple[int, int, int]:
    """Return ``(time, height, width)`` from one integer for all three axes or from three integers."""
    triple = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(triple) != 3 or any(isinstance(v, bool) or not isinstance(v, int) for v in triple):
        raise TypeError(f"{name} must be an integer or three integers (time, height, width), received {value!r}")
    if min(triple) < minimum:
        raise ValueError(f"{name} must be at least {minimum} on every axis (time, height, width), received {value!r}")
    return triple
