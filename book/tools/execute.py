"""Run one notebook in a kernel of its own, so that nothing of the user's changes what it gives."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode, v4

from book.tools.normalize import ROOT, code_cells

STARTUP = Path(__file__).with_name("kernel_startup.py")
SOCKET_FOLDER = 90  # characters: of a socket's path, systems take 103 and more
DIED = "The kernel died here, for want of memory or by a crash in compiled code."
TOO_LONG = "The cell ran longer than {} s. Allow more with CELL_TIMEOUT=seconds, or 0 for no limit."


class ChapterError(Exception):
    """A cell failed: the message is for the reader and holds the cell's source and the traceback."""


def execute(
    nb: NotebookNode, *, folder: Path, environment: dict[str, str], name: str = "", limit: int = 0, go_on: bool = False
) -> dict[str, Any]:
    """Execute ``nb`` in place, in ``folder``, and return what a chapter measured, and the ``seconds`` it took.

    ``environment`` is added to that of the book's kernels. A kernel that dies and a cell that takes longer than
    ``limit`` seconds (0: no limit) end the run. A cell that fails raises a ChapterError, which calls the notebook
    ``name``; with ``go_on`` the other cells run, and :func:`failures` finds what went wrong.
    """
    running = code_cells(nb)[:1] or [v4.new_code_cell()]
    client = NotebookClient(
        nb,
        kernel_name="python3",
        timeout=limit,
        allow_errors=go_on,
        shutdown_kernel="immediate",
        on_cell_execute=lambda cell, cell_index: running.append(cell),
        resources={"metadata": {"path": str(folder)}},
    )
    manager = client.create_kernel_manager()
    manager.transport_encryption = "auto"  # other users of the machine cannot listen in
    for cell in code_cells(nb):
        cell.outputs = []
    began = time.monotonic()
    with TemporaryDirectory() as scratch:
        measured = Path(scratch) / "measured.json"
        if hasattr(socket, "AF_UNIX") and len(scratch) <= SOCKET_FOLDER:
            # A TCP port is chosen before the kernel starts, and may be taken by the time that it has started.
            manager.transport, manager.ip = "ipc", f"{scratch}/kernel"
        try:
            client.execute(env={**kernel_environment(), **environment, "VLMCOURSE_MEASURED": str(measured)})
        except CellExecutionError:
            pass  # the cell shows it
        except (CellTimeoutError, RuntimeError) as error:  # RuntimeError: the kernel died, or never came up
            reason = TOO_LONG.format(limit) if isinstance(error, CellTimeoutError) else DIED
            running[-1].outputs.append(v4.new_output("error", ename="Stopped", evalue=reason, traceback=[reason]))
        found = json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else {}
    if not go_on and (failed := next(failures(nb, name), None)):
        raise ChapterError(failed)
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def failure(cell: NotebookNode) -> NotebookNode | None:
    """Return the error that a cell shows."""
    return next((output for output in cell.get("outputs", []) if output.output_type == "error"), None)


def failures(nb: NotebookNode, name: str) -> Iterator[str]:
    """Say for each cell that failed which one it is, what is in it, and what went wrong."""
    cells = code_cells(nb)
    for number, cell in enumerate(cells, start=1):
        if error := failure(cell):
            source = "\n".join(f"    | {line}" for line in cell.source.splitlines())
            reason = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
            yield f"{name}: cell {number} of {len(cells)} failed\n\n{source}\n\n{reason}"


def kernel_environment() -> dict[str, str]:
    """Return the environment of the book's kernels: the user's, less what would change their outputs."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # may hide figures
    scratch = ROOT / "_build" / "ipython"
    scratch.mkdir(parents=True, exist_ok=True)
    # In place of the user's IPython folder, start-up file, and python3 kernel; threads that wait do not spin.
    own = {"IPYTHONDIR": str(scratch), "PYTHONSTARTUP": str(STARTUP)}
    return {"GOMP_SPINCOUNT": "10000", **environment, **own, "PYTHONHASHSEED": "0", "JUPYTER_PREFER_ENV_PATH": "1"}
