"""Fetch a file once, whole and unharmed: resumed when cut off, checked before it gets its name.

What arrives goes to ``NAME.part`` beside the target. Only a file whose size and checksum are right is renamed to
``NAME``. A lock lets two processes ask for the same file: the second waits and finds it there.
"""

import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm


class DownloadError(RuntimeError):
    """A file could not be had; the message says why and what to do by hand."""


class _Interrupted(Exception):
    """The transfer broke off; what arrived is kept, and another attempt may complete it."""


@dataclass(frozen=True)
class Archive:
    """Where a file lies and how to know it. The checksum guards against accidents, not against an attacker."""

    url: str
    size: int
    md5: str

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return Path(urlsplit(self.url).path).name

    def is_at(self, path: Path) -> bool:
        """Say whether ``path`` holds exactly this file."""
        from torchvision.datasets.utils import check_md5

        return path.is_file() and path.stat().st_size == self.size and check_md5(str(path), self.md5)

    def error(self, folder: Path, reason: str) -> DownloadError:
        """Return what to raise where the file cannot be fetched into ``folder``."""
        return DownloadError(
            f"could not fetch {self.filename} from {urlsplit(self.url).netloc}: {reason}. Call again to go on from "
            f"where it stopped, or fetch {self.url} with a browser and put it at {folder / self.filename} "
            f"({self.size:,} bytes, md5 {self.md5}); it is checked before it is used"
        )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that may not be written into an error that says what to do."""
    try:
        yield
    except OSError as error:
        elsewhere = "choose another folder with root=... or the environment variable VLMCOURSE_DATA"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"no space left in {folder}; make room, or {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise DownloadError(f"cannot write to {folder} ({error.strerror}); {elsewhere}") from error
        raise


def download(archive: Archive, folder: Path, *, timeout: float = 30.0, attempts: int = 5, pause: float = 1.0) -> Path:
    """Return the path of ``archive`` in ``folder``, fetching it if it is not there yet.

    A broken transfer, or ``timeout`` seconds of silence, is tried again up to ``attempts`` times, after ``pause``
    seconds and more; an attempt that brought a megabyte does not count. A finished file with the wrong checksum is
    thrown away and fetched once more from its first byte.
    """
    path = folder / archive.filename
    if archive.is_at(path):
        return path
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if archive.is_at(path):  # another process was faster
                return path
            part = path.with_name(f"{path.name}.part")
            print(f"Fetching {archive.url} ({archive.size / 1e6:,.1f} MB) into {folder}", file=sys.stderr)
            for _ in range(2):
                _complete(archive, part, timeout, attempts, pause)
                if archive.is_at(part):
                    return part.replace(path)
                part.unlink()  # nothing in it can be trusted
            raise archive.error(folder, "the file arrived twice with a wrong checksum")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _complete(archive: Archive, part: Path, timeout: float, attempts: int, pause: float) -> None:
    """Bring ``part`` to its full size."""
    failures = 0
    while (before := _size(part)) != archive.size:
        try:
            _receive(archive, part, before, timeout)
        except _Interrupted as reason:
            failures = 1 if _size(part) - before >= 2**20 else failures + 1
            if failures >= attempts:
                raise archive.error(part.parent, f"{reason}, after {attempts} attempts") from reason
            time.sleep(pause * 2 ** (failures - 1))


def _receive(archive: Archive, part: Path, have: int, timeout: float) -> None:
    """Append to ``part`` what is missing, over one connection."""
    if have > archive.size:
        have = 0
    headers = {"User-Agent": "vlmcourse", "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    try:
        response = urlopen(Request(archive.url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code == 416:  # the server's file ends before our part does
            part.unlink(missing_ok=True)
        elif error.code < 500 and error.code not in (408, 429):
            raise archive.error(part.parent, f"the server answers {error}") from error
        raise _Interrupted(f"the server answers {error}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, socket.gaierror):
            raise archive.error(part.parent, "no such host; is there a network?") from error
        raise _Interrupted(f"no answer ({reason or type(error).__name__})") from error
    with response:
        if response.status != 206:  # the server cannot resume and sends everything
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Interrupted("the server sent another part of the file than was asked for")
        total = have + int(response.headers.get("Content-Length", 0))
        if total != archive.size:
            raise archive.error(part.parent, f"the server has {total:,} bytes where {archive.size:,} are expected")
        if shutil.disk_usage(part.parent).free < archive.size - have:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        bar = tqdm(total=archive.size, initial=have, unit="B", unit_scale=True, desc=archive.filename)
        with part.open("ab" if have else "wb") as file, bar:
            while chunk := _next(response):
                file.write(chunk)
                bar.update(len(chunk))
    if _size(part) < archive.size:
        raise _Interrupted(f"the connection closed at {_size(part):,} of {archive.size:,} bytes")


def _next(response: HTTPResponse) -> bytes:
    """Return what arrives, nothing at the end; only a broken connection, no full disk, is an interruption."""
    try:
        return response.read1(2**16)
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"the connection broke ({error or type(error).__name__})") from error
