"""Execute chapters in place, in the form in which they are committed: quick profile, CPU, two threads, seed 0.

Usage: python -m book.tools.refresh [CHAPTER...]     names like 07_self_attention; all chapters without one
"""

import copy
import sys
from pathlib import Path

from nbformat import NotebookNode

from book.tools.execute import ChapterError, execute, failures
from book.tools.normalise import MADE_BY, ROOT, VOLATILE, chapters, code_cells, digest, normalise, read, text_of
from vlmcourse._files import write_whole

# Threads change the order of sums, and with it the last digits.
AS_COMMITTED = {"VLMCOURSE_PROFILE": "quick", "VLMCOURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "2"}
AS_COMMITTED |= {"VLMCOURSE_SEED": "0", "VLMCOURSE_CLAIMS": "strict"}


def refresh(path: Path, *, root: Path = ROOT) -> bool:
    """Execute one notebook in place; return whether the file changed. A failing one is left as it was.

    Raises:
        ChapterError: a cell failed.
    """
    stored = read(path)
    fresh = copy.deepcopy(stored)
    execute(fresh, folder=path.parent, environment=AS_COMMITTED, timeout=600)
    if failed := failures(fresh, path.stem):
        raise ChapterError(failed[0])
    text = text_of(normalise(keep_volatile_outputs(fresh, stored), root=root))
    if text == path.read_text(encoding="utf-8"):
        return False
    write_whole(path, text.encode())
    return True


def keep_volatile_outputs(fresh: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """Give cells tagged ``volatile`` the outputs that ``stored`` has, where these were made by the same source."""

    def volatile(nb: NotebookNode) -> dict[str, NotebookNode]:
        return {digest(cell): cell for cell in code_cells(nb) if VOLATILE in cell.metadata.get("tags", [])}

    known = volatile(stored)
    for made_by, cell in volatile(fresh).items():
        if made_by in known and known[made_by].metadata.get(MADE_BY) == made_by:
            cell.outputs = known[made_by].outputs
        cell.metadata[MADE_BY] = made_by
    return fresh


def main(names: list[str]) -> int:
    """Refresh the chapters that are named."""
    present = {path.stem: path for path in chapters()}
    wanted = [Path(name).stem for name in names] or list(present)
    if missing := [name for name in wanted if name not in present]:
        print(f"No chapter is called {', '.join(missing)}; there are: {', '.join(present)}")
        return 2
    failed = 0
    for name in wanted:
        try:
            print(f"  {name}: {'changed' if refresh(present[name]) else 'no difference'}", flush=True)
        except ChapterError as error:
            failed += 1
            print(f"\n{error}\n\n{name} was left as it was.", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
