"""Run the checks one after another, all of them even when one fails, and say at the end which failed."""

import os
import subprocess
import sys
import time

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = min(CORES, 8)  # each worker imports torch: half a gigabyte
CODE = ["vlmcourse", "tests", "book", "lectures"]
PYTEST = [sys.executable, "-m", "pytest", "-q"]

CHECKS = {
    "lint": [sys.executable, "-m", "ruff", "check", *CODE],
    "format": [sys.executable, "-m", "ruff", "format", "--check", *CODE],
    "types": [sys.executable, "-m", "mypy", "vlmcourse", "book/tools"],
    "normalised": [sys.executable, "book/tools/normalise.py", "--check"],
    "tests": [*PYTEST, "-m", "not browser", "-n", str(WORKERS), "--dist", "loadfile"],
    # Every cell of every chapter runs; cells tagged nbval-check-output must also give what is stored.
    # nbval interrupts a cell that takes too long, so pytest-timeout stays out of the way.
    "chapters": [
        *[*PYTEST, "--nbval", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "--timeout=0"],
        *["-n", str(min(WORKERS, 2)), "--dist", "loadfile", "lectures"],
    ],
    "pages": [*PYTEST, "-m", "browser", "tests/book"],
}
ALL = ["lint", "format", "types", "normalised", "tests", "chapters"]  # pages need a built book: make test-pages


def main(names: list[str]) -> int:
    unknown = set(names) - set(CHECKS)
    if unknown:
        print(f"No check is called {', '.join(sorted(unknown))}; there are: {', '.join(CHECKS)}")
        return 2
    results = []
    for name in names or ALL:
        print(f"\n=== {name}: {' '.join(CHECKS[name][1:])}", flush=True)
        started = time.monotonic()
        code = subprocess.run(CHECKS[name], env=environment(name)).returncode
        results.append((name, code, time.monotonic() - started))
    print("\n=== summary")
    for name, code, seconds in results:
        print(f"  {name:<12} {'ok' if code == 0 else f'FAILED (exit {code})':<18} {seconds:>7.1f} s")
    failed = [name for name, code, _ in results if code]
    print(f"Failed: {', '.join(failed)}" if failed else "All passed.")
    return 1 if failed else 0


def environment(name: str) -> dict[str, str]:
    """Return the environment of a check: the workers of a parallel one share the cores instead of fighting for them."""
    env = dict(os.environ)
    env.pop("MPLBACKEND", None)
    if name == "tests":
        env["OMP_NUM_THREADS"] = str(max(1, CORES // WORKERS))
    if name == "chapters":
        env["OMP_NUM_THREADS"] = str(max(1, CORES // 2))
    if name == "pages":
        env["VLMCOURSE_REQUIRE_BROWSER"] = "1"  # no Chromium is then a failure, not a reason to skip
    return env


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
