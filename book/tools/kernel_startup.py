"""Run at the start of every kernel of the book: a magic that does not exist, or a command that fails, is an error.

IPython prints a line for the one and nothing for the other, and a cell that shows either counts as fine.
"""


def _make_failures_visible() -> None:
    """Change the kernel's shell; imports and names stay in here, where no chapter sees them."""
    import subprocess
    from typing import Any

    from IPython import get_ipython
    from IPython.core.error import UsageError

    shell: Any = get_ipython()

    def show(shell: Any, kind: Any, error: Any, trace: Any, **_: Any) -> None:
        shell._showtraceback(kind, error, shell.InteractiveTB.structured_traceback(kind, error, trace))

    def system(command: str) -> None:
        shell.system_piped(command)
        if status := shell.user_ns.get("_exit_code"):
            raise subprocess.CalledProcessError(status, command)

    shell.set_custom_exc((UsageError,), show)
    shell.system = system


if "get_ipython" in globals():
    _make_failures_visible()
    del _make_failures_visible
