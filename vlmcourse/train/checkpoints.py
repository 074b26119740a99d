"""Files that a run resumes from: never half written, and no code in them is executed when they are read."""

import contextlib
import errno
import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, text, and lists and dictionaries of them) so that ``path`` is never half done.

    The file is written beside its place, synced to the disk and renamed. Killed at any moment, or on a full disk, the
    previous file at ``path`` survives whole.

    Raises:
        OSError: the file cannot be written; what was there before is left as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> save_checkpoint(path, {"model": {"weight": torch.ones(2)}, "step": 7})
    >>> load_checkpoint(path)
    {'model': {'weight': tensor([1., 1.])}, 'step': 7}
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = io.BytesIO()  # serialised in memory first, so that a full disk is met by a plain write
    torch.save(dict(state), content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a run killed while it was writing
            leftover.unlink()
        with open(temporary, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        kept = "the one written before is untouched" if path.is_file() else "nothing was written"
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else "try another folder"
        raise OSError(
            error.errno, f"could not write checkpoint {path} ({error.strerror}); {kept}; {hint} and call again"
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, with its tensors on the CPU. Executes no code from the file.

    Raises:
        ValueError: the file is damaged, cut short, or holds something else than tensors, numbers and text.
        OSError: the file cannot be read.

    >>> load_checkpoint("nowhere.pt")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.pt'
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that torch.save writes
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"holds a {type(state).__name__}, not a dictionary")
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path} cannot be used: it is damaged, cut short, or no checkpoint ({reason}). It was left as "
            f"it is; move it away to start from the beginning, or put a good copy in its place"
        ) from error
    return state


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Where folders cannot be opened (Windows), the system decides."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
