"""Files that are there whole or not at all."""

import errno
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path


def write_whole(path: str | Path, content: bytes) -> None:
    """Write so that, killed at any moment, the old file or the new one is there; makes folders and expands ``~``."""
    path = Path(path).expanduser()
    path = path.resolve() if path.is_symlink() else path  # the file on another disk, not the link to it
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise OSError(errno.EIO, "the disk holds something else than was written")
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = "the one written before is untouched" if path.is_file() else "nothing was written"
        message = f"could not write {path} ({error.strerror}); {kept}; free some space or try another folder"
        raise OSError(error.errno, message) from error
    finally:  # also after Ctrl-C
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Where folders cannot be opened (Windows), the system decides."""
    with suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
