"""Scores in float32 or wider: near one, bfloat16 has steps of 0.004, and float16 overflows above 65,504."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import reduce, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Tensor])


def widened(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the dtype that holds them all, float32 or wider."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def no_autocast(like: Tensor) -> AbstractContextManager:
    """Return a context in which autocast does not narrow the products of widened tensors again."""
    if not torch.amp.is_autocast_available(like.device.type):  # as on the meta device
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def without_autocast(function: Function) -> Function:
    """Let a function of a tensor compute in the tensor's own precision, also inside autocast."""

    @wraps(function)
    def computed(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        with no_autocast(tensor):
            return function(tensor, *args, **options)

    return computed  # type: ignore[return-value]
