"""Count the lines of Python below folders: code (lines that hold a token), docstrings, and functions that are long.

Usage: python -m book.tools.count_lines [FOLDER...]
"""

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

LONG = 50  # lines of code above which a function is hard to take in
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Count(NamedTuple):
    """How many lines of code and of docstring there are, and the lines of code of each long function by its name."""

    code: int
    docstring: int
    long: dict[str, int]


def has_docstring(node: Any) -> bool:
    """Whether a module, class or function starts with a docstring."""
    return isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None


def span(node: Any) -> set[int]:
    """Return the lines from a node's first to its last."""
    return set(range(node.lineno, node.end_lineno + 1))


def count(source: str, name: str = "") -> Count:
    """Count the lines of one module; ``name`` goes before the names of its functions."""
    nodes: list[Any] = list(ast.walk(ast.parse(source)))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {n for t in tokens if t.type not in NO_CODE for n in range(t.start[0], t.end[0] + 1)}
    docstrings = {line for node in nodes if has_docstring(node) for line in span(node.body[0])}
    code -= docstrings
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{name}:{function.name}": len(code & span(function)) for function in functions}
    return Count(len(code), len(docstrings), {name: lines for name, lines in lengths.items() if lines > LONG})


def count_folder(folder: Path) -> Count:
    """Count all modules below a folder, or the one that ``folder`` names."""
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]
    counts = [count(file.read_text(encoding="utf-8"), str(file)) for file in files]
    long = {name: lines for one in counts for name, lines in one.long.items()}
    return Count(sum(one.code for one in counts), sum(one.docstring for one in counts), long)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:] or ["vlmcourse", "book/tools"]):
        found = count_folder(folder)
        print(f"{folder}: {found.code} lines of code, {found.docstring} of docstring")
        for function, lines in found.long.items():
            print(f"  {function} has {lines} lines of code")
