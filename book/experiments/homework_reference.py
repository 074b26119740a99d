"""Record what the experiments of the assignments give with the instructor's solutions, over a few seeds.

Usage: python -m book.experiments.homework_reference [hw2 ...] [--seeds 3]     run them, write reference.json
       python -m book.experiments.homework_reference --check                   only say which differ from the sources

Every code cell of the instructor's notebook runs, in its order and as a student would run it. Its experiment is a
function `run(seed)`, which returns numbers and curves by name; that function runs once for each seed.
"""

import argparse
import ast
import contextlib
import datetime
import io
import json
import os
import re
import sys
import time
from typing import Any

from book.tools import homework
from book.tools.fingerprint import sha256, significant

FILE = homework.ROOT / "vlmcourse" / "homework" / "reference.json"
FEWEST = 3  # runs
MINE = "mine = {seed: run(seed)"  # how the cell that runs the experiment begins


def code_cells(name: str) -> list[str]:
    """Return the instructor's code, without hidden tests: they load the package anew."""
    source = (homework.SOURCES / f"{name}.md").read_text(encoding="utf-8")
    cells = homework.instructor(source, table=False).cells
    return [homework.HIDDEN.sub("", cell.source) for cell in cells if cell.cell_type == "code"]


def experiment(name: str) -> str:
    """Return a fingerprint of the code whose numbers are recorded; how its lines are broken changes no number."""
    code = significant(ast.parse("\n".join(code_cells(name))))
    return sha256(code.encode())[:16]


def record(name: str, seeds: range) -> dict[str, Any]:
    """Run one assignment whole, its experiment once for each seed."""
    import torch

    os.environ.setdefault("MPLBACKEND", "agg")
    space: dict[str, Any] = {"__name__": "__main__"}
    runs, began, spent = [], time.process_time(), 0.0
    for cell in code_cells(name):
        if cell.startswith(MINE):
            start = time.process_time()
            runs = [space["run"](seed) for seed in seeds]
            spent = time.process_time() - start
            space["mine"] = dict(zip(seeds, runs, strict=True))
        elif "is_mine_normal" not in cell:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(cell, name, "exec"), space)
    print(f"{name}: {time.process_time() - began:.0f} s of processor time, {spent:.0f} of them for {len(runs)} runs")
    return {
        "experiment": experiment(name),
        "seeds": list(seeds),
        "device": f"CPU, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1),
        "torch": torch.__version__.partition("+")[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(spent / len(runs), 1),
        "runs": [{measure: _short(value) for measure, value in run.items()} for run in runs],
    }


def _short(value: Any) -> Any:
    """Round, and keep of a curve only the means of its stretches."""
    from vlmcourse.homework.reference import stretches

    found = [round(number, 4) for number in stretches(value)]
    return found if isinstance(value, list) else found[0]


def main() -> int:
    """Record, or only say what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="hw2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.seeds < FEWEST:
        parser.error(f"--seeds must be {FEWEST} or more, received {options.seeds}: fewer runs show no band")
    names = options.names or [path.stem for path in sorted(homework.SOURCES.glob("hw*.md"))]
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if options.check:
        old = [name for name in names if known.get(name, {}).get("experiment") != experiment(name)]
        print(
            f"not recorded as the sources have them: {', '.join(old)}"
            if old
            else "all are recorded as the sources have them"
        )
        return bool(old)
    for name in names:
        known[name] = record(name, range(options.seeds))
        text = json.dumps(dict(sorted(known.items())), indent=1)
        # A curve on one line.
        text = re.sub(r"\[([^\[\]{}]*)\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)
        FILE.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
