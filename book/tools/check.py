"""Run the checks one after another, all of them even when one fails, and say at the end which failed.

Usage: python -m book.tools.check [CHECK...]     without a name, all that make test stands for
"""

import subprocess
import sys
import time

import joblib

from book.tools.execute import kernel_environment

CORES = joblib.cpu_count()  # those that a container's quota leaves
WORKERS = min(CORES, 8)  # each worker imports torch: half a gigabyte
CODE = ["vlmcourse", "tests", "book", "lectures"]
PYTEST = [sys.executable, "-m", "pytest", "-q"]
# Every cell of every chapter runs; cells tagged nbval-check-output must also give what is stored.
# nbval interrupts a cell that takes too long, so pytest-timeout stays out of the way.
NBVAL = [*PYTEST, "--nbval", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "--timeout=0"]
PARALLEL = ["-n", str(WORKERS), "--dist", "worksteal"]

CHECKS = {
    "lint": [sys.executable, "-m", "ruff", "check", *CODE],
    "format": [sys.executable, "-m", "ruff", "format", "--check", *CODE],
    "types": [sys.executable, "-m", "mypy", "-p", "vlmcourse", "-p", "book.tools", "-p", "book.experiments"],
    "normalized": [sys.executable, "-m", "book.tools.normalize", "--check"],
    "tests": [*PYTEST, "-m", "not browser", *PARALLEL],
    "fast-tests": [*PYTEST, "-m", "not browser and not slow", *PARALLEL],
    "model-tests": [*PYTEST, *PARALLEL, "tests/models", "tests/train", "vlmcourse/models", "vlmcourse/train"],
    "chapters": [*NBVAL, "-n", str(min(WORKERS, 2)), "--dist", "loadfile", "lectures"],
    "pages": [*PYTEST, "-m", "browser", "-n", str(WORKERS), "--dist", "loadscope", "tests"],  # see tests/conftest.py
}
SETTINGS = {
    "chapters": {"VLMCOURSE_CLAIMS": "strict"},
    "fast-tests": {"HYPOTHESIS_PROFILE": "fast"},
    "pages": {"VLMCOURSE_REQUIRE_BROWSER": "1"},  # no Chromium is then a failure, not a reason to skip
}
ALL = ["lint", "format", "types", "normalized", "tests", "chapters"]  # pages need a built book: make test-pages


def environment(name: str) -> dict[str, str]:
    """Return the environment of a check: the workers of a parallel one share the cores instead of fighting for them."""
    threads = str(max(1, CORES // (2 if name == "chapters" else WORKERS)))
    return {**kernel_environment(), "OMP_NUM_THREADS": threads, **SETTINGS.get(name, {})}


def main(names: list[str]) -> int:
    """Run the checks that are named, and return whether one failed."""
    if unknown := set(names) - set(CHECKS):
        print(f"No check is called {', '.join(sorted(unknown))}; there are: {', '.join(CHECKS)}")
        return 2
    results = []
    for name in names or ALL:
        print(f"\n=== {name}: {' '.join(CHECKS[name][1:])}", flush=True)
        began = time.monotonic()
        code = subprocess.run(CHECKS[name], env=environment(name)).returncode
        results.append((name, code, time.monotonic() - began))
    print("\n=== summary")
    for name, code, seconds in results:
        print(f"  {name:<12} {'ok' if code == 0 else f'FAILED (exit {code})':<18} {seconds:>7.1f} s")
    failed = [name for name, code, _ in results if code]
    print(f"Failed: {', '.join(failed)}" if failed else "All passed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
