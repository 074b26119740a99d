"""The examples of a training: in memory as tensors, or fetched one by one from a dataset."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset, default_collate

from vlmcourse.data.pictures import as_unit_range
from vlmcourse.train import distributed
from vlmcourse.train.runtime import mixed_seed, reseed

Plan = Iterable[tuple[int, Tensor]]  # the number of a step, and the examples that this process takes in it


def examples_of(data: Any) -> "Examples":
    if isinstance(data, TensorDataset):
        return InMemory(data.tensors)
    return Fetched(data) if isinstance(data, Dataset | DataLoader) else InMemory(data)


class InMemory:
    """Holds tensors of one length; a batch has the form of the data: one tensor, or a tuple."""

    batch_size: int | None = None  # the caller of ``fit`` chooses it
    options: Mapping[str, Any] = {}  # what, besides the source, decides what a batch holds

    def __init__(self, data: Any) -> None:
        pictures = getattr(data, "images", getattr(data, "clips", None))
        if isinstance(pictures, Tensor):
            data = pictures if getattr(data, "labels", None) is None else (pictures, data.labels)
        self.form: Callable[[Iterator[Tensor]], Any] = next if isinstance(data, Tensor) else tuple
        data = (data,) if isinstance(data, Tensor) else data
        if not isinstance(data, Sequence) or isinstance(data, str) or not all(isinstance(t, Tensor) for t in data):
            raise TypeError(
                "data must be a tensor, a sequence of tensors, a dataset with images or clips, or a Dataset or "
                f"DataLoader of torch.utils.data, received {type(data).__name__}; try torch.from_numpy(...) for arrays"
            )
        shapes = [tuple(t.shape) for t in data]
        if len({shape[:1] for shape in shapes}) != 1 or shapes[0][:1] in ((), (0,)):
            raise ValueError(f"data must have one length and at least one example, received shapes {shapes}")
        self.source = {f"data[{k}]": tensor for k, tensor in enumerate(data)}
        self.n = len(data[0])

    def batches(self, plan: Plan, device: torch.device, *, seed: int) -> Iterator[Any]:
        """Yield the batch of every step. Data moves to the device at once, unless it would fill half of a GPU."""
        tensors = tuple(self.source.values())
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
        if sum(t.nbytes for t in tensors if t.device != device) <= free / 2:
            tensors = tuple(t.to(device) for t in tensors)
        for _, rows in plan:
            yield self.form(t.index_select(0, rows.to(t.device)) for t in tensors)  # quicker than t[rows]


class Fetched:
    """Fetches with a loader's workers and ``collate_fn``, in the order of ``fit`` whatever the loader's ``shuffle``."""

    def __init__(self, data: Dataset | DataLoader) -> None:
        loader: Any = data if isinstance(data, DataLoader) else DataLoader(data)
        sampler = loader.sampler
        shuffled = isinstance(sampler, RandomSampler) and not sampler.replacement
        plain = shuffled or type(sampler) is SequentialSampler
        if loader.batch_size is None or not plain or len(sampler) != len(loader.dataset):  # others have their own order
            kinds = f"{type(loader.dataset).__name__} with {type(sampler).__name__}"
            raise TypeError(
                f"data must have examples that fit can put in an order of its own, received a DataLoader of {kinds} "
                f"and batch_size={loader.batch_size}; try DataLoader(dataset, batch_size=..., shuffle=True), with a "
                "dataset that has a length and an index"
            )
        self.source, self.n = loader.dataset, len(loader.dataset)
        self.loader, self.batch_size = loader, loader.batch_size if isinstance(data, DataLoader) else None
        own = {"collate_fn": loader.collate_fn, "worker_init_fn": loader.worker_init_fn}
        self.options = {name: function for name, function in own.items() if function not in (None, default_collate)}
        if self.n == 0:
            raise ValueError(f"data must hold at least one example, received an empty {type(self.source).__name__}")

    def batches(self, plan: Plan, device: torch.device, *, seed: int) -> Iterator[Any]:
        own = ("collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
               "prefetch_factor")  # fmt: skip
        seeded = _Seeded(self.source, seed, distributed.rank())
        order: Any = ((step, rows.tolist()) for step, rows in plan)
        return iter(DataLoader(seeded, batch_sampler=order, **{name: getattr(self.loader, name) for name in own}))


Examples = InMemory | Fetched


class _Seeded(Dataset):
    """Fetches the examples of a step under a seed of their own, so that augmentation does not depend on the worker."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank

    def __getitems__(self, step_and_rows: tuple[int, list[int]]) -> list[Any]:
        step, rows = step_and_rows
        reseed(mixed_seed(self.seed, "examples", step, "process", self.rank), torch.device("cpu"))
        together = getattr(self.dataset, "__getitems__", None)
        return together(rows) if together else [self.dataset[row] for row in rows]


def on_device(batch: Any, device: torch.device, layout: torch.memory_format) -> Any:
    """Return a batch on the device: its first tensor, if 4-D or 5-D, in [0, 1]; 4-D floating ones in ``layout``."""
    first = True

    def moved(part: Any) -> Any:
        nonlocal first
        if isinstance(part, Mapping):
            return {name: moved(item) for name, item in part.items()}
        if isinstance(part, list | tuple):
            return type(part)(*map(moved, part)) if hasattr(part, "_fields") else type(part)(map(moved, part))
        if not isinstance(part, Tensor):
            return part
        part = part.to(device, non_blocking=True)
        if first and part.ndim in (4, 5):
            part = as_unit_range(part)
        first = False
        return part.contiguous(memory_format=layout) if part.ndim == 4 and part.is_floating_point() else part

    return moved(batch)
