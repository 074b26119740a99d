"""Bring notebooks into the one form that is committed, so that executing them again changes nothing.

Usage: python -m book.tools.normalize [--check] [NOTEBOOK...]     all chapters without one

nb-clean takes outputs and numbers away; this keeps both, and makes them the same at every run.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from vlmcourse._files import write_whole

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT_METADATA = ("tags", "mystnb", "nbgrader", "outputs_made_by")  # editors and front ends leave the rest behind
MEMORY_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
TEXT_LIMIT = 20_000  # characters of one output: more than anybody reads on a page


def normalize(nb: NotebookNode, *, root: Path = ROOT) -> NotebookNode:
    """Change ``nb`` in place into its committed form, and return it. Doing so twice is the same as once."""
    for holder in (nb, *nb.cells):
        holder.metadata = nbformat.from_dict({k: v for k, v in holder.metadata.items() if k in KEPT_METADATA})
    nb.metadata |= {"kernelspec": KERNEL, "language_info": LANGUAGE}
    code = code_cells(nb)
    was_executed = any(cell.get("execution_count") or cell.outputs for cell in code)
    for number, cell in enumerate(code, start=1):
        cell.outputs = tidy_outputs(cell.outputs, root)
        # Never left empty where there are outputs: nbval fails a cell that has outputs and no number.
        cell.execution_count = number if was_executed else None
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    name_cells(nb.cells)
    return nb


def name_cells(cells: list[NotebookNode]) -> None:
    """Derive each cell's id from its content, so that converting a notebook from text again gives the same ids."""
    seen: Counter[str] = Counter()
    for cell in cells:
        name = digest(cell)
        seen[name] += 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"


def digest(cell: NotebookNode) -> str:
    """Return a short hash of a cell's source."""
    return hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]


def tidy_outputs(outputs: list[NotebookNode], root: Path) -> list[NotebookNode]:
    """Drop stderr, join streams, take this machine out of the text, and cut what nobody reads."""

    def tidy(text: str) -> str:
        return portable(shortened(overwrite_lines(text)), root)

    shown = [output for output in outputs if output.get("name") != "stderr"]
    kept: list[NotebookNode] = []
    for is_stream, group in groupby(shown, lambda output: output.output_type == "stream"):
        if not is_stream:
            kept += group
        elif text := tidy("".join(output.text for output in group)):
            kept.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    for output in kept:
        if output.output_type == "error":
            output.evalue, output.traceback = tidy(output.evalue), tidy("\n".join(output.traceback)).split("\n")
        for mime, value in output.get("data", {}).items():
            if mime.startswith("text/") and isinstance(value, str):
                output.data[mime] = portable(value if mime == "text/html" else shortened(value), root)
            if mime == "image/png":
                output.data[mime] = lightened(value)
    return kept


def lightened(png: str) -> str:
    """Store an opaque picture in 256 colours, a third of its size: the book draws its own figures anew."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P" or picture.convert("RGBA").getextrema()[3] != (255, 255):
        return png
    light = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(light, "PNG", optimize=True)
    return min(png, base64.b64encode(light.getvalue()).decode() + "\n", key=len)


def overwrite_lines(text: str) -> str:
    """Show of each line what a terminal would show: the part after the last carriage return."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def shortened(text: str) -> str:
    """Keep of a long text its beginning, and say how much was cut."""
    if len(text) <= TEXT_LIMIT:
        return text
    shown = text[: TEXT_LIMIT - 100]  # room for the note, so that cutting twice is cutting once
    return f"{shown}\n[{len(text) - len(shown):,} more characters are cut here]\n"


def portable(text: str, root: Path) -> str:
    """Write paths relative to the repository, and every memory address as the same one."""
    home = os.path.expanduser("~")
    for prefix in (f"{root}{os.sep}", f"{root}{os.sep}".replace(home, "~", 1)):
        text = text.replace(prefix, "")
    return MEMORY_ADDRESS.sub("at 0x000000", text)


def chapters(root: Path = ROOT) -> list[Path]:
    """Return the notebooks of the chapters, in order."""
    return sorted((root / "lectures").glob("*.ipynb"))


def chapter(name: str) -> Path:
    """Return the chapter that the argument of a command names."""
    there = {path.stem: path for path in chapters()}
    if Path(name).stem not in there:
        raise argparse.ArgumentTypeError(f"no chapter is called {name}; there are: {', '.join(there)}")
    return there[Path(name).stem]


def handouts(root: Path = ROOT) -> list[Path]:
    """Return the notebooks of the assignments, in order."""
    return sorted((root / "book" / "homework").glob("hw*.ipynb"))


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """Return the cells that execute."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def read(path: Path) -> NotebookNode:
    """Read a notebook as format 4.5, with the ids that its content gives."""
    nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))
    nb.nbformat_minor = 5
    name_cells(nb.cells)
    return nb


def text_of(nb: NotebookNode) -> str:
    """Return the notebook as it is written to disk: sorted keys, one space of indentation, a newline at the end."""
    nbformat.validate(nb)
    return nbformat.writes(nb).rstrip("\n") + "\n"


def rewrite(wanted: dict[Path, str], *, check: bool = False, hint: str = "") -> int:
    """Write the files whose text is another or missing, or with ``check`` only say which; return the exit status."""
    others = [path for path in wanted if not path.is_file() or path.read_text(encoding="utf-8") != wanted[path]]
    for path in others:
        print(f"{path}: {hint if check else 'written'}")
        if not check:
            write_whole(path.resolve(), wanted[path].encode())
    return int(check and bool(others))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring notebooks into the form that is committed.")
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not normalised")
    options = parser.parse_args(argv)
    wanted = {path: text_of(normalize(read(path))) for path in options.notebooks or chapters()}
    return rewrite(wanted, check=options.check, hint="not normalised; run: make normalize")


if __name__ == "__main__":
    sys.exit(main())
