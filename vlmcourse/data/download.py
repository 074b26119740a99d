"""Fetch a file once, whole and unharmed: resumed when cut off, checked before it gets its name.

What arrives goes to ``NAME.part``, renamed when size and checksum are right. A second process waits and finds it there.
"""

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

_BROKEN = (ConnectionError, TimeoutError, HTTPException, URLError, SSLError)  # of the network, and not of the disk


class DownloadError(RuntimeError):
    """A file could not be had; the message says why and what to do by hand."""


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

    A transfer that breaks, or is silent for ``timeout`` seconds, is tried ``attempts`` times, after pauses that double
    from ``pause`` seconds; a megabyte received resets the count. A file with the wrong checksum is fetched once more.
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
    failures = 0
    while (before := _size(part)) != archive.size:
        try:
            _receive(archive, part, before if before < archive.size else 0, timeout)
        except _BROKEN as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 429):
                raise archive.error(part.parent, f"the server answers {reason}") from error
            failures = 1 if _size(part) - before >= 2**20 else failures + 1
            if failures >= attempts:
                raise archive.error(part.parent, f"{reason}, after {attempts} attempts") from error
            time.sleep(pause * 2 ** (failures - 1))


def _receive(archive: Archive, part: Path, have: int, timeout: float) -> None:
    headers = {"User-Agent": "vlmcourse", "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with urlopen(Request(archive.url, headers=headers), timeout=timeout) as response:
        if response.status != 206:  # the server cannot resume and sends everything
            have = 0
        total = have + int(response.headers.get("Content-Length", 0))
        if total != archive.size:
            raise archive.error(part.parent, f"the server has {total:,} bytes where {archive.size:,} are expected")
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=archive.filename)
        with part.open("ab" if have else "wb") as file, bar:
            while chunk := response.read1(2**16):
                file.write(chunk)
                bar.update(len(chunk))
    if _size(part) < total:
        raise ConnectionError(f"the connection closed at {_size(part):,} of {total:,} bytes")
