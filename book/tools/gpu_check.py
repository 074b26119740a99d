"""Try everything on a GPU: the tests that need one, every chapter in the quick profile, then the benches.

Usage: python -m book.tools.gpu_check [--slice SECONDS] [--only PART ...] [--jobs N]

Each test folder, chapter and bench is a part: a process of its own, whose log and result are kept in one folder, named
after the commit and the machine. A part that went well is not done again, so the same command goes on where a call
ended, and comes back at the end to what failed; a part that the end of a slice cuts off starts anew. The exit status is
0 when all is done and well, 1 when something failed, 4 when parts are left. With ``--jobs``, so many tests and chapters
run at once; benches run alone, since they measure time. CUDA_VISIBLE_DEVICES chooses among several GPUs.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from book.tools.build import Machine, ask
from book.tools.check import CORES, NBVAL, PYTEST
from book.tools.execute import kernel_environment
from book.tools.normalize import ROOT, chapters
from book.tools.templates import filled
from vlmcourse._files import write_whole
from vlmcourse.cli import UNFINISHED
from vlmcourse.course.contestants import BENCHES

PASSED, FAILED = 0, 1
TESTS = ("ops", "models", "data", "train", "homework")  # those of vlmcourse/course draw on the CPU
Parts = dict[str, list[str]]


def machine(device: str) -> tuple[dict[str, str], Machine]:
    """Return the environment of all parts, and what a process in it says of itself."""
    environment = {**kernel_environment(), "VLMCOURSE_DEVICE": device, "VLMCOURSE_PROFILE": "quick"}
    environment.pop("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", None)  # containers set it; float32 would keep ten bits
    made = ask(ROOT, environment)
    if made["commit"].endswith("-dirty"):
        raise SystemExit("Files differ from the last commit, so no commit could be named; commit them first")
    return environment, made


def all_parts(folder: Path) -> Parts:
    """Return the command of every part, in the order in which they run."""
    library = [sys.executable, "-m", "vlmcourse"]
    found = {"doctor": [*library, "doctor"]}
    found |= {f"tests {name}": [*PYTEST, "-m", "cuda", f"tests/{name}"] for name in TESTS}
    found["tests test_gpu"] = [*PYTEST, "tests/test_gpu.py"]  # which chooses by the device alone
    found |= {f"chapter {path.stem}": [*NBVAL, str(path)] for path in chapters()}
    bench = [*library, "bench", "--output", str(folder / "bench.json")]
    return found | {f"bench {name}": [*bench, name] for name in BENCHES}


def run(command: list[str], log: Path, environment: dict[str, str], seconds: float) -> dict[str, Any] | None:
    """Run one part for so many seconds at most, and return how it went, or None where it was cut off."""
    measured, began = log.with_suffix(".measured.json"), time.monotonic()
    measured.unlink(missing_ok=True)
    if "--nbval" in command:
        environment = {**environment, "VLMCOURSE_MEASURED": str(measured)}
    with log.open("wb") as out:
        streams: dict[str, Any] = {"stdout": out, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and the kernel that it may have started
                process.wait()
    well, took = "ok" if code == PASSED else f"FAILED (exit {code})", round(time.monotonic() - began, 1)
    return {"outcome": well, "seconds": took, "said": said(log.read_text(encoding="utf-8", errors="replace"), measured)}


def said(log: str, measured: Path) -> str:
    """Return the last line of a log, and how many claims of a chapter held."""
    last = (log.strip().splitlines() or [""])[-1].strip(" =")
    claims = json.loads(measured.read_text(encoding="utf-8"))["claims"] if measured.is_file() else []
    claims = [claim for claim in claims if claim["value"] is not None]  # others speak of recorded runs
    held = sum(claim["held"] for claim in claims)
    return last + (f"; {held} of {len(claims)} claims held" if claims else "")


def check(
    folder: Path, made: Machine, parts: Parts, environment: dict[str, str], only: list[str], seconds: float, jobs: int
) -> int:
    """Run what is left of the parts chosen, for so many seconds at most, and return the exit status."""
    end = time.monotonic() + seconds
    chosen = [part for part in parts if not only or any(word in part for word in only)]
    if not chosen:
        raise SystemExit(f"no part holds {' or '.join(map(repr, only))}; there are: {', '.join(parts)}")
    folder.mkdir(parents=True, exist_ok=True)
    results, writing = folder / "results.json", threading.Lock()
    done: dict[str, dict[str, Any]] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    # What failed comes last.
    waiting = sorted((part for part in chosen if done.get(part, {}).get("outcome") != "ok"), key=done.__contains__)
    print(f"{len(waiting)} of {len(chosen)} parts to do on {made['device']}; results in {folder}")

    def do(part: str) -> None:
        if (left := end - time.monotonic()) <= 0:
            return
        print(f"  {part:<34} ...", flush=True)
        result = run(parts[part], folder / f"{part.replace(' ', '_')}.log", environment, left)
        if result is None and part == waiting[0]:  # the next call would not get any further
            result = {"outcome": "FAILED (too long)", "seconds": round(seconds, 1), "said": "allow more with --slice"}
        if result is None:
            print(f"  {part:<34} cut off by the end of this call")
            return
        with writing:
            done[part] = result
            write_whole(results, json.dumps(done, indent=1, ensure_ascii=False).encode())
            summary = filled("gpu_summary.md", machine=made, parts=parts, done=done)
            write_whole(folder / "summary.md", summary.encode())
        print(f"  {part:<34} {result['seconds']:>7.1f} s  {result['outcome']}  {result['said']}", flush=True)

    for at_once, kind in ((jobs, False), (1, True)):
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(do, [part for part in waiting if part.startswith("bench") == kind]))
    bad = [part for part in chosen if part in done and done[part]["outcome"] != "ok"]
    left, names = len(set(chosen) - set(done)), f": {', '.join(bad)}" if bad else ""
    print(f"{len(bad)} failed{names}; {left} left. See {folder}/summary.md")
    return UNFINISHED if left else FAILED if bad else PASSED


def main() -> int:
    parser = argparse.ArgumentParser(description="Try tests, chapters and benches on a GPU.")
    parser.add_argument("--slice", type=float, default=float("inf"), help="end this call within so many seconds")
    parser.add_argument("--only", nargs="*", default=[], help="parts whose name holds one of these words")
    parser.add_argument("--jobs", type=int, default=1, help="so many tests and chapters at once, where memory allows")
    options = parser.parse_args()
    environment, made = machine("cuda")
    if options.jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, CORES // options.jobs))
    folder = ROOT / "_build" / "gpu" / re.sub(r"[^\w.-]+", "-", f"{made['commit']}_{made['device']}")
    return check(folder, made, all_parts(folder), environment, options.only, options.slice, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
