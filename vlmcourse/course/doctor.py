"""What this machine has, where chapters will run on it and for how long, and what is missing: ``vlmcourse doctor``."""

import json
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import joblib
import torch

import vlmcourse
from vlmcourse.course.results import folders
from vlmcourse.course.runtime import profile
from vlmcourse.train.runtime import device

GIB = 2**30
# What the parts of the course need beyond the package itself, and how to get it.
NEEDS = {
    "running chapters": (("ipykernel", "nbclient"), "pip install ipykernel nbclient"),
    "building the book": (("jupyter-book", "sphinx-exercise", "sphinx-mathjax-offline"), "make setup"),
    "reading video files": (("av",), "pip install av"),
}


def findings() -> list[tuple[str, str]]:
    """Return what this machine has, as pairs of a name and what was found.

    >>> dict(findings())["vlmcourse"] == vlmcourse.__version__
    True
    """
    free = shutil.disk_usage(Path.cwd()).free / GIB
    cores, threads = joblib.cpu_count(), torch.get_num_threads()  # a container's quota counts, which PyTorch overlooks
    advice = f"; fewer are faster: OMP_NUM_THREADS={cores}" if threads > cores else ""
    rows = [
        ("vlmcourse", vlmcourse.__version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("PyTorch", f"{torch.__version__}, torchvision {installed_version('torchvision') or 'missing'}"),
        ("CPU", f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {cores} cores, {threads} threads{advice}"),
        ("memory", memory()),
        ("disk", f"{free:.0f} GiB free here" + ("" if free > 8 else "; CUDA's PyTorch alone takes 6")),
    ]
    cards = [(f"cuda:{k}", card(k)) for k in range(torch.cuda.device_count())]
    rows += cards or [("CUDA", f"no device; this PyTorch was built for CUDA {torch.version.cuda or 'not at all'}")]
    rows.append(("MPS", "available" if torch.backends.mps.is_available() else "no"))
    try:
        rows.append(("chapters run on", f"{device()}, in the {profile()} profile"))
    except (RuntimeError, ValueError) as error:
        rows.append(("chapters run on", f"nothing: {error}"))
    return rows


def card(index: int) -> str:
    """Return the name and the memory of a GPU, or why this PyTorch cannot use it."""
    try:
        found = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        return f"cannot be used: {str(error).strip().splitlines()[0]}"
    return f"{found.name}, {found.total_memory / GIB:.0f} GiB"


def processor() -> str:
    """Return the name of this machine's CPU."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def missing() -> list[str]:
    """Return a line for each part of the course that cannot run here, with the command that brings what it needs."""
    lines = []
    for part, (packages, command) in NEEDS.items():
        if absent := [name for name in packages if installed_version(name) is None]:
            lines.append(f"{part} needs {', '.join(absent)}: {command}")
    return lines + [f"building the book needs {tool}" for tool in ("make", "git") if shutil.which(tool) is None]


def recorded_seconds() -> dict[str, str]:
    """Return how long each chapter took where its runs were recorded, one thread each."""
    seconds: dict[str, str] = {}
    for folder in filter(Path.is_absolute, reversed(folders())):  # not one's own, where there is no checkout
        for file in sorted(folder.glob(f"[0-9]*_{profile()}.json")):
            runs = json.loads(file.read_text(encoding="utf-8")).get("runs", [])
            if took := [run["seconds"] for run in runs if run.get("threads") == 1]:
                seconds[file.stem.removesuffix(f"_{profile()}")] = f"{min(took):.0f} to {max(took):.0f} s"
    return seconds


def report() -> str:
    """Return everything as the text that the command prints."""
    lines = [f"{name:<16} {found}" for name, found in findings()]
    try:
        seconds = recorded_seconds()
    except ValueError:  # a profile that there is not, which stands above
        seconds = {}
    if seconds:
        lines += ["", "Seconds per chapter where its runs were recorded, with one thread:"]
        lines += [f"  {chapter:<32} {took}" for chapter, took in seconds.items()]
    needed = missing()
    return "\n".join([*lines, "", "Missing:" if needed else "Nothing is missing.", *(f"  {line}" for line in needed)])


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory() -> str:
    """Return this machine's memory, where the system tells."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"
