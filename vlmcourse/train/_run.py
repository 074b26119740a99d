"""What a run of ``fit`` keeps: numbers of every step, and a checkpoint that the same call alone continues."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from vlmcourse.train import distributed
from vlmcourse.train._identity import check_same
from vlmcourse.train.checkpoints import load_checkpoint, save_checkpoint

# Reading a loss makes the CPU wait for the GPU, so losses are read ten at a time.
FETCH_EVERY = 10
RESERVED = {"step", "loss", "lr", "seconds"}


class History:
    """Keeps one row of numbers per step. Tensors among them stay on the device until they are fetched."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.rows = list(rows)
        self._fetched = len(self.rows)
        self._began = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)

    def add(self, step: int, loss: Tensor, lr: float, metrics: Mapping[str, Tensor | float], *, weight: float) -> None:
        """Begin the row of a step; a process's numbers count by its ``weight`` in the mean of all."""
        numbers = {
            name: weight * torch.as_tensor(number, dtype=loss.dtype, device=loss.device).detach().reshape(())
            for name, number in {"loss": loss, **metrics}.items()
        }
        row = {"step": step, "loss": numbers.pop("loss"), "lr": lr, **numbers}
        self.rows.append(row | {"seconds": time.perf_counter() - self._began})

    def add_columns(self, numbers: Mapping[str, float] | None) -> None:
        """Put what a callback returned beside the last step."""
        if not isinstance(numbers, Mapping | None):
            raise TypeError(f"callback must return None or a dictionary of numbers, received {type(numbers).__name__}")
        if taken := sorted(self.rows[-1].keys() & (numbers or {}).keys()):
            raise ValueError(f"callback must return other names than the history's own, received {taken}")
        for name, number in (numbers or {}).items():
            self.rows[-1][name] = float(number.detach() if isinstance(number, Tensor) else number)

    def fetch(self) -> float:
        """Read the waiting numbers, the same on all processes, and return the last loss; stop if one is not finite."""
        waiting = self.rows[self._fetched :]
        places = [(row, name) for row in waiting for name, number in row.items() if isinstance(number, Tensor)]
        if places:
            numbers = distributed.mean_over_processes(torch.stack([row[name] for row, name in places]))
            for (row, name), number in zip(places, numbers.tolist(), strict=True):
                row[name] = number
        self._fetched = len(self.rows)
        for row in waiting:
            if not math.isfinite(row["loss"]):
                raise _not_finite(f"the loss is {row['loss']} at step {row['step']}")
        return self.rows[-1]["loss"]


class RunFile:
    """Keeps a run's weights, optimizer, history and identity in a file; without a path it only watches the weights."""

    def __init__(
        self, path: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, identity: dict
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.model, self.optimizer, self.steps, self.identity = unwrapped(model), optimizer, steps, identity

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Refuse a second run on the same file. The lock dies with its process."""
        with contextlib.ExitStack() as stack:
            if self.path is not None and distributed.rank() == 0:
                with contextlib.suppress(OSError, NotImplementedError):  # the first save says what is wrong
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        stack.enter_context(FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0))
                    except Timeout:
                        advice = "wait for its end, or give this run a checkpoint of its own"
                        raise RuntimeError(f"checkpoint {self.path} is in use by another run; {advice}") from None
                    for leftover in self.path.parent.glob(f".{escape(self.path.name)}.*.tmp"):
                        leftover.unlink()  # of a process that was killed while it was writing
            yield

    def start(self, *, resume: bool) -> tuple[int, History]:
        """Put model and optimizer where the file left them, or write the first one where there is none."""
        if self.path is None:
            return 0, History()
        found = resume and self.path.exists()
        distributed.wait_for_all()  # no process writes before all have looked
        if not found:
            # A folder that cannot be written, or a state that cannot be kept, fails now and not after an hour.
            self.save(0, History())
            distributed.wait_for_all()
        state = load_checkpoint(self.path)
        if not state.keys() >= {"model", "optimizer", "step", "history", *self.identity}:
            held = sorted(map(str, state))
            raise ValueError(f"checkpoint {self.path} was not written by fit: it holds {held}; try another name")
        self._check(self.path, state)
        names = self.model.state_dict().keys()
        self.model.load_state_dict({name: state["model"][plain_name(name)] for name in names})
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        if found and distributed.rank() == 0:
            tqdm.write(f"resumed from {self.path} after step {state['step']} of {self.steps}")
        return state["step"], History(state["history"])

    def keep(self, step: int, history: History, *, every: int, interrupted: bool) -> None:
        """Save when it is time, and stop when any process was interrupted."""
        # Processes ask each other only now and then, because that makes them wait for each other.
        asked = distributed.world_size() == 1 or step % FETCH_EVERY == 0
        stop = asked and distributed.mean_over_processes(torch.tensor(float(interrupted))) > 0
        if step % every == 0 or step == self.steps or stop:
            history.fetch()
            self.save(step, history)
        if stop:
            kept = f"{self.path} holds it; the same call continues" if self.path else "no checkpoint was asked for"
            raise KeyboardInterrupt(f"stopped after step {step} of {self.steps}; {kept}")

    def save(self, step: int, history: History) -> None:
        """Write the state after a step, unless its weights are not finite."""
        # A loss can be finite one step longer than the weights it leads to, and a good checkpoint would be replaced.
        floating = [t for t in self._weights().values() if isinstance(t, Tensor) and t.is_floating_point()]
        if not torch.stack([t.isfinite().all() for t in floating]).all():
            raise _not_finite(f"the weights are not finite after step {step}")
        if self.path is not None and distributed.rank() == 0:
            memory = self.optimizer.state_dict()["state"]
            state = {"model": self._weights(), "optimizer": memory, "step": step, "history": history.rows}
            save_checkpoint(self.path, state | self.identity)

    def _weights(self) -> dict[str, Any]:
        return {plain_name(name): value for name, value in self.model.state_dict().items()}

    def _check(self, path: Path, state: Mapping[str, Any]) -> None:
        """Raise unless the file holds a run of this model and this identity, or one that this run extends."""
        check_same("model", path, _shapes(state["model"]), _shapes(self._weights()))
        for what, present in self.identity.items():
            saved = dict(state[what])
            finished = what == "configuration" and saved["steps"] == state["step"] < present["steps"]
            if finished:  # more steps than before: those of the longer run, from here on
                saved |= {name: present[name] for name in ("steps", "warmup")}
            if distributed.rank() == 0:  # a loss may know its rank
                check_same(what, path, saved, present)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``DataParallel``: its checkpoint is also that of the plain one."""
    return model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model


def plain_name(name: str) -> str:
    """Return a weight's name without the mark of a compiled model or part."""
    return name.replace("_orig_mod.", "")


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value.shape) if isinstance(value, Tensor) else type(value) for name, value in state.items()}


def _not_finite(what: str) -> FloatingPointError:
    return FloatingPointError(
        f"{what}, and training stopped; a checkpoint written earlier is good. Try, in this order: look for "
        f"NaN in the data, a tenth of lr, a longer warmup, clip_norm=1.0, autocast=False"
    )
