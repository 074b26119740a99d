"""What grades a submission beyond the checks that the student can see."""

import secrets
from collections.abc import Callable
from typing import Any

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

    controls: list[Callable[..., Any]] = [nonsense]
    if (variant := check.task.variant) and check.task.mistakes:  # numbers of the right form, and wrong
        knobs = next(iter(check.task.mistakes.values()))
        controls.append(lambda *args, **options: variant(*args, **options, **knobs))
    for wrong in controls:
        if check(wrong).passed:
            raise AssertionError(f"check_{name} was changed by this notebook: it lets nonsense pass")
