"""Train a model: one loop, small enough to read, that survives being killed.

The loop is ``_steps``, and :func:`fit` is what stands around it. One idea makes resuming exact: everything a step
depends on, other than weights and optimizer, is a pure function of the seed and the number of the step: the learning
rate (:func:`warmup_cosine`), the examples (:func:`batch_of_step`), and the random generators, seeded anew at each step.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vlmcourse._checks import check_int, check_positive, check_positive_ints
from vlmcourse.train import _surroundings, distributed, runtime
from vlmcourse.train._examples import Examples, examples_of, on_device
from vlmcourse.train._identity import identity_of
from vlmcourse.train._run import FETCH_EVERY, RESERVED, Run, plain_name, unwrapped
from vlmcourse.train.runtime import mixed_seed, reseed

Model = TypeVar("Model", bound=nn.Module)
Metrics = Mapping[str, Tensor | float]
LossFunction = Callable[[Model, Any], Tensor | tuple[Tensor, Metrics]]
Callback = Callable[[Model, int], Metrics | None]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


def fit(
    model: Model,
    loss_fn: LossFunction[Model],
    data: Any,
    *,
    lr: float,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    weight_decay: float = 1e-4,
    warmup: int | float = 0.1,
    clip_norm: float | None = None,
    autocast: bool = True,
    channels_last: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
    callback: Callback[Model] | None = None,
    callback_every: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train ``model`` in place; return one row per step: loss, learning rate, metrics, seconds since the start.

    ``loss_fn(model, batch)`` returns a scalar loss, or the loss and a dictionary of metrics to keep beside it. All that
    learns must be inside ``model``. The global random generators follow ``seed`` and are put back afterwards. Numbers
    that ``callback(model, step)`` returns, every ``callback_every`` steps and after the last, become columns.

    With ``checkpoint``, a run that was killed is continued by the same call, and on a CPU ends with exactly the weights
    of a run that was not, unless a module keeps more than its ``state_dict``. Ctrl-C finishes the step, writes the
    checkpoint and stops. A finished run continues only if the call asks for more steps. A call with other data, another
    loss or other settings is refused; ``resume=False`` starts anew. Compared are code, closed-over values, globals and
    public attributes (no ``_private`` ones); of what is imported the name; of weights names, shapes and dtypes.

    Weights with two or more axes decay; biases and the gains of norms do not. Parts of the model that are frozen stay
    in evaluation mode, BatchNorm's statistics included. ``autocast`` uses bfloat16 where the hardware has it.

    On several GPUs, start the script with ``torchrun --nproc-per-node=4 script.py``. Each process gets its share of
    ``batch_size``. The page "Growing past one GPU" says what a contrastive loss and BatchNorm need there.

    Shapes:
        ``data`` is a tensor ``(n, ...)``, a sequence of them, a dataset with ``images`` or ``clips``, or PyTorch's
        ``Dataset`` or ``DataLoader``, whose ``shuffle`` and ``drop_last`` have no effect. A batch has the same form,
        ``(b, ...)``, b at most ``batch_size`` (256 unless said), in the order of :func:`batch_of_step`.

    Units:
        uint8 images or clips that come first in a batch reach ``loss_fn`` as float32 in [0, 1], other tensors as they
        are. ``warmup`` counts steps as an integer, and is a share of all steps as a float below one.

    Options:
        optimizer: ``"adamw"``, or ``"sgd"`` with Nesterov's momentum 0.9. clip_norm: the most that the norm of all
        gradients may be. channels_last: how 2-D convolutions are stored meanwhile. checkpoint_every: in steps. device:
        where to train, by default :func:`vlmcourse.device`; the model stays there.

    Raises:
        ValueError: the checkpoint is damaged or belongs to another run.
        RuntimeError: another run holds the checkpoint.
        FloatingPointError: the loss or the weights are no longer finite.
        MemoryError: the GPU's memory is too small.

    Source:
        Loshchilov and Hutter 2019 (arXiv 1711.05101) for AdamW; :func:`warmup_cosine` for the rate. Slides S05, S07.

    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> line = torch.nn.Linear(1, 1)
    >>> def squared_error(model, batch):
    ...     return (model(batch[0]) - batch[1]).square().mean()
    >>> history = fit(line, squared_error, (x, 3 * x + 1), lr=0.1, epochs=300,
    ...               batch_size=32, device="cpu", autocast=False, progress=False)
    >>> [round(p.item(), 2) for p in line.parameters()], list(history.columns)
    ([3.0, 1.0], ['step', 'loss', 'lr', 'seconds'])
    """
    examples = examples_of(data)
    settings = _checked_settings(
        examples, steps=steps, epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer,
        weight_decay=weight_decay, warmup=warmup, clip_norm=clip_norm, autocast=autocast, seed=seed,
    )  # fmt: skip
    check_positive_ints(checkpoint_every=checkpoint_every, callback_every=callback_every)
    device = distributed.join(torch.device(device) if device is not None else runtime.device())
    layout = _surroundings.layout_for(model.to(device), device, channels_last=channels_last)
    torch_optimizer = _make_optimizer(model, settings)
    identity = {} if checkpoint is None else _identity(model, loss_fn, examples, settings)
    run = Run(checkpoint, model, torch_optimizer, settings.steps, identity)
    with run.held(), _surroundings.around(model, device, layout) as interrupted:
        run.start(resume=resume)
        objective = distributed.data_parallel(_Objective(model, loss_fn))
        hidden = not progress or distributed.rank() > 0
        with tqdm(total=settings.steps, initial=len(run.rows), desc="fit", unit="step", disable=hidden) as bar:
            for step in _steps(objective, torch_optimizer, examples, settings, device, layout, run):
                bar.update()
                if callback is not None and (step % callback_every == 0 or step == settings.steps):
                    run.add_columns(callback(model, step))
                    _check_that_all_learn(objective, torch_optimizer)
                    _surroundings.train_what_learns(model)
                if step % FETCH_EVERY == 0:
                    bar.set_postfix(loss=f"{run.fetch():.4g}", refresh=False)
                run.keep(every=checkpoint_every, interrupted=interrupted())
    return pd.DataFrame(run.rows)


def _steps(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    settings: SimpleNamespace,
    device: torch.device,
    layout: torch.memory_format,
    run: Run,
) -> Iterator[int]:
    """Train, and yield the number of steps done after each: this is the loop."""
    _check_that_all_learn(objective, optimizer)
    steps, seed = range(len(run.rows), settings.steps), settings.seed

    @lru_cache(maxsize=2)  # asked twice for each step, for the examples and for what they count
    def share(step: int) -> tuple[Tensor, float]:
        return distributed.share_of(batch_of_step(step, n=examples.n, batch_size=settings.batch_size, seed=seed))

    batches = examples.batches(((step, share(step)[0]) for step in steps), device, seed=seed)
    bfloat16 = settings.autocast and _surroundings.has_bfloat16(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
    for step in steps:
        lr = settings.lr * warmup_cosine(step, steps=settings.steps, warmup=settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with _surroundings.explained_out_of_memory(settings.batch_size):
            batch, weight = on_device(next(batches), device, layout), share(step)[1]
            reseed(mixed_seed(seed, "step", step, "process", distributed.rank()), device)
            with autocast:
                loss, metrics = objective(batch)
            optimizer.zero_grad()
            loss.backward(torch.full_like(loss, weight))  # DDP averages over processes, whose shares may differ
            if step == steps.start:
                _check_that_gradients_arrive(optimizer)
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_((p for p in objective.parameters() if p.requires_grad), settings.clip_norm)
            run.add(loss, lr, metrics, weight=weight)  # before the step, which may change what a metric shows
            optimizer.step()
        yield step + 1
    optimizer.zero_grad()  # else the last gradients would be added to the next ones of the caller


def warmup_cosine(step: int, *, steps: int, warmup: int = 0) -> float:
    """Return the factor on the learning rate at ``step``: a line up to 1 in ``warmup`` steps, half a cosine down to 0.

    ``step`` counts from 0 to ``steps - 1``.

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

    An epoch shows every example once, in an order of its own, in batches as equal as can be, such as 4, 3 and 3 for ten
    examples: so none ends on a batch of one, which BatchNorm could not take.

    Shapes:
        → ``(b,)`` int64 on the CPU, b at most ``batch_size``.

    >>> epoch = [batch_of_step(step, n=10, batch_size=4) for step in range(3)]
    >>> sorted(torch.cat(epoch).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    check_positive_ints(n=n, batch_size=batch_size)
    check_int("step", step, minimum=0)
    epoch, position = divmod(step, math.ceil(n / batch_size))
    return _epoch_batches(n, batch_size, seed, epoch)[position]


@lru_cache(maxsize=2)
def _epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    own = torch.Generator().manual_seed(mixed_seed(seed, "epoch", epoch))
    return torch.randperm(n, generator=own, device="cpu").tensor_split(math.ceil(n / batch_size))


def _checked_settings(examples: Examples, **given: Any) -> SimpleNamespace:
    """Return the settings that the resulting weights depend on."""
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    steps, epochs, batch_size, warmup = given["steps"], given.pop("epochs"), given["batch_size"], given["warmup"]
    if examples.batch_size is not None and batch_size not in (None, examples.batch_size):
        loader = f"the DataLoader, which has {examples.batch_size}"
        raise ValueError(f"batch_size must be left to {loader}, received {batch_size}")
    batch_size = examples.batch_size or (256 if batch_size is None else batch_size)
    if (steps is None) == (epochs is None):
        raise ValueError(f"give either steps or epochs, received steps={steps}, epochs={epochs}")
    check_positive_ints(batch_size=batch_size, **({"steps": steps} if epochs is None else {"epochs": epochs}))
    if epochs is not None:
        steps = epochs * math.ceil(examples.n / batch_size)
    if isinstance(warmup, float):
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup as a float is a share of all steps, in [0, 1), received {warmup}; try an integer")
        warmup = int(warmup * steps)
    check_int("warmup", warmup, minimum=0)
    warmup_cosine(0, steps=steps, warmup=warmup)  # raises where the warm-up does not end before the run
    check_int("seed", given["seed"], minimum=0)
    check_positive("lr", given["lr"])
    if given["clip_norm"] is not None:
        check_positive("clip_norm", given["clip_norm"])
    if not isinstance(given["weight_decay"], int | float) or not 0 <= given["weight_decay"] < math.inf:
        raise ValueError(f"weight_decay must be a finite number of at least 0, received {given['weight_decay']}")
    if given["optimizer"] not in list(OPTIMIZERS):  # a list, since what came may have no hash
        raise ValueError(f"optimizer must be 'adamw' or 'sgd', received {given['optimizer']!r}")
    return SimpleNamespace(**given | {"steps": steps, "batch_size": batch_size, "warmup": warmup})


def _identity(model: nn.Module, loss_fn: LossFunction, examples: Examples, settings: SimpleNamespace) -> dict:
    """Say what run this is: a checkpoint of another is not continued."""
    return {
        "configuration": {**vars(settings)},
        "dataset": identity_of(examples.source) | identity_of(examples.options),
        "loss": identity_of(loss_fn, leave_out=model.parameters()),
        "choice of what learns": {plain_name(name): p.requires_grad for name, p in unwrapped(model).named_parameters()},
    }


def _make_optimizer(model: nn.Module, settings: SimpleNamespace) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        frozen = sum(1 for _ in model.parameters())
        hint = f"with {frozen} parameters, all frozen; try requires_grad_(True) on a part" if frozen else "without any"
        raise ValueError(f"model must have parameters to train, received {type(model).__name__} {hint}")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in trainable):
        raise ValueError("model must know the shapes of its weights; call it once on a batch, for its lazy layers")
    # Decay pulls weights towards zero, which is meant for matrices and kernels, not for biases and the gains of norms.
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    # On a GPU one fused kernel replaces hundreds of small ones. It supports real dtypes only.
    fused = trainable[0].device.type == "cuda" and all(p.is_floating_point() for p in trainable)
    return OPTIMIZERS[settings.optimizer](groups, lr=settings.lr, fused=fused or None)


def _check_that_all_learn(objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left = [name for name, p in objective.named_parameters() if p.requires_grad and id(p) not in moved]
    if left:
        raise ValueError(
            f"all that learns must be part of model, and require gradients, when fit begins, but {', '.join(left[:3])} "
            f"would never move; put it into model, freeze it, or call fit once more after unfreezing it"
        )


def _check_that_gradients_arrive(optimizer: torch.optim.Optimizer) -> None:
    if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "loss_fn must return a loss that depends on the model that fit hands to it, received one whose gradients "
            "reach none of its parameters; call that model in loss_fn, not another one that it knows by name"
        )


class _Objective(nn.Module):
    """Model and loss as one module, as DDP needs: a step is one call of it, however often the loss calls the model."""

    def __init__(self, model: Any, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> tuple[Tensor, Metrics]:
        result = self.loss_fn(self.model, batch)
        loss, metrics = result if isinstance(result, tuple) else (result, {})
        must = "loss_fn must return a"
        if not isinstance(loss, Tensor) or not isinstance(metrics, Mapping):
            raise TypeError(f"{must} tensor, or a tensor and a dictionary of metrics, received {type(result).__name__}")
        if loss.ndim > 0:
            raise ValueError(f"{must} scalar, received shape {tuple(loss.shape)}; try .mean()")
        if loss.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{must} float32 or float64 loss, received {loss.dtype}; try model(x).float()")
        if not loss.requires_grad:
            hint = "look for .item(), .detach() or torch.no_grad() in it"
            raise ValueError(f"{must} loss that model can learn from, received one without a gradient; {hint}")
        if taken := sorted(metrics.keys() & RESERVED):
            raise ValueError(f"metrics must have other names than the history's own, received {taken}")
        return loss, metrics
