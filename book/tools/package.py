"""Check what make package built: a wheel that installs by itself, with results, weights and licences.

Usage: python -m book.tools.package [TAG]     where a tag such as v0.1.0 is given, it must be that version
"""

import sys
import zipfile

from book.tools.normalize import ROOT

# Without these a chapter does not run away from a checkout, or a licence is missing.
NEEDED = ("vlmcourse/py.typed", "vlmcourse/weights/", "vlmcourse/results/", "LICENSE", "LICENSE-TEXT.md")


def faults(names: list[str], version: str, tag: str | None) -> list[str]:
    """Return what is wrong with a wheel that holds files of these names."""
    found = [f"the wheel lacks {needed}" for needed in NEEDED if not any(needed in name for name in names)]
    found += [f"the wheel holds a solution: {name}" for name in names if "sources" in name]
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag}, and pyproject.toml says version {version}")
    return found


def main(tag: str | None = None) -> int:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    found = faults(zipfile.ZipFile(wheel).namelist(), wheel.name.split("-")[1], tag)
    print("\n".join(found or [f"{wheel.name} is whole"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
