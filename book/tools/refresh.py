"""Execute chapters in place, in the form in which they are committed: quick profile, CPU, two threads, seed 0.

Usage: python -m book.tools.refresh [CHAPTER...]     names like 07_self_attention; all chapters without one
"""

import argparse
import copy
import sys
from pathlib import Path

from nbformat import NotebookNode

from book.tools.execute import ChapterError, execute
from book.tools.normalize import ROOT, chapter, chapters, code_cells, digest, normalize, read, text_of
from book.tools.results import Result
from vlmcourse._files import write_whole

# Threads change the order of sums, and with it the last digits.
AS_COMMITTED = {"VLMCOURSE_PROFILE": "quick", "VLMCOURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "2"}
AS_COMMITTED |= {"VLMCOURSE_SEED": "0", "VLMCOURSE_CLAIMS": "strict"}
MADE_BY = "outputs_made_by"  # the digest of the source that a volatile cell's outputs are of


def refresh(path: Path, *, root: Path = ROOT) -> bool:
    """Execute one notebook in place; return whether the file changed. One that raises ChapterError stays as it was."""
    stored = read(path)
    fresh = copy.deepcopy(stored)
    execute(fresh, folder=path.parent, environment=AS_COMMITTED, name=path.stem, limit=600)
    text = text_of(normalize(keep_volatile_outputs(fresh, stored), root=root))
    changed = text != path.read_text(encoding="utf-8")
    if changed:
        write_whole(path, text.encode())
    return changed


def keep_volatile_outputs(fresh: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """Give cells tagged ``volatile``, such as timings, their ``stored`` outputs if the same source made these."""
    known = {cell.metadata.get(MADE_BY): cell.outputs for cell in code_cells(stored)}
    for cell in code_cells(fresh):
        if "volatile" in cell.metadata.get("tags", []):
            cell.metadata[MADE_BY] = digest(cell)
            cell.outputs = known.get(digest(cell), cell.outputs)
    return fresh


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute chapters in place, in the form that is committed.")
    parser.add_argument("chapters", nargs="*", type=chapter, help="names like 07_self_attention (default: all)")
    status = 0
    for path in parser.parse_args(argv).chapters or chapters():
        try:
            print(f"  {path.stem}: {'changed' if refresh(path) else 'no difference'}", flush=True)
            if (state := Result(path.stem).state).startswith("stale"):
                print(f"    its recorded runs are {state}; commit, then: make results CHAPTERS={path.stem}", flush=True)
        except ChapterError as error:
            status = 1
            print(f"\n{error}\n\n{path.stem} was left as it was.", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
