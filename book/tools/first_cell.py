"""The first code cell of a chapter or an assignment: one template, which installs the package or says how."""

import re

from nbformat import NotebookNode

from book.tools.normalize import code_cells, normalize, text_of
from book.tools.templates import filled

FORM = re.compile(r"(?s)try:[^\n]*\n    (?P<imports>(?:from|import) [^\n]+)\nexcept ModuleNotFoundError.*?\n(?=\S)")


def template(imports: str, address: str | None, *, script: bool = False) -> str:
    """Return the beginning of a chapter's code; a script has no ``%pip``, and says what to run.

    >>> print(template("from vlmcourse import Chapter", "https://example.org/a/b"), end="")
    try:  # on Colab or Kaggle, first choose a runtime with a GPU
        from vlmcourse import Chapter
    except ModuleNotFoundError:
        %pip install --quiet git+https://example.org/a/b
        from vlmcourse import Chapter
    """
    return filled("first_cell.txt", imports=imports, address=address, script=script)


def with_address(source: str, address: str | None, *, script: bool = False) -> str:
    """Return a first cell with another address in its template, or as it is where it has no such form."""
    match = FORM.match(source)
    return template(match["imports"], address, script=script) + source[match.end() :] if match else source


def write_address(nb: NotebookNode, address: str | None) -> NotebookNode:
    """Change the first code cell of ``nb`` in place, and return ``nb``."""
    for cell in code_cells(nb)[:1]:
        cell.source = with_address(cell.source, address)
    return nb


def text_with_address(nb: NotebookNode, address: str | None) -> str:
    """Return the committed form of a chapter or an assignment that installs from ``address``."""
    return text_of(normalize(write_address(nb, address)))


def address_in(nb: NotebookNode) -> str | None:
    """Return the address that the first code cell of ``nb`` installs from, or None where it names none."""
    match = re.search(r"git\+(\S+)", code_cells(nb)[0].source)
    return match[1] if match else None
