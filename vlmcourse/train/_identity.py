"""What a training run is made of, as text: it decides whether a checkpoint may be continued, and nothing else."""

import contextlib
import dis
import functools
import hashlib
import random
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from inspect import signature
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, range, np.generic, torch.dtype, torch.device, PurePath, Enum
)  # fmt: skip

# Whoever draws from a generator changes it. A module is described by its weights.
_CHANGING = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator, nn.Module)


def identity_of(value: Any, leave_out: Iterable[nn.Parameter] = ()) -> dict[str, str]:
    """Describe named values, or a function or an object by its name, its code, and each value that it brings along.

    Parameters to ``leave_out``, and modules that hold one, count as equal: a loss may know its model.
    """
    description = _Description(leave_out)
    return {name: _short(description.of(part)) for name, part in _parts(value).items()}


class _Description:
    """Short texts of values, in any process the same for the same value; each value is looked at once."""

    def __init__(self, leave_out: Iterable[nn.Parameter]) -> None:
        self.left_out = frozenset(map(id, leave_out))
        self.known: dict[int, tuple[str, Any]] = {}  # with the value, or another would get its id

    def of(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return str(value)
        if id(value) not in self.known:
            self.known[id(value)] = "…", value  # a value may hold itself
            self.known[id(value)] = _short(str(self._inside(value))), value
        return self.known[id(value)][0]

    def _inside(self, value: Any) -> Any:
        inside = value.parameters() if isinstance(value, nn.Module) else ()
        if id(value) in self.left_out or any(id(parameter) in self.left_out for parameter in inside):
            return "…"
        if isinstance(value, Tensor | np.ndarray):
            return f"{tuple(value.shape)} {value.dtype} {_digest(_content(value))}"
        if isinstance(value, ModuleType) or (isinstance(value, type) and _is_library(value)):
            return _name(value)
        if isinstance(value, CodeType):  # what a function does, and those inside it, whatever the file and the lines
            return _digest(f"{value.co_code!r} {value.co_names} {self.of(value.co_consts)}".encode())
        if isinstance(value, list | tuple | deque):
            return [type(value).__name__, *map(self.of, value)]
        if isinstance(value, set | frozenset):
            return sorted(map(self.of, value))
        return dict(sorted((self.of(name), self.of(part)) for name, part in _parts(value).items()))


def _parts(value: Any) -> dict[str, Any]:
    """Return what a value is made of, by name: its entries, or its code, settings, methods and attributes."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, functools.partial):
        return _parts(value.func) | {f"argument {k}": part for k, part in enumerate(value.args)} | value.keywords
    if isinstance(value, MethodType):
        return _parts(value.__func__) | {"self": value.__self__}
    if isinstance(value, BuiltinFunctionType):
        return {"function": _name(value), "self": value.__self__}
    if isinstance(value, FunctionType):
        return {"function": _name(value), "code": value.__code__} | _brought_along(value)
    if isinstance(value, type):
        return {"class": _name(value)} | _settings(value)
    found = {"class": _name(type(value))}
    for kind in reversed(type(value).__mro__):
        found |= {} if _is_library(kind) else _settings(kind)
    if (pickled := _pickled(value)) is not None:
        return found | {"content": pickled}
    state = object.__getstate__(value)  # attributes, also those in slots; nothing where there are none
    if state is None and not hasattr(value, "__dict__"):  # what it shows, without its place in memory
        state = {"value": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))}
    attributes, slots = state if isinstance(state, tuple) else (state, {})
    weights = ("_parameters", "_buffers", "_modules") if isinstance(value, nn.Module) else ()
    held = {name: part for name, part in ((attributes or {}) | slots).items() if name in weights or name[0] != "_"}
    held.pop("training", None)
    return found | held


def _settings(kind: type) -> dict[str, Any]:
    # Its functions, and its public attributes, in which settings are often kept.
    return {name: part for name, part in vars(kind).items() if name[0] != "_" or isinstance(part, FunctionType)}


def _pickled(value: Any) -> list[Any] | None:
    """Return what pickle would keep of a library's object, such as a table or a picture, if the library says what."""
    kinds = [kind for kind in type(value).__mro__[:-1] if _is_library(kind)]
    says = any(name in vars(kind) for kind in kinds for name in ("__reduce__", "__reduce_ex__", "__getstate__"))
    if not says or isinstance(value, _CHANGING):
        return None
    try:
        kept = value.__reduce_ex__(4)
    except Exception:  # whatever stands in the way, such as an open file
        return None
    return [list(part) if isinstance(part, Iterator) else part for part in kept[1:]]  # the first says how to build it


def _is_library(kind: type) -> bool:
    """Say whether a class comes with Python or an installed package, whose code changes with its version alone."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return kind.__module__.partition(".")[0] in sys.stdlib_module_names or "site-packages" in file


def check_same(what: str, path: PurePath, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    names = [name for name in {**present, **saved} if saved.get(name) != present.get(name)]
    if names:
        rows = [f"{name}: {saved.get(name, 'absent')} there, {present.get(name, 'absent')} here" for name in names[:5]]
        raise ValueError(
            f"checkpoint {path} belongs to another {what} ({'; '.join(rows)}). Call fit as that run did to "
            f"continue it, give this run a checkpoint of its own, or start anew with resume=False"
        )


def _brought_along(function: FunctionType) -> dict[str, Any]:
    """Return defaults, closed-over values and global variables, by name."""
    parameters = signature(function, follow_wrapped=False).parameters.values()
    found = {one.name: one.default for one in parameters if one.default is not one.empty}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # raised by a cell that is not filled yet
            found[name] = cell.cell_contents
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL" and step.argval in function.__globals__:
                value = function.__globals__[step.argval]
                # Functions and classes of the same module are followed; of what is imported, the name is enough.
                elsewhere = isinstance(value, FunctionType | type) and value.__module__ != function.__module__
                found[step.argval] = _name(value) if elsewhere else value
    return found


def _codes(code: CodeType) -> list[CodeType]:
    return [code, *(one for inner in code.co_consts if isinstance(inner, CodeType) for one in _codes(inner))]


def _content(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else value.__name__


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]}… {_digest(text.encode())}"


def _digest(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()
