"""Build the package, and check what is in it: a wheel that installs by itself, with results, weights and licences.

Usage: python -m book.tools.package [--tag v0.1.0]
"""

import argparse
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

from book.tools.normalise import ROOT

# Without these a chapter does not run away from a checkout, or a licence is missing.
NEEDED = ("vlmcourse/py.typed", "vlmcourse/weights/", "vlmcourse/results/", "LICENSE", "LICENSE-TEXT.md")


def faults(names: list[str], version: str, tag: str | None) -> list[str]:
    """Return what is wrong with a wheel that holds files of these names."""
    found = [f"the wheel lacks {needed}" for needed in NEEDED if not any(needed in name for name in names)]
    found += [f"the wheel holds a solution: {name}" for name in names if "sources" in name]
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag}, and pyproject.toml says version {version}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Build into dist/, and return whether anything is wrong with what came out."""
    parser = argparse.ArgumentParser(description="Build the package and check it.")
    parser.add_argument("--tag", help="the tag of the release, v and the version")
    options = parser.parse_args(argv)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    # Tools apart from what the lock pins. "build" makes the wheel from the packed sources, as installers do.
    tools = ROOT / "_build" / "packaging"
    venv.create(tools, with_pip=True)
    python = str(next(path for path in (tools / "bin" / "python", tools / "Scripts" / "python.exe") if path.exists()))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "build", "twine"], check=True)
    subprocess.run([python, "-m", "build", "--outdir", str(dist), str(ROOT)], check=True)
    files = sorted(map(str, dist.iterdir()))
    subprocess.run([python, "-m", "twine", "check", "--strict", *files], check=True)
    (wheel,) = dist.glob("*.whl")
    found = faults(zipfile.ZipFile(wheel).namelist(), version, options.tag)
    print("\n".join(found or [f"{Path(name).name} is whole" for name in files]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
