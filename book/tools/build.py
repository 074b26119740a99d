"""Build the book: execute the chapters that changed on this machine, then render what they gave.

The executed chapters live in _build/executed/, each beside what it measured and a record of what it was made from: its
code, the modules of the package that it uses, the versions, the device, the profile and the seed. While the record
holds, its chapter is not executed again. The pages are rendered from a copy under _build/source/, so that no file of
the repository changes.

MyST-NB's own execution with jupyter-cache was tried. A kernel that died ended the whole build without a page, a failed
chapter went into the cache as a good one, all chapters get one environment, and what a cell prints has no bound.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from nbformat import NotebookNode, v4

from book.tools import site, templates
from book.tools.address import address, commit_of
from book.tools.check import CORES
from book.tools.execute import execute, failure, failures
from book.tools.fingerprint import sha256, syntax_of, used_modules
from book.tools.first_cell import text_with_address, write_address
from book.tools.normalize import ROOT, chapters, code_cells, handouts, normalize, read, text_of
from vlmcourse._files import write_whole

Machine = dict[str, str]

COLOR = re.compile(r"\x1b\[[0-9;]*m")
GLUED = re.compile(r"\{glue:text\}`([^`]+)`")
ASK = """
import json, torch
from vlmcourse.course.results import provenance
print(json.dumps(provenance() | {"cpu": "cpu " + torch.backends.cpu.get_cpu_capability()}))
"""


class Book:
    """One checkout on one machine: its folders, and what is known about its chapters."""

    def __init__(self, root: Path, machine: Machine, timeout: int = 0) -> None:
        self.root, self.build, self.machine, self.timeout = root, root / "_build", machine, timeout
        self.executed, self.source, self.html = (self.build / name for name in ("executed", "source", "html"))
        self.rendered = self.build / "rendered"  # the hash of what a book was made from that Sphinx did not complain of
        self.chapters = chapters(root)

    # --- what a chapter depends on ------------------------------------------------------------------------------

    def inputs(self, chapter: Path) -> dict[str, str]:
        """Return what the chapter's results depend on: the machine, and hashes of its code and of files it may use."""
        cells = code_cells(write_address(read(chapter), None))  # where to install from changes nothing here
        code = json.dumps([cell.source for cell in cells])
        try:
            modules = list(used_modules(syntax_of(cells), self.root).values())
        except SyntaxError:  # its page shows it
            modules = []
        package = (self.root / "vlmcourse").rglob("*")  # whose data are read in ways that leave no trace
        data = [f for f in package if f.is_file() and f.suffix not in (".py", ".pyc") and f.name[0] != "."]
        others = {other.stem for other in self.chapters} - {chapter.stem}
        results = [f for f in self.root.glob("book/results/*.json") if f.stem.rpartition("_")[0] not in others]
        files = sorted([*modules, *data, *results, *self.root.glob("requirements.lock")])  # which has all versions
        hashes = {self.name(file): sha256(file.read_bytes()) for file in files}
        return {**self.machine, "its code": sha256(code.encode()), **hashes}

    def name(self, file: Path) -> str:
        """Return a file's path in the repository."""
        return file.relative_to(self.root).as_posix()

    def record(self, chapter: Path) -> dict[str, Any] | None:
        """Return what was noted when the chapter had been executed to its end, or None."""
        path = self.executed / f"{chapter.stem}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def why_execute(self, chapter: Path, inputs: dict[str, str]) -> str | None:
        """Say why a chapter has to be executed, or return None where its results still hold."""
        record = self.record(chapter)
        if record is None:
            return "no results yet"
        if record["failed"]:
            return "it failed last time"
        then = record["inputs"]
        for name in {**inputs, **then}:
            if then.get(name) != inputs.get(name):
                return f"{name} was {then.get(name)}, is {inputs[name]}" if name in self.machine else f"{name} changed"
        return None

    # --- executing ----------------------------------------------------------------------------------------------

    def execute(self, chapter: Path, inputs: dict[str, str], environment: dict[str, str]) -> dict[str, Any]:
        """Execute one chapter to its end, keep what it gave, and return its record."""
        nb = read(chapter)
        # The page says what did not hold, and gets figures that follow its theme (book/_ext/figures.py).
        own = {**environment, "VLMCOURSE_CLAIMS": "", "VLMCOURSE_FIGURES": "svg"}
        found = execute(nb, folder=chapter.parent, environment=own, limit=self.timeout, go_on=True)
        text = text_of(normalize(nb, root=self.root))
        record = {"claims": [], **found, "failed": list(failures(nb, chapter.stem))}
        # Somebody worked on it meanwhile? The next call executes what there is then.
        record["inputs"] = inputs if self.inputs(chapter) == inputs else {}
        record |= {"machine": self.machine, "commit": commit_of(self.root)}
        record["date"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        (self.executed / f"{chapter.stem}.json").unlink(missing_ok=True)  # no old record beside new outputs
        write_whole(self.executed / chapter.name, text.encode())
        write_whole(self.executed / f"{chapter.stem}.json", json.dumps(record, indent=1).encode())
        return record

    # --- rendering ----------------------------------------------------------------------------------------------

    def stage(self) -> str:
        """Write the pages to _build/source/, and return the hash of all that the rendered book is made from."""
        unread = shutil.ignore_patterns("tools", "experiments", "sources", "__pycache__", ".*")
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(self.root / "book", self.source / "book", ignore=unread)
        for page in self.root.glob("*.md"):
            shutil.copy(page, self.source)
        here = address(self.root)
        config = (self.root / "_config.yml").read_text(encoding="utf-8")
        written = {"_config.yml": site.config(config, here, site.address_of_site())}
        written |= {self.name(path): text_with_address(read(path), here) for path in handouts(self.root)}
        for chapter in self.chapters:
            nb, executed = read(chapter), read(self.executed / chapter.name)
            if [cell.source for cell in code_cells(nb)] != [cell.source for cell in code_cells(executed)]:
                nb = read(self.executed / chapter.name)  # edited meanwhile: outputs stand below the code that gave them
            nb = write_address(nb, here)
            written[f"{site.SCRIPTS}/{chapter.stem}.py"] = site.script(nb, here)
            written[self.name(chapter)] = text_of(normalize(page_of(nb, executed), root=self.root))
        for name, text in written.items():
            write_whole(self.source / name, text.encode())
        # Docstrings and records become pages too, and a new version of the renderer may render differently.
        files = [*self.source.rglob("*"), *self.root.glob("vlmcourse/**/*.py"), *self.executed.glob("*.json")]
        files += [Path(site.__file__), *templates.FOLDER.glob("*.*"), *self.root.glob("requirements.lock")]
        hashes = {str(file): sha256(file.read_bytes()) for file in sorted(files) if file.is_file()}
        return sha256(json.dumps([version("jupyter-book"), version("sphinx"), hashes]).encode())

    def render(self) -> bool:
        """Render the staged pages, and return whether Sphinx had nothing to complain about."""
        # From scratch: what Sphinx remembers of unchanged pages would hide their warnings and keep old titles in menus.
        # And apart: the book of the last call stays whole until this one is.
        rendering, log = self.build / "rendering", self.build / "render.log"
        shutil.rmtree(rendering, ignore_errors=True)
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "."]
        command += ["--path-output", str(rendering), "--toc", "book/_toc.yml", "--config", "_config.yml"]
        command += ["-W", "-n", "--keep-going"]
        with log.open("w") as out:
            complained = subprocess.run(command, cwd=self.source, stdout=out, stderr=subprocess.STDOUT).returncode
        if (rendering / "_build" / "html" / "index.html").is_file():  # written last, and with complaints too
            site.furnish(rendering / "_build" / "html", self.source)
            shutil.rmtree(self.html, ignore_errors=True)
            (rendering / "_build" / "html").replace(self.html)
        if complained:
            lines = COLOR.sub("", log.read_text(encoding="utf-8", errors="replace")).splitlines()
            complaints = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|Exception", line)]
            print("\n".join(complaints or lines[-20:]))
            print(f"\nRendering complained; all that Sphinx said is in {self.name(log)}")
        return not complained


def page_of(nb: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return ``nb``, whose text may have changed since it was executed, with outputs, and failed cells marked."""
    cells = list(nb.cells)
    for cell, result in zip(code_cells(nb), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = result.outputs, result.execution_count
        if error := failure(cell):
            cell.outputs.remove(error)
            lines = error.evalue.strip().splitlines() or [""]
            what = lines[0] if error.ename == "Stopped" else f"`{error.ename}: {lines[0].replace('`', chr(39))}`"
            traceback = COLOR.sub("", "\n".join(error.traceback))
            note = templates.filled("failed_cell.md", what=what, traceback=traceback).strip()
            cells.insert(cells.index(cell) + 1, v4.new_markdown_cell(note))
    if len(cells) > len(nb.cells):  # what a failed cell did not hand to the prose
        shown = [output.get("metadata", {}) for cell in code_cells(nb) for output in cell.outputs]
        glued = {metadata.get("scrapbook", {}).get("name") for metadata in shown}
        for cell in (cell for cell in cells if cell.cell_type == "markdown"):
            cell.source = GLUED.sub(lambda m: m[0] if m[1] in glued else "*(not measured here)*", cell.source)
    nb.cells = cells
    return nb


def ask(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a process of its own says of the machine, so that this one occupies no GPU; or end with its error."""
    process = subprocess.run([sys.executable, "-c", ASK], cwd=root, env=environment, capture_output=True, text=True)
    if process.returncode:
        device = environment.get("VLMCOURSE_DEVICE", "any device")
        raise SystemExit(f"Cannot use {device}:\n{process.stderr.strip().rpartition(chr(10))[2]}")
    return json.loads(process.stdout)


def current_machine(root: Path) -> Machine:
    """Return what every chapter's results depend on, besides files."""
    made = ask(root, os.environ)
    device = made["cpu"] if made["device"].startswith("cpu") else made["device"]  # other instructions, other last bits
    versions = {"profile": made["profile"], "Python": made["python"], "PyTorch": made["torch"]}
    return {"device": device, **versions, "seed": os.environ.get("VLMCOURSE_SEED") or "0"}


def chapters_at_once(machine: Machine) -> int:
    """Two or more where cores are all they share; one where a chapter wants a GPU, or the machine, for itself."""
    return min(4, CORES) if machine["device"].startswith("cpu") and machine["profile"] == "quick" else 1


def execute_all(book: Book, todo: dict[Path, dict[str, str]]) -> None:
    """Execute chapters, some at once, each with its share of the cores."""
    at_once = min(chapters_at_once(book.machine), len(todo)) or 1
    environment = {"OMP_NUM_THREADS": str(CORES // at_once)} if at_once > 1 else {}

    def run(chapter: Path) -> None:
        print(f"  {chapter.stem:<32} ...", flush=True)
        record = book.execute(chapter, todo[chapter], environment)
        failed = f"  {len(record['failed'])} cell(s) FAILED" if record["failed"] else ""
        print(f"  {chapter.stem:<32} {record['seconds']:>6.1f} s{failed}", flush=True)

    threads = ThreadPoolExecutor(at_once)  # whose end nobody waits for, when the build is stopped
    list(threads.map(run, todo))


def build(book: Book) -> int:
    """Execute what has to be, render if that or any page changed, and return the exit status."""
    began = time.monotonic()
    book.executed.mkdir(parents=True, exist_ok=True)
    inputs = {chapter: book.inputs(chapter) for chapter in book.chapters}
    reasons = {chapter: why for chapter in inputs if (why := book.why_execute(chapter, inputs[chapter]))}
    where = ", ".join(map(" ".join, book.machine.items()))
    print(f"{len(reasons)} of {len(inputs)} chapters to execute ({where})", flush=True)
    for chapter, reason in reasons.items():
        if reason != "no results yet":
            print(f"  {chapter.stem}: {reason}")
    execute_all(book, {chapter: inputs[chapter] for chapter in reasons})
    made_from, good = book.stage(), True
    there = (book.html / "index.html").is_file() and book.rendered.is_file()
    if there and book.rendered.read_text(encoding="utf-8") == made_from:
        print("Nothing changed since the book was rendered.")
    else:
        print("Rendering the pages ...", flush=True)
        book.rendered.unlink(missing_ok=True)
        if good := book.render():
            book.rendered.write_text(made_from, encoding="utf-8")
    failed = report(book)
    print(f"\nThe book is in {book.html / 'index.html'} (this call took {time.monotonic() - began:.0f} s)")
    print("See it with: make serve")
    return 1 if failed or not good else 0


def report(book: Book) -> bool:
    """Print failed cells and claims, and return whether anything of that is a failure."""
    records = {chapter.stem: record for chapter in book.chapters if (record := book.record(chapter))}
    failed = [message for record in records.values() for message in record["failed"]]
    for message in failed:
        print(f"\n{message if sys.stdout.isatty() else COLOR.sub('', message)}")
    if failed:
        print(f"\n{len(failed)} cell(s) failed. Their pages show it; the rest of the book is there.")
    claims = [(name[:2], claim) for name, record in records.items() for claim in record["claims"]]
    missed = [(number, claim) for number, claim in claims if not claim["held"]]
    if claims:
        elsewhere = sum(claim["value"] is None for _, claim in claims)
        note = f", {elsewhere} of them in recorded runs alone" if elsewhere else ""
        print(f"\n{len(claims) - len(missed)} of {len(claims)} claims held{note}.")
    for number, claim in missed:
        where, here = ("in recorded runs", "") if claim["value"] is None else ("here", f": measured {claim['value']:g}")
        print(f"  Did not hold {where}: {number} {claim['slide'] or ''} {claim['text']}{here}")
    return bool(failed or (missed and os.environ.get("VLMCOURSE_CLAIMS") == "strict"))


def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Execute the chapters that changed and render the book.")
    parser.add_argument("--timeout", type=int, help="seconds allowed per cell, 0 for no limit")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lock = root / "_build" / ".lock"
    lock.parent.mkdir(exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            machine = current_machine(root)
            default = 1800 if machine["profile"] == "quick" else 0  # a cell of the full profile may train for hours
            return build(Book(root, machine, default if options.timeout is None else options.timeout))
    except Timeout:
        raise SystemExit(f"Another build is running in {lock.parent}; wait for it to end.") from None
    except KeyboardInterrupt:
        print("\nStopped. Chapters that were executed to their end are kept.", flush=True)
        os._exit(130)  # at once: files are written whole or not at all, and kernels end with the process they serve


if __name__ == "__main__":
    sys.exit(main())
