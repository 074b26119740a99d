"""Modules that know how they were built, so that they can be saved and built again."""

from typing import Any


def arguments(names: dict[str, Any]) -> dict[str, Any]:
    """Return a constructor's arguments from its ``locals()``: with them ``type(module)(**config)`` is built again."""
    return {name: _plain(value) for name, value in names.items() if name not in ("self", "__class__")}


def _plain(value: Any) -> Any:
    # A copy of a sequence, which its owner may change, and a plain number for one of NumPy's.
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value
