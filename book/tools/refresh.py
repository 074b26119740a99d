"""Execute chapters in place, in the form in which they are committed: quick profile, CPU, two threads.

Usage: refresh.py [CHAPTER...]     names like 07_self_attention; all chapters without one
"""

import copy
import sys
from pathlib import Path

from build import write
from execute import ChapterError, run_notebook
from normalise import ROOT, keep_volatile_outputs, normalise, read, text_of

# Threads change the order of sums, and with it the last digits.
AS_COMMITTED = {"VLMCOURSE_PROFILE": "quick", "VLMCOURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "2"}


def refresh(path: Path, *, root: Path = ROOT, timeout: int | None = 600) -> bool:
    """Execute one notebook in place; return whether the file changed. A failing one is left as it was.

    Raises:
        ChapterError: a cell failed.
    """
    stored = read(path)
    fresh = copy.deepcopy(stored)
    scratch = root / "_build" / "ipython"
    run_notebook(fresh, name=path.stem, folder=path.parent, scratch=scratch, timeout=timeout, env=AS_COMMITTED)
    text = text_of(normalise(keep_volatile_outputs(fresh, stored), root=root))
    if text == path.read_text(encoding="utf-8"):
        return False
    write(path, text)
    return True


def main(names: list[str]) -> int:
    lectures = ROOT / "lectures"
    paths = [lectures / f"{Path(name).stem}.ipynb" for name in names] or sorted(lectures.glob("*.ipynb"))
    missing = [path.stem for path in paths if not path.is_file()]
    if missing:
        present = ", ".join(sorted(path.stem for path in lectures.glob("*.ipynb")))
        print(f"No chapter is called {', '.join(missing)}; there are: {present}")
        return 2
    failed = 0
    for path in paths:
        try:
            print(f"  {path.stem}: {'changed' if refresh(path) else 'no difference'}")
        except ChapterError as error:
            failed += 1
            print(f"\n{error}\n\n{path.name} was left as it was.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
