"""Fixtures shared by all tests."""

import functools
import http.server
import os
import re
import threading
from collections.abc import Iterator

import pytest
import torch
from browsers import CHROMIUM, HTML, OPTIONS, Reader, unavailable
from hypothesis import settings

torch.set_num_threads(1)  # the tests run in parallel, and their tensors are tiny

# How many examples hypothesis tries of each property; a slow machine is no reason to fail.
settings.register_profile("full", max_examples=100, deadline=None)
settings.register_profile("fast", max_examples=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "full")


def pytest_collection_modifyitems(items):
    """A test that needs a GPU is skipped where there is none, with the reason shown."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):  # item.keywords would also hold a parameter of that name
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With --dist loadscope, let one worker run all tests of a page of the book, and those of a file otherwise."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPage(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            page = re.search(r"\[.*?((?:lectures|book)/[\w/]+)", nodeid)
            return page[1] if page else nodeid.partition("::")[0]

    return ByPage(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every device this machine has."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def chromium():
    """Start Chromium, the one on this machine."""
    if CHROMIUM is None:
        unavailable("there is no Chromium; install the package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def browser(chromium):
    """Lend Chromium to one test, and close the windows that it opens."""
    others = set(chromium.contexts)
    yield chromium
    for context in set(chromium.contexts) - others:
        context.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Serve the built book on a free port of this machine."""
    if not (HTML / "index.html").is_file():
        unavailable("there is no built book; run: make book")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def reader(chromium, address) -> Iterator[Reader]:
    """Read the book page by page."""
    reading = Reader(chromium, address)
    yield reading
    reading.close()
