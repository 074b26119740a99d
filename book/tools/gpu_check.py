"""Try everything on a GPU: the tests that need one, every chapter in the quick profile, then the benches.

Usage: python -m book.tools.gpu_check [--device cuda] [--slice SECONDS] [--only PART ...] [--small]

Each test folder, chapter and bench is a part: a process of its own, whose log and result are kept in one folder, named
after the commit and the machine. A part that is done is not done again, so a call that ended goes on with the same
command. With --slice, a call ends within so many seconds: a part that the end of the call cuts off starts anew in the
next one. The exit status is 0 when all is done and well, 1 when something failed, 4 when parts are left.

CUDA_VISIBLE_DEVICES chooses among several GPUs. Without one, --device cpu --small tries this program itself.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from book.tools.build import answer
from book.tools.check import NBVAL, PYTEST
from book.tools.execute import kernel_environment
from book.tools.normalise import ROOT, chapters
from vlmcourse._files import write_whole
from vlmcourse.cli import UNFINISHED
from vlmcourse.course.contestants import BENCHES

PASSED, FAILED = 0, 1
TESTS = ("ops", "models", "data", "train", "course", "homework", "test_gpu.py")
ASK = """
import json, torch
from vlmcourse.course.results import provenance
from vlmcourse.train.runtime import device
made = provenance()
if device().type == "cuda":
    card = torch.cuda.get_device_properties(device())
    made |= {"memory": f"{card.total_memory / 2**30:.0f} GiB", "capability": f"{card.major}.{card.minor}"}
    made |= {"cuda": torch.version.cuda}
print(json.dumps(made))
"""


class Check:
    """One folder of results on one device, and the parts that fill it."""

    def __init__(self, device: str, *, small: bool = False, output: Path = ROOT / "_build" / "gpu") -> None:
        self.device, self.small = device, small
        self.environment = {**os.environ, "VLMCOURSE_DEVICE": device, "VLMCOURSE_PROFILE": "quick"}
        self.provenance = {**self.ask(), "system": f"{platform.system()} {platform.release()}"}
        if not small and self.provenance["commit"].endswith("-dirty"):
            raise SystemExit("Files differ from the last commit, so no commit could be named; commit them first")
        name = f"{self.provenance['commit']}_{self.provenance['device']}{'_small' if small else ''}"
        self.folder = output / re.sub(r"[^\w.-]+", "-", name)

    def ask(self) -> dict[str, str]:
        """Return what a process on the device says of itself."""
        return json.loads(answer(ASK, ROOT, self.environment))

    def parts(self) -> dict[str, list[str]]:
        """Return the command of every part, in the order in which they run."""
        found = {}
        for name in TESTS:
            which = [] if name == "test_gpu.py" else ["-m", "cuda"]  # that file chooses by the device alone
            found[f"tests {Path(name).stem}"] = [*PYTEST, *which, f"tests/{name}"]
        for path in chapters():
            found[f"chapter {path.stem}"] = [*NBVAL, str(path)]
        bench = [sys.executable, "-m", "vlmcourse", "bench", "--output", str(self.folder / "bench.json")]
        bench += ["--device", self.device, *(["--small", "--repeats", "3"] if self.small else [])]
        return found | {f"bench {name}": [*bench, name] for name in BENCHES}

    def result(self, part: str) -> dict[str, Any] | None:
        """Return what a part that is done left, else None."""
        path = self.folder / f"{part.replace(' ', '_')}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run(self, part: str, command: list[str], seconds: float) -> dict[str, Any] | None:
        """Run one part for so many seconds at most, keep its log and result; return that, or None where it was cut."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log, began = self.folder / f"{part.replace(' ', '_')}.log", time.monotonic()
        report, measured = log.with_suffix(".xml"), log.with_suffix(".measured.json")
        environment = dict(self.environment)
        if "pytest" in command:
            command = [*command, "-p", "no:cacheprovider", f"--junitxml={report}"]
        if "--nbval" in command:
            environment = {**kernel_environment(), **environment, "VLMCOURSE_MEASURED": str(measured)}
        with log.open("wb") as out:
            own: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": out, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, start_new_session=True, **own)
            try:
                code = process.wait(None if seconds == float("inf") else seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # and the kernel that it may have started
                    process.wait()
        done = {"part": part, "passed": code == PASSED, "exit": code, "seconds": round(time.monotonic() - began, 1)}
        done |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), **counted(report), **judged(measured)}
        write_whole(log.with_suffix(".json"), json.dumps(done, indent=1, ensure_ascii=False).encode())
        return done

    def summary(self) -> str:
        """Return what is known of all parts as a page of text."""
        lines = [f"# {self.provenance['device']}, {self.provenance['commit']}", ""]
        lines += [f"- {key}: {value}" for key, value in self.provenance.items()]
        lines += ["", "| part | outcome | seconds | |", "|---|---|---:|---|"]
        for part in self.parts():
            done = self.result(part)
            outcome = "not yet" if done is None else "ok" if done["passed"] else f"FAILED (exit {done['exit']})"
            notes = "" if done is None else done.get("said", "")
            lines.append(f"| {part} | {outcome} | {'' if done is None else done['seconds']} | {notes} |")
        return "\n".join(lines) + "\n"


def counted(report: Path) -> dict[str, Any]:
    """Return how many tests, or cells, a JUnit report counts, and the names of those that failed."""
    if not report.is_file():
        return {}
    cases = list(ElementTree.parse(report).iter("testcase"))
    kinds = {kind: [case for case in cases if case.find(kind) is not None] for kind in ("failure", "error", "skipped")}
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in kinds["failure"] + kinds["error"]]
    passed, skipped = len(cases) - len(failed) - len(kinds["skipped"]), len(kinds["skipped"])
    return {"failed": failed, "said": f"{passed} passed, {len(failed)} failed, {skipped} skipped"}


def judged(measured: Path) -> dict[str, Any]:
    """Return how many claims of a chapter held, and those that did not."""
    claims = json.loads(measured.read_text(encoding="utf-8"))["claims"] if measured.is_file() else []
    missed = [claim["text"] for claim in claims if not claim["held"]]
    return {"missed": missed, "said": f"{len(claims) - len(missed)} of {len(claims)} claims held"} if claims else {}


def check(found: Check, only: list[str], seconds: float) -> int:
    """Run what is left of the parts chosen, for so many seconds at most, and return the exit status."""
    end = time.monotonic() + seconds
    parts = {part: command for part, command in found.parts().items() if not only or any(o in part for o in only)}
    if not parts:
        raise SystemExit(f"no part holds {' or '.join(map(repr, only))}; there are: {', '.join(found.parts())}")
    waiting = [part for part in parts if found.result(part) is None]
    print(f"{len(waiting)} of {len(parts)} parts to do on {found.provenance['device']}; results in {found.folder}")
    for part in waiting:
        remaining = end - time.monotonic()
        if remaining < 0.05 * seconds < float("inf"):
            break
        print(f"  {part:<34} ...", flush=True)
        done = found.run(part, parts[part], remaining)
        if done is None:
            print(f"  {part:<34} cut off by the end of this call after {remaining:.0f} s", flush=True)
            if remaining > 0.9 * seconds:  # the next call would not get any further
                raise SystemExit(f"{part} takes longer than the {seconds:.0f} s of a call; allow more with --slice")
            break
        print(f"  {part:<34} {done['seconds']:>7.1f} s  {'ok' if done['passed'] else 'FAILED'}  {done.get('said', '')}")
    write_whole(found.folder / "provenance.json", json.dumps(found.provenance, indent=1).encode())
    write_whole(found.folder / "summary.md", found.summary().encode())
    results = [found.result(part) for part in parts]
    failed = [done["part"] for done in results if done is not None and not done["passed"]]
    left, names = results.count(None), f": {', '.join(failed)}" if failed else ""
    print(f"{len(failed)} failed{names}; {left} left. See {found.folder}/summary.md")
    return UNFINISHED if left else FAILED if failed else PASSED


def main(argv: list[str] | None = None) -> int:
    """Try everything."""
    parser = argparse.ArgumentParser(description="Try tests, chapters and benches on a GPU.")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu only tries this program")
    parser.add_argument("--slice", type=float, default=float("inf"), help="end this call within so many seconds")
    parser.add_argument("--only", nargs="*", default=[], help="parts whose name holds one of these words")
    parser.add_argument("--small", action="store_true", help="benches with tiny sizes, to try this program")
    options = parser.parse_args(argv)
    return check(Check(options.device, small=options.small), options.only, options.slice)


if __name__ == "__main__":
    sys.exit(main())
