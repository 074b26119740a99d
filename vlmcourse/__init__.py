"""A compact, readable library for a lecture on vision: patches, attention, convolution, contrastive learning.

What chapters and homework use can be imported from here, and is loaded on first use: ``import vlmcourse`` costs next to
nothing. ``__init__.pyi`` lists them.
"""

import ast
import dis
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# The stub names every public name and its module, for type checkers; here it is read, so that both say the same.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_EXPORTS = {
    alias.name: str(line.module) for line in _STUB.body if isinstance(line, ast.ImportFrom) for alias in line.names
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        near = get_close_matches(name, __all__, n=3) or __all__
        message = f"module 'vlmcourse' has no attribute {name!r}; public names: {', '.join(near)}"
        caller = sys._getframe(1)
        # ``from vlmcourse import name`` swallows an AttributeError together with its advice.
        if dis.opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM":
            raise ImportError(message)
        raise AttributeError(message)
    room = import_module(_EXPORTS[name])
    value = getattr(room, name) if hasattr(room, name) else import_module(f"{_EXPORTS[name]}.{name}")
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
