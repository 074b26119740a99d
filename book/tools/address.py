"""Write the repository's address where files of the repository need it: first cells of chapters, badges of the README.

Usage: python -m book.tools.address [--check]

The address is the one of ``repository.py``; where there is none, it is taken out. The book needs no such call: it
writes the address into what it offers by itself. A fork whose notebooks are opened in Colab calls it and commits, or
lets ``.github/workflows/book.yml`` do so on a branch of its own.
"""

import argparse
import re
import sys
from pathlib import Path

from book.tools.first_cell import write_address
from book.tools.normalise import ROOT, chapters, normalise, read, rewrite, text_of
from book.tools.repository import address

BEGIN, END = "<!-- badges: make address -->", "<!-- end of badges -->"
BADGES = re.compile(rf"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)


def badges(here: str | None) -> str:
    """Return the badges of a README between their marks: none where the repository has no address on GitHub."""
    lines = []
    if here and here.startswith("https://github.com/"):
        for name, workflow in (("Tests", "test"), ("Book", "book")):
            page = f"{here}/actions/workflows/{workflow}.yml"
            lines.append(f"[![{name}]({page}/badge.svg)]({page})")
    return "\n".join([BEGIN, *lines, END])


def main(argv: list[str] | None = None) -> int:
    """Write the address, or only say which files have another."""
    parser = argparse.ArgumentParser(description="Write the repository's address into chapters and README.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file has another address")
    options = parser.parse_args(argv)
    here = address(options.root)
    print(f"The repository's address: {here or 'none; VLMCOURSE_REPOSITORY sets one'}")
    wanted = {path: text_of(normalise(write_address(read(path), here))) for path in chapters(options.root)}
    readme = options.root / "README.md"
    wanted[readme] = BADGES.sub(lambda _: badges(here), readme.read_text(encoding="utf-8"))
    return rewrite(wanted, check=options.check, outdated="has another address", done="address written")


if __name__ == "__main__":
    sys.exit(main())
