"""Files that are there whole or not at all."""

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
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except OSError as error:
        kept = "the one written before is untouched" if path.is_file() else "nothing was written"
        message = f"could not write {path} ({error.strerror}); {kept}; free some space, or try another path"
        raise OSError(error.errno, message) from error
    finally:  # also after Ctrl-C
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
