"""Modules that know how they were built, so that they can be saved and built again."""

from typing import Any


def arguments(names: dict[str, Any]) -> dict[str, Any]:
    """Return a constructor's arguments from its ``locals()``: with them ``type(module)(**config)`` is built again."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}
