"""Tensors that are made on the CPU in float32, whatever default device and dtype PyTorch has been given."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_cpu() -> Iterator[None]:
    """Make tensors on the CPU, in float32; as a decorator for functions that draw numbers, the same everywhere."""
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
