"""Fetch a file once, whole and unharmed: resumed when cut off, checked before it gets its name.

What arrives goes to ``NAME.part`` beside the target. Only a file whose size and checksum are right is renamed to
``NAME``, so that a file of that name is always complete, whatever was interrupted before. A lock lets two processes
ask for the same file: the second waits and finds it there.
"""

import errno
import hashlib
import os
import re
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

from filelock import FileLock  # a requirement of torch
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

    @property
    def host(self) -> str:
        """Who has it."""
        return urlsplit(self.url).netloc

    def is_at(self, path: Path) -> bool:
        """Say whether ``path`` holds exactly this file."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == self.md5


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

    A broken transfer is resumed up to ``attempts`` times, with growing pauses; an attempt that brought a megabyte does
    not count. A finished file with the wrong checksum is thrown away and fetched once more from its first byte.

    Units:
        timeout: seconds of silence after which a connection counts as broken. pause: seconds before the second attempt.
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
                    with part.open("rb+") as file:
                        os.fsync(file.fileno())
                    part.replace(path)
                    return path
                part.unlink()  # nothing in it can be trusted
            raise DownloadError(_by_hand(archive, folder, "the file arrived twice with a wrong checksum"))


def _by_hand(archive: Archive, folder: Path, reason: str) -> str:
    return (
        f"could not fetch {archive.filename} from {archive.host}: {reason}. Call again to go on from "
        f"where it stopped, or fetch {archive.url} with a browser and put it at {folder / archive.filename} "
        f"({archive.size:,} bytes, md5 {archive.md5}); it is checked before it is used"
    )


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
                message = f"{reason}, after {attempts} attempts"
                raise DownloadError(_by_hand(archive, part.parent, message)) from reason
            time.sleep(pause * 2 ** (failures - 1))


def _receive(archive: Archive, part: Path, have: int, timeout: float) -> None:
    """Append to ``part`` what is missing, over one connection."""
    if have > archive.size:
        part.unlink()
        have = 0
    with _open(archive, part, have, timeout) as response:
        if response.status == 206:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if not start or int(start[1]) != have:
                part.unlink()
                raise _Interrupted("the server sent another part of the file than was asked for")
        else:
            have = 0  # the server cannot resume and sends everything
        announced = response.headers.get("Content-Length")
        if announced is not None and have + int(announced) != archive.size:
            reason = f"the server has {have + int(announced):,} bytes where {archive.size:,} are expected"
            raise DownloadError(_by_hand(archive, part.parent, reason))
        if shutil.disk_usage(part.parent).free < archive.size - have:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        label = f"{archive.filename} from {archive.host}"
        bar = tqdm(total=archive.size, initial=have, unit="B", unit_scale=True, desc=label)
        with part.open("ab" if have else "wb") as file, bar:
            for chunk in _chunks(response, timeout):
                have += len(chunk)
                if have > archive.size:
                    raise DownloadError(_by_hand(archive, part.parent, "the server sends more than the file's size"))
                file.write(chunk)
                bar.update(len(chunk))
    if have < archive.size:
        raise _Interrupted(f"the connection closed at {have:,} of {archive.size:,} bytes")


def _open(archive: Archive, part: Path, have: int, timeout: float) -> HTTPResponse:
    headers = {"User-Agent": "vlmcourse", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return urlopen(Request(archive.url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code == 416:  # the server's file ends before our part does
            part.unlink()
        elif error.code < 500 and error.code not in (408, 429):
            raise DownloadError(_by_hand(archive, part.parent, f"the server answers {error}")) from error
        raise _Interrupted(f"the server answers {error}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, socket.gaierror):
            raise DownloadError(_by_hand(archive, part.parent, "no such host; is there a network?")) from error
        raise _Interrupted(f"no answer ({reason or type(error).__name__})") from error


def _chunks(response: HTTPResponse, timeout: float) -> Iterator[bytes]:
    """Yield what arrives, until the end; silence, or a trickle that amounts to it, is an interruption."""
    since, received = time.monotonic(), 0
    while True:
        try:
            chunk = response.read1(2**16)
        except (OSError, HTTPException) as error:
            raise _Interrupted(f"the connection broke ({error or type(error).__name__})") from error
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        if received >= 2**10 * timeout:
            since, received = time.monotonic(), 0
        elif time.monotonic() - since > timeout:
            raise _Interrupted(f"less than a kilobyte a second for {timeout:g} seconds")
