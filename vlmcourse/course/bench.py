"""The library beside others, in one process: ``vlmcourse bench``."""

import json
import os
import re
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

import vlmcourse
from vlmcourse._files import write_whole
from vlmcourse.course.contestants import BENCHES, Bench, Call, Setting
from vlmcourse.course.doctor import installed_version
from vlmcourse.course.results import provenance
from vlmcourse.train.runtime import device

LEAST_REPEATS = 20
WARM_UP = 2


def measure(bench: Bench, at: Setting, *, repeats: int) -> dict[str, Any]:
    """Return what one bench gave: seconds and memory of every contestant, and who is absent."""
    calls: dict[str, Call] = {}
    absent = {}
    for name, make in bench.makers.items():
        try:
            calls[name] = make()
        except ModuleNotFoundError as error:
            absent[name] = f"not installed: {error.name}"
    found = {}
    for name, times in in_turn(calls, at.device, repeats=repeats).items():
        low, middle, high = map(rounded, statistics.quantiles(times, n=4, method="inclusive"))
        found[name] = {
            "version": version_of(name),
            "median": middle,
            "quartiles": [low, high],
            "memory": peak_memory(calls[name], at.device) or None,  # None: what works is no part of PyTorch
            "seconds": [rounded(t) for t in times],
        }
    with FlopCounterMode(display=False) as counter:
        next(iter(calls.values()))()
    need = {"flops": counter.get_total_flops(), "bytes": sum(tensor.nbytes for tensor in bench.read)}
    return {"what": bench.what, "contestants": found, "absent": absent, "aims": dict(bench.aims), "need": need}


def in_turn(calls: Mapping[str, Call], where: torch.device, *, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every call; the order rotates, so that other load slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for repeat in range(-WARM_UP, repeats):
        for name in order:
            wait_for(where)
            began = time.perf_counter()
            calls[name]()
            wait_for(where)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - began)
        order = [*order[1:], order[0]]
    return seconds


def wait_for(where: torch.device) -> None:
    """Return when the device has done what it was asked."""
    if where.type in ("cuda", "mps"):
        torch.accelerator.synchronize(where)


def peak_memory(call: Call, where: torch.device) -> int:
    """Return the bytes that PyTorch held at most during a call, beyond those it held before."""
    if where.type == "cuda":
        wait_for(where)
        before = torch.cuda.memory_allocated(where)
        torch.cuda.reset_peak_memory_stats(where)
        call()
        wait_for(where)
        return torch.cuda.max_memory_allocated(where) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else the profiler says when it starts and stops
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


def rates(at: Setting) -> dict[str, float]:
    """Return the best this machine does: operations a second in a product of matrices, bytes a second in a copy."""
    n = at.size(cpu=1024, cuda=8192, small=64)
    a = torch.rand(n, n, device=at.device).to(torch.bfloat16 if at.device.type == "cuda" else torch.float32)
    source = torch.rand(at.size(cpu=2**24, cuda=2**28, small=2**12), device=at.device)
    target = torch.empty_like(source)
    calls: dict[str, Call] = {"multiply": lambda: a @ a, "copy": lambda: target.copy_(source)}
    best = {name: min(times) for name, times in in_turn(calls, at.device, repeats=7).items()}
    return {"flops": rounded(2 * n**3 / best["multiply"]), "bytes": rounded(2 * source.nbytes / best["copy"])}


def limit(need: dict[str, int], best: dict[str, float]) -> float | None:
    """Return the roofline, the seconds below which the machine cannot do it, or None where nothing was counted.

    >>> limit({"flops": 10, "bytes": 10}, {"flops": 5.0, "bytes": 1.0})
    10.0
    """
    return max(need[kind] / best[kind] for kind in ("flops", "bytes")) or None


def run(
    names: Sequence[str],
    *,
    where: str | None = None,
    repeats: int = LEAST_REPEATS,
    small: bool = False,
    output: Path | None = None,
    stop_after: float = float("inf"),
) -> int:
    """Run benches, print what each gave, and keep it in ``output``; return how many are left for another call.

    A bench that ``output`` holds is not run again, as long as machine, versions and commit are the same.
    """
    unknown = set(names) - set(BENCHES)
    if unknown:
        raise ValueError(f"no bench is called {', '.join(sorted(unknown))}; there are: {', '.join(BENCHES)}")
    least = 2 if small else LEAST_REPEATS
    if repeats < least:
        hint = "" if small else "; to try the program, use --small"
        raise ValueError(f"repeats must be at least {least}, received {repeats}{hint}")
    began = time.monotonic()
    if where is not None:
        os.environ["VLMCOURSE_DEVICE"] = where  # also for what asks for the device itself
    at = Setting(device(), small)
    processor = {"threads": str(torch.get_num_threads()), "cpu": torch.backends.cpu.get_cpu_capability()}
    made = provenance(apart_from=output) | processor
    report: dict[str, Any] = {"device": at.device.type, "small": small, "repeats": repeats, "provenance": made}
    report["benches"] = kept_from(output, report)
    for name in [name for name in names or BENCHES if name not in report["benches"]]:
        if time.monotonic() - began > stop_after:
            break
        torch.manual_seed(0)
        bench = BENCHES[name](at)
        best = rates(replace(at, device=torch.device("cpu")) if bench.on_cpu else at)
        with warnings.catch_warnings(action="ignore"):  # what others think of sizes and penalties
            found = {**measure(bench, at, repeats=repeats), "rates": best}
        # What else ran here: several times as much as there are cores, and only ratios mean anything. Not on Windows.
        found["load"] = [rounded(os.getloadavg()[0]), os.cpu_count()] if hasattr(os, "getloadavg") else None
        print(f"{name}: {as_text(found)}\n", flush=True)
        report["benches"][name] = found
        if output is not None:
            text = json.dumps(report, indent=1, ensure_ascii=False)
            text = re.sub(r"\[[^\[\]{}]*\]", lambda numbers: " ".join(numbers[0].split()), text)  # a list on a line
            write_whole(output, f"{text}\n".encode())
    return len(set(names or BENCHES) - set(report["benches"]))


def kept_from(output: Path | None, report: dict[str, Any]) -> dict[str, Any]:
    """Return the benches that an earlier call left in ``output`` under the same circumstances."""
    if output is None or not output.is_file():
        return {}
    old = json.loads(output.read_text(encoding="utf-8"))
    if not isinstance(old, dict) or not old.keys() >= report.keys():
        raise ValueError(f"{output} must be a report of vlmcourse bench or a new file, received another JSON file")
    before, now = ({**of, "benches": {}, "provenance": {**of["provenance"], "date": ""}} for of in (old, report))
    return old["benches"] if before == now else {}


def as_text(found: dict[str, Any]) -> str:
    """Return one bench as a table."""
    lines = [found["what"], f"  {'':28} {'median':>10} {'quartiles':>21} {'ours / it':>9} {'memory':>10}"]
    ours = next(iter(found["contestants"].values()))["median"]
    for name, one in found["contestants"].items():
        low, high = one["quartiles"]
        spread = f"{1e3 * low:.4g} to {1e3 * high:.4g}"
        ratio, memory = f"{ours / one['median']:.2f}", f"{one['memory'] / 1e6:.1f} MB" if one["memory"] else ""
        label = f"{name} {one['version'] or ''}"
        lines.append(f"  {label:28} {1e3 * one['median']:>7.4g} ms {spread:>18} ms {ratio:>9} {memory:>10}")
    lines += [f"  {name:28} {why}" for name, why in found["absent"].items()]
    if least := limit(found["need"], found["rates"]):
        lines.append(f"  {'not below':28} {1e3 * least:>7.4g} ms")
    return "\n".join(lines)


def version_of(contestant: str) -> str | None:
    """Return the version of the package whose name a contestant's begins with, if it is one."""
    package = contestant.split()[0]
    return vlmcourse.__version__ if package == "vlmcourse" else installed_version(package)


def rounded(number: float) -> float:
    """Return a number with four digits, which is more than a clock is good for.

    >>> rounded(0.0123456)
    0.01235
    """
    return float(f"{number:.4g}")
