"""The checkpoint of one run of ``fit``: continued by the same call only, and by one process at a time."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from vlmcourse.train import distributed
from vlmcourse.train._history import FETCH_EVERY, History, check_weights
from vlmcourse.train._identity import check_same
from vlmcourse.train.checkpoints import load_checkpoint, save_checkpoint


class RunFile:
    """Keeps a run's weights, optimizer, history and identity in a file; without a path it does nothing."""

    def __init__(
        self,
        path: str | Path | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int,
        identity: Callable[[], dict[str, dict[str, Any]]],
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.model, self.optimizer, self.steps = unwrapped(model), optimizer, steps
        self.identity = {} if path is None else identity()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Refuse a second run on the same file. The lock dies with its process."""
        if self.path is None or distributed.rank() != 0:
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0))
                for leftover in self.path.parent.glob(f".{escape(self.path.name)}.*.tmp"):
                    leftover.unlink()  # of a process that was killed while it was writing
            except Timeout:
                advice = "wait for its end, or give this run a checkpoint of its own"
                raise RuntimeError(f"checkpoint {self.path} is in use by another run; {advice}") from None
            except (OSError, NotImplementedError):  # a folder that cannot be written: the first save says so
                pass
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
        state = load_checkpoint(self.path, max_bytes=self._max_bytes())
        try:
            self._check(self.path, state)
            saved, names = state["model"], self.model.state_dict().keys()
            self.model.load_state_dict({name: saved[plain_name(name)] for name in names})
            self._load_optimizer(state["optimizer"])
            step, history = state["step"], History(state["history"])
            if step not in range(self.steps + 1) or len(history.rows) != step:
                raise TypeError
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"checkpoint {self.path} was not written by fit: it holds {sorted(map(str, state))}; try another name"
            ) from error
        if found and distributed.rank() == 0:
            tqdm.write(f"resumed from {self.path} after step {step} of {self.steps}")
        return step, history

    def save(self, step: int, history: History) -> None:
        """Write the state after a step, unless its weights are not finite."""
        if self.path is None:
            return
        if history.rows:
            history.fetch()
        check_weights(self.model, step)  # before a good checkpoint is replaced
        if distributed.rank() == 0:
            memory = self.optimizer.state_dict()["state"]
            state = {"model": self._weights(), "optimizer": memory, "step": step, "history": history.rows}
            save_checkpoint(self.path, state | self.identity)

    def keep(self, step: int, history: History, *, every: int, interrupted: bool) -> None:
        """Save when it is time, and stop when any process was interrupted."""
        # Processes ask each other only now and then, because that makes them wait for each other.
        asked = distributed.world_size() == 1 or step % FETCH_EVERY == 0
        stop = asked and distributed.any_process(interrupted)
        if step % every == 0 or step == self.steps or stop:
            self.save(step, history)
        if stop:
            kept = f"{self.path} holds it; the same call continues" if self.path else "no checkpoint was asked for"
            raise KeyboardInterrupt(f"stopped after step {step} of {self.steps}; {kept}")

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

    def _load_optimizer(self, saved: Mapping[int, Mapping[str, Any]]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        adam = isinstance(self.optimizer, torch.optim.AdamW)
        names = ("exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",)
        if any(memory[name].shape != parameters[k].shape for k, memory in saved.items() for name in names):
            raise TypeError  # the optimizer itself would notice in the first step only
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": saved})

    def _max_bytes(self) -> int:
        """Return more than any checkpoint of this run takes: weights, two moments, and a thousand numbers per step."""
        weights = sum(t.nbytes for t in self.model.state_dict().values() if isinstance(t, Tensor))
        return 4 * weights + 32_000 * self.steps + 2**24


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile`` and ``DataParallel``: its checkpoint is also that of the plain one."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    inner = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", model)
    return model if inner is model else unwrapped(inner)


def plain_name(name: str) -> str:
    """Return a weight's name without the mark of a part that is compiled by itself."""
    return name.replace("_orig_mod.", "")


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value.shape) if isinstance(value, Tensor) else type(value) for name, value in state.items()}
