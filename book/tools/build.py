"""Build the book: execute the chapters that changed on this machine, then render what they gave.

The executed chapters live in _build/executed/, each beside what it measured and a record of what it was made from: its
code, the modules of the package that it uses, the versions, the device, the profile and the seed. While the record
holds, its chapter is not executed again. The pages are rendered from a copy under _build/source/, so that no file of
the repository changes.

Why this is not MyST-NB's own execution with jupyter-cache, which was tried: a kernel that died ended the whole build
without a page; a chapter with a cell that failed went into the cache as a good one, so that the next build was silent
about it; one chapter runs at a time; all get one environment, so that none can be told where to leave what it measured;
and what a cell prints has no bound.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import nbformat
import yaml
from filelock import FileLock, Timeout
from nbformat import NotebookNode

from book.tools import site
from book.tools.address import address, commit_of
from book.tools.check import CORES
from book.tools.execute import execute, failure, failures
from book.tools.fingerprint import syntax_of, used_modules
from book.tools.first_cell import handout, write_address
from book.tools.normalise import ROOT, chapters, code_cells, handouts, normalise, read, text_of
from vlmcourse._files import write_whole

Machine = dict[str, str]

# Tags that change what executing a cell does; all others only change how the page looks.
EXECUTION_TAGS = {"raises-exception", "skip-execution"}
# A cell that starts another process may use any part of the package, and no syntax tells which.
STARTS_PROCESSES = re.compile(r"^\s*[!%]|\bsubprocess\b|\bos\.system\b|\bmultiprocessing\b|\btorchrun\b", re.MULTILINE)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
GLUED = re.compile(r"\{glue:text\}`([^`]+)`")
ASK_FOR_DEVICE = """
import torch
from vlmcourse.course.runtime import profile
from vlmcourse.train.runtime import device
where, _ = device(), profile()
name = torch.cuda.get_device_name(where) if where.type == "cuda" else torch.backends.cpu.get_cpu_capability()
print(where.type, name if where.type in ("cpu", "cuda") else "")
"""


class Book:
    """The folders of one checkout, and what is known about its chapters."""

    def __init__(self, root: Path) -> None:
        self.root, self.build = root, root / "_build"
        self.executed, self.source, self.html = (self.build / name for name in ("executed", "source", "html"))
        self.good = self.build / "rendered"  # a file that is there while the rendered book is what the sources say
        self.chapters = chapters(root)

    # --- what a chapter depends on ------------------------------------------------------------------------------

    def inputs(self, chapter: Path) -> dict[str, str]:
        """Return the hashes of the chapter's code and of every file that it may use."""
        cells = code_cells(write_address(read(chapter), None))  # where to install from changes nothing here
        tags = [sorted(EXECUTION_TAGS & set(cell.metadata.get("tags", []))) for cell in cells]
        code = json.dumps([[cell.source for cell in cells], tags])
        package = [file for file in (self.root / "vlmcourse").rglob("*") if file.is_file() and file.suffix != ".pyc"]
        modules = package
        if not any(STARTS_PROCESSES.search(cell.source) for cell in cells):
            with suppress(SyntaxError):
                modules = list(used_modules(syntax_of(cells), self.root).values())
        data = [file for file in package if file.suffix != ".py"]  # read in ways that leave no trace
        others = {other.stem for other in self.chapters} - {chapter.stem}
        results = [f for f in self.root.glob("book/results/*.json") if f.stem.rpartition("_")[0] not in others]
        files = sorted({*modules, *data, *results})
        return {"its code": sha256(code.encode()), **{self.name(file): sha256(file.read_bytes()) for file in files}}

    def name(self, file: Path) -> str:
        """Return a file's path in the repository."""
        return file.relative_to(self.root).as_posix()

    def record(self, chapter: Path) -> dict[str, Any] | None:
        """Return what was noted about the executed chapter, or None where it is not whole."""
        notebook = self.executed / chapter.name
        try:
            record = json.loads(notebook.with_suffix(".json").read_text(encoding="utf-8"))
            return record if record["executed"] == sha256(notebook.read_bytes()) else None
        except (OSError, ValueError, KeyError):
            return None

    def why_execute(self, chapter: Path, inputs: dict[str, str], machine: Machine) -> str | None:
        """Say why a chapter has to be executed, or return None where its results still hold."""
        record = self.record(chapter)
        if record is None:
            return "no results yet"
        if record["failed"]:
            return "it failed last time"
        then, now = {**record["machine"], **record["inputs"]}, {**machine, **inputs}
        for name in {**now, **then}:
            if then.get(name) != now.get(name):
                return f"{name} was {then.get(name)}, is {now[name]}" if name in machine else f"{name} changed"
        return None

    # --- executing ----------------------------------------------------------------------------------------------

    def execute(
        self, chapter: Path, inputs: dict[str, str], machine: Machine, environment: dict[str, str], timeout: int | None
    ) -> dict[str, Any]:
        """Execute one chapter to its end, keep what it gave, and return its record."""
        nb, measured = read(chapter), self.executed / f"{chapter.stem}.measured.json"
        # The page says what did not hold, and gets figures that follow its theme (book/_ext/figures.py).
        own = {**environment, "VLMCOURSE_CLAIMS": "", "VLMCOURSE_FIGURES": "svg"}
        seconds = execute(nb, folder=chapter.parent, environment=own, measured=measured, timeout=timeout, go_on=True)
        text = text_of(normalise(nb, root=self.root))
        record = {
            "machine": machine,
            "inputs": inputs,
            "executed": sha256(text.encode()),
            "failed": failures(nb, chapter.stem),
            "seconds": round(seconds, 1),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit_of(self.root),
        }
        write_whole(self.executed / chapter.name, text.encode())
        write_whole(self.executed / f"{chapter.stem}.json", json.dumps(record, indent=1).encode())
        return record

    # --- rendering ----------------------------------------------------------------------------------------------

    def stage(self) -> None:
        """Bring _build/source/ up to date; where that changes anything, the rendered book is good no more."""
        hidden = {"tools", "experiments", "sources", "__pycache__", ".ipynb_checkpoints"}
        found = [self.root / "_config.yml", *self.root.glob("*.md"), *self.root.glob("book/**/*")]
        pages = [page for page in found if page.is_file() and not hidden & set(page.relative_to(self.root).parts)]
        content = {self.name(page): page.read_bytes() for page in pages}
        here = address(self.root)
        config = content["_config.yml"].decode()
        content["_config.yml"] = site.config(config, here, site.address_of_site()).encode()
        for path in handouts(self.root):
            content[self.name(path)] = handout(read(path), here).encode()
        for chapter in self.chapters:
            nb = write_address(read(chapter), here)
            content[f"{site.SCRIPTS}/{chapter.stem}.py"] = site.script(nb, here).encode()
            page = page_of(nb, read(self.executed / chapter.name))
            content[self.name(chapter)] = text_of(normalise(page, root=self.root)).encode()
        # Docstrings and records become pages too, and a new version of the renderer may render differently.
        others = [*self.root.glob("vlmcourse/**/*.py"), *self.executed.glob("*.json")]
        others += [Path(site.__file__), *site.TEMPLATES.iterdir()]
        hashes = {name: sha256(data) for name, data in content.items()}
        hashes |= {str(file): sha256(file.read_bytes()) for file in sorted(others)}
        made_from = json.dumps([version("jupyter-book"), version("sphinx"), hashes]).encode()
        record = self.source / "made_from.json"
        if record.is_file() and record.read_bytes() == made_from:
            return
        self.good.unlink(missing_ok=True)
        shutil.rmtree(self.source, ignore_errors=True)
        for name, data in {**content, record.name: made_from}.items():
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_bytes(data)

    def render(self) -> None:
        """Render the staged pages; the book is good where Sphinx has nothing to complain about."""
        # From scratch: what Sphinx remembers of unchanged pages would hide their warnings and keep old titles in menus.
        # And apart: the book of the last call stays whole until this one is.
        rendering, log = self.build / "rendering", self.build / "render.log"
        shutil.rmtree(rendering, ignore_errors=True)
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "."]
        command += ["--path-output", str(rendering), "--toc", "book/_toc.yml", "--config", "_config.yml"]
        command += ["-W", "-n", "--keep-going"]
        merged: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        result = subprocess.run(command, cwd=self.source, text=True, errors="replace", **merged)
        output = COLOR.sub("", result.stdout)
        log.write_text(output, encoding="utf-8")
        if (rendering / "_build" / "html" / "index.html").is_file():  # written last, and with complaints too
            about = yaml.safe_load((self.source / "_config.yml").read_text(encoding="utf-8"))
            start = yaml.safe_load((self.source / "book" / "_toc.yml").read_text(encoding="utf-8"))["root"]
            furniture = {"title": about["title"], "start": f"{start}.html", "site": site.address_of_site()}
            site.furnish(rendering / "_build" / "html", **furniture)
            shutil.rmtree(self.html, ignore_errors=True)
            (rendering / "_build" / "html").replace(self.html)
        if result.returncode == 0:
            self.good.touch()
            return
        complaints = [line for line in output.splitlines() if re.search(r"WARNING|ERROR|CRITICAL|Exception", line)]
        print("\n".join(complaints or output.splitlines()[-20:]))
        print(f"\nRendering complained; all that Sphinx said is in {self.name(log)}")


def page_of(nb: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return ``nb``, whose text may have changed since it was executed, with outputs, and failed cells marked."""
    cells = []
    results = {id(cell): result for cell, result in zip(code_cells(nb), code_cells(executed), strict=True)}
    for cell in nb.cells:
        cells.append(cell)
        if id(cell) not in results:
            continue
        cell.outputs, cell.execution_count = results[id(cell)].outputs, results[id(cell)].execution_count
        if error := failure(cell):
            cell.outputs.remove(error)
            lines = error.evalue.strip().splitlines() or [""]
            what = lines[0] if error.ename == "Stopped" else f"`{error.ename}: {lines[0].replace('`', chr(39))}`"
            traceback = COLOR.sub("", "\n".join(error.traceback))
            marked = Template((site.TEMPLATES / "failed_cell.md").read_text(encoding="utf-8"))
            cells.append(nbformat.v4.new_markdown_cell(marked.substitute(what=what, traceback=traceback).strip()))
    if len(cells) > len(nb.cells):  # what a failed cell did not hand to the prose
        outputs = [output for cell in code_cells(nb) for output in cell.outputs]
        glued = {output.get("metadata", {}).get("scrapbook", {}).get("name") for output in outputs}
        for cell in (cell for cell in cells if cell.cell_type == "markdown"):
            cell.source = GLUED.sub(lambda m: m[0] if m[1] in glued else "*(not measured here)*", cell.source)
    nb.cells = cells
    return nb


def answer(question: str, root: Path, environment: Mapping[str, str]) -> str:
    """Return what a program prints, a process of its own, so that this one occupies no GPU; or end with its error."""
    command = [sys.executable, "-c", question]
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if process.returncode:
        device = environment.get("VLMCOURSE_DEVICE", "any device")
        raise SystemExit(f"Cannot use {device}:\n{process.stderr.strip().rpartition(chr(10))[2]}")
    return process.stdout.strip()


def current_machine(root: Path) -> Machine:
    """Return what every chapter's results depend on, besides files."""
    return {
        "device": answer(ASK_FOR_DEVICE, root, os.environ),
        "profile": os.environ.get("VLMCOURSE_PROFILE") or "quick",
        "seed": os.environ.get("VLMCOURSE_SEED") or "0",
        "Python": platform.python_version(),
        "PyTorch": version("torch"),
    }


def sha256(data: bytes) -> str:
    """Return the hash of some bytes."""
    return hashlib.sha256(data).hexdigest()


def chapters_at_once(machine: Machine) -> int:
    """Two or more where cores are all they share; one where a chapter wants a GPU, or the machine, for itself."""
    return min(4, CORES) if machine["device"].startswith("cpu") and machine["profile"] == "quick" else 1


def execute_all(book: Book, todo: dict[Path, dict[str, str]], machine: Machine, timeout: int | None) -> None:
    """Execute chapters, some at once, each with its share of the cores."""
    at_once = min(chapters_at_once(machine), len(todo)) or 1
    environment = {"OMP_NUM_THREADS": str(CORES // at_once)} if at_once > 1 else {}

    def run(chapter: Path) -> None:
        print(f"  {chapter.stem:<32} ...", flush=True)
        record = book.execute(chapter, todo[chapter], machine, environment, timeout)
        failed = f"  {len(record['failed'])} cell(s) FAILED" if record["failed"] else ""
        print(f"  {chapter.stem:<32} {record['seconds']:>6.1f} s{failed}", flush=True)

    threads = ThreadPoolExecutor(at_once)  # whose end nobody waits for, when the build is stopped
    list(threads.map(run, todo))


def build(book: Book, machine: Machine, timeout: int | None) -> int:
    """Execute what has to be, render if that or any page changed, and return the exit status."""
    began = time.monotonic()
    book.executed.mkdir(parents=True, exist_ok=True)
    inputs = {chapter: book.inputs(chapter) for chapter in book.chapters}
    reasons = {chapter: book.why_execute(chapter, inputs[chapter], machine) for chapter in book.chapters}
    todo = {chapter: inputs[chapter] for chapter, reason in reasons.items() if reason}
    print(f"{len(todo)} of {len(inputs)} chapters to execute ({', '.join(map(' '.join, machine.items()))})", flush=True)
    for chapter in todo:
        if reasons[chapter] != "no results yet":
            print(f"  {chapter.stem}: {reasons[chapter]}")
    execute_all(book, todo, machine, timeout)
    book.stage()
    if book.good.is_file() and (book.html / "index.html").is_file():
        print("Nothing changed since the book was rendered.")
    else:
        print("Rendering the pages ...", flush=True)
        book.render()
    failed = report(book, todo)
    print(f"\nThe book is in {book.html / 'index.html'} (this call took {time.monotonic() - began:.0f} s)")
    print("See it with: make serve")
    return 1 if failed or not book.good.is_file() else 0


def report(book: Book, todo: dict[Path, Any]) -> bool:
    """Print seconds, failed cells and claims, and return whether anything of that is a failure."""
    records = {chapter: record for chapter in book.chapters if (record := book.record(chapter))}
    print("\nSeconds per chapter:")
    for chapter, record in records.items():
        print(f"  {chapter.stem:<32} {record['seconds']:>6.1f} s{'' if chapter in todo else '  (kept)'}")
    failed = [message for record in records.values() for message in record["failed"]]
    for message in failed:
        print(f"\n{message if sys.stdout.isatty() else COLOR.sub('', message)}")
    if failed:
        print(f"\n{len(failed)} cell(s) failed. Their pages show it; the rest of the book is there.")
    logs = {name: log for name in records if (log := book.executed / f"{name.stem}.measured.json").is_file()}
    claims = [(name.stem, claim) for name, log in logs.items() for claim in json.loads(log.read_text())["claims"]]
    missed = [(name, claim) for name, claim in claims if not claim["held"]]
    if claims:
        print(f"\n{len(claims) - len(missed)} of {len(claims)} claims held.")
    for name, claim in missed:
        print(f"  Did not hold here: {name[:2]} {claim['slide'] or ''} {claim['text']}: measured {claim['value']:g}")
    return bool(failed or (missed and os.environ.get("VLMCOURSE_CLAIMS") == "strict"))


def main(argv: list[str] | None = None) -> int:
    """Build the book of a checkout."""
    parser = argparse.ArgumentParser(description="Execute the chapters that changed and render the book.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--timeout", type=int, help="seconds allowed per cell, 0 for no limit")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    book = Book(options.root.resolve())
    book.build.mkdir(exist_ok=True)
    try:
        with FileLock(book.build / ".lock", timeout=0):
            machine = current_machine(book.root)
            default = 1800 if machine["profile"] == "quick" else None  # a cell of the full profile may train for hours
            return build(book, machine, default if options.timeout is None else options.timeout)
    except Timeout:
        raise SystemExit(f"Another build is running in {book.build}; wait for it to end.") from None
    except KeyboardInterrupt:
        print("\nStopped. Chapters that were executed to their end are kept.", flush=True)
        os._exit(130)  # at once: files are written whole or not at all, and kernels end with the process they serve


if __name__ == "__main__":
    sys.exit(main())
