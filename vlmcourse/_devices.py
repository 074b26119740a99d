"""Tensors that are made on the CPU, whatever device ``torch.set_default_device`` names for those without one."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def on_cpu(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function make its tensors on the CPU: seeded numbers are drawn there, the same for every machine."""

    @wraps(function)
    def made(*args: P.args, **options: P.kwargs) -> T:
        with torch.device("cpu"):
            return function(*args, **options)

    return made
