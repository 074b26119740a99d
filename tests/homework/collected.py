"""How files of solutions say which check each belongs to, and which hint a wrong one must get."""

from collections.abc import Callable
from typing import Any

Check = Callable[..., Any]


class Collected:
    """Right and wrong solutions by their check: a decorator for each kind puts one in."""

    def __init__(self) -> None:
        self.RIGHT: dict[Check, list[Check]] = {}
        self.WRONG: dict[Check, list[tuple[Check, str]]] = {}

    def wrong(self, check: Check, hint: str) -> Callable[[Check], Check]:
        def add(function: Check) -> Check:
            self.WRONG.setdefault(check, []).append((function, hint))
            return function

        return add

    def right(self, check: Check) -> Callable[[Check], Check]:
        def add(function: Check) -> Check:
            self.RIGHT.setdefault(check, []).append(function)
            return function

        return add
