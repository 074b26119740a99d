"""What tests in a real browser share: the Chromium of this machine, what to do without it, and a page of one's own."""

import os
import shutil
from typing import Any, NoReturn

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where the browser tests are what was asked for."""
    if os.environ.get("VLMCOURSE_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def opened(browser: Any, text: str, *, theme: str = "", **context: Any) -> Any:
    """Return a page, as wide as a phone, that shows ``text`` and notes script errors and requests to anywhere."""
    page = browser.new_context(**{"viewport": {"width": 390, "height": 800}, **context}).new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("data:") else page.errors.append(request.url))
    head = f"<meta name='viewport' content='width=device-width'><style>:root {{ {theme} }}</style>"
    page.set_content(f"<!doctype html>{head}<body>{text}</body>")
    return page
