"""The numbers of a training, one row per step."""

import math
import time
from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from vlmcourse.train import distributed

# Reading a loss makes the CPU wait for the GPU, so losses are read ten at a time.
FETCH_EVERY = 10
RESERVED = {"step", "loss", "lr", "seconds"}


class History:
    """Keeps one row of numbers per step. Those on the device wait, so that the loop does not wait for the device."""

    def __init__(self, rows: Iterable[dict[str, float]] = ()) -> None:
        self.rows = list(rows)
        self._waiting: list[tuple[dict[str, float], list[str], Tensor]] = []
        self._began = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)

    def add(self, step: int, loss: Tensor, lr: float, metrics: Mapping[str, Tensor | float], *, weight: float) -> None:
        """Begin the row of a step; a process's numbers count by its ``weight`` in the mean of all."""
        seconds = time.perf_counter() - self._began
        row = {"step": step, "loss": math.nan, "lr": lr, **dict.fromkeys(metrics, math.nan), "seconds": seconds}
        numbers = [torch.as_tensor(x, dtype=loss.dtype, device=loss.device).detach() for x in metrics.values()]
        together = torch.stack([loss.detach(), *numbers]) if metrics else loss.detach()[None]
        self.rows.append(row)
        self._waiting.append((row, ["loss", *metrics], together if weight == 1 else weight * together))

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
        if self._waiting:
            numbers = distributed.mean_over_processes(torch.cat([waiting for *_, waiting in self._waiting])).tolist()
            for row, names, _ in self._waiting:
                row.update(zip(names, numbers, strict=False))
                del numbers[: len(names)]
            bad = next((row for row, *_ in self._waiting if not math.isfinite(row["loss"])), None)
            self._waiting = []
            if bad is not None:
                raise FloatingPointError(_not_finite(f"the loss is {bad['loss']} at", int(bad["step"])))
        return self.rows[-1]["loss"]

    def table(self) -> pd.DataFrame:
        """Return the rows as a table."""
        return pd.DataFrame(self.rows)


def check_weights(model: nn.Module, step: int) -> None:
    """Raise if a weight is not finite: a loss can be finite one step longer than the weights it leads to."""
    floating = [t for t in model.state_dict().values() if isinstance(t, Tensor) and t.is_floating_point()]
    if floating and not torch.stack([t.isfinite().all() for t in floating]).all():
        raise FloatingPointError(_not_finite("the weights are not finite after", step))


def _not_finite(what: str, step: int) -> str:
    return (
        f"{what} step {step}, and training stopped; a checkpoint written earlier is good. Try, in this order: look for "
        f"NaN in the data, a tenth of lr, a longer warmup, clip_norm=1.0, autocast=False"
    )
