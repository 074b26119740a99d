"""Where the course lives: the one setting that buttons, links, badges and the first cells of notebooks come from.

It is VLMCOURSE_REPOSITORY, or else what ``git remote get-url origin`` says where that is on a hosting service. Without
an address the book shows no button, and prints none. An empty VLMCOURSE_REPOSITORY switches the address off.

Usage: python -m book.tools.address [--check]     write it into first cells and into the badges of the README
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from book.tools.first_cell import text_with_address
from book.tools.normalize import ROOT, chapters, handouts, read, rewrite
from book.tools.templates import filled

# git@host:owner/name.git, ssh://git@host/owner/name, https://user:token@host/owner/name.git; a host has a dot in it.
REMOTE = re.compile(
    r"(?:(?:https|ssh)://(?:[^@/\s]+@)?|[\w-]+@)(?P<host>[\w-]+(?:\.[\w-]+)+)(?::\d+)?[/:](?P<path>[\w.~-]+(?:/[\w.~-]+?)+)"
    r"(?:\.git)?/?"
)
BADGES = re.compile(r"<!-- badges: make address -->\n.*?<!-- end of badges -->\n", re.DOTALL)


def address(root: Path) -> str | None:
    """Return the address of the repository as a browser and ``pip install git+...`` take it, or None."""
    told = os.environ.get("VLMCOURSE_REPOSITORY")
    if told is None:
        return hosted(git(root, "remote", "get-url", "origin"))
    if told and not hosted(told):
        raise SystemExit(f"VLMCOURSE_REPOSITORY must be https://host/owner/name, or nothing, received {told!r}")
    return hosted(told)


def hosted(remote: str) -> str | None:
    """Return a remote's address over https, without a password, or None where it is no hosting service.

    >>> hosted("git@github.com:owner/name.git")
    'https://github.com/owner/name'
    >>> hosted("https://user:secret@gitlab.com/group/sub/name.git")
    'https://gitlab.com/group/sub/name'
    >>> hosted("/home/me/course") is hosted("file:///srv/course.git") is hosted("me@laptop:course") is None
    True
    """
    match = REMOTE.fullmatch(remote.strip())
    return f"https://{match['host']}/{match['path']}" if match else None


def git(root: Path, *arguments: str) -> str:
    """Return what git says about a checkout, and nothing where there is none."""
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def commit_of(root: Path) -> str:
    """Return the commit of a checkout, and whether files differ from it."""
    return git(root, "describe", "--always", "--dirty", "--exclude=*") or "unknown"


def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Write the repository's address into notebooks and README.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file has another address")
    options = parser.parse_args(argv)
    here = address(root)
    print(f"The repository's address: {here or 'none; VLMCOURSE_REPOSITORY sets one'}")
    wanted = {path: text_with_address(read(path), here) for path in [*chapters(root), *handouts(root)]}
    readme = root / "README.md"
    wanted[readme] = BADGES.sub(lambda _: filled("badges.md", address=here), readme.read_text(encoding="utf-8"))
    return rewrite(wanted, check=options.check, hint="has another address; run: make address")


if __name__ == "__main__":
    sys.exit(main())
