"""Fetch a file once, whole and unharmed: resumed when cut off, checked before it gets its name.

What arrives goes to ``NAME.part``, renamed when size and checksum are right. A second process waits and finds it there.
"""

import sys
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm


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


def download(archive: Archive, folder: Path, *, timeout: float = 30.0, attempts: int = 5, pause: float = 1.0) -> Path:
    """Return the path of ``archive`` in ``folder``, fetching it if it is not there yet.

    What fails is tried ``attempts`` times, with a longer ``pause`` (seconds) each time, and goes on from where it
    stopped; silence for ``timeout`` seconds is a failure, and so is a wrong checksum, after which all is fetched anew.
    """
    path = folder / archive.filename
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if archive.is_at(path):  # perhaps another process was faster
                    return path
                if _size(part) < archive.size:
                    _receive(archive, part, timeout)
                if archive.is_at(part):
                    return part.replace(path)
                part.unlink()  # nothing in it can be trusted
                raise OSError("what arrived has a wrong checksum")
        except (OSError, HTTPException) as error:  # of the network or of the disk
            failures += 1
            if failures == attempts:
                raise DownloadError(
                    f"could not fetch {archive.url} into {folder}: {str(error) or repr(error)}, after {attempts} "
                    "attempts. Call again to go on from where it stopped; choose another folder with root=... or the "
                    f"environment variable VLMCOURSE_DATA; or fetch it with a browser and put it at {path} "
                    f"({archive.size:,} bytes, md5 {archive.md5}), where it is checked before it is used"
                ) from error
            time.sleep(pause * 2 ** (failures - 1))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(archive: Archive, part: Path, timeout: float) -> None:
    have = _size(part)
    print(f"Fetching {archive.url} ({archive.size / 1e6:,.1f} MB) into {part.parent}", file=sys.stderr)
    headers = {"User-Agent": "vlmcourse", "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with urlopen(Request(archive.url, headers=headers), timeout=timeout) as response:
        if response.status != 206:  # the server cannot resume and sends everything
            have = 0
        total = have + int(response.headers.get("Content-Length", 0))
        if total != archive.size:
            raise OSError(f"the server has {total:,} bytes where {archive.size:,} are expected")
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=archive.filename)
        with part.open("ab" if have else "wb") as file, bar:
            while chunk := response.read1(2**16):
                file.write(chunk)
                bar.update(len(chunk))
    if _size(part) < total:
        raise ConnectionError(f"the connection closed at {_size(part):,} of {total:,} bytes")
