"""Code that a page shows fits its column: on a screen 1280 pixels wide, nothing has to be scrolled to be read.

The notebooks in lectures/ and the file in book/examples are held to their width by ruff.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMN, DOCSTRING = 88, 84  # characters; an entry of the library is indented
FENCE = re.compile(r"(`{3,})(.*)")
PAGES = sorted(page for page in ROOT.glob("book/**/*.md") if "sources" not in page.parts)
ASSIGNMENTS = sorted(ROOT.glob("book/homework/hw*.ipynb"))
MODULES = sorted(ROOT.glob("vlmcourse/train/*.py"))


def too_long(code: str, width: int = COLUMN) -> list[str]:
    return [line for line in code.splitlines() if len(line) > width]


def fenced(text: str) -> str:
    """Return the code of a page: what stands in fences that are no directives."""
    lines, mark, kept = [], "", False
    for line in text.splitlines():
        match = FENCE.match(line)
        if match and not mark:
            mark, kept = match[1], not match[2].startswith("{")
        elif match and match[1] == mark and not match[2].strip():
            mark = ""
        elif mark and kept:
            lines.append(line)
    return "\n".join(lines)


def examples(module: str) -> str:
    """Return the lines of a module's doctests."""
    documented = [node for node in ast.walk(ast.parse(module)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    lines = [line for node in documented for line in (ast.get_docstring(node) or "").splitlines()]
    return "\n".join(line for line in lines if line.startswith((">>>", "...")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_on_a_page_fits_its_column(page):
    assert too_long(fenced(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", ASSIGNMENTS, ids=lambda page: page.stem)
def test_code_of_an_assignment_fits_its_column(page):
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert too_long("\n".join(code)) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_examples_of_what_trains_fit_their_column(module):
    assert too_long(examples(module.read_text(encoding="utf-8")), DOCSTRING) == []


def test_fences_and_examples_are_found():
    assert len("\n".join(fenced(page.read_text(encoding="utf-8")) for page in PAGES)) > 1000
    assert sum(len(examples(module.read_text(encoding="utf-8"))) for module in MODULES) > 1000
    long = "x" * 89
    assert fenced(f"{long}\n```python\n{long}\n```\n{long}\n````{{note}}\n```\n{long}\n```\n````\n{long}") == long
    assert too_long(long) == [long]
