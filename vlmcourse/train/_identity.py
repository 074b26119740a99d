"""What a training run is made of, in words that can be kept in a file and compared with those of another run."""

import contextlib
import dis
import functools
import hashlib
import types
from collections.abc import Mapping, Sequence
from copy import copy
from enum import Enum
from inspect import Parameter, signature
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, torch.dtype, torch.device, PurePath, Enum)
_HASHED_BYTES = 2**30  # of a larger array, evenly spaced rows stand for the whole: hashing takes a second at most


def identity_of(value: Any, model: nn.Module | None = None) -> dict[str, str]:
    """Describe a function or an object by its name, its code, and each value that it brings along.

    Those are an object's public attributes, and a function's defaults, what it closes over, what ``functools.partial``
    gave it, and the global variables it reads. A module that shares a parameter with ``model`` is no such value: it is
    the model.
    """
    return {name: _short(text) for name, text in _Description(model).parts(value).items()}


def identity_of_tensors(tensors: Sequence[Tensor]) -> dict[str, str]:
    """Describe each tensor by its shape and a hash of its content."""
    return {f"data[{k}]": _Description().of(tensor) for k, tensor in enumerate(tensors)}


def check_same(what: str, path: PurePath, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raise if a run differs from the one in a file, and say where."""
    names = [name for name in {**present, **saved} if saved.get(name) != present.get(name)]
    if names:
        rows = [f"{name}: {saved.get(name, 'absent')} there, {present.get(name, 'absent')} here" for name in names]
        more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise ValueError(
            f"checkpoint {path} belongs to another {what} ({'; '.join(rows[:5])}{more}). Call fit as that run did to "
            f"continue it, give this run a checkpoint of its own, or start anew with resume=False"
        )


class _Description:
    """Describes values in texts that are equal, in any process, where the values are."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model_parameters = set() if model is None else set(map(id, model.parameters()))
        self.around: tuple[int, ...] = ()  # the values that hold the present one: a value may hold itself

    def of(self, value: Any) -> str:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, Tensor | np.ndarray):
            return f"{tuple(value.shape)} {value.dtype} {_hash_of_array(value)}"
        if id(value) in self.around:
            return "…"
        inside = copy(self)
        inside.around += (id(value),)
        return _short(inside._of_whole(value))

    def _of_whole(self, value: Any) -> str:
        if isinstance(value, Mapping):
            return str([f"{self.of(key)}: {self.of(item)}" for key, item in value.items()])
        if isinstance(value, list | tuple):
            return f"{type(value).__name__} {list(map(self.of, value))}"
        if isinstance(value, set | frozenset):
            return f"set {sorted(map(self.of, value))}"
        if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            return _name(value)
        if isinstance(value, nn.Module) and any(id(p) in self.model_parameters for p in value.parameters()):
            return "the model"
        return str(self.parts(value))

    def parts(self, value: Any) -> dict[str, str]:
        """Describe what a function or an object is made of, by name."""
        if isinstance(value, functools.partial):
            given = {f"argument {k}": argument for k, argument in enumerate(value.args)} | value.keywords
            return self.parts(value.func) | {name: self.of(argument) for name, argument in given.items()}
        if isinstance(value, types.MethodType):
            return self.parts(value.__func__) | {"self": self.of(value.__self__)}
        if isinstance(value, types.FunctionType):
            brought = {name: self.of(item) for name, item in _brought_along(value).items()}
            return {"function": _name(value), "code": _hash_of_code(value.__code__)} | brought
        held = getattr(value, "__dict__", {})
        weights = ("_parameters", "_buffers", "_modules") if isinstance(value, nn.Module) else ()
        names = [name for name in held if name in weights or not (name.startswith("_") or name == "training")]
        methods = [getattr(type(value), name, None) for name in ("forward", "__getitem__", "__call__")]
        codes = [_hash_of_code(method.__code__) for method in methods if isinstance(method, types.FunctionType)]
        described = {"class": _name(type(value))} | ({"code": codes[0]} if codes else {})
        return described | {name: self.of(held[name]) for name in names}


def _brought_along(function: types.FunctionType) -> dict[str, Any]:
    """Return defaults, closed-over values and global variables, by name."""
    code, parameters = function.__code__, signature(function, follow_wrapped=False).parameters
    found = {name: one.default for name, one in parameters.items() if one.default is not Parameter.empty}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # raised by a cell that is not filled yet
            found[name] = cell.cell_contents
    for name in sorted(_global_names(code) & function.__globals__.keys()):
        value = function.__globals__[name]
        # Functions of the same module are followed; of one that is imported, the name is enough.
        elsewhere = isinstance(value, types.FunctionType) and value.__module__ != function.__module__
        found[name] = _name(value) if elsewhere else value
    return found


def _global_names(code: types.CodeType) -> set[str]:
    """Return the global variables that a function, or a function inside it, reads."""
    inner = [_global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*inner)


def _hash_of_code(code: types.CodeType) -> str:
    constants = [_hash_of_code(c) if isinstance(c, types.CodeType) else _Description().of(c) for c in code.co_consts]
    return _digest(repr((code.co_code, code.co_names, constants)).encode())


def _hash_of_array(array: Any) -> str:
    if isinstance(array, np.ndarray) and array.dtype.kind in "OUSMmV":  # objects, text, dates
        return _digest(repr(array.tolist()).encode())
    tensor = torch.as_tensor(array).detach()
    if tensor.ndim and tensor.nbytes > _HASHED_BYTES:
        tensor = tensor[:: -(-tensor.nbytes // _HASHED_BYTES)]
    return _digest(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _name(value: Any) -> str:
    """Return a function's, a class's or a module's full name."""
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else value.__name__


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]}… {_digest(text.encode())}"


def _digest(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()
