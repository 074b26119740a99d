"""Bring notebooks into the one form that is committed, so that executing them again changes nothing.

Usage: normalise.py [--check] [NOTEBOOK...]     all chapters without one
"""

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

import nbformat
import nbformat.v4

ROOT = Path(__file__).resolve().parents[2]

NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
# What editors and front ends leave behind. Everything else (tags, mystnb, slideshow, ...) is the author's.
PASSING_NOTEBOOK_METADATA = (
    "widgets",
    "colab",
    "vscode",
    "papermill",
    "interpreter",
    "orig_nbformat",
    "toc",
    "signature",
)
PASSING_CELL_METADATA = (
    "ExecuteTime",
    "autoscroll",
    "collapsed",
    "colab",
    "execution",
    "id",
    "outputId",
    "papermill",
    "pycharm",
    "scrolled",
    "trusted",
    "vscode",
)
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MEMORY_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
VOLATILE = "volatile"  # tag of cells whose output differs at every run: timings


def normalise(nb: nbformat.NotebookNode, *, root: Path = ROOT) -> nbformat.NotebookNode:
    """Change ``nb`` in place into its committed form, and return it. Doing so twice is the same as once."""
    nb.nbformat, nb.nbformat_minor = 4, 5
    for key in PASSING_NOTEBOOK_METADATA:
        nb.metadata.pop(key, None)
    nb.metadata.update(nbformat.from_dict(NOTEBOOK_METADATA))

    code_cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    was_executed = any(cell.get("execution_count") or cell.outputs for cell in code_cells)
    for cell in nb.cells:
        for key in PASSING_CELL_METADATA:
            cell.metadata.pop(key, None)
    for cell in code_cells:
        cell.outputs = tidy_outputs(cell.outputs, root)
        cell.execution_count = None
    if was_executed:
        # Never left empty: nbval fails a cell that has outputs and no number.
        for number, cell in enumerate((cell for cell in code_cells if cell.source.strip()), start=1):
            cell.execution_count = number
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = number
    name_cells(nb.cells)
    return nb


def name_cells(cells: list[nbformat.NotebookNode]) -> None:
    """Derive each cell's id from its content, so that converting a notebook from text again gives the same ids."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def tidy_outputs(outputs: list[nbformat.NotebookNode], root: Path) -> list[nbformat.NotebookNode]:
    """Drop stderr and widgets, join consecutive streams, take this machine's paths and addresses out of the text."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif WIDGET_VIEW in output.get("data", {}):
            continue
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = portable(overwrite_lines(output.text), root)
        elif output.output_type == "error":
            output.traceback = [portable(line, root) for line in output.traceback]
        else:
            output.metadata.pop("needs_background", None)  # written by matplotlib, depends on its version
            for mime, value in output.data.items():
                if mime.startswith("text/") and isinstance(value, str):
                    output.data[mime] = portable(value, root)
    return [output for output in kept if output.output_type != "stream" or output.text]


def overwrite_lines(text: str) -> str:
    """Show of each line what a terminal would show: the part after the last carriage return."""
    return re.sub(r"[^\n]*\r(?!\n)", "", text.replace("\r\n", "\n"))


def portable(text: str, root: Path) -> str:
    """Write paths relative to the repository, and every memory address as the same one."""
    home = os.path.expanduser("~")
    for prefix in (f"{root}{os.sep}", f"{root}{os.sep}".replace(home, "~", 1)):
        text = text.replace(prefix, "")
    return MEMORY_ADDRESS.sub("at 0x000000", text)


def keep_volatile_outputs(fresh: nbformat.NotebookNode, stored: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Give cells tagged ``volatile`` the outputs that ``stored`` has for the same source."""

    def volatile(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
        return [c for c in nb.cells if c.cell_type == "code" and VOLATILE in c.metadata.get("tags", [])]

    outputs = {cell.source: cell.outputs for cell in volatile(stored) if cell.outputs}
    for cell in volatile(fresh):
        cell.outputs = outputs.get(cell.source, cell.outputs)
    return fresh


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook of format 4.x as 4.5, with the ids that its content gives."""
    nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))
    if nb.get("nbformat") != 4:
        raise ValueError(
            f"{path} has notebook format {nb.get('nbformat')}, expected 4; open and save it in Jupyter once"
        )
    nb.nbformat_minor = 5
    name_cells(nb.cells)
    return nb


def text_of(nb: nbformat.NotebookNode) -> str:
    """Return the notebook as it is written to disk: sorted keys, one space of indentation, a newline at the end."""
    nbformat.validate(nb)
    return nbformat.writes(nb).rstrip("\n") + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not normalised")
    options = parser.parse_args(argv)
    different = []
    for path in options.notebooks or sorted((ROOT / "lectures").glob("*.ipynb")):
        text = text_of(normalise(read(path)))
        if text != path.read_text(encoding="utf-8"):
            different.append(path)
            if not options.check:
                path.write_text(text, encoding="utf-8")
    for path in different:
        print(f"{path}: {'not normalised; run: make normalise' if options.check else 'normalised'}")
    return 1 if different and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
