"""Run one notebook in a fresh kernel: progress while it runs, and afterwards which of the project's files it used."""

import ast
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

# Run last in the chapter's kernel. Modules tell which code it used; course.results keeps a list of what it read.
PROBE = """
import sys as _sys
_files = {getattr(_module, "__file__", None) for _module in list(_sys.modules.values())}
_files |= set(map(str, getattr(_sys.modules.get("vlmcourse.course.results"), "files_read", ())))
_sys.stdout.write(str(sorted(_file for _file in _files if _file)))
"""


class ChapterError(Exception):
    """A cell failed: the message is for the reader and holds the cell's source and the traceback."""


class Progress:
    """One line per chapter: rewritten every second where it is alone on a terminal, else printed now and then."""

    def __init__(self, name: str, cells: int, *, alone: bool = True) -> None:
        self.name, self.cells, self.cell = name, cells, 0
        self.live = alone and sys.stdout.isatty()
        self.started = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def __enter__(self) -> "Progress":
        self._show()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._show("done" if kind is None else "FAILED" if issubclass(kind, Exception) else "stopped", end="\n")

    def _tick(self) -> None:
        while not self._done.wait(1.0 if self.live else 20.0):
            self._show()

    def _show(self, note: str = "", *, end: str | None = None) -> None:
        line = f"  {self.name:<32} cell {self.cell:>3}/{self.cells:<3} {self.seconds:>6.1f} s  {note}".rstrip()
        if self.live:
            print(f"\r\033[K{line}", end=end or "", flush=True)
        else:
            print(line, flush=True)


class Kernels:
    """The kernels at work, so that whoever stops a build can take them down from another thread."""

    def __init__(self) -> None:
        self.clients: set[NotebookClient] = set()
        self.stopped = False

    def stop(self) -> None:
        """Kill all kernels; chapters that run raise KeyboardInterrupt, and no cell starts any more."""
        self.stopped = True
        for client in list(self.clients):
            pid = getattr(client.km and client.km.provisioner, "pid", None)
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def run_notebook(
    nb: NotebookNode,
    *,
    name: str,
    folder: Path,
    scratch: Path,
    timeout: int | None = None,
    env: Mapping[str, str] | None = None,
    kernels: Kernels | None = None,
    alone: bool = True,
) -> tuple[float, list[Path]]:
    """Execute ``nb`` in place, in ``folder``; return the seconds it took and the files its kernel loaded.

    ``scratch`` stands in for the user's IPython folder, so that start-up files of theirs do not run. Notebooks run in
    several threads at once, each in a kernel of its own; then they share ``kernels``, and none is ``alone``.

    Raises:
        ChapterError: a cell raised, ran longer than ``timeout`` seconds, or took the kernel down with it.
        KeyboardInterrupt: another thread stopped the kernels.
    """
    kernels = kernels or Kernels()
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the python3 kernel of this environment, not one of the user's
    client = NotebookClient(nb, kernel_name="python3", timeout=timeout, resources={"metadata": {"path": str(folder)}})
    client.create_kernel_manager().transport_encryption = "auto"  # other users of the machine cannot listen in
    code_cells = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
    with Progress(name, len(code_cells), alone=alone) as progress:
        number, index = 0, 0
        kernels.clients.add(client)
        try:
            with client.setup_kernel(env=kernel_environment({"IPYTHONDIR": str(scratch), **(env or {})})):
                for number, index in enumerate(code_cells, start=1):
                    if kernels.stopped:
                        raise KeyboardInterrupt
                    progress.cell = number
                    client.execute_cell(nb.cells[index], index, execution_count=number)
                files = ask_for_files(client)
        except (
            CellExecutionError,
            CellTimeoutError,
            RuntimeError,
        ) as error:  # RuntimeError: the kernel died, or never came up
            if kernels.stopped:
                raise KeyboardInterrupt from error
            raise ChapterError(describe(error, name, number, len(code_cells), nb.cells[index], timeout)) from error
        finally:
            kernels.clients.discard(client)
        return progress.seconds, files


def kernel_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a chapter's kernel: the user's, less what would change its outputs."""
    env = {**os.environ, "PYTHONHASHSEED": "0", **extra}
    env.pop("MPLBACKEND", None)  # a backend that shows windows would leave the page without figures
    return env


def ask_for_files(client: NotebookClient) -> list[Path]:
    """Ask the kernel which files it has loaded, without leaving a trace in the notebook."""
    cell = nbformat.v4.new_code_cell(PROBE)
    client.nb.cells.append(cell)
    try:
        client.execute_cell(cell, len(client.nb.cells) - 1, store_history=False)
    finally:
        client.nb.cells.pop()
    printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    return [Path(file) for file in ast.literal_eval(printed)]


def describe(error: Exception, name: str, number: int, total: int, cell: NotebookNode, timeout: int | None) -> str:
    """Say which cell failed, show its source, and then what went wrong."""
    if isinstance(error, CellTimeoutError):
        reason = f"The cell ran longer than {timeout} s. Allow more with CELL_TIMEOUT=seconds, or 0 for no limit."
    elif isinstance(error, RuntimeError):
        reason = f"{error}. A kernel dies for want of memory, or by a crash in compiled code."
    else:
        reason = "\n".join(line for o in cell.outputs if o.output_type == "error" for line in o.traceback) or str(error)
    source = "\n".join(f"    | {line}" for line in cell.source.splitlines())
    return f"{name}: cell {number} of {total} failed\n\n{source}\n\n{reason}"
