"""What tests in a real browser share: the Chromium of this machine, what to do without it, and pages to look at."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

# The first has no window to draw, and starts in half the time.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
HTML = Path(__file__).parents[1] / "_build" / "html"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# The tests' own server is all that Chromium reaches; a page that asks for another host does not find it.
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", ALONE]

TYPESET = "() => !window.MathJax?.startup?.promise || MathJax.startup.promise.then(() => true)"


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


@dataclass
class Noticed:
    """What went wrong while a page was open: addresses outside of the book, missing files, errors of scripts."""

    outside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def open_page(browser: Any, address: str, noticed: Noticed) -> Any:
    """Return a fresh page that writes down everything that goes wrong, and what it asks of others than ``address``."""
    page = browser.new_context(viewport=DESKTOP, color_scheme="light").new_page()
    inside = (address, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(inside) else noticed.outside.append(r.url))
    page.on("console", lambda message: noticed.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: noticed.errors.append(str(error)))
    page.on("response", lambda response: noticed.missing.append(response.url) if response.status >= 400 else None)
    return page


class Reader:
    """Shows one page of the book at a time, loaded once for all that is asked about it; tests leave it as it is."""

    def __init__(self, chromium: Any, address: str) -> None:
        self.chromium, self.address = chromium, address
        self.name, self.noticed, self.page = "", Noticed(), None
        self.size: dict[str, int] = {}

    def shown(
        self, name: str, *, theme: str = "light", size: Mapping[str, int] = DESKTOP, media: str = "screen"
    ) -> Any:
        """Return a page with its formulas typeset, by day or night, in a window of a size, on screen or on paper."""
        if name != self.name:
            self.close()
            self.name, self.noticed = name, Noticed()
            self.page = open_page(self.chromium, self.address, self.noticed)
            self.page.goto(f"{self.address}{name}.html", wait_until="load")
            self.page.wait_for_function(TYPESET)
            self.page.add_style_tag(content="* { transition: none !important; }")  # colours would fade over
            self.size = {}
        self.page.emulate_media(media=media, color_scheme="light")
        self.page.evaluate(f"() => document.documentElement.dataset.theme = '{theme}'")
        if self.size != size:
            self.page.set_viewport_size(dict(size))
            self.page.wait_for_timeout(400)  # until the theme has looked again for what scrolls
            self.size = dict(size)
        return self.page

    def close(self) -> None:
        """Close the page."""
        if self.page is not None:
            self.page.context.close()
        self.name, self.page = "", None
