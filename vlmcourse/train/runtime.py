"""Where an experiment runs, and the seeds of its random numbers."""

import hashlib
import os
import random

import numpy as np
import torch


def device() -> torch.device:
    """Return the device to run on: ``VLMCOURSE_DEVICE``, such as ``cuda:1``, if it is set, else CUDA, MPS or the CPU.

    >>> device().type in ("cuda", "mps", "cpu")
    True
    """
    wanted = os.environ.get("VLMCOURSE_DEVICE", "").strip() or (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    try:
        chosen = torch.device(wanted)
        present = torch.get_device_module(chosen.type).device_count()  # also of a device that a package brings
    except RuntimeError:
        raise ValueError(f"VLMCOURSE_DEVICE must be cpu, mps, cuda or cuda:N, received {wanted!r}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():  # cards are counted without asking their driver
        present = 0
    if (chosen.index or 0) >= present:
        raise RuntimeError(
            f"VLMCOURSE_DEVICE={wanted} is not available: PyTorch {torch.__version__} sees {present} {chosen.type} "
            f"device(s) here; unset VLMCOURSE_DEVICE to let the course choose, or set it to cpu"
        )
    return chosen


def limit_threads() -> int:
    """Limit PyTorch's threads to the cores of a container's quota, which it does not see; return how many it had."""
    import joblib  # here: it takes a while, and formulas and networks need no threads counted

    had, cores = torch.get_num_threads(), joblib.cpu_count()
    if had > cores:  # with 64 threads on two cores a small training takes many times as long
        torch.set_num_threads(cores)
    return had


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, on every device.

    >>> seed_everything(7)
    >>> torch.rand(2)
    tensor([0.5349, 0.1988])
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, received {seed!r}")
    reseed(seed, None)


def reseed(seed: int, device: torch.device | None) -> None:
    """Seed as :func:`seed_everything` does; for the CPU its own generator alone, quick enough for every step."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries that read the legacy generator are seeded too
    on_cpu = device is not None and device.type == "cpu"
    (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)


def mixed_seed(*parts: object) -> int:
    """Return a seed of 32 bits that almost always differs where any part does."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())
