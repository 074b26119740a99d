"""Cells tagged ``figure`` only draw: recordings leave them out, so no number may depend on what one of them did."""

import ast
import symtable
from pathlib import Path

import nbformat
import pytest

from book.tools.fingerprint import measured_cells, syntax_of
from book.tools.normalize import read

CHAPTERS = sorted((Path(__file__).parents[2] / "lectures").glob("*.ipynb"))


class AsGenerators(ast.NodeTransformer):
    """Turn all comprehensions into one kind: from Python 3.12 the others have no scope of their own, only variables."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators))


def names(cell: nbformat.NotebookNode) -> tuple[set[str], set[str]]:
    """Return the global names that a cell reads before it binds them, and those that it binds."""
    before: set[str] = set()
    bound: set[str] = set()
    for statement in AsGenerators().visit(syntax_of([cell])).body:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        binds = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        binds |= {node.target.id for node in ast.walk(statement) if isinstance(node, ast.NamedExpr)}
        reads = read_globals(table)
        if not isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):
            reads -= binds  # a loop, a "with", a function that calls itself: bound first
        before |= reads - bound
        bound |= binds
    return before, bound


def read_globals(table: symtable.SymbolTable) -> set[str]:
    """Return the global names that a scope and the scopes in it read."""
    is_module = table.get_type() == "module"
    own = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (is_module or s.is_global())}
    return own.union(*map(read_globals, table.get_children()))


def taken_from_figures(nb: nbformat.NotebookNode) -> list[str]:
    """Return the names that a figure cell binds and a counted cell reads afterwards, before it is bound anew."""
    counted = {id(cell) for cell in measured_cells(nb)}
    drawn: dict[str, str] = {}
    found = []
    for cell in nb.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        before, bound = names(cell)
        if id(cell) in counted:
            found += [f"{name!r} of {drawn[name]}" for name in sorted(before & drawn.keys())]
            drawn = {name: place for name, place in drawn.items() if name not in bound}
        elif "figure" in cell.metadata.get("tags", []):
            drawn |= dict.fromkeys(bound, f"cell {cell.id}")
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_number_depends_on_a_cell_that_draws(chapter):
    assert taken_from_figures(read(chapter)) == []


def notebook(*cells: tuple[str, bool]) -> nbformat.NotebookNode:
    nb = nbformat.v4.new_notebook()
    for source, draws in cells:
        nb.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["figure"]} if draws else {}))
    return nb


@pytest.mark.parametrize(
    ("drawing", "after", "taken"),
    [
        ("words = 'a'", "print(words)", True),
        ("for k in range(3):\n    words = k", "print(words)", True),
        ("import words", "print(words)", True),
        ("words = 'a'", "def f():\n    return words", True),
        ("words = 'a'", "words = 2\nprint(words)", False),
        ("print([words for words in 'abc'])", "print(words)", False),
        ("print({words: k for words in 'abc' for k in {words for words in 'def'}})", "print(words)", False),
        ("print([words := k for k in 'abc'])", "print(words)", True),
        ("def draw():\n    words = 1", "print(words)", False),
        ("other = words", "print(words)", False),
    ],
)
def test_a_name_taken_from_a_drawing_is_found(drawing, after, taken):
    assert bool(taken_from_figures(notebook(("words = 1", False), (drawing, True), (after, False)))) is taken
