"""Contrastive training on several processes, and whether it is that of one process.

python book/examples/several_processes.py                                    one process
torchrun --standalone --nproc-per-node=2 book/examples/several_processes.py  two, here
"""

import time

import torch
from torch import Tensor, nn
from vlmcourse import (
    device,
    fit,
    scenes,
    seed_everything,
    shared_nt_xent_loss,
    two_views,
)
from vlmcourse.train.distributed import (
    join,
    mean_over_processes,
    rank,
    wait_for_all,
    world_size,
)


def say(text: str) -> None:
    """Print once, whatever the number of processes."""
    if rank() == 0:
        print(text, flush=True)


def encoder(norm: nn.Module) -> nn.Module:
    """Return a small network with the same weights each time."""
    seed_everything(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        norm,
        nn.GELU(),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * 25, 32),
    )


def loss(model: nn.Module, views: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of this process's images; those of all others are negatives."""
    view1, view2 = model(torch.cat(views)).chunk(
        2
    )  # in one pass, so that a BatchNorm sees both
    return shared_nt_xent_loss(view1, view2, temperature=0.2, chunk_size=64)


def seconds_of_loss(pairs: int, where: torch.device) -> float:
    """Return how long the loss of so many pairs takes, divided among the processes."""
    own = [
        torch.randn(pairs // world_size(), 64, device=where, requires_grad=True)
        for _ in range(2)
    ]
    took = []
    for _ in range(3):
        wait_for_all()
        began = time.perf_counter()
        shared_nt_xent_loss(*own, temperature=0.2, chunk_size=256).backward()
        took.append(torch.tensor(time.perf_counter() - began))
    return float(mean_over_processes(torch.stack(took)).min())


def main() -> None:
    """Train twice, without and with BatchNorm, then time the loss."""
    torch.set_num_threads(1)  # the processes share the machine's cores
    where = join(device())  # on several GPUs: this process's own
    # The views are drawn beforehand, the same everywhere, so that runs can be compared.
    # 31 images do not divide by two.
    views = two_views(
        scenes.images(31, seed=0).images, generator=torch.Generator().manual_seed(0)
    )
    for name, norm in (("no norm", nn.Identity()), ("BatchNorm", nn.BatchNorm2d(16))):
        model = encoder(norm)
        if where.type == "cuda":  # PyTorch has it on GPUs only
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        options = {"optimizer": "sgd", "autocast": False, "device": where}
        history = fit(
            model,
            loss,
            views,
            lr=0.1,
            steps=6,
            batch_size=31,
            progress=False,
            **options,
        )
        first, later = history.loss.iloc[0], history.loss.iloc[-1]
        say(f"processes {world_size()}, {name}: loss {first:.6f}, later {later:.6f}")
    took = f"{1e3 * seconds_of_loss(2048, where):.0f} ms"
    say(f"processes {world_size()}, the loss of 2048 pairs: {took}")


if __name__ == "__main__":
    main()
