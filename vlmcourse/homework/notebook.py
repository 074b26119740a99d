"""A student's notebook from the terminal: where it comes from, what it has reached, and what comes next."""

import ast
import contextlib
import json
import linecache
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcourse.homework.checking import TimeUp, within

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "homework" / "handouts", _PACKAGE.parent / "book" / "homework")  # installed, or in a checkout
EMPTY = "*Write your answer here.*"
PROGRAM = "vlmcourse homework"
WAITS = "waits for a part that is not written yet"
TWICE = (
    "this cell is here twice: delete one of the two, or merge them where it was split; as it is, nothing can be graded"
)
START, GRACE = (
    600.0,
    60.0,
)  # seconds for a process to load the library; and for a cell beyond its limit, before it is killed


@dataclass(frozen=True)
class Part:
    """What became of one cell: its name (none for a cell that gives no points), and what is wrong with it."""

    name: str
    points: int
    problem: str = ""
    written: bool = False  # an answer in words, which a person grades


def handouts() -> dict[str, Path]:
    """Return the assignments' notebooks by name.

    >>> list(handouts())[:1]
    ['hw1']
    """
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("hw*.ipynb"))}


def title(path: Path) -> str:
    """Return the first heading of a notebook."""
    first = "".join(_cells(path)[0]["source"])
    return first.splitlines()[0].lstrip("# ")


def start(name: str, folder: str | Path = ".") -> Path:
    """Copy an assignment into a folder, and return the new file.

    Raises:
        ValueError: there is no such assignment.
        FileExistsError: there is a file of that name already; your work is never overwritten.
    """
    known = handouts()
    if name not in known:
        raise ValueError(f"there is no assignment {name!r}; there are {', '.join(known)}")
    target = Path(folder).expanduser() / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as new, known[name].open("rb") as handout:
        try:
            shutil.copyfileobj(handout, new)
            new.flush()
        except BaseException:  # a full disk: half a file would never be overwritten
            target.unlink()
            raise
    return target


def parts(path: str | Path, *, seconds: float = 600.0, apart: bool = True) -> Iterator[Part]:
    """Run a notebook cell by cell and yield what becomes of each part; a cell that fails costs its own part only.

    The cells run in a process of their own, in the notebook's folder, so that one that ends the process costs no more. The
    checks are those of the handout, whatever the notebook has made of them. Its outputs are not touched, and what cells
    print is not shown.

    Options:
        seconds: time limit of one cell. apart: False runs the cells in this process.
    """
    if not seconds > 0:
        raise ValueError(f"seconds, the time limit of a cell, must be a positive number, received {seconds:g}; try 600")
    path = Path(path).resolve()
    cells, handout = _cells(path), _handout(path)
    problems = _apart(path, seconds) if apart else _run(path, seconds, skipped=())
    waits, seen = False, set[str]()
    for cell in cells:
        marks, source = cell["metadata"].get("nbgrader", {}), "".join(cell["source"])
        name, points = marks.get("grade_id", ""), int(marks.get("points", 0))
        handout.pop(name, None)
        problem = next(problems)[1] if cell["cell_type"] == "code" else ""
        waits = waits or problem == WAITS
        if name in seen:
            yield Part(name.removeprefix("check-"), 0, TWICE)
        elif cell["cell_type"] == "markdown" and marks.get("grade"):
            yield Part(name, points, "not written yet" if source.strip() in ("", EMPTY) else "", written=True)
        elif cell["cell_type"] == "code":
            if marks.get("grade"):
                yield Part(name.removeprefix("check-"), points, problem)
            elif problem and problem != WAITS and not (waits and "stopped with NameError" in problem):
                first = source.strip().splitlines()[0]
                yield Part("", 0, f"cell `{first[:60]}{'...' * (len(first) > 60)}` {problem}")
        seen |= {name} - {""}
    for name, cell in handout.items():  # what somebody has deleted
        marks = cell["metadata"]["nbgrader"]
        problem = f"the cell is missing: copy it from a fresh notebook ({PROGRAM} start {_assignment(path)} SOMEWHERE)"
        yield Part(name.removeprefix("check-"), int(marks["points"]), problem, written=cell["cell_type"] == "markdown")


def _assignment(path: Path) -> str:
    """Return the name of the handout that a notebook comes from: the one that shares most of its graded cells."""
    mine = _graded(_cells(path)).keys()
    shared = {name: len(mine & _graded(_cells(file)).keys()) for name, file in handouts().items()}
    best = max(shared, key=lambda name: shared[name], default="")
    return best if best and shared[best] > 1 else ""


def _handout(path: Path) -> dict[str, dict[str, Any]]:
    """Return the graded cells of the handout that a notebook comes from."""
    name = _assignment(path)
    return _graded(_cells(handouts()[name])) if name else {}


def _graded(cells: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    marks = [(cell["metadata"].get("nbgrader", {}), cell) for cell in cells]
    return {mark["grade_id"]: cell for mark, cell in marks if mark.get("grade")}


def _apart(path: Path, seconds: float) -> Iterator[tuple[int, str]]:
    """Run the code cells in another process; where one ends the process, start anew and leave that cell out."""
    ended = {-1: ""}  # before the first cell nothing may end it
    told = 0
    while True:
        command = [sys.executable, "-m", "vlmcourse.homework.notebook", str(path), str(seconds), *map(str, ended)]
        search = os.pathsep.join([str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            command, cwd=path.parent, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search},
        ) as worker:  # fmt: skip
            try:
                assert worker.stdout is not None
                number, count, began = -1, None, time.monotonic()
                while line := _line(worker, START if number < 0 else seconds + GRACE):
                    message, began = json.loads(line), time.monotonic()
                    if "count" in message:
                        count = message["count"]
                    elif "problem" not in message:
                        number = message["cell"]
                    elif (position := message["position"]) >= told:
                        told = position + 1
                        yield message["cell"], ended.get(message["cell"], message["problem"])
            finally:
                worker.kill()
        if told == count:
            return
        if number in ended:
            raise RuntimeError(f"{path}: no Python process could be started to run it")
        late = time.monotonic() - began > seconds + GRACE
        ended[number] = f"has not ended after {seconds:g} seconds, and could not be interrupted" if late else (
            "ended the whole process: os._exit, a crash in compiled code, or more than the machine's memory")  # fmt: skip


def _line(worker: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read a line from a process, and end the process if none comes in time."""
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    try:
        assert worker.stdout is not None
        return worker.stdout.readline()
    finally:
        timer.cancel()


def _run(
    path: Path, seconds: float, *, skipped: Collection[int], begin: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[int, str]]:
    """Run the code cells here, and yield what is wrong with each."""
    handout = _handout(path)
    space: dict[str, Any] = {"__name__": "__main__", "display": lambda *_, **__: None, "get_ipython": _NoShell}
    os.environ.setdefault("MPLBACKEND", "agg")  # nobody is there to close a window
    for number, cell in enumerate(_cells(path)):
        if cell["cell_type"] == "code":
            marks = cell["metadata"].get("nbgrader", {})
            given = handout.get(marks.get("grade_id"), cell) if marks.get("grade") else cell
            begin(number)
            run = number not in skipped
            yield number, _problem("".join(given["source"]), space, f"<cell {number}>", seconds) if run else ""


class _NoShell:
    """Stands for the shell of a notebook, and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _without_magic(source: str) -> str:
    """Return what a notebook makes of its magic; without IPython, leave lines of it out."""
    try:
        from IPython.core.inputtransformer2 import TransformerManager
    except ImportError:
        return re.sub(r"^( *)[%!].*", r"\1pass", source, flags=re.MULTILINE)
    return TransformerManager().transform_cell(source)


def _problem(source: str, space: dict[str, Any], name: str, seconds: float) -> str:
    """Run one cell in the notebook's space, and return why it stopped."""
    try:
        ast.parse(source)
    except SyntaxError:  # the notebook's magic, not Python's; a line of Python, too, may begin with %
        source = _without_magic(source)
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)  # so that tracebacks show lines
    errors: list[BaseException] = []

    def work() -> None:
        try:
            exec(compile(source, name, "exec", optimize=0), space)  # python -O would drop what a cell asserts
        except BaseException as error:  # SystemExit too
            errors.append(error)

    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            within(seconds, work)
    except TimeUp:
        return f"has not ended after {seconds:g} seconds"
    if errors and isinstance(errors[0], NotImplementedError) and not errors[0].args and "check_" not in source:
        return WAITS
    report = space.get("report")
    if errors and isinstance(errors[0], AssertionError) and report is not None and "check_" in source:
        return str(report)
    kept = (
        " (the check calls this name: keep it)"
        if errors and isinstance(errors[0], NameError) and "check_" in source
        else ""
    )
    return f"stopped with {type(errors[0]).__name__}: {errors[0]}{kept}" if errors else ""


def summary(path: str | Path, *, seconds: float = 600.0) -> str:
    """Return a report of the whole notebook: points, what is done, and what is wrong with the rest."""
    found = list(parts(path, seconds=seconds))
    checks = [part for part in found if part.name and not part.written]
    reached, most = (sum(p.points for p in some) for some in ([p for p in checks if not p.problem], checks))
    lines = [f"{Path(path).name}: {reached} of {most} points of the checks; a person grades the written answers"]
    if not any(part.name for part in found):
        lines = [_no_part(path)]
    if Path(path).stem != (name := _assignment(Path(path)) or Path(path).stem):
        lines.append(f"  note      hand it in as {name}.ipynb: under another name it is not graded")
    for part in found:
        state = "stopped" if not part.name else "to do" if part.problem else "answered" if part.written else "done"
        points = f" ({part.points} points)" if part.name else ""
        problem = part.problem.replace("\n", "\n      ")
        lines.append(f"  {state:<9} {part.name}{points}" + (f"\n      {problem}" if problem else ""))
    return "\n".join(lines)


def _no_part(path: str | Path) -> str:
    """Say that nothing in a notebook gives points, and why that may be."""
    code = "\n".join("".join(cell["source"]) for cell in _cells(Path(path)))
    lost = "" if "check_" not in code else (
        ". Its cells have lost the marks by which they are known, as happens when they are pasted into another notebook: copy "
        f"your work into a fresh one ({PROGRAM} start NAME SOMEWHERE)")  # fmt: skip
    return f"{Path(path).name}: no part of an assignment is in this notebook{lost or f'; {PROGRAM} list names them'}"


def next_step(path: str | Path, *, seconds: float = 600.0) -> str:
    """Return the first part of the notebook that is not done, and what is wrong with it."""
    if not _graded(_cells(Path(path))):
        return _no_part(path)
    for part in parts(path, seconds=seconds):
        if part.problem:
            return f"next: {part.name or 'a cell that stops'}\n{part.problem}"
    name = _assignment(Path(path))
    return "everything is done: restart the kernel, run all cells, save, and hand it in" + f" as {name}.ipynb" * bool(
        name
    )


def find(given: Path | None) -> Path:
    """Return the notebook that is meant: ``hw2`` is ``hw2.ipynb``, and a folder, or none, the only one in it.

    Raises:
        ValueError: a folder holds more or less than one. FileNotFoundError: there is none of that name.
    """
    given = given or Path()
    folder = given if given.is_dir() else given.parent
    here = sorted(folder.glob("*.ipynb"))
    known = f"there are {', '.join(map(str, here))}" if here else f"there is none yet: {PROGRAM} start hw1"
    if given == folder:
        if len(here) != 1:
            raise ValueError(f"name the notebook; in this folder {known}")
        return here[0]
    path = given if given.suffix else given.with_suffix(".ipynb")
    if not path.is_file():
        raise FileNotFoundError(f"there is no notebook {path}; in its folder {known}")
    return path


def _cells(path: Path) -> list[dict[str, Any]]:
    """Read a notebook's cells.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        if not all(isinstance(cell, dict) and {"cell_type", "source"} <= cell.keys() for cell in cells):
            raise TypeError("one of its cells has no cell_type or no source")
        return [{"metadata": {}, **cell} for cell in cells]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no notebook that can be read: {error}. Save it in Jupyter and try again. If it does not open there "
            f"either, take the version in .ipynb_checkpoints, or copy your cells into a fresh one: {PROGRAM} start NAME "
            "SOMEWHERE"
        ) from None


def _worker(path: str, seconds: str, *skipped: str) -> None:
    """Run a notebook's code cells, and say on standard output which begins, and what is wrong with it."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what cells print, from compiled code too
        os.dup2(nowhere, stream)

    def say(**message: Any) -> None:
        print(json.dumps(message), file=channel, flush=True)

    count = 0
    for position, (number, problem) in enumerate(
        _run(Path(path), float(seconds), skipped=set(map(int, skipped)), begin=lambda number: say(cell=number))
    ):
        say(cell=number, position=position, problem=problem)
        count = position + 1
    say(count=count)
    os._exit(0)  # a thread that does not end is left behind


if __name__ == "__main__":
    _worker(*sys.argv[1:])
