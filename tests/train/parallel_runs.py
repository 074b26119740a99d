"""Train on several processes and on one, with different data in each process, and report how far they are apart.

``parallel_runs.py`` prints a line of JSON: for every check, the largest difference that any process saw. The processes
are forks of this one, which imports PyTorch once and computes nothing until they are gone.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

from vlmcourse.ops.contrastive import nt_xent_loss
from vlmcourse.train import checkpoints, distributed, loop
from vlmcourse.train.distributed import gather_embeddings

SHARES = (3, 5, 2, 7)  # rows of each process: no two alike
TEMPERATURE = 0.2


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(11, 13), nn.GELU(), nn.Linear(13, 5)).to(dtype)


def pairs(dtype, n):
    """Return two views of n inputs, of very different length from one row to the next, and labels in sorted order."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.1, 3, n)[:, None]
    view1, view2 = (torch.randn(n, 11, generator=generator) * scale for _ in range(2))
    return view1.to(dtype), view2.to(dtype), torch.arange(n) * 5 // n


def gathered_loss(model, batch):
    """Return the loss of all rows: every process computes the same one."""
    return nt_xent_loss(*(gather_embeddings(model(view)) for view in batch[:2]), temperature=TEMPERATURE)


def loss_of_own_rows(model, batch):
    """Return the loss of this process's rows against the second views of all: every process computes another one."""
    own = F.normalize(model(batch[0]), dim=1)
    everyone = gather_embeddings(F.normalize(model(batch[1]), dim=1))
    rows = gather_embeddings(torch.full((len(own),), distributed.rank()))
    first = int((rows < distributed.rank()).sum())
    return F.cross_entropy(own @ everyone.T / TEMPERATURE, first + torch.arange(len(own)))


def shared_loss(model, batch):
    """Return the loss of this process's images, as the library divides the work."""
    return distributed.shared_nt_xent_loss(*map(model, batch[:2]), temperature=TEMPERATURE)


def shared_chunked_loss(model, batch):
    return distributed.shared_nt_xent_loss(*map(model, batch[:2]), temperature=TEMPERATURE, chunk_size=3)


def supervised_loss(model, batch):
    loss = F.cross_entropy(model(batch[0]), batch[2])
    return loss, {"double": 2 * loss.detach()}


LOSSES = (gathered_loss, shared_loss, shared_chunked_loss, loss_of_own_rows, supervised_loss)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def gradient_of_mean(loss_fn, model, batch, share):
    """Return the gradient of the processes' losses, averaged by their number of rows."""
    loss = loss_fn(model, batch)
    loss = loss[0] if isinstance(loss, tuple) else loss
    gradients = flat(torch.autograd.grad(share * loss, list(model.parameters())))
    return distributed.mean_over_processes(gradients)


def own_rows(batch, processes):
    shares = SHARES[:processes]
    rank = distributed.rank()
    return tuple(t.split(shares)[rank] for t in batch), shares[rank] * processes / sum(shares)


def with_fit(loss_fn, dtype, n, *, steps=4, **options):
    """Train, and return first gradient, weights and losses."""
    model, gradients = network(dtype), []
    history = loop.fit(
        model, loss_fn, pairs(dtype, n), steps=steps, batch_size=n, lr=0.1, optimizer="sgd", device="cpu",
        progress=False, autocast=False,
        callback=lambda model, step: gradients.append(flat(p.grad for p in model.parameters())),
        callback_every=1, checkpoint_every=2, **options,
    )  # fmt: skip
    return {
        "gradient": gradients[0], "weights": flat(model.parameters()), "loss": torch.tensor(history["loss"].to_numpy())
    }  # fmt: skip


def noisy_loss(model, batch):
    return F.mse_loss(model(batch[0] + torch.randn_like(batch[0])), torch.randn(len(batch[0]), 5))


def resumed(path):
    """Return how far a run that failed in step 5 and was called again ends from one that did not fail."""
    weights = []
    for name, fails in (("calm", False), ("resumed", True), ("resumed", False)):
        calls = iter(range(1, 100))

        def may_fail(*arguments, calls=calls, fails=fails, mse_loss=F.mse_loss):
            if next(calls) == 5 and fails:
                raise RuntimeError("a failure on purpose")
            return mse_loss(*arguments)

        expected = pytest.raises(RuntimeError, match="on purpose") if fails else contextlib.nullcontext()
        with expected, mock.patch.object(F, "mse_loss", may_fail):  # the loss itself is the same in all runs
            weights.append(with_fit(noisy_loss, torch.float32, 23, checkpoint=path / f"{name}.pt", steps=6)["weights"])
    return weights[1] - weights[0]


def everything(processes, folder):
    """Compute what one process and several should agree on."""
    folder = folder / f"{processes} of {distributed.world_size()}"
    results = {"resumed": resumed(folder)}
    for dtype in (torch.float64, torch.float32):
        for loss_fn in LOSSES:
            name = f"{loss_fn.__name__} {dtype}"
            batch = pairs(dtype, sum(SHARES[:processes]))
            share = 1.0
            if distributed.world_size() > 1:
                batch, share = own_rows(batch, processes)
            results[f"{name} gradient, unequal rows"] = gradient_of_mean(loss_fn, network(dtype), batch, share)
            for what, value in with_fit(loss_fn, dtype, sum(SHARES[:processes])).items():
                results[f"{name} fit {what}"] = value
    return results


def child(rank, processes, port, folder):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    distributed.join(torch.device("cpu"))
    assert (distributed.rank(), distributed.world_size()) == (rank, processes)
    checkpoints.save_checkpoint(folder / f"{processes}-{rank}.pt", everything(processes, folder))


def fork(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return pid


def main():
    torch.set_num_threads(1)
    folder, report = Path(tempfile.mkdtemp()), {}
    for processes in (2, 4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = [fork(child, rank, processes, port, folder) for rank in range(processes)]
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    for processes in (2, 4):
        expected = everything(processes, folder)
        report[processes] = dict.fromkeys(expected, 0.0)
        for rank in range(processes):
            received = checkpoints.load_checkpoint(folder / f"{processes}-{rank}.pt")
            for name, value in expected.items():
                difference = (received[name] - value).abs().max().item()
                report[processes][name] = max(report[processes][name], difference)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
