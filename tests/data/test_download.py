"""Nothing broken is ever accepted: downloads from a local server that truncates, stalls, corrupts and drops."""

import errno
import hashlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlmcourse.data import download as module
from vlmcourse.data.download import Archive, DownloadError, download

BODY = bytes(range(251)) * 12_007  # three megabytes, of a length no block size divides
CUT = 1_234_567
QUICK = {"timeout": 0.4, "pause": 0.01}


class Server(ThreadingHTTPServer):
    """Serves ``BODY``, misbehaving at each request as told by ``plan``, in order; afterwards it behaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.requests, self.released = [], [], threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def archive(self):
        return Archive(f"http://127.0.0.1:{self.server_port}/data/set.tar.gz", len(BODY), hashlib.md5(BODY).hexdigest())

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the game


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.requests.append(start)
        fault = self.server.plan.pop(0) if self.server.plan else "none"
        self.close_connection = True
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if start >= len(BODY):
            self.send_error(416)
            return
        if fault in ("no range", "no range, then cut"):
            start = 0
        body = BODY[start:]
        if fault == "corrupt":
            body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
        if fault == "changed":
            body = bytes(len(body))
        if fault == "web page":
            start, body = 0, b"<html>Please log in to the network.</html>"
        if fault == "wrong part":
            body, start = BODY[start + 7 :] + bytes(7), start + 7
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        if fault == "endless":
            self.end_headers()
            while True:
                self.wfile.write(bytes(2**16))
        self.send_header("Content-Length", str(len(body) + 5 * (fault == "longer")))
        self.end_headers()
        if fault in ("truncate", "stall", "drop", "no range, then cut"):
            body = body[:CUT]
        self.wfile.write(body)
        self.wfile.flush()
        if fault == "stall":
            self.server.released.wait(5)
        if fault == "drop":  # a reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_arrives_whole_under_its_name_and_is_fetched_once(server, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    path = download(server.archive, folder, **QUICK)
    assert path == folder / "set.tar.gz"
    assert path.read_bytes() == BODY
    assert leftovers(folder) == ["set.tar.gz"]
    assert download(server.archive, folder, **QUICK) == path
    assert server.requests == [0]
    message = capsys.readouterr().err
    assert "127.0.0.1" in message
    assert "3.0 MB" in message


@pytest.mark.parametrize("fault", ["truncate", "stall", "drop"])
def test_a_broken_transfer_goes_on_from_where_it_stopped(server, tmp_path, fault):
    server.plan = [fault]
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY
    assert len(server.requests) == 2
    assert 0 < server.requests[1] <= CUT
    if fault != "drop":  # a reset may take with it what was under way
        assert server.requests[1] == CUT


@pytest.mark.parametrize(
    ("plan", "requests"),
    [
        (["truncate", "truncate"], 3),
        (["truncate", "no range"], 2),
        (["truncate", "no range, then cut"], 3),
        (["truncate", "wrong part"], 3),
        ([503, 429, 500], 4),
        (["corrupt"], 2),
        (["truncate", "changed"], 3),
        (["truncate", "corrupt"], 3),
    ],
)
def test_what_can_be_repaired_is_repaired(server, tmp_path, plan, requests):
    server.plan = list(plan)
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY
    assert leftovers(tmp_path) == ["set.tar.gz"]
    assert len(server.requests) == requests


def test_leftovers_longer_than_the_file_are_thrown_away_unasked(server, tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(BODY + b"more")
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY
    assert server.requests == [0]


def test_an_attempt_that_brought_a_megabyte_does_not_count(server, tmp_path):
    server.plan = ["truncate", "truncate"]
    assert download(server.archive, tmp_path, attempts=2, **QUICK).read_bytes() == BODY


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (["corrupt", "corrupt"], "arrived twice with a wrong checksum"),
        (["web page"], "the server has 42 bytes where 3,013,757 are expected"),
        (["longer"], "the server has 3,013,762 bytes"),
        (["endless"], "3,013,757 are expected"),
        (["truncate", "endless"], "3,013,757 are expected"),
        ([404], "the server answers HTTP Error 404"),
        ([403], "the server answers HTTP Error 403"),
        ([500] * 5, "HTTP Error 500.*after 5 attempts"),
    ],
)
def test_what_cannot_be_repaired_is_never_accepted_and_says_what_to_do(server, tmp_path, plan, reason):
    server.plan = list(plan)
    with pytest.raises(DownloadError, match=reason) as caught:
        download(server.archive, tmp_path, **QUICK)
    assert not (tmp_path / "set.tar.gz").exists()
    for needed in (server.archive.url, str(tmp_path / "set.tar.gz"), server.archive.md5):
        assert needed in str(caught.value)
    # and the next call, from a server that behaves, succeeds whatever was left behind
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY


def test_the_next_call_resumes_what_an_earlier_one_left(server, tmp_path):
    (tmp_path / "set.tar.gz.part").write_bytes(BODY[:CUT])
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY
    assert server.requests == [CUT]


@pytest.mark.parametrize("part", [BODY, BODY + b"more", bytes(CUT), bytes(len(BODY)), b""])
def test_any_leftover_part_ends_in_the_right_file(server, tmp_path, part):
    (tmp_path / "set.tar.gz.part").write_bytes(part)
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY


@pytest.mark.parametrize("present", [BODY[:-1], BODY[:CUT], bytes(len(BODY)), b"", BODY + b"x"])
def test_a_broken_file_under_the_right_name_is_not_believed(server, tmp_path, present):
    (tmp_path / "set.tar.gz").write_bytes(present)
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY


def test_a_file_put_there_by_hand_needs_no_network(tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(BODY)
    archive = Archive("http://nowhere.invalid/set.tar.gz", len(BODY), hashlib.md5(BODY).hexdigest())
    assert download(archive, tmp_path).read_bytes() == BODY


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    def no_name(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(DownloadError, match=r"Name or service not known.*after 5 attempts.*with a browser"):
        download(Archive("http://nowhere.invalid/set.tar.gz", 10, "0" * 32), tmp_path, **QUICK)


def test_a_refused_connection_is_tried_again_and_then_named(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match=r"Connection refused.*after 3 attempts"):
        download(Archive(f"http://127.0.0.1:{port}/set.tar.gz", 10, "0" * 32), tmp_path, attempts=3, **QUICK)


def test_a_full_disk_is_named(server, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open

    def open_full(path, mode="r"):
        file = real(path, mode)
        return Full(file) if mode in ("ab", "wb") else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        with pytest.raises(DownloadError, match=f"no space left in {tmp_path}.*root=.*VLMCOURSE_DATA"):
            download(server.archive, tmp_path, **QUICK)
    assert not (tmp_path / "set.tar.gz").exists()
    assert download(server.archive, tmp_path, **QUICK).read_bytes() == BODY


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(server, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(DownloadError, match="cannot write to"):
        download(server.archive, tmp_path, **QUICK)
    tmp_path.chmod(0o755)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_disk_is_named(server, tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DownloadError, match=r"cannot write to .*choose another folder with root=\.\.\."):
        download(server.archive, tmp_path / "new", **QUICK)


def test_a_file_in_the_place_of_the_folder_is_named(server, tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(DownloadError, match="cannot write to"):
        download(server.archive, tmp_path / "root", **QUICK)


@pytest.mark.slow
def test_two_processes_may_ask_at_once(server, tmp_path):
    server.plan = ["truncate"]
    archive = server.archive
    code = (
        "import pathlib, sys; from vlmcourse.data.download import Archive, download;"
        "print(download(Archive(sys.argv[1], int(sys.argv[2]), sys.argv[3]), pathlib.Path(sys.argv[4]), pause=0.01))"
    )
    command = [sys.executable, "-c", code, archive.url, str(archive.size), archive.md5, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert answers == [str(tmp_path / "set.tar.gz")] * 2
    assert (tmp_path / "set.tar.gz").read_bytes() == BODY
    assert server.requests == [0, CUT]


@pytest.mark.slow
def test_a_killed_download_leaves_nothing_under_the_name_and_resumes(server, tmp_path):
    server.plan = ["stall"]
    archive = server.archive
    code = (
        "import pathlib, sys; from vlmcourse.data.download import Archive, download;"
        "download(Archive(sys.argv[1], int(sys.argv[2]), sys.argv[3]), pathlib.Path(sys.argv[4]))"
    )
    command = [sys.executable, "-c", code, archive.url, str(archive.size), archive.md5, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    part = tmp_path / "set.tar.gz.part"
    waiting = threading.Event()
    for _ in range(3000):
        if part.exists() and part.stat().st_size > 100_000:
            break
        waiting.wait(0.01)
    process.kill()
    process.wait()
    assert leftovers(tmp_path) == ["set.tar.gz.part"]
    assert download(archive, tmp_path, **QUICK).read_bytes() == BODY
    assert server.requests[1] > 0
