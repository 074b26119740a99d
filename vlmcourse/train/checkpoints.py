"""Files that a run resumes from: never half written, and without code, so that reading one executes nothing.

A checkpoint is a file of the safetensors format: all tensors, the rest of the state as JSON, and a checksum of both.
Its size is what it holds: nothing in it unpacks to more.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from vlmcourse._files import write_whole


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, text, and lists, tuples and dictionaries of them), whole or not at all.

    Killed at any moment, or on a full disk, the previous file at ``path`` survives.

    Raises:
        OSError: the file cannot be written; what was there before is left as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> save_checkpoint(path, {"model": {"weight": torch.ones(2)}, "step": 7})
    >>> load_checkpoint(path)
    {'model': {'weight': tensor([1., 1.])}, 'step': 7}
    """
    tensors: dict[str, Tensor] = {}
    places: dict[Any, str] = {}

    def encoded(value: Any, name: str) -> Any:
        """Return what JSON can hold, and put tensors aside, each one once."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            place = places.setdefault(
                (value.data_ptr() or id(value), value.dtype, value.shape, value.stride()), str(len(tensors))
            )
            if place not in tensors:  # a copy, because the format wants whole tensors that share no memory
                tensors[place] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            return {"tensor": place}
        if isinstance(value, tuple | list):
            items = [encoded(item, f"{name}[{k}]") for k, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
            return {"items": [[key, encoded(item, f"{name}[{key!r}]")] for key, item in value.items()]}
        raise TypeError(
            f"{name} must be a tensor, a number, text, or a list, tuple or dictionary of them with keys of text or "
            f"integers, received {type(value).__name__}; leave it out, or try torch.from_numpy(...) for arrays"
        )

    text = json.dumps(encoded(dict(state), "state")).encode()
    tensors["state"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    write_whole(path, save(tensors, {"checksum": _checksum(tensors)}))


def load_checkpoint(path: str | Path, *, max_bytes: int | None = None) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, with its tensors on the CPU.

    To start another run from the weights of one that :func:`~vlmcourse.train.loop.fit` trained, load them as
    ``model.load_state_dict(load_checkpoint(path)["model"])``.

    Raises:
        ValueError: the file is damaged, cut short, no checkpoint, or larger than ``max_bytes``.
        OSError: the file cannot be read.

    >>> load_checkpoint("nowhere.pt")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.pt'
    """
    path = Path(path).expanduser()
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if max_bytes is not None and size > max_bytes:
                raise ValueError(f"it has {size} bytes, and this run's can have {max_bytes}")
            content = file.read()
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            if header["__metadata__"]["checksum"] != _checksum(tensors):
                raise ValueError("its checksum does not match")
            return dict(_decoded(json.loads(tensors["state"].numpy().tobytes()), tensors))
        except Exception as error:  # whatever a damaged file leads to, in whichever library
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"checkpoint {path} cannot be used: it is damaged, cut short, or no checkpoint ({reason}). It was left "
                f"as it is; move it away to start from the beginning, or put a good copy in its place"
            ) from error


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decoded(item, tensors) for item in content)
    return {key: _decoded(item, tensors) for key, item in content}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
