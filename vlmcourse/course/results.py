"""Measured numbers and where they come from: recorded once, loaded by the book, never typed by hand."""

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import vlmcourse
from vlmcourse._files import write_whole
from vlmcourse.course.runtime import profile
from vlmcourse.train.runtime import device


def record_result(
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    data: str,
    seeds: Sequence[int],
    seconds: float,
    root: str | Path | None = None,
    **details: Any,
) -> Path:
    """Write one measured quantity, all its seeds and its provenance to ``root/name.json``.

    ``root`` is the book's ``book/results`` in a checkout, else ``results`` in the working directory. ``details`` are
    kept as they are and must be JSON: hyperparameters, curves.

    Units:
        ``unit`` says what a value counts, as in ``"accuracy, fraction"``; ``seconds`` is wall-clock for all seeds.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> path = record_result("probe", [0.5, 0.7], unit="accuracy, fraction", data="scenes", seeds=[0, 1],
    ...                      seconds=3.0, root=folder)
    >>> load_result("probe", root=folder)["mean"]
    0.6
    """
    values, seeds = [float(value) for value in values], list(seeds)
    if not values or len(values) != len(seeds):
        raise ValueError(f"values must hold one number for each of {len(seeds)} seeds, received {len(values)}")
    if not all(torch.isfinite(torch.tensor(values))):
        raise ValueError(f"values must be finite, received {values}")
    if not data or not unit:
        raise ValueError(f"data and unit must say what was measured, received data={data!r}, unit={unit!r}")
    result = {
        "name": name,
        "unit": unit,
        "data": data,
        "mean": round(mean(values), 6),
        "spread": round(stdev(values), 6) if len(values) > 1 else None,  # sample standard deviation over seeds
        "values": values,
        "seeds": seeds,
        "seconds": round(seconds, 1),
        **details,
        "provenance": provenance(),
    }
    path = folders(root)[0] / f"{name}.json"
    write_whole(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def load_result(name: str, *, root: str | Path | None = None) -> dict[str, Any] | None:
    """Return a recorded result, or None where nothing has been measured yet.

    Without ``root`` it is looked for where :func:`record_result` writes, then among those that come with the package.

    >>> load_result("never_measured", root=".") is None
    True
    """
    for path in (folder / f"{name}.json" for folder in folders(root)):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return None


def provenance(*, apart_from: Path | None = None) -> dict[str, str]:
    """Return where and with what a number was measured; its own file, ``apart_from``, may differ from the commit.

    >>> sorted(provenance())
    ['commit', 'date', 'device', 'profile', 'python', 'torch', 'vlmcourse']
    """
    return machine() | {"commit": _commit(apart_from), "date": datetime.now(UTC).date().isoformat()}


def machine() -> dict[str, str]:
    """Return the part of :func:`provenance` that stays while a process runs, and that asks nothing of git."""
    where = device()
    return {
        "profile": profile(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"{where.type} ({platform.machine()})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vlmcourse": vlmcourse.__version__,
    }


def glue(name: str, value: Any) -> None:
    """Hand a value to the page, so that its prose can quote it as ``{glue:text}`` followed by the name.

    >>> glue("accuracy", "91 %")  # outside a notebook, what a page would be handed is printed
    {'application/papermill.record/text/plain': "'91 %'"}
    """
    from IPython.display import display

    hidden = "application/papermill.record/"  # which MyST-NB, and scrapbook before it, reads from the stored output
    metadata = {"scrapbook": {"name": name, "mime_prefix": hidden}}
    display({f"{hidden}text/plain": repr(str(value))}, metadata=metadata, raw=True)


def folders(root: str | Path | None = None) -> list[Path]:
    """Return the folder that results are written to, and after it those where they are looked for too."""
    if root is not None:
        return [Path(root)]
    package = Path(vlmcourse.__file__).resolve().parent
    checkout = package.parent / "book" / "results"
    return [checkout if checkout.is_dir() else Path("results"), package / "results"]


def _commit(apart_from: Path | None) -> str:
    """Name the commit of the code being run; a tree that differs from its commit says so."""

    def git(*command: str) -> str:
        here = Path(vlmcourse.__file__).parent
        return subprocess.check_output(["git", *command], cwd=here, stderr=subprocess.DEVNULL, text=True).strip()

    try:
        inside = apart_from is not None and apart_from.resolve().is_relative_to(git("rev-parse", "--show-toplevel"))
        others = [f":(exclude){apart_from.resolve()}"] if apart_from and inside else []
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *others)
        return git("describe", "--always", "--abbrev=12") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
