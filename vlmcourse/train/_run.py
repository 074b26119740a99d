"""What a run of ``fit`` keeps: numbers of every step, and a checkpoint that the same call alone continues."""

import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
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


class Run:
    """Keeps a row of numbers per step and, if there is a path, a file with them, weights, optimizer and identity."""

    def __init__(
        self, path: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, identity: dict
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.model, self.optimizer, self.steps, self.identity = unwrapped(model), optimizer, steps, identity
        self.rows: list[dict[str, Any]] = []  # tensors in them stay on the device until they are fetched
        self._fetched, self._began = 0, time.perf_counter()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Refuse a second run on the same file (the lock dies with its process); all processes leave it together."""
        with contextlib.ExitStack() as stack:
            if self.path is not None and distributed.rank() == 0:
                with contextlib.suppress(OSError, NotImplementedError):  # the first save says what is wrong
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        stack.enter_context(FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0))
                    except Timeout:
                        advice = "wait for its end, or give this run a checkpoint of its own"
                        raise RuntimeError(f"checkpoint {self.path} is in use by another run; {advice}") from None
                    for leftover in self.path.parent.iterdir():
                        if re.fullmatch(rf"\.{re.escape(self.path.name)}\.\d+\.\d+\.tmp", leftover.name):
                            leftover.unlink()  # of a process that was killed while it was writing
            yield
        distributed.wait_for_all()  # no process reads the checkpoint before it is there

    def start(self, *, resume: bool) -> None:
        """Put model, optimizer and rows where the file left them, or write the first one where there is none."""
        if self.path is None:
            return
        found = resume and self.path.exists()
        distributed.wait_for_all()  # no process writes before all have looked
        if not found:
            self._save()  # a folder that cannot be written, or a state that cannot be kept, fails before an hour's work
            distributed.wait_for_all()
        # A new run reads its own file too, so that all processes start from the weights of process 0.
        # Weights, two moments, and a thousand numbers a step: what is larger is no checkpoint of this run.
        weights = sum(t.nbytes for t in self._weights().values() if isinstance(t, Tensor))
        state = load_checkpoint(self.path, max_bytes=4 * weights + 32_000 * self.steps + 2**24)
        if not state.keys() >= {"model", "optimizer", "step", "history", *self.identity}:
            held = sorted(map(str, state))
            raise ValueError(f"checkpoint {self.path} was not written by fit: it holds {held}; try another name")
        check_same("model", self.path, _kinds(state["model"]), _kinds(self._weights()))
        for what, present in self.identity.items():
            saved = dict(state[what])
            if what == "configuration" and saved["steps"] == state["step"] < present["steps"]:
                saved |= {name: present[name] for name in ("steps", "warmup")}  # a finished run goes on
            if distributed.rank() == 0:  # which wrote the file: the loss of another may know another rank
                check_same(what, self.path, saved, present)
        self.model.load_state_dict({name: state["model"][plain_name(name)] for name in self.model.state_dict()})
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        for weight, memory in self.optimizer.state.items():  # in its weight's layout: CUDA updates others one by one
            for name, kept in list(memory.items()):
                if isinstance(kept, Tensor) and kept.ndim > 1:  # what counts steps is one number
                    memory[name] = torch.empty_like(weight).copy_(kept)
        self.rows, self._fetched = state["history"], state["step"]
        self._began -= self.rows[-1]["seconds"] if self.rows else 0.0
        if found and distributed.rank() == 0:
            tqdm.write(f"resumed from {self.path} after step {len(self.rows)} of {self.steps}")

    def add(self, loss: Tensor, lr: float, metrics: Mapping[str, Tensor | float], *, weight: float) -> None:
        """Add the row of a step; a process's numbers count by its ``weight`` in the mean of all."""
        row: dict[str, Any] = {"step": len(self.rows) + 1, "loss": weight * loss.detach(), "lr": lr}
        for name, number in metrics.items():
            try:
                number = torch.as_tensor(number, dtype=loss.dtype, device=loss.device).reshape(())
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"metric {name!r} must be one number, received {number!r:.60}; try .mean()") from None
            row[name] = weight * number.detach()  # a copy: a metric may be a parameter, which the next step changes
        self.rows.append(row | {"seconds": time.perf_counter() - self._began})

    def add_columns(self, numbers: Mapping[str, Tensor | float] | None) -> None:
        numbers = {} if numbers is None else numbers
        if not isinstance(numbers, Mapping):
            raise TypeError(f"callback must return None or a dictionary of numbers, received {type(numbers).__name__}")
        if taken := sorted(self.rows[-1].keys() & numbers.keys()):
            raise ValueError(f"callback must return other names than the history's own, received {taken}")
        for name, number in numbers.items():
            self.rows[-1][name] = float(number.detach() if isinstance(number, Tensor) else number)

    def fetch(self) -> float:
        """Read the waiting numbers, the same on all processes, and return the last loss; stop if one is not finite."""
        waiting, self._fetched = self.rows[self._fetched :], len(self.rows)
        places = [(row, name) for row in waiting for name, number in row.items() if isinstance(number, Tensor)]
        if places:
            numbers = distributed.mean_over_processes(torch.stack([row[name] for row, name in places]))
            for (row, name), number in zip(places, numbers.tolist(), strict=True):
                row[name] = number
        for row in waiting:
            if not math.isfinite(row["loss"]):
                raise _not_finite(f"the loss is {row['loss']} at step {row['step']}")
        return self.rows[-1]["loss"]

    def keep(self, *, every: int, interrupted: bool) -> None:
        """Save when it is time, and stop when any process was interrupted."""
        step = len(self.rows)
        stop = interrupted
        if distributed.world_size() > 1:  # ask each other only now and then, since that makes them wait for each other
            asked = step % FETCH_EVERY == 0
            where = next(self.model.parameters()).device  # a group of the user's may know GPUs alone
            stop = asked and bool(distributed.mean_over_processes(torch.tensor(float(interrupted), device=where)) > 0)
        if step % every == 0 or step == self.steps or stop:
            self.fetch()
            self._save()
        if stop:
            kept = f"{self.path} holds it; the same call continues" if self.path else "no checkpoint was asked for"
            raise KeyboardInterrupt(f"stopped after step {step} of {self.steps}; {kept}")

    def _save(self) -> None:
        """Write the state, unless weights are not finite, which they may be although the loss of the step was."""
        weights = self._weights()
        finite = [p.isfinite().all() for p in self.model.parameters()]
        finite += [~b.isnan().any() for b in self.model.buffers()]  # a mask may hold infinity
        if not torch.stack(finite).all():
            raise _not_finite(f"the weights are not finite after step {len(self.rows)}")
        if self.path is not None and distributed.rank() == 0:
            memory = self.optimizer.state_dict()["state"]
            state = {"model": weights, "optimizer": memory, "step": len(self.rows), "history": self.rows}
            save_checkpoint(self.path, state | self.identity)

    def _weights(self) -> dict[str, Any]:
        return {plain_name(name): value for name, value in self.model.state_dict().items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``DataParallel``: its checkpoint is also that of the plain one."""
    return model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model


def plain_name(name: str) -> str:
    """Return a weight's name without the mark of a compiled model or part."""
    return name.replace("_orig_mod.", "")


def _kinds(state: Mapping[str, Any]) -> dict[str, Any]:
    return {n: f"{tuple(v.shape)} {v.dtype}" if isinstance(v, Tensor) else type(v) for n, v in state.items()}


def _not_finite(what: str) -> FloatingPointError:
    return FloatingPointError(
        f"{what}, and training stopped; a checkpoint written earlier is good. Try, in this order: look for "
        f"NaN in the data, a tenth of lr, a longer warmup, clip_norm=1.0, autocast=False"
    )
