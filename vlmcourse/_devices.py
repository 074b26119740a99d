"""Tensors that are made on the CPU, whatever device ``torch.set_default_device`` names for those without one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_cpu() -> Iterator[None]:
    """Make tensors on the CPU; as a decorator, for functions that draw numbers, which are then the same everywhere."""
    with torch.device("cpu"):
        yield
