"""Record what chapters measure: their own code cells, run with ten seeds on what counts as four machines.

Usage: python -m book.tools.results [--check | --pilot RUNS] [--slice SECONDS] [CHAPTER...]

Each run has another seed, one or two threads, and the CPU as it is or without its widest instructions: so the recorded
band holds what machines differ by. A run that is done is kept under _build/results, and a call that was stopped goes on
where it was. Where the code has changed, one recorded run is repeated first; if it gives every number again, all stand.
"""

import argparse
import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from book.tools.address import git
from book.tools.check import CORES
from book.tools.execute import ChapterError, execute
from book.tools.fingerprint import made_from, measured_cells, syntax_of, used_modules
from book.tools.normalize import ROOT, chapter, chapters, read
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
RECORDING = {"VLMCOURSE_RECORDING": "1", "VLMCOURSE_CLAIMS": ""}
FIRST_SEED = 101  # the run on the page has seed 0, and is none of those it is compared with
UP_TO_DATE = "up to date"
CLAIM = ("text", "slide", "above", "below", "unit")  # what a claim promises


class Condition(NamedTuple):
    """How one run differs from the others."""

    seed: int
    threads: int
    capability: str


def conditions() -> list[Condition]:
    """Return the ten runs of a result; the first four of them differ in all that is varied."""
    own = torch.backends.cpu.get_cpu_capability()
    less = "AVX2" if own == "AVX512" else "AVX"
    order = [(1, own), (1, less), (2, own), (2, less), (1, own), (1, own), (1, less), (2, own), (2, less), (1, own)]
    return [Condition(FIRST_SEED + i, threads, capability) for i, (threads, capability) in enumerate(order)]


class Result:
    """One chapter in one profile: its notebook, its file in ``book/results``, and runs, none started too late."""

    def __init__(self, chapter: str, *, root: Path = ROOT, deadline: float = float("inf")) -> None:
        self.chapter, self.root, self.profile, self.deadline = chapter, root, profile(), deadline
        self.notebook = root / "lectures" / f"{chapter}.ipynb"
        self.path = root / "book" / "results" / f"{chapter}_{self.profile}.json"
        self.made_from = made_from(self.notebook, self.profile, root=root)
        self.runs = root / "_build" / "results" / f"{self.path.stem}_{self.made_from}"
        self.recorded = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else None

    @property
    def state(self) -> str:
        """Whether what is recorded belongs to the code that is here."""
        if self.recorded is None:
            return "missing"
        return UP_TO_DATE if self.recorded["made_from"] == self.made_from else "stale: its code has changed"

    def refuse_changed_files(self) -> None:
        """Raise where a file that the numbers come from differs from the commit that would be named."""
        used = used_modules(syntax_of(measured_cells(read(self.notebook))), self.root).values()
        if changed := git(self.root, "status", "--porcelain", "--", *map(str, (self.notebook, *used))):
            raise ChapterError(f"{self.chapter} uses files that differ from the last commit; commit first:\n{changed}")

    def run(self, condition: Condition) -> dict[str, Any] | None:
        """Return what a run of the chapter measured: the one kept from before, or a new one where there is time."""
        log = self.runs / f"seed{condition.seed}_threads{condition.threads}_{condition.capability}.json"
        if log.is_file():
            return json.loads(log.read_text(encoding="utf-8"))
        if time.monotonic() >= self.deadline:
            return None
        nb = read(self.notebook)
        nb.cells = measured_cells(nb)
        name = f"{self.chapter}, seed {condition.seed}, {condition.threads} threads, {condition.capability}"
        print(f"  {name} ...", flush=True)
        environment = {"OMP_NUM_THREADS": str(condition.threads), "VLMCOURSE_SEED": str(condition.seed)}
        environment |= RECORDING | CAPABILITIES.get(condition.capability, {})
        environment |= {"VLMCOURSE_DEVICE": "cpu"} if self.profile == "quick" else {}
        found = execute(nb, folder=self.notebook.parent, environment=environment, name=name)
        with PARSING:
            if made_from(self.notebook, self.profile, root=self.root) != self.made_from:
                raise ChapterError(f"{self.chapter} was edited while it ran; call again")
        found["run"] = {**condition._asdict(), "seconds": found.pop("seconds"), "cpu": processor()}
        found["run"] |= {key: found[key] for key in ("device", "torch", "python")}
        found["run"]["date"] = datetime.now(UTC).date().isoformat()
        write_whole(log, json.dumps(found, ensure_ascii=False).encode())
        return found

    def run_all(self, wanted: list[Condition]) -> list[dict[str, Any]]:
        """Run what is not there yet, runs of one thread two at a time; return what is there."""
        at_once = int(os.environ.get("JOBS") or min(2, CORES))
        for threads, jobs in ((1, at_once), (2, 1)):
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(self.run, [condition for condition in wanted if condition.threads == threads]))
        return [found for found in map(self.run, wanted) if found]  # in the order wanted, from their files

    def holds_still(self) -> bool:
        """Repeat one recorded run with the changed code; keep the result where it gives every number again."""
        old = self.recorded
        if old is None or len(old["runs"]) != len(conditions()):
            return False
        fresh = self.run(Condition(*(old["runs"][0][key] for key in Condition._fields)))
        names = fresh and renamed({name: runs[0] for name, runs in old["values"].items()}, fresh["values"])
        if fresh and names:
            values = {names[name]: runs for name, runs in old["values"].items()}
            content = self.content(fresh, {name: values[name] for name in fresh["values"]}, old["runs"])
            write_whole(self.path, as_text(content).encode())
        return bool(names)

    def content(self, log: dict[str, Any], values: dict[str, Any], runs: list[Any]) -> dict[str, Any]:
        """Return what the chapter's file holds: names and bounds of a run's log, and the values and runs given."""
        claims = [{key: claim[key] for key in CLAIM} for claim in log["claims"]]
        made = {"chapter": self.chapter, "profile": self.profile, "made_from": self.made_from}
        return {**made, "units": log["units"], "claims": claims, "runs": runs, "values": values}


def merged(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of all runs by name, or raise and say which run lacks which name."""
    names = dict.fromkeys(name for run in found for name in run["units"])
    for name, run in ((name, run) for name in names for run in found):
        if name not in run["values"]:
            raise ChapterError(f"the run with seed {run['seed']} has no value for {name!r}; each must have one")
    return {name: [run["values"][name] for run in found] for name in names}


def renamed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str] | None:
    """Return the new name of each old one where a repeated run gave the same numbers in their places, else None."""
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
    return (short if json.loads(short) == result else text) + "\n"  # a bracket in somebody's sentence


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


def pilot(result: Result, runs: int) -> str:
    """Run a few of the runs with the files as they are, and say what they gave."""
    found = result.run_all(conditions()[:runs])
    if not found:
        return "no run yet"
    return f"{len(found)} of {runs} runs\n{summary(result.content(found[0], merged(found), []))}"


def bring_up_to_date(result: Result) -> str:
    """Measure a result anew if it is stale; return what happened, in words."""
    if result.state == UP_TO_DATE:
        return UP_TO_DATE
    result.refuse_changed_files()
    if result.holds_still():
        return "its code has changed and its numbers have not: the recorded runs stand"
    found = result.run_all(conditions())
    if len(found) < len(conditions()):
        return f"{len(found)} of {len(conditions())} runs are done; call again to go on"
    commit = git(result.root, "rev-parse", "--short=12", "HEAD")  # whose code has the hash that the runs have
    content = result.content(found[0], merged(found), [{**run["run"], "commit": commit} for run in found])
    write_whole(result.path, as_text(content).encode())
    return f"measured anew\n{summary(content)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record what chapters measure.")
    parser.add_argument("chapters", nargs="*", type=chapter, help="names like 05_video (default: all that measure)")
    parser.add_argument("--check", action="store_true", help="run nothing; list what is missing or stale")
    parser.add_argument("--pilot", type=int, metavar="RUNS", help="show what a few runs give; record nothing")
    parser.add_argument("--slice", type=float, default=float("inf"), help="start no run after so many seconds")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + options.slice
    failed = False
    calls = re.compile(r"\.(measure|claim)\(")
    measuring = [path for path in chapters() if any(calls.search(cell.source) for cell in measured_cells(read(path)))]
    for path in options.chapters or measuring:
        result = Result(path.stem, deadline=deadline)
        try:
            if options.check:
                said, failed = result.state, failed or result.state != UP_TO_DATE
            else:
                said = pilot(result, options.pilot) if options.pilot is not None else bring_up_to_date(result)
        except ChapterError as error:
            said, failed = f"FAILED\n{error}", True
        print(f"{path.stem}: {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
