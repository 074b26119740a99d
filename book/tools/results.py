"""Record what chapters measure: their own code cells, run with ten seeds on what counts as four machines.

Usage: python -m book.tools.results [--check | --pilot RUNS] [--slice SECONDS] [CHAPTER...]

Each run is a kernel of its own, with another seed and with one or two threads, on the CPU as it is or on one that hides
its widest instructions: so the recorded band holds what machines differ by. A run is kept under _build/results as soon
as it is done, so a call that was stopped goes on where it was. A chapter's file in book/results is written when all of
its runs are there. Where the code has changed since, one recorded run is repeated first; if it gives every number
again, the others stand.
"""

import argparse
import datetime
import json
import os
import platform
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from book.tools.address import git
from book.tools.build import current_machine
from book.tools.execute import ChapterError, execute, failures
from book.tools.fingerprint import made_from, measured_cells, syntax_of, used_modules
from book.tools.normalise import ROOT, chapters, read
from vlmcourse._files import write_whole
from vlmcourse.course.chapter import Claim, Measurement
from vlmcourse.course.doctor import processor
from vlmcourse.course.runtime import profile

# What the widest instructions of a CPU are called, and how a wider CPU is made to do without.
CAPABILITIES = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX": {"ONEDNN_MAX_CPU_ISA": "AVX", "ATEN_CPU_CAPABILITY": "default"},
}
PARSING = threading.Lock()  # Python 3.11's ast counts its recursion for all threads together, and raises SystemError
FIRST_SEED = 101  # the run on the page has seed 0, and is none of those it is compared with
CLAIM = ("text", "slide", "above", "below", "unit")  # what a claim promises


class ResultError(Exception):
    """A result cannot be recorded; the message says why and what to do."""


@dataclass(frozen=True)
class Condition:
    """How one run differs from the others."""

    seed: int
    threads: int
    capability: str

    @property
    def environment(self) -> dict[str, str]:
        """What the kernel's environment must hold."""
        threads = {"OMP_NUM_THREADS": str(self.threads), "VLMCOURSE_SEED": str(self.seed)}
        return {**CAPABILITIES.get(self.capability, {}), **threads, "VLMCOURSE_RECORDING": "1", "VLMCOURSE_CLAIMS": ""}


def conditions() -> list[Condition]:
    """Return the ten runs of a result; the first four of them differ in all that is varied."""
    own = torch.backends.cpu.get_cpu_capability()
    less = "AVX2" if own == "AVX512" else "AVX"
    order = [(1, own), (1, less), (2, own), (2, less), (1, own), (1, own), (1, less), (2, own), (2, less), (1, own)]
    return [Condition(FIRST_SEED + i, threads, capability) for i, (threads, capability) in enumerate(order)]


class Result:
    """One chapter in one profile: its notebook, its runs, and its file in ``book/results``."""

    def __init__(self, chapter: str, *, root: Path = ROOT) -> None:
        self.chapter, self.root, self.profile = chapter, root, profile()
        self.notebook = root / "lectures" / f"{chapter}.ipynb"
        self.path = root / "book" / "results" / f"{chapter}_{self.profile}.json"
        self.made_from = made_from(self.notebook, self.profile, root=root)
        self.runs = root / "_build" / "results" / f"{self.path.stem}_{self.made_from}"

        self.recorded = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else None

    @property
    def complaint(self) -> str | None:
        """What is wrong with the recorded result, or None."""
        if self.recorded is None:
            return "missing"
        return None if self.recorded["made_from"] == self.made_from else "stale: its code has changed"

    def refuse_changed_files(self) -> None:
        """Raise where a file that the numbers come from differs from the commit that would be named."""
        used = used_modules(syntax_of(measured_cells(read(self.notebook))), self.root).values()
        if changed := git(self.root, "status", "--porcelain", "--", *map(str, (self.notebook, *used))):
            raise ResultError(f"{self.chapter} uses files that differ from the last commit; commit first:\n{changed}")

    def log(self, condition: Condition) -> Path:
        """Return where a run leaves what it measured."""
        return self.runs / f"seed{condition.seed}_threads{condition.threads}_{condition.capability}.json"

    def run(self, condition: Condition) -> dict[str, Any]:
        """Return what a run of the chapter measured: the one kept from before, or a new one."""
        log = self.log(condition)
        if log.is_file():
            return json.loads(log.read_text(encoding="utf-8"))
        unfinished = log.with_suffix(".unfinished")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        nb = read(self.notebook)
        nb.cells = measured_cells(nb)
        name = f"{self.chapter}, seed {condition.seed}, {condition.threads} threads, {condition.capability}"
        print(f"  {name} ...", flush=True)
        device = {"VLMCOURSE_DEVICE": "cpu"} if self.profile == "quick" else {}
        environment = {**condition.environment, **device}
        seconds = execute(nb, folder=self.notebook.parent, environment=environment, measured=unfinished)
        if failed := failures(nb, name):
            raise ChapterError(failed[0])
        with PARSING:
            made_from_now = made_from(self.notebook, self.profile, root=self.root)
        if made_from_now != self.made_from:
            raise ResultError(f"{self.chapter} was edited while it ran; call again")
        if not unfinished.is_file():
            raise ResultError(f"{self.chapter} measured nothing; it must call Chapter(...).measure or claim")
        found = json.loads(unfinished.read_text(encoding="utf-8"))
        found["run"] = {
            **vars(condition),
            "seconds": round(seconds, 1),
            "cpu": processor(),
            "device": "cpu" if self.profile == "quick" else current_machine(ROOT)["device"],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        write_whole(log, json.dumps(found, ensure_ascii=False).encode())
        unfinished.unlink()
        return found

    def run_all(self, wanted: list[Condition], *, deadline: float) -> list[dict[str, Any]]:
        """Run what is not there yet, runs of one thread two at a time; start none after the deadline."""

        def start(condition: Condition) -> None:
            if time.monotonic() < deadline:
                self.run(condition)

        at_once = int(os.environ.get("JOBS") or min(2, os.cpu_count() or 1))
        for threads, jobs in ((1, at_once), (2, 1)):
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(start, [condition for condition in wanted if condition.threads == threads]))
        return [self.run(condition) for condition in wanted if self.log(condition).is_file()]

    def holds_still(self, *, deadline: float) -> bool:
        """Repeat one recorded run with the changed code; keep the result where it gives every number again."""
        old = self.recorded
        if old is None or len(old["runs"]) != len(conditions()):
            return False
        known = Condition(**{key: old["runs"][0][key] for key in ("seed", "threads", "capability")})
        fresh = self.run_all([known], deadline=deadline)
        names = fresh and renamed({name: runs[0] for name, runs in old["values"].items()}, fresh[0]["values"])
        if names:
            values = {names[name]: runs for name, runs in old["values"].items()}
            self.write(old["runs"], {name: values[name] for name in fresh[0]["values"]}, fresh[0])
        return bool(names)

    def write(self, runs: list[Any], values: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
        """Write and return the chapter's file: names and bounds of a run's log, and the runs and values given."""
        content: dict[str, Any] = {"chapter": self.chapter, "profile": self.profile, "made_from": self.made_from}
        content |= {"units": log["units"], "claims": promised(log), "runs": runs, "values": values}
        write_whole(self.path, (as_text(content) + "\n").encode())
        return content


def merged(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of all runs by name, or raise and say which run lacks which name."""
    names = dict.fromkeys(name for run in found for name in run["units"])
    for name, run in ((name, run) for name in names for run in found):
        if name not in run["values"]:
            raise ResultError(f"the run with seed {run['seed']} has no value for {name!r}; each must have one")
    return {name: [run["values"][name] for run in found] for name in names}


def renamed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str] | None:
    """Return the new name of each old one where a repeated run gave the same numbers, else None.

    A sentence put better is the same claim if its number is the same and no other name has moved.
    """
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):
        return {name: name for name in old}
    pairs = list(zip(old, new, strict=False))
    moved = any(before != after and (before in new or after in old) for before, after in pairs)
    same = json.dumps(list(old.values())) == json.dumps(list(new.values()))
    return dict(pairs) if same and not moved else None


def as_text(result: dict[str, Any]) -> str:
    """Return JSON with what holds only numbers and words on one line, so that a run is a line."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    short = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda match: " ".join(match[0].split()), text)
    return short if json.loads(short) == result else text  # a bracket in somebody's sentence


def summary(result: dict[str, Any]) -> str:
    """Return a line for each number, and for each claim with the spreads by which it clears its bounds."""
    claims = {claim["text"]: claim for claim in result["claims"]}
    lines = []
    for name, values in result["values"].items():
        if name in claims:
            claim = Claim(value=None, recorded=tuple(values), **claims[name])
            kept = "" if claim.held_in_all_recorded else "NOT KEPT BY ALL RUNS, "
            lines.append(f"{claim}: {kept}clear by {claim.clearance:.1f} spreads")
        elif not isinstance(values[0], list):  # a curve
            lines.append(f"{name}: {Measurement(name, None, tuple(values), result['units'][name])}")
    return "\n".join(lines)


def promised(log: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the claims of a run's log without what was measured."""
    return [{key: claim[key] for key in CLAIM} for claim in log["claims"]]


def pilot(result: Result, runs: int, deadline: float) -> str:
    """Run a few of the runs with the files as they are, and say what they gave."""
    found = result.run_all(conditions()[:runs], deadline=deadline)
    if not found:
        return "no run yet"
    shown = {"claims": promised(found[0]), "units": found[0]["units"], "values": merged(found)}
    return f"{len(found)} of {runs} runs\n{summary(shown)}"


def bring_up_to_date(result: Result, deadline: float) -> str:
    """Measure a result anew if it is stale; return what happened, in words."""
    if result.complaint is None:
        return "up to date"
    result.refuse_changed_files()
    if result.holds_still(deadline=deadline):
        return "its code has changed and its numbers have not: the recorded runs stand"
    found = result.run_all(conditions(), deadline=deadline)
    if len(found) < len(conditions()):
        return f"{len(found)} of {len(conditions())} runs are done; call again to go on"
    commit = git(result.root, "rev-parse", "--short=12", "HEAD")  # whose code has the hash that the runs have
    written = result.write([{**run["run"], "commit": commit} for run in found], merged(found), found[0])
    return f"measured anew\n{summary(written)}"


def main(argv: list[str] | None = None) -> int:
    """Bring results up to date, or only look at them."""
    parser = argparse.ArgumentParser(description="Record what chapters measure.")
    parser.add_argument("chapters", nargs="*", help="names like 06_convolution_to_vit (default: all that measure)")
    parser.add_argument("--check", action="store_true", help="run nothing; list what is missing or stale")
    parser.add_argument("--pilot", type=int, metavar="RUNS", help="show what a few runs give; record nothing")
    parser.add_argument("--slice", type=float, default=float("inf"), help="start no run after so many seconds")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + options.slice
    failed = False
    calls = re.compile(r"\.(measure|claim)\(")
    measuring = [p.stem for p in chapters() if any(calls.search(cell.source) for cell in measured_cells(read(p)))]
    for chapter in options.chapters or measuring:
        result = Result(Path(chapter).stem)
        try:
            if options.check:
                said = result.complaint or "up to date"
                failed |= result.complaint is not None
            else:
                said = pilot(result, options.pilot, deadline) if options.pilot else bring_up_to_date(result, deadline)
        except (ResultError, ChapterError) as error:
            said, failed = f"FAILED\n{error}", True
        print(f"{chapter}: {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
