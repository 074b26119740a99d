"""Train a model: one loop, small enough to read, that survives being killed.

The loop is :func:`fit`. Around it stand the parts that can be read on their own: the learning rate
(:func:`warmup_cosine`) and which examples a step sees (:func:`batch_of_step`).

One idea makes resuming exact. Everything a step depends on, other than weights and optimiser, is a pure function of
the seed and the number of the step: the learning rate, the examples, and the state of the random generators, which
are seeded anew at each step. So the number of the step is all that has to be remembered.
"""

import contextlib
import hashlib
import math
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vlmcourse.ops._checks import check_positive, check_positive_int
from vlmcourse.train import distributed, runtime
from vlmcourse.train.checkpoints import load_checkpoint, save_checkpoint

LossFunction = Callable[[nn.Module, Any], Tensor | tuple[Tensor, Mapping[str, Tensor | float]]]
Callback = Callable[[nn.Module, int], Mapping[str, float] | None]

# Reading a loss makes the CPU wait for the GPU, so losses are read ten at a time.
FETCH_EVERY = 10


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    lr: float,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 256,
    optimizer: str = "adamw",
    weight_decay: float = 1e-4,
    warmup: int | float = 0.1,
    clip_norm: float | None = None,
    autocast: bool = True,
    channels_last: bool = True,
    compile: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    callback: Callback | None = None,
    callback_every: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train ``model`` in place and return its history: one row a step with loss, learning rate, metrics, seconds.

    ``loss_fn(model, batch)`` returns a scalar loss, or the loss and a dictionary of metrics to keep beside it. All
    that learns must be inside ``model``. Random numbers (dropout, augmentation) come from the global generators, which
    follow ``seed`` during training and are put back afterwards. A callback sees ``callback(model, step)`` every
    ``callback_every`` steps and after the last; numbers it returns become columns of the history.

    With ``checkpoint``, a run that was killed is continued by the same call, and on a CPU ends with the very weights of
    a run that was not. A finished run trains nothing. Ctrl-C finishes the step, writes the checkpoint and stops.

    Weights with two or more axes decay; biases and normalisation gains do not. Parts of the model that are frozen (they
    have parameters, none of which asks for a gradient) stay in evaluation mode, so that their BatchNorm statistics do
    not move either. ``autocast`` uses bfloat16 where the hardware has it, and float32 elsewhere.

    On several GPUs, start the script with ``torchrun --nproc-per-node=4 script.py``. Each process gets its share of
    every batch (``batch_size`` counts the whole one), gradients are averaged with each example weighing the same, and
    process 0 shows progress and writes checkpoints, on a disk that all of them see. A contrastive loss gathers its
    embeddings with :func:`vlmcourse.train.distributed.gather_embeddings`. One departure from a single process remains:
    BatchNorm normalises with the statistics of each process's own share, and keeps those of process 0; convert the
    model with ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` first where that matters.

    Shapes:
        ``data`` is a tensor ``(n, ...)``, a sequence of tensors of one length n, or a dataset with ``images`` and
        ``labels``; a batch has the same form, with ``(b, ...)``, b at most ``batch_size``. The uint8 pictures
        ``(b, c, h, w)`` and clips ``(b, c, t, h, w)`` of a batch arrive as float32.

    Units:
        Pictures reach ``loss_fn`` in [0, 1]. ``warmup`` counts steps as an integer, and is a share of all steps as a
        float below one. ``seconds`` counts training since step 0, over all resumed parts.

    Raises:
        ValueError: an argument out of range, no data, nothing to train, a checkpoint that is damaged or belongs to
            another model or another configuration; the message names which.
        TypeError: an argument, or a loss, of the wrong kind.
        FloatingPointError: the loss or the weights are no longer finite; the message says since which step.
        MemoryError: the GPU's memory is too small; the message says which batch size to try.
        OSError: the checkpoint cannot be written. The previous one is left as it was.

    Source:
        Loshchilov and Hutter 2017 (arXiv 1608.03983) for the cosine, 2019 (arXiv 1711.05101) for AdamW; Goyal et al.
        2017 (arXiv 1706.02677) for the warm-up. Slides S05, S07.

    >>> import torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> line = torch.nn.Linear(1, 1)
    >>> squared_error = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()
    >>> history = fit(line, squared_error, (x, 3 * x + 1), lr=0.1, epochs=300, batch_size=32, device="cpu",
    ...               autocast=False, progress=False)
    >>> [round(p.item(), 2) for p in line.parameters()]
    [3.0, 1.0]
    >>> list(history.columns)
    ['step', 'loss', 'lr', 'seconds']
    """
    tensors, batch_form = _tensors_of(data)
    settings = _checked_settings(
        steps=steps, epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer, weight_decay=weight_decay,
        warmup=warmup, clip_norm=clip_norm, autocast=autocast, seed=seed, tensors=tensors,
    )  # fmt: skip
    check_positive_int("checkpoint_every", checkpoint_every)
    check_positive_int("callback_every", callback_every)
    n, steps = len(tensors[0]), settings["steps"]

    device = distributed.join(torch.device(device) if device is not None else runtime.device())
    me, processes = distributed.rank(), distributed.world_size()
    model.to(device)
    layout = _memory_format(model, device, channels_last)
    tensors = _hold_on(device, tensors)
    optimiser = _make_optimizer(model, optimizer, lr=lr, weight_decay=weight_decay)

    step, history = 0, _History()
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        step, history = _resume(checkpoint, model, optimiser, settings)

    with (
        _stored(model, layout),
        _training_mode(model) as train_mode,
        _caller_keeps_random_state(device),
        _cudnn_benchmark(device),
        _interrupt_between_steps() as interrupted,
        _progress_bar(steps, start=step, show=progress and me == 0) as bar,
    ):
        called = cast(nn.Module, torch.compile(model)) if compile else model
        objective = distributed.data_parallel(_Objective(called, loss_fn))
        while step < steps:
            runtime.seed_everything(_mixed_seed(seed, "step", step, "process", me))
            everyone = batch_of_step(step, n=n, batch_size=batch_size, seed=seed)
            mine = _share(everyone, me, processes)
            learning_rate = lr * warmup_cosine(step, steps=steps, warmup=settings["warmup"])
            for group in optimiser.param_groups:
                group["lr"] = learning_rate

            with _explained_out_of_memory(batch_size):
                batch = batch_form(_batch(t, mine, device, layout) for t in tensors)
                optimiser.zero_grad()
                with _autocast(device, autocast):
                    loss, metrics = objective(batch)
                # Gradients are averaged over processes: a share counts by its number of examples.
                weight = len(mine) * processes / len(everyone)
                (weight * loss).backward()
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                optimiser.step()

            step += 1
            history.add(step, loss, learning_rate, metrics, weight=weight)
            bar.update()
            if callback is not None and (step % callback_every == 0 or step == steps):
                history.add_columns(callback(model, step))
                train_mode()
            if step % FETCH_EVERY == 0 or step == steps:
                bar.set_postfix(loss=f"{history.fetch():.4g}", refresh=False)
            stop = (processes == 1 or step % FETCH_EVERY == 0) and distributed.anyone(interrupted())
            if checkpoint is not None and (step % checkpoint_every == 0 or step == steps or stop):
                history.fetch()
                _save(checkpoint, model, optimiser, settings, step, history)
            if stop:
                raise KeyboardInterrupt(_farewell(step, steps, checkpoint))
        _check_weights(model, step)
    distributed.wait_for_all()  # nobody reads the checkpoint before it is there
    return history.table()


def warmup_cosine(step: int, *, steps: int, warmup: int = 0) -> float:
    """Return the factor on the learning rate at ``step``: a line up to 1, then half a cosine down to 0.

    Units:
        ``step`` counts from 0 to ``steps - 1``; ``warmup`` is a number of steps.

    Raises:
        ValueError: ``step`` is outside the run, or the warm-up does not end before it.

    Source:
        Goyal et al. 2017, section 2.2 (arXiv 1706.02677); Loshchilov and Hutter 2017, equation 5 (arXiv 1608.03983).

    >>> [round(warmup_cosine(step, steps=6, warmup=2), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if not 0 <= step < steps:
        raise ValueError(f"step must lie between 0 and steps - 1 = {steps - 1}, received {step}")
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must lie between 0 and steps - 1 = {steps - 1} steps, received {warmup}")
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def batch_of_step(step: int, *, n: int, batch_size: int, seed: int = 0) -> Tensor:
    """Return which of the n examples step number ``step`` trains on: a function of the seed and the step alone.

    An epoch shows every example once, in an order of its own, in batches as equal as can be: ten examples at a
    ``batch_size`` of 4 come as 4, 3 and 3. No example is dropped, and no epoch ends on a batch of one, which
    BatchNorm could not take and a contrastive loss could not learn from.

    Shapes:
        → ``(b,)`` int64 on the CPU, b at most ``batch_size``.

    Raises:
        ValueError: n or ``batch_size`` is below one, or ``step`` below zero.
        TypeError: n or ``batch_size`` is not an integer.

    >>> [batch_of_step(step, n=10, batch_size=4).tolist() for step in range(3)]
    [[...], [...], [...]]
    >>> sorted(torch.cat([batch_of_step(step, n=10, batch_size=4) for step in range(3)]).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    check_positive_int("n", n)
    check_positive_int("batch_size", batch_size)
    if step < 0:
        raise ValueError(f"step must be at least 0, received {step}")
    epoch, position = divmod(step, _steps_per_epoch(n, batch_size))
    return _epoch_batches(n, batch_size, seed, epoch)[position]


# --- what the loop is given ------------------------------------------------------------------------------------------


def _tensors_of(data: Any) -> tuple[tuple[Tensor, ...], Callable[[Iterator[Tensor]], Any]]:
    """Return the tensors of ``data``, and the function that gives a batch of them the form of ``data``."""
    form: Callable[[Iterator[Tensor]], Any] = tuple
    if hasattr(data, "images"):
        data = (data.images,) if getattr(data, "labels", None) is None else (data.images, data.labels)
        form = tuple if len(data) > 1 else next
    elif isinstance(data, Tensor):
        data, form = (data,), next
    if not isinstance(data, Sequence) or isinstance(data, str) or not all(isinstance(t, Tensor) for t in data):
        raise TypeError(
            f"data must be a tensor, a sequence of tensors, or a dataset with images and labels, received "
            f"{type(data).__name__}; try torch.from_numpy(...) for arrays"
        )
    if not data or any(t.ndim == 0 or len(t) == 0 for t in data):
        raise ValueError(f"data must hold at least one example, received shapes {[tuple(t.shape) for t in data]}")
    if len({len(t) for t in data}) > 1:
        raise ValueError(f"tensors in data must have one length, received {[len(t) for t in data]} examples")
    return tuple(data), form


def _checked_settings(
    *,
    steps: int | None,
    epochs: int | None,
    batch_size: int,
    lr: float,
    optimizer: str,
    weight_decay: float,
    warmup: int | float,
    clip_norm: float | None,
    autocast: bool,
    seed: int,
    tensors: Sequence[Tensor],
) -> dict[str, Any]:
    """Return everything the resulting weights depend on, checked: a checkpoint of other settings is not continued."""
    check_positive_int("batch_size", batch_size)
    check_positive("lr", lr)
    if clip_norm is not None:
        check_positive("clip_norm", clip_norm)
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a finite number of at least 0, received {weight_decay}")
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"optimizer must be 'adamw' or 'sgd', received {optimizer!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, received {seed!r}")
    if (steps is None) == (epochs is None):
        raise ValueError(f"give either steps or epochs, received steps={steps}, epochs={epochs}")
    check_positive_int("steps" if epochs is None else "epochs", steps if epochs is None else epochs)  # type: ignore[arg-type]
    if steps is None:
        steps = epochs * _steps_per_epoch(len(tensors[0]), batch_size)  # type: ignore[operator]
    if isinstance(warmup, float) and not 0 <= warmup < 1:
        raise ValueError(f"warmup as a float is a share of all steps, in [0, 1), received {warmup}; try an integer")
    warmup = int(warmup * steps) if isinstance(warmup, float) else warmup
    warmup_cosine(0, steps=steps, warmup=warmup)  # raises where the warm-up does not end before the run
    return {
        "steps": steps, "batch_size": batch_size, "lr": float(lr), "optimizer": optimizer,
        "weight_decay": float(weight_decay), "warmup": warmup, "clip_norm": clip_norm, "autocast": autocast,
        "seed": seed, "data": [f"{tuple(t.shape)} {t.dtype}" for t in tensors],
    }  # fmt: skip


def _make_optimizer(model: nn.Module, name: str, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        frozen = sum(1 for _ in model.parameters())
        raise ValueError(
            f"model must have parameters to train, received {type(model).__name__} with {frozen} parameters, all "
            f"frozen; try requires_grad_(True) on the part that should learn"
            if frozen
            else f"model must have parameters to train, received {type(model).__name__} without any"
        )
    # Decay pulls the strength of a map towards zero; the place of a bias or the gain of a norm has no such zero.
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr)


class _Objective(nn.Module):
    """Model and loss as one module: however often the loss calls the model, a step is one forward pass of this."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        result = self.loss_fn(self.model, batch)
        loss, metrics = result if isinstance(result, tuple) else (result, {})
        if not isinstance(loss, Tensor) or not isinstance(metrics, Mapping):
            raise TypeError(
                f"loss_fn must return a tensor, or a tensor and a dictionary of metrics, received "
                f"{type(result).__name__}"
            )
        if loss.ndim > 0:
            raise ValueError(f"loss_fn must return a scalar, received shape {tuple(loss.shape)}; try .mean()")
        if loss.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"loss_fn must return float32 or float64, received {loss.dtype}; under autocast the model's output is "
                f"coarse: compute the loss from model(x).float()"
            )
        if not loss.requires_grad:
            raise ValueError(
                "loss_fn must return a loss that depends on a trainable parameter of model, received one without a "
                "gradient; look for .item(), .detach() or torch.no_grad() in it"
            )
        reserved = {"step", "loss", "lr", "seconds"} & metrics.keys()
        if reserved:
            raise ValueError(f"metrics must have other names than the history's own, received {sorted(reserved)}")
        return loss, metrics


# --- examples --------------------------------------------------------------------------------------------------------


def _steps_per_epoch(n: int, batch_size: int) -> int:
    return math.ceil(n / batch_size)


@lru_cache(maxsize=2)
def _epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    own = torch.Generator().manual_seed(_mixed_seed(seed, "epoch", epoch))
    return torch.randperm(n, generator=own).tensor_split(_steps_per_epoch(n, batch_size))


def _mixed_seed(*parts: object) -> int:
    """Return 32 bits that differ, as good as always, where any part does."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())


def _share(everyone: Tensor, me: int, processes: int) -> Tensor:
    if len(everyone) < processes:
        raise ValueError(
            f"batch_size must give each of {processes} processes an example, received a batch of {len(everyone)}; try "
            f"a larger batch_size or fewer processes"
        )
    return everyone.tensor_split(processes)[me]


def _hold_on(device: torch.device, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Move data to the device once, as it is; data that would fill more than half of a GPU stays where it is."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(t.nbytes for t in tensors if t.device != device) > free / 2:
            return tensors
    return tuple(t.to(device) for t in tensors)


def _batch(tensor: Tensor, index: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    batch = tensor[index.to(tensor.device)]
    if batch.device != device:
        batch = batch.pin_memory() if device.type == "cuda" else batch
        batch = batch.to(device, non_blocking=True)
    batch = as_unit_range(batch)
    return batch.contiguous(memory_format=layout) if batch.ndim == 4 and batch.is_floating_point() else batch


def as_unit_range(pictures: Tensor) -> Tensor:
    """Return uint8 pictures ``(b, c, h, w)`` or clips ``(b, c, t, h, w)`` as float32 in [0, 1], and all else as it is.

    >>> as_unit_range(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8))
    tensor([[[[0.2000]]]])
    """
    return pictures.float() / 255 if pictures.dtype == torch.uint8 and pictures.ndim in (4, 5) else pictures


# --- checkpoints -----------------------------------------------------------------------------------------------------


def _save(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict, step: int, history: "_History"
) -> None:
    _check_weights(model, step)  # before a good checkpoint is replaced
    if distributed.rank() == 0:
        state = {"model": model.state_dict(), "optimizer": optimiser.state_dict()}
        save_checkpoint(path, {**state, "settings": settings, "step": step, "history": history.rows})


def _resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict) -> tuple[int, "_History"]:
    """Put model and optimiser where the checkpoint left them, or write the first checkpoint where there is none."""
    found = path.exists()
    distributed.wait_for_all()  # nobody writes before everybody has looked
    if not found:
        # A folder that cannot be written, or a state that cannot be read back, fails now and not after an hour.
        _save(path, model, optimiser, settings, 0, _History())
        distributed.wait_for_all()
        load_checkpoint(path)
        return 0, _History()
    state = load_checkpoint(path)
    if not {"model", "optimizer", "settings", "step", "history"} <= state.keys():
        raise ValueError(
            f"checkpoint {path} was not written by fit: it holds {sorted(map(str, state))}; try another name"
        )
    _check_same_model(path, state["model"], model.state_dict())
    _check_same_settings(path, state["settings"], settings)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimizer"])
    if distributed.rank() == 0:
        tqdm.write(f"resumed from {path} after step {state['step']} of {settings['steps']}")
    return state["step"], _History(state["history"])


def _check_same_model(path: Path, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    def shapes(state: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value.shape) if isinstance(value, Tensor) else type(value) for name, value in state.items()}

    _check_same("model", path, shapes(saved), shapes(present))


def _check_same_settings(path: Path, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    _check_same("configuration", path, saved, present)


def _check_same(what: str, path: Path, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    names = [name for name in {**present, **saved} if saved.get(name) != present.get(name)]
    if names:
        rows = [f"{name}: {saved.get(name, 'absent')} there, {present.get(name, 'absent')} here" for name in names]
        more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise ValueError(
            f"checkpoint {path} belongs to another {what} ({'; '.join(rows[:5])}{more}). Call fit as that run did to "
            f"continue it, or give this run a checkpoint of its own"
        )


# --- history ---------------------------------------------------------------------------------------------------------


class _History:
    """One row of numbers a step. Those still on the device wait, so that the loop does not wait for the device."""

    def __init__(self, rows: Sequence[dict[str, float]] = ()) -> None:
        self.rows = list(rows)
        self._waiting: list[tuple[dict[str, float], list[str], Tensor]] = []
        self._began = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)

    def add(self, step: int, loss: Tensor, lr: float, metrics: Mapping[str, Tensor | float], *, weight: float) -> None:
        seconds = time.perf_counter() - self._began
        row = {"step": step, "loss": math.nan, "lr": lr, **dict.fromkeys(metrics, math.nan), "seconds": seconds}
        numbers = [torch.as_tensor(x, dtype=loss.dtype, device=loss.device).detach() for x in (loss, *metrics.values())]
        self.rows.append(row)
        self._waiting.append((row, ["loss", *metrics], weight * torch.stack(numbers)))

    def add_columns(self, numbers: Mapping[str, float] | None) -> None:
        """Put what a callback returned beside the last step."""
        if not isinstance(numbers, Mapping | None):
            raise TypeError(f"callback must return None or a dictionary of numbers, received {type(numbers).__name__}")
        taken = self.rows[-1].keys() & (numbers or {}).keys()
        if taken:
            raise ValueError(f"callback must return other names than the history's own, received {sorted(taken)}")
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
        return pd.DataFrame(self.rows)


# --- when something goes wrong ---------------------------------------------------------------------------------------


def _not_finite(what: str, step: int) -> str:
    return (
        f"{what} step {step}, and training stopped; a checkpoint written earlier is good. Try, in this order: look for "
        f"NaN in the data, a tenth of lr, a longer warmup, clip_norm=1.0, autocast=False"
    )


def _check_weights(model: nn.Module, step: int) -> None:
    """Raise if a weight is not finite: a loss can be finite one step longer than the weights it leads to."""
    floating = [t for t in model.state_dict().values() if isinstance(t, Tensor) and t.is_floating_point()]
    if floating and not torch.stack([t.isfinite().all() for t in floating]).all():
        raise FloatingPointError(_not_finite("the weights are not finite after", step))


@contextlib.contextmanager
def _explained_out_of_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that fill the memory
        smaller = 1 << max(batch_size // 2, 1).bit_length() - 1
        advice = f"try batch_size={smaller}" if batch_size > 1 else "try smaller images or a smaller model"
        raise MemoryError(f"the GPU has too little memory for batch_size={batch_size}; {advice} ({error})") from None


@contextlib.contextmanager
def _interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait for the end of a step, where weights, optimiser and history agree. A second one does not wait."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield asked.is_set
        return

    def note(signum: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _farewell(step: int, steps: int, checkpoint: Path | None) -> str:
    kept = "no checkpoint was asked for" if checkpoint is None else f"{checkpoint} holds it; the same call continues"
    return f"stopped after step {step} of {steps}; {kept}"


# --- where and how it runs -------------------------------------------------------------------------------------------


def _autocast(device: torch.device, wanted: bool) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and _has_bfloat16(device))


@lru_cache
def _has_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 is faster than float32 here, rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def _memory_format(model: nn.Module, device: torch.device, channels_last: bool) -> torch.memory_format:
    """Return the layout to train in: channels-last where it is wanted and safe.

    PyTorch's CPU kernel for the gradient of a 1 × 1 convolution with a stride and fewer than 8 input channels writes
    past its memory when channels come last (CHANGELOG, Known). A network that has such a layer trains contiguous.
    """
    unsafe = device.type == "cpu" and any(
        set(layer.kernel_size) == {1} and max(layer.stride) > 1 and layer.in_channels < 8
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
    )
    return torch.channels_last if channels_last and not unsafe else torch.contiguous_format


@contextlib.contextmanager
def _stored(model: nn.Module, layout: torch.memory_format) -> Iterator[None]:
    """Store 2-D convolution kernels in a layout, and contiguous afterwards, as files of weights must have them.

    ``Module.to(memory_format=...)`` refuses models that also have 3-D kernels.
    """

    def store(layout: torch.memory_format) -> None:
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)

    store(layout)
    try:
        yield
    finally:
        store(torch.contiguous_format)


@contextlib.contextmanager
def _cudnn_benchmark(device: torch.device) -> Iterator[None]:
    """Let cuDNN time its algorithms once: shapes hardly change from batch to batch."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or (device.type == "cuda" and not torch.backends.cudnn.deterministic)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def _training_mode(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Put the parts that learn into training mode and the frozen ones into evaluation mode; undo it in the end."""

    def train() -> None:
        model.train()
        for module in model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()

    before = [(module, module.training) for module in model.modules()]
    train()
    try:
        yield train
    finally:
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def _caller_keeps_random_state(device: torch.device) -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  loss functions may draw from it
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _progress_bar(steps: int, *, start: int, show: bool) -> tqdm:
    # Only ever switched off here: the environment variable TQDM_DISABLE decides otherwise.
    return tqdm(total=steps, initial=start, desc="fit", unit="step", **({} if show else {"disable": True}))
