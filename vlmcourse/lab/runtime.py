"""Where and how large an experiment runs: one code path from a laptop to a data-centre GPU."""

import os
import random
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

PROFILES = ("quick", "full")


def device() -> torch.device:
    """Return the device experiments run on: CUDA if there is one, else MPS, else the CPU.

    The environment variable ``VLMCOURSE_DEVICE`` overrides the choice, as in ``VLMCOURSE_DEVICE=cpu`` or ``cuda:1``.

    Raises:
        ValueError: ``VLMCOURSE_DEVICE`` names no device that PyTorch knows.
        RuntimeError: it names one that this machine, or this build of PyTorch, does not have.

    >>> import os
    >>> os.environ["VLMCOURSE_DEVICE"] = "cpu"
    >>> device()
    device(type='cpu')
    >>> del os.environ["VLMCOURSE_DEVICE"]
    """
    wanted = os.environ.get("VLMCOURSE_DEVICE", "").strip()
    if not wanted:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        chosen = torch.device(wanted)
        if chosen.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
    except RuntimeError:
        raise ValueError(f"VLMCOURSE_DEVICE must be cpu, mps, cuda or cuda:N, received {wanted!r}") from None
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[chosen.type]
    if (chosen.index or 0) >= present:
        raise RuntimeError(
            f"VLMCOURSE_DEVICE={wanted} is not available: PyTorch {torch.__version__} sees {present} {chosen.type} "
            f"device(s) here; unset VLMCOURSE_DEVICE to let the course choose, or set it to cpu"
        )
    return chosen


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, on every device.

    Raises:
        ValueError: ``seed`` is not an integer from 0 to 2³² − 1, the range NumPy accepts.

    >>> seed_everything(7)
    >>> first = torch.rand(3)
    >>> seed_everything(7)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, received {seed!r}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries that read the legacy generator are seeded too
    torch.manual_seed(seed)


def profile() -> str:
    """Return ``"quick"`` (embedded data, seconds on a laptop) or ``"full"`` (real data, one modern GPU).

    The environment variable ``VLMCOURSE_PROFILE`` chooses; without it the profile is quick.

    Raises:
        ValueError: ``VLMCOURSE_PROFILE`` is neither.

    >>> profile() in ("quick", "full")
    True
    """
    chosen = os.environ.get("VLMCOURSE_PROFILE", "").strip() or "quick"
    if chosen not in PROFILES:
        raise ValueError(f"VLMCOURSE_PROFILE must be one of {', '.join(PROFILES)}, received {chosen!r}")
    return chosen


def pick(*, quick: T, full: T) -> T:
    """Return the value for the current :func:`profile`: the one place where the two profiles differ.

    >>> import os
    >>> os.environ["VLMCOURSE_PROFILE"] = "full"
    >>> pick(quick=300, full=20_000)
    20000
    >>> del os.environ["VLMCOURSE_PROFILE"]
    """
    return quick if profile() == "quick" else full
