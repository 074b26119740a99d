"""A student's notebook from the terminal: where it comes from, what it has reached, and what comes next."""

import contextlib
import io
import json
import linecache
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcourse.homework.checking import TimeUp, within

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "homework" / "handouts", _PACKAGE.parent / "book" / "homework")  # installed, or in a checkout
EMPTY = "*Write your answer here.*"


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
        shutil.copyfileobj(handout, new)
    return target


def parts(path: str | Path, *, seconds: float = 600.0) -> Iterator[Part]:
    """Run a notebook cell by cell and yield what becomes of each part; a cell that fails costs its own part only.

    The notebook's own outputs are not touched, and what cells print is not shown.
    """
    space: dict[str, Any] = {"__name__": "__main__", "display": lambda *_: None}
    os.environ.setdefault("MPLBACKEND", "agg")  # nobody is there to close a window
    for number, cell in enumerate(_cells(Path(path))):
        marks, source = cell["metadata"].get("nbgrader", {}), "".join(cell["source"])
        name, points = marks.get("grade_id", ""), int(marks.get("points", 0))
        if cell["cell_type"] == "markdown" and marks.get("grade"):
            yield Part(name, points, "not written yet" if source.strip() in ("", EMPTY) else "", written=True)
        elif cell["cell_type"] == "code":
            problem = _problem(source, space, f"<cell {number}>", seconds)
            if marks.get("grade"):
                yield Part(name.removeprefix("check-"), points, problem)
            elif problem:
                yield Part("", 0, f"cell {number} ({source.strip().splitlines()[0][:40]}) {problem}")


def _problem(source: str, space: dict[str, Any], name: str, seconds: float) -> str:
    """Run one cell in the notebook's space, and return why it stopped."""
    source = re.sub(r"^( *)[%!].*", r"\1pass", source, flags=re.MULTILINE)  # the notebook's magic, not Python's
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)  # so that tracebacks show lines
    errors: list[BaseException] = []

    def work() -> None:
        try:
            exec(compile(source, name, "exec"), space)
        except BaseException as error:  # SystemExit too
            errors.append(error)

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            within(seconds, work)
    except TimeUp:
        return f"has not ended after {seconds:g} seconds"
    report = space.get("report")
    if errors and isinstance(errors[0], AssertionError) and report is not None and "check_" in source:
        return str(report)
    return f"stopped with {type(errors[0]).__name__}: {errors[0]}" if errors else ""


def summary(path: str | Path, *, seconds: float = 600.0) -> str:
    """Return a report of the whole notebook: points, what is done, and what is wrong with the rest."""
    found = list(parts(path, seconds=seconds))
    checks = [part for part in found if part.name and not part.written]
    reached, most = (sum(p.points for p in some) for some in ([p for p in checks if not p.problem], checks))
    lines = [f"{Path(path).name}: {reached} of {most} points of the checks; a person grades the written answers"]
    for part in found:
        state = "stopped" if not part.name else "to do" if part.problem else "answered" if part.written else "done"
        points = f" ({part.points} points)" if part.name else ""
        problem = part.problem.replace("\n", "\n      ")
        lines.append(f"  {state:<9} {part.name}{points}" + (f"\n      {problem}" if problem else ""))
    return "\n".join(lines)


def next_step(path: str | Path, *, seconds: float = 600.0) -> str:
    """Return the first part of the notebook that is not done, and what is wrong with it."""
    for part in parts(path, seconds=seconds):
        if part.problem:
            return f"next: {part.name or 'a cell that stops'}\n{part.problem}"
    return "everything is done: hand it in"


def _cells(path: Path) -> list[dict[str, Any]]:
    """Read a notebook's cells.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no notebook: {error}") from None
