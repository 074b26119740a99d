"""Tensors that are made on the CPU, whatever device ``torch.set_default_device`` names for those without one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def _cpu() -> Iterator[None]:
    with torch.device("cpu"):
        yield


on_cpu = _cpu()  # decorates functions that draw seeded numbers: on the CPU, they are the same for every machine
