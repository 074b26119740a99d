"""Make the student's and the instructor's version of each assignment from its one source, book/homework/sources/hw*.md.

Usage: python -m book.tools.homework                      write book/homework/hw*.ipynb, what students and readers get
       python -m book.tools.homework --instructor FOLDER  write a course folder for nbgrader, with all solutions

A source is Markdown. Its fences become cells, all else is text:

    ```python                     code that is given
    ```python solution NAME       what the student writes, between ### BEGIN SOLUTION and ### END SOLUTION
    ```answer NAME POINTS         a written answer; the text of the fence is the instructor's alone
    {check NAME POINTS}           on a line of its own: the check of a function, and once more on inputs nobody has seen
    {reference}                   on a line of its own: what the experiment gave in recorded runs, and how mine compares
"""

import argparse
import re
import sys
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.tools.first_cell import address_in, text_with_address
from book.tools.normalize import ROOT, chapters, normalize, read, rewrite
from book.tools.templates import filled
from vlmcourse.homework import CHECKS, notebook, reference

SOURCES, PAGES = ROOT / "book" / "homework" / "sources", ROOT / "book" / "homework"
FENCE = re.compile(
    r"^```(python|answer)(?: (solution|\S+))?(?: (\S+))?\n(.*?)^```\n|^\{check (\S+) (\d+)\}\n|^\{(reference)\}\n",
    re.DOTALL | re.MULTILINE,
)
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n?", re.DOTALL | re.MULTILINE)
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS\n?", re.DOTALL | re.MULTILINE)
CONFIG = SOURCES / "nbgrader_config.py"


def graded(cell: NotebookNode, name: str, *, points: int | None = None, solution: bool = False) -> NotebookNode:
    """Mark a cell as nbgrader does: the student's, or one that gives points and may not be changed."""
    marks = {"grade_id": name, "grade": points is not None, "solution": solution, "locked": not solution}
    cell.metadata["nbgrader"] = {**marks, "task": False, "schema_version": 3}
    if points is not None:
        cell.metadata["nbgrader"]["points"] = points
    return cell


def instructor(source: str, *, table: bool = True) -> NotebookNode:
    """Return the notebook with everything in it; without the table of recorded runs while they are being recorded."""
    cells, end = [], 0
    for match in FENCE.finditer(source):
        kind, option, name, text, check, points, compare = match.groups()
        if before := source[end : match.start()].strip():
            cells.append(new_markdown_cell(before))
        if check:
            code = filled("homework_check.txt", name=check, function=CHECKS[check].task.name)
            cells.append(new_markdown_cell(f"**Check** · {points} points"))
            cells.append(graded(new_code_cell(code.strip()), f"check-{check}", points=int(points)))
        elif compare:
            assignment = f"hw{source[len('# Homework ')]}"
            cells += [new_markdown_cell(reference.table(assignment))] if table else []
            cells.append(new_code_cell(filled("homework_compare.txt", assignment=assignment).strip()))
        elif kind == "answer":
            cells.append(graded(new_markdown_cell(text.strip()), option, points=int(name), solution=True))
        elif option == "solution":
            cells.append(graded(new_code_cell(text.strip()), name, solution=True))
        else:
            cells.append(new_code_cell(text.strip()))
        end = match.end()
    if rest := source[end:].strip():
        cells.append(new_markdown_cell(rest))
    return normalize(new_notebook(cells=cells))


def student(source: str) -> NotebookNode:
    """Return the notebook without solutions and hidden tests, as nbgrader would release it."""
    made = instructor(source)
    for cell in made.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution") and cell.cell_type == "markdown":
            cell.source = notebook.EMPTY
        elif marks:
            cell.source = HIDDEN.sub("", SOLUTION.sub(r"\1raise NotImplementedError\n", cell.source)).strip()
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructor", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("hw*.md"))}
    here = address_in(read(chapters()[0]))
    if course := options.instructor:
        made = {name: text_with_address(instructor(source), here) for name, source in sources.items()}
        wanted = {course / "source" / name / f"{name}.ipynb": text for name, text in made.items()}
        if not (config := course / "nbgrader_config.py").exists():
            wanted[config] = CONFIG.read_text(encoding="utf-8")
    else:
        wanted = {PAGES / f"{name}.ipynb": text_with_address(student(source), here) for name, source in sources.items()}
    return rewrite(wanted)


if __name__ == "__main__":
    sys.exit(main())
