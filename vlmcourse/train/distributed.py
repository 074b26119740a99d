"""Train on several processes, each with the whole model and a share of each batch; in one, all of this does nothing."""

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlmcourse.ops.contrastive import nt_xent_loss


def rank() -> int:
    """Return the number of this process, from zero: let process 0 print and write files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(device: torch.device) -> torch.device:
    """Join the processes that ``torchrun`` started, if it did, and return the device of this one."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    if device.type == "cuda" and world_size() > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())))
        torch.cuda.set_device(device)
    return device


def wait_for_all() -> None:
    """Return once every process has come here."""
    if world_size() > 1:
        dist.barrier()


def data_parallel(module: nn.Module) -> nn.Module:
    """Wrap ``module`` so that its gradients are averaged over processes; alone, return it as it is."""
    return module if world_size() == 1 else nn.parallel.DistributedDataParallel(module)


def share_of(rows: Tensor) -> tuple[Tensor, float]:
    """Return this process's rows of a batch, and their weight in the mean over processes: 1 where all are equal."""
    processes = world_size()
    if len(rows) < processes:
        received = f"received a batch of {len(rows)}; try a larger one or fewer processes"
        raise ValueError(f"batch_size must give each of {processes} processes an example, {received}")
    own = rows.tensor_split(processes)[rank()]
    return own, len(own) * processes / len(rows)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of every number over processes, the same on all of them."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def gather_embeddings(embeddings: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of the processes; gradients flow back to each of them.

    Call it on every process, as in ``nt_xent_loss(gather_embeddings(z1), gather_embeddings(z2), temperature=0.2)``: the
    gradient that :func:`vlmcourse.train.loop.fit` averages is then exactly that of the whole batch in one process.

    Shapes:
        ``(b, ...)``, with this process's own b → ``(sum of all b, ...)``.

    Source:
        The global batch of SimCLR: Chen et al. 2020, section 2.2 (arXiv 2002.05709); slide S07.

    >>> gather_embeddings(torch.ones(1, 2))  # one process: nothing to gather
    tensor([[1., 1.]])
    """
    if embeddings.ndim == 0:
        raise ValueError("embeddings must have a batch axis (b, ...), received a single number of shape ()")
    return embeddings if world_size() == 1 else _Gather.apply(embeddings)


def shared_nt_xent_loss(
    view1: Tensor, view2: Tensor, *, temperature: float | Tensor, chunk_size: int | None = None
) -> Tensor:
    """Return SimCLR's loss of this process's images among the images of all processes.

    Averaged by :func:`vlmcourse.train.loop.fit`, loss and gradient are those of the whole batch in one process.

    Shapes:
        as :func:`vlmcourse.nt_xent_loss`, with this process's own b → a scalar, another one on each process.

    Source:
        Chen et al. 2020, section 2.2 (arXiv 2002.05709); slide S07.

    >>> same = torch.ones(4, 3)  # one process: log(2b - 1)
    >>> shared_nt_xent_loss(same, same, temperature=0.1)
    tensor(1.9459)
    """
    own, _ = _place(view1)
    gathered = gather_embeddings(view1), gather_embeddings(view2)
    return nt_xent_loss(*gathered, temperature=temperature, chunk_size=chunk_size, anchors=own)


def _place(rows: Tensor) -> tuple[slice, int]:
    """Return where the rows of this process stand among those of all, and how many these are."""
    if world_size() == 1:
        return slice(0, len(rows)), len(rows)
    lengths = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    lengths[rank()] = len(rows)
    dist.all_reduce(lengths)
    first = int(lengths[: rank()].sum())
    return slice(first, first + len(rows)), int(lengths.sum())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own, total = _place(rows)
        everyone = rows.new_zeros(total, *rows.shape[1:])
        everyone[ctx.own] = rows
        dist.all_reduce(everyone)  # the sum of blocks that do not overlap, which may have any lengths
        return everyone

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on the rows of this one. float32, so that the sum is no coarser than its terms.
        total = gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True).contiguous()
        dist.all_reduce(total)
        return total[ctx.own].to(gradient.dtype)
