"""What a chapter's numbers were made from: a hash of its code, and of the parts of the package that it uses.

Formatting, comments, docstrings and annotations do not count: they change no number. Nor do exercises and cells tagged
``figure``, from which nothing is recorded. ``course`` draws and prints what the other rooms compute, so it is searched
for what it imports, and does not count itself. Of an import that may fail, only the import counts.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

import vlmcourse
from book.tools.count_lines import has_docstring
from book.tools.normalize import read

COUNTED = tuple(f"vlmcourse.{room}" for room in ("ops", "models", "data", "train", "_checks", "_devices", "_precision"))
# Fields of syntax that change no number, or that only some versions of Python have.
IGNORED = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx", "type_ignores"}


def measured_cells(nb: NotebookNode) -> list[NotebookNode]:
    """Return the code cells that numbers come from: those before the exercises that are no figures."""
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown" and any(line.startswith("## Exercises") for line in cell.source.splitlines()):
            break
        if cell.cell_type == "code" and cell.source.strip() and "figure" not in cell.metadata.get("tags", []):
            cells.append(cell)
    return cells


def made_from(notebook: Path, profile: str, *, root: Path) -> str:
    """Return the hash of all that a chapter's numbers depend on, besides machine and seed."""
    code = syntax_of(measured_cells(read(notebook)))
    parts = [profile, significant(code)]
    for module, path in sorted(used_modules(code, root, without="vlmcourse.course.figures").items()):
        if module.startswith(COUNTED):
            parts += [module, significant(ast.parse(path.read_text(encoding="utf-8")))]
        if module == "vlmcourse.course.shipped":
            weights = sorted((root / "vlmcourse" / "weights").glob("*"))
            parts += [sha256(file.read_bytes()) for file in weights]
    return sha256("\n".join(parts).encode())[:16]


def sha256(data: bytes) -> str:
    """Return the hash of some bytes."""
    return hashlib.sha256(data).hexdigest()


def syntax_of(cells: list[NotebookNode]) -> ast.Module:
    """Return the syntax of code cells, their magics turned into Python."""
    transform = TransformerManager().transform_cell
    return ast.parse("\n".join(transform(cell.source) for cell in cells))


def used_modules(code: ast.AST, root: Path, *, without: str = "-") -> dict[str, Path]:
    """Return the modules of the package that code imports, directly or through one another, and their files."""
    found: dict[str, Path] = {}
    waiting = list(imported(code))
    while waiting:
        name = waiting.pop()
        base = root.joinpath(*name.split("."))
        path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
        if path is not None and name not in found and not name.startswith(without):
            found[name] = path
            waiting += imported(ast.parse(path.read_text(encoding="utf-8")))
    return found


def imported(code: ast.AST) -> Iterator[str]:
    """Yield the names that may be modules of the package, public names by the module they come from."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vlmcourse":
            names = [f"vlmcourse.{node.attr}"]
        else:
            continue
        for name in (name for name in names if name.split(".")[0] == "vlmcourse"):
            yield name
            public = name.removeprefix("vlmcourse.")
            if public in vlmcourse._EXPORTS:
                yield from (vlmcourse._EXPORTS[public], f"{vlmcourse._EXPORTS[public]}.{public}")


def significant(node: object) -> str:
    """Return syntax as text that is the same for every version of Python, without what changes no number."""
    if isinstance(node, list):
        parts = [part for item in node for part in (item.body if is_guarded_import(item) else [item])]
        return f"[{','.join(map(significant, parts))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and has_docstring(node):
            value = value[1:]
        if name not in IGNORED and value not in (None, []):
            fields.append(f"{name}={significant(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def is_guarded_import(node: object) -> bool:
    """Whether this is ``try: import ... except ModuleNotFoundError: ...`` and nothing else."""
    match node:
        case ast.Try(body, [ast.ExceptHandler(ast.Name("ModuleNotFoundError"))], [], []):
            return all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in body)
    return False
