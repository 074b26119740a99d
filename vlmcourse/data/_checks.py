"""Argument checks shared by the data modules: every error says what was expected and what came."""

from collections.abc import Iterable, Sequence


def check_int(name: str, value: int, *, minimum: int) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, received {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, received {value}")


def check_range(name: str, value: tuple[float, float], *, low: float, high: float) -> None:
    """Raise unless ``value`` is a pair with ``low <= value[0] <= value[1] <= high``."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (smallest, largest), received {value!r}")
    if not low <= value[0] <= value[1] <= high:
        raise ValueError(f"{name} must be a pair with {low} <= smallest <= largest <= {high}, received {value!r}")


def check_number(name: str, value: float, *, low: float, high: float) -> None:
    """Raise unless ``value`` is a number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, received {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, received {value}")


def choose_names(name: str, chosen: str | Iterable[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """Return ``chosen`` as a tuple of distinct known names; ``None`` stands for all of them."""
    known = tuple(known)
    if chosen is None:
        return known
    names = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    unknown = [n for n in names if n not in known]
    if unknown:
        raise ValueError(f"{name} has unknown {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{name} must hold at least one name and none twice, received {names!r}")
    return names
