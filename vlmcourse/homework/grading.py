"""What grades a submission beyond the checks that the student can see."""

import secrets
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlmcourse.homework import CHECKS


def regrade(name: str, function: Callable[..., Any], *, seeds: int = 3) -> None:
    """Check a function on inputs that nobody has seen, and see that the check is still the one of the package.

    Raises:
        AssertionError: the function is wrong on some of them, or the check has been tampered with.

    >>> from einops import rearrange
    >>> def patchify(images, *, patch_size):
    ...     return rearrange(images, "b c (nh h) (nw w) -> b (nh nw) (h w c)", h=patch_size, w=patch_size)
    >>> regrade("patchify", patchify)
    """
    check = CHECKS[name]
    for _ in range(seeds):
        report = check(function, seed=secrets.randbelow(2**31))
        if not report.passed:  # no assert: python -O would drop it
            raise AssertionError(str(report))

    def nonsense(*_args: Any, **_options: Any) -> str:
        return "nonsense"

    def beside(*args: Any, **options: Any) -> Any:
        return _moved(check.task.right(*args, **options))

    for wrong in (nonsense,) if check.task.property_only or check.task.adapt else (nonsense, beside):
        if check(wrong).passed:
            raise AssertionError(f"check_{name} was changed by this notebook: it lets nonsense pass")


def _moved(value: Any) -> Any:
    """Return a result of the same form in which all numbers are wrong."""
    if isinstance(value, tuple):
        return tuple(map(_moved, value))
    return ~value if isinstance(value, Tensor) and value.dtype == torch.bool else value + 1
