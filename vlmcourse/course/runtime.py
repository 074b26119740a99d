"""How large an experiment runs: one code path from a laptop to a data-centre GPU."""

import os
from typing import TypeVar

T = TypeVar("T")

PROFILES = ("quick", "full")


def profile() -> str:
    """Return ``"quick"`` (embedded data, seconds on a laptop) or ``"full"`` (real data, one modern GPU).

    The environment variable ``VLMCOURSE_PROFILE`` chooses; without it the profile is quick.

    >>> profile() in ("quick", "full")
    True
    """
    chosen = os.environ.get("VLMCOURSE_PROFILE", "").strip() or "quick"
    if chosen not in PROFILES:
        raise ValueError(f"VLMCOURSE_PROFILE must be one of {', '.join(PROFILES)}, received {chosen!r}")
    return chosen


def pick(*, quick: T, full: T) -> T:
    """Return the value for the current :func:`profile`: the one place where the two profiles differ.

    >>> pick(quick=300, full=20_000) == {"quick": 300, "full": 20_000}[profile()]
    True
    """
    return quick if profile() == "quick" else full
