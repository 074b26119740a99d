"""Photograph the landing page of the rendered book for the card that links to it show, and for the README.

Usage: python -m book.experiments.social_card     after make book; needs Chromium, writes book/_static/book.png
"""

import sys

from playwright.sync_api import ViewportSize, sync_playwright

from book.tools.normalize import ROOT
from book.tools.pdf import CHROMIUM, OFFLINE

PAGE, CARD = ROOT / "_build" / "html" / "book" / "intro.html", ROOT / "book" / "_static" / "book.png"
SIZE: ViewportSize = {"width": 1200, "height": 630}  # what those who show cards ask for
# Without what is around the page, and larger, so that words can be read where the card is small.
LOOKS = """
html { zoom: 1.1; }
.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .headerlink { display: none !important; }
.bd-article { padding-top: 1rem !important; }
.bd-article-container { margin: auto; }
"""


def main() -> int:
    """Write the picture, or say what is missing."""
    if CHROMIUM is None or not PAGE.is_file():
        print("There is no Chromium, or no book; run: make book")
        return 1
    with sync_playwright() as driver, driver.chromium.launch(executable_path=CHROMIUM, args=OFFLINE) as browser:
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(PAGE.as_uri(), wait_until="load")
        page.add_style_tag(content=LOOKS)
        page.wait_for_timeout(500)
        page.screenshot(path=CARD)
    print(f"{CARD} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
