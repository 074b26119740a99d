"""What surrounds a training loop: what a device can do, and settings that hold while the loop runs."""

import contextlib
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from vlmcourse.ops._modes import evaluating
from vlmcourse.train.runtime import limit_threads


@lru_cache
def has_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 is faster than float32 here, rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def layout_for(model: nn.Module, device: torch.device, *, channels_last: bool) -> torch.memory_format:
    # PyTorch's CPU kernel for the gradient of a 1 × 1 convolution with a stride and fewer than 8 input channels writes
    # past its memory when channels come last (CHANGELOG, Known).
    unsafe = device.type == "cpu" and any(
        set(layer.kernel_size) == {1} and max(layer.stride) > 1 and layer.in_channels < 8
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
    )
    return torch.channels_last if channels_last and not unsafe else torch.contiguous_format


@contextlib.contextmanager
def around(model: nn.Module, device: torch.device, layout: torch.memory_format) -> Iterator[Callable[[], bool]]:
    """Prepare model, generators, threads and Ctrl-C, and undo it at the end; yield a function: was Ctrl-C pressed?"""
    cudnn = torch.backends.cudnn
    with contextlib.ExitStack() as after:
        threads = limit_threads()  # how many there were before
        if threads > torch.get_num_threads():
            after.callback(torch.set_num_threads, threads)
        after.callback(random.setstate, random.getstate())
        after.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  loss functions may draw from it
        after.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if device.type == "mps":
            after.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        after.enter_context(evaluating(model))  # its end gives each part its own mode back
        after.callback(store_kernels, model, torch.contiguous_format)  # as files of weights must have them
        after.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
        store_kernels(model, layout)
        # cuDNN times its algorithms once: shapes hardly change from batch to batch.
        cudnn.benchmark = cudnn.benchmark or (device.type == "cuda" and not cudnn.deterministic)
        train_what_learns(model)
        yield after.enter_context(interrupt_between_steps())


def store_kernels(model: nn.Module, layout: torch.memory_format) -> None:
    """Store 2-D convolution kernels in a layout; ``Module.to`` refuses models that also have 3-D kernels."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
            if parameter.grad is not None:  # one stored otherwise is wrong for PyTorch's fused optimizers on a CPU
                parameter.grad = parameter.grad.contiguous(memory_format=layout)


def train_what_learns(model: nn.Module) -> None:
    """Put the parts that learn into training mode and the frozen ones into evaluation mode."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


@contextlib.contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait for the end of a step, where weights, optimizer and history agree. A second one does not wait."""
    asked, before = threading.Event(), signal.getsignal(signal.SIGINT)
    # Only the main thread may handle signals. A script ignores Ctrl-C for what it starts in the background; a program
    # that embeds Python has a handler that cannot be put back, which Python shows as None.
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield asked.is_set
        return

    def note(signum: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def explained_out_of_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that fill the memory
        smaller = 1 << (max(batch_size // 2, 1).bit_length() - 1)  # a power of two, at most half
        advice = f"try batch_size={smaller}" if batch_size > 1 else "try smaller images or a smaller model"
        raise MemoryError(f"the GPU has too little memory for batch_size={batch_size}; {advice} ({error})") from None
