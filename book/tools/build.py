"""Build the book: execute the chapters that changed on this machine, then render what they gave.

The executed chapters live in _build/executed/, each beside a record of everything it depends on: its code, the files of
the package that its kernel loaded, the versions, the device and the profile. While a record holds, its chapter is not
executed again. The pages are rendered from a copy under _build/source/, so that no file of the repository changes.
"""

import argparse
import datetime
import fcntl
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import nbformat
from check import CORES
from execute import ChapterError, Kernels, run_notebook
from nbformat import NotebookNode
from normalise import normalise, read, text_of

# Tags that change what executing a cell does; all others only change how the page looks.
EXECUTION_TAGS = {"raises-exception", "skip-execution"}
# A cell that starts another process may use any part of the package, and no kernel can tell which.
STARTS_PROCESSES = re.compile(r"^\s*[!%]|\bsubprocess\b|\bos\.system\b|\bmultiprocessing\b|\btorchrun\b", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ASK_FOR_DEVICE = """
import torch
from vlmcourse.train.runtime import device, profile
where = device()
name = torch.cuda.get_device_name(where) if where.type == "cuda" else ""
print(f"{where.type} {name}".strip(), profile(), sep="\\n")
"""


@dataclass(frozen=True)
class Environment:
    """What every chapter's results depend on, besides code."""

    python: str
    torch: str
    device: str
    profile: str


@dataclass(frozen=True)
class Record:
    """What an executed chapter was made from, and how long it took."""

    code: str
    environment: dict[str, str]
    inputs: dict[str, str]
    executed: str  # hash of the executed notebook, so that a half-written pair never counts as done
    seconds: float
    date: str
    commit: str


class Book:
    """The folders of one checkout, and what is known about its chapters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.build = root / "_build"
        self.executed = self.build / "executed"
        self.failed = self.build / "failed"
        self.source = self.build / "source"
        self.html = self.build / "html"
        self.chapters = sorted((root / "lectures").glob("*.ipynb"))

    # --- what a chapter depends on ------------------------------------------------------------------------------

    def package_files(self) -> dict[str, str]:
        """Return the hash of every file of the package, by its path in the repository."""
        files = (file for file in (self.root / "vlmcourse").rglob("*") if file.is_file())
        return {self.name(file): sha256(file) for file in files if "__pycache__" not in file.parts}

    def name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def inputs(self, nb: NotebookNode, loaded: list[Path], package: dict[str, str]) -> dict[str, str]:
        """Return the hashes of the files that a chapter used; ``package`` holds those from before it ran."""
        used = {name for name in package if not name.endswith(".py")}  # data may be read in ways that leave no trace
        if any(STARTS_PROCESSES.search(cell.source) for cell in nb.cells if cell.cell_type == "code"):
            used |= set(package)
        for file in (file.resolve() for file in loaded if file.is_absolute() and file.is_file()):
            if file.is_relative_to(self.root) and not {".venv", "_build"} & set(file.relative_to(self.root).parts):
                used.add(self.name(file))
        # A file edited while the chapter ran is recorded as it was before, so the next build sees the edit.
        return {name: package.get(name) or sha256(self.root / name) for name in sorted(used)}

    def why_execute(
        self, chapter: Path, nb: NotebookNode, environment: Environment, package: dict[str, str]
    ) -> str | None:
        """Say why a chapter has to be executed, or return None where its results still hold."""
        record = self.record(chapter)
        if record is None:
            return "no results yet"
        if record.code != code_hash(nb):
            return "its code changed"
        for key, now in asdict(environment).items():
            if record.environment.get(key) != now:
                return f"{key} was {record.environment.get(key)}, is {now}"
        for name, known in record.inputs.items():
            file = self.root / name
            if not file.is_file() or (package.get(name) or sha256(file)) != known:
                return f"{name} changed"
        for name in package:
            if not name.endswith(".py") and name not in record.inputs:
                return f"{name} is new"
        return None

    def record(self, chapter: Path) -> Record | None:
        notebook = self.executed / chapter.name
        try:
            record = Record(**json.loads(notebook.with_suffix(".json").read_text(encoding="utf-8")))
            return record if record.executed == sha256(notebook) else None
        except (OSError, ValueError, TypeError):
            return None

    # --- executing ----------------------------------------------------------------------------------------------

    def execute(
        self, chapter: Path, nb: NotebookNode, environment: Environment, timeout: int | None, **options: Any
    ) -> None:
        """Execute one chapter and keep its results; a failed one is kept apart, to be looked at."""
        package = self.package_files()
        code = code_hash(nb)
        try:
            seconds, loaded = run_notebook(
                nb,
                name=chapter.stem,
                folder=chapter.parent,
                scratch=self.build / "ipython",
                timeout=timeout,
                **options,
            )
        except ChapterError:
            write(self.failed / chapter.name, nbformat.writes(nb))
            raise
        (self.failed / chapter.name).unlink(missing_ok=True)
        text = text_of(normalise(nb, root=self.root))
        record = Record(
            code=code,
            environment=asdict(environment),
            inputs=self.inputs(nb, loaded, package),
            executed=hashlib.sha256(text.encode()).hexdigest(),
            seconds=round(seconds, 1),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            commit=self.commit(),
        )
        write(self.executed / chapter.name, text)
        write((self.executed / chapter.name).with_suffix(".json"), json.dumps(asdict(record), indent=1) + "\n")

    def commit(self) -> str:
        """Name the commit the checkout is at, and say when files differ from it."""

        def git(*arguments: str) -> str:
            command = ["git", "-C", str(self.root), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        try:
            return git("rev-parse", "--short=10", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    # --- rendering ----------------------------------------------------------------------------------------------

    def stage(self, environment: Environment) -> str:
        """Bring _build/source/ up to date, and return a hash of all that the pages are made from."""
        pages = {self.root / "_config.yml", *self.root.glob("*.md")}
        for folder in ("book", "lectures"):
            pages |= {file for file in (self.root / folder).rglob("*") if file.is_file()}
        hidden = {"tools", "__pycache__", ".ipynb_checkpoints"}
        content = {
            self.name(page): page.read_bytes()
            for page in pages
            if page.is_file() and not hidden & set(page.relative_to(self.root).parts)
        }
        for chapter in self.chapters:
            merged = with_outputs(read(chapter), read(self.executed / chapter.name))
            content[self.name(chapter)] = text_of(normalise(merged, root=self.root)).encode()
        content["book/this_build.md"] = self.this_build(environment).encode()

        for old in (file for file in self.source.rglob("*") if file.is_file()):
            if old.relative_to(self.source).as_posix() not in content:
                old.unlink()
        for name, data in content.items():
            if not (self.source / name).is_file() or (self.source / name).read_bytes() != data:
                write(self.source / name, data)

        # Docstrings become pages too, and a new version of the renderer may render differently.
        parts = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        parts |= {name: known for name, known in self.package_files().items() if name.endswith(".py")}
        parts["jupyter-book"] = version("jupyter-book") + version("sphinx")
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def this_build(self, environment: Environment) -> str:
        """Write the page that says where, when and with what the chapters were executed."""
        rows, total = [], 0.0
        for chapter in self.chapters:
            record = self.record(chapter)
            assert record is not None, f"{chapter.name} is staged without results"
            rows.append(
                f"| {{doc}}`/lectures/{chapter.stem}` | {record.seconds:.1f} | {record.date} | {record.commit} |"
            )
            total += record.seconds
        return "\n".join(
            [
                "# This build",
                "",
                "The chapters of the book you are reading were executed here. Results from other machines name theirs.",
                "",
                "| | |",
                "|---|---|",
                f"| device | {environment.device} |",
                f"| profile | {environment.profile} |",
                f"| Python | {environment.python} |",
                f"| PyTorch | {environment.torch} |",
                f"| system | {platform.system()} {platform.machine()}, {os.cpu_count()} logical CPU cores |",
                "",
                "| chapter | seconds | executed | commit |",
                "|---|--:|---|---|",
                *rows,
                f"| **all chapters** | **{total:.1f}** | | |",
                "",
            ]
        )

    def render(self, signature: str) -> bool:
        """Render the staged pages; return whether Sphinx had nothing to complain about."""
        stamp, log = self.build / "rendered", self.build / "render.log"
        stamp.unlink(missing_ok=True)
        # From scratch: what Sphinx remembers of unchanged pages would hide their warnings and keep old titles in menus.
        # And apart: the book of the last call stays whole until this one is.
        rendering = self.build / "rendering"
        shutil.rmtree(rendering, ignore_errors=True)
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "."]
        command += ["--path-output", str(rendering), "--toc", "book/_toc.yml", "--config", "_config.yml"]
        command += ["-W", "-n", "--keep-going"]
        result = subprocess.run(
            command, cwd=self.source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        output = COLOUR.sub("", result.stdout)
        write(log, output)
        if result.returncode == 0:
            shutil.rmtree(self.html, ignore_errors=True)
            (rendering / "_build" / "html").replace(self.html)
            write(stamp, signature)
            return True
        complaints = [line for line in output.splitlines() if re.search(r"WARNING|ERROR|CRITICAL|Exception", line)]
        print("\n".join(complaints or output.splitlines()[-20:]))
        print(f"\nRendering failed; all that Sphinx said is in {self.name(log)}")
        return False

    def is_rendered(self, signature: str) -> bool:
        stamp = self.build / "rendered"
        return stamp.is_file() and stamp.read_text() == signature and (self.html / "index.html").is_file()


def code_hash(nb: NotebookNode) -> str:
    """Return a hash of all that decides what executing ``nb`` does: text between the code does not count."""
    cells = [
        [cell.source, sorted(EXECUTION_TAGS & set(cell.metadata.get("tags", [])))]
        for cell in nb.cells
        if cell.cell_type == "code" and cell.source.strip()
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def with_outputs(nb: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Put the outputs of ``executed`` into ``nb``, whose text may have changed since but whose code has not."""
    done = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    todo = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    for cell, result in zip(todo, done, strict=True):
        cell.outputs, cell.execution_count = result.outputs, result.execution_count
    return nb


def current_environment(root: Path) -> Environment:
    """Ask the package, in a process of its own, where chapters will run."""
    process = subprocess.run([sys.executable, "-c", ASK_FOR_DEVICE], cwd=root, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"Cannot tell which device to use:\n{process.stderr.strip().splitlines()[-1]}")
    device, profile = process.stdout.splitlines()[-2:]
    return Environment(platform.python_version(), version("torch"), device, profile)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write(path: Path, content: str | bytes) -> None:
    """Write a file that is either there whole or not there: a build may be killed at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


@contextmanager
def only_one(build: Path) -> Iterator[IO[Any]]:
    """Keep a second build out of the same folder."""
    build.mkdir(exist_ok=True)
    with (build / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"Another build is running in {build}; wait for it to end.") from None
        yield lock


def build(book: Book, environment: Environment, timeout: int | None) -> int:
    """Execute what has to be, render if that or any page changed, and return the exit status."""
    started = time.monotonic()
    package = book.package_files()
    notebooks = {chapter: read(chapter) for chapter in book.chapters}
    reasons = {c: book.why_execute(c, nb, environment, package) for c, nb in notebooks.items()}
    todo = [chapter for chapter, reason in reasons.items() if reason]
    print(
        f"{len(todo)} of {len(notebooks)} chapters to execute on {environment.device}, {environment.profile} profile"
        f" (Python {environment.python}, PyTorch {environment.torch})",
        flush=True,
    )
    for chapter in todo:
        if book.record(chapter):
            print(f"  {chapter.stem}: {reasons[chapter]}")
    failures = execute_all(book, {chapter: notebooks[chapter] for chapter in todo}, environment, timeout)
    for chapter, message in failures.items():
        message = message if sys.stdout.isatty() else COLOUR.sub("", message)
        print(f"\n{message}\n\nThe outputs up to there are in {book.name(book.failed / chapter.name)}")
    if failures:
        print(
            f"\nThe book was not rendered, because {len(failures)} chapter(s) failed. The others are kept as executed."
        )
        return 1

    signature = book.stage(environment)
    if book.is_rendered(signature):
        print("Nothing changed since the book was rendered.")
    else:
        print("Rendering the pages ...", flush=True)
        if not book.render(signature):
            return 1
    print("\nSeconds per chapter:")
    for chapter in book.chapters:
        record = book.record(chapter)
        if record:
            print(f"  {chapter.stem:<32} {record.seconds:>6.1f} s{'' if chapter in todo else '  (kept)'}")
    print(f"\nThe book is in {book.html / 'index.html'} (this call took {time.monotonic() - started:.0f} s)")
    print("See it with: make serve")
    return 0


def chapters_at_once(environment: Environment) -> int:
    """Two or more where cores are all they share; one where a chapter wants a GPU, or the machine, for itself."""
    return min(4, CORES) if environment.device == "cpu" and environment.profile == "quick" else 1


def execute_all(
    book: Book, notebooks: dict[Path, NotebookNode], environment: Environment, timeout: int | None
) -> dict[Path, str]:
    """Execute chapters, some at once, and return what those that failed had to say.

    Raises:
        KeyboardInterrupt: once the kernels are gone.
    """
    at_once = min(chapters_at_once(environment), len(notebooks)) or 1
    options: dict[str, Any] = {"kernels": Kernels(), "alone": at_once == 1}
    if at_once > 1:  # more threads than cores would wait for each other
        options["env"] = {"OMP_NUM_THREADS": str(CORES // at_once)}
    failures = {}
    with ThreadPoolExecutor(at_once) as threads:
        running = {
            threads.submit(book.execute, chapter, nb, environment, timeout, **options): chapter
            for chapter, nb in notebooks.items()
        }
        try:
            wait(running)
        except KeyboardInterrupt:
            threads.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in running):  # again, for a kernel that was still starting
                options["kernels"].stop()
                time.sleep(0.1)
            raise
    for future, chapter in running.items():
        try:
            future.result()
        except ChapterError as error:
            failures[chapter] = str(error)
    return failures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute the chapters that changed and render the book.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the checkout (default: this one)")
    parser.add_argument("--timeout", type=int, help="seconds allowed per cell, 0 for no limit")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the kernels too
    book = Book(options.root.resolve())
    with only_one(book.build):
        try:
            environment = current_environment(book.root)
            timeout = options.timeout
            if timeout is None and environment.profile == "quick":
                timeout = 1800  # a cell of the full profile may train for hours
            return build(book, environment, timeout)
        except KeyboardInterrupt:
            print("\nStopped. Chapters that were executed to their end are kept.")
            return 130


if __name__ == "__main__":
    sys.exit(main())
