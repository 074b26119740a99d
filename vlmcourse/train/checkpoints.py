"""Files that a run resumes from: a checksum, then what ``torch.save`` writes of tensors and plain values, no code."""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmcourse._files import write_whole

_CHECKSUM_BYTES = 16


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, text, and lists, tuples and dictionaries of them), whole or not at all.

    If the process is killed or the disk is full, the file before survives. Read it with :func:`load_checkpoint`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> save_checkpoint(path, {"model": {"weight": torch.ones(2)}, "step": 7})
    >>> load_checkpoint(path)
    {'model': {'weight': tensor([1., 1.])}, 'step': 7}
    """
    file = io.BytesIO()
    torch.save(_plain(state, "state"), file)
    content = file.getvalue()
    write_whole(path, _checksum(content) + content)


def load_checkpoint(path: str | Path, *, max_bytes: float = math.inf) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, with its tensors on the CPU; executes nothing.

    ``model.load_state_dict(load_checkpoint(path)["model"])`` starts from the weights that
    :func:`~vlmcourse.train.loop.fit` ended with. A damaged file, or one larger than ``max_bytes``, raises ValueError.

    >>> load_checkpoint("nowhere.pt")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.pt'
    """
    path = Path(path).expanduser()
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise ValueError(f"it has {size} bytes, and this run's can have {max_bytes}")
        with open(path, "rb") as file:
            checksum, content = file.read(_CHECKSUM_BYTES), file.read()
        if checksum != _checksum(content):
            raise ValueError("its checksum does not match")
        if sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(content)).infolist()) > len(content):
            raise ValueError("it unpacks to more than it holds")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # weights only: no code
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        return state
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a foreign file leads to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path} cannot be used: it is damaged, cut short, or no checkpoint ({reason}). It was left "
            f"as it is; move it away to start from the beginning, or put a good copy in its place"
        ) from error


def _plain(value: Any, name: str) -> Any:
    """Return a copy that holds nothing but plain values and tensors on the CPU."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{name}[{k}]") for k, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"{name} must be a tensor, a number, text, or a list, tuple or dictionary of them with keys of text or "
        f"integers, received {type(value).__name__}; leave it out, or try torch.from_numpy(...) for arrays"
    )


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
