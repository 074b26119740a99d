"""Refuse files too large for a repository that students clone (for pre-commit)."""

import sys
from pathlib import Path

LIMIT = 4_000_000


def main(names: list[str]) -> int:
    large = [(name, Path(name).stat().st_size) for name in names if Path(name).stat().st_size > LIMIT]
    for name, size in large:
        print(f"{name} has {size / 1e6:.1f} MB; the limit is {LIMIT / 1e6:.0f} MB")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
