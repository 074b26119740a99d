"""Count the lines of Python below folders: code (lines that hold a token), docstrings, and functions that are long.

Usage: python -m book.tools.count_lines [FOLDER...]
"""

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

LONG = 50  # lines of code above which a function is hard to take in
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Count(NamedTuple):
    """How many lines of code and of docstring there are, and the lines of code of each long function by its name."""

    code: int
    docstring: int
    long: dict[str, int]


def count(source: str, name: str = "") -> Count:
    """Count the lines of one module; ``name`` goes before the names of its functions."""
    tree = ast.parse(source)
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    code -= docstrings
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{name}:{f.name}": len(code & set(range(f.lineno, (f.end_lineno or 0) + 1))) for f in functions}
    return Count(len(code), len(docstrings), {f: lines for f, lines in lengths.items() if lines > LONG})


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
