"""Kill one training over and over, continue it each time, and compare it bit for bit with a run left in peace.

A script, so that PyTorch is imported once: every run is a fork of this process, which itself computes nothing.
Prints a line of JSON with the kills by kind and the names of all tensors and columns that differ.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # an optimiser imports it on first use: once here, not once in every fork
from torch import nn

from vlmcourse import _files
from vlmcourse.train import checkpoints, loop

STEPS, KILLS = 120, 24
MOMENTS = ("in the loss", "between two weights", "half written", "before the rename", "after the rename", "any time")


class Network(nn.Module):
    """Convolution, BatchNorm, dropout, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
        self.down, self.up = nn.Linear(8 * 36, 5), nn.Linear(8 * 36, 5)
        self.up.weight = self.down.weight

    def forward(self, images):
        features = self.features(images)
        return self.down(features) + self.up(features.square())


def loss_fn(model, batch):
    images, labels = batch
    if random.random() < 0.5:  # randomness from all three generators, as augmentations have it
        images = images.flip(-1)
    images = images + 0.1 * torch.randn_like(images) + np.random.uniform(0, 0.1)
    return nn.functional.cross_entropy(model(images), labels)


def run(path, optimizer):
    torch.manual_seed(1)
    model = Network()
    data = torch.randint(256, (37, 3, 8, 8), dtype=torch.uint8), torch.randint(5, (37,))
    history = loop.fit(
        model, loss_fn, data, steps=STEPS, batch_size=8, lr=1e-2, optimizer=optimizer, seed=3, device="cpu",
        checkpoint=path, checkpoint_every=2, progress=False,
    )  # fmt: skip
    result = dict(model.state_dict().items())
    result |= {name: torch.tensor(history[name].to_numpy()) for name in ("step", "loss", "lr")}
    checkpoints.save_checkpoint(path.with_suffix(".result"), result)


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def die_later(function, calls, *, before=lambda *args: None):
    """Wrap ``function`` so that it works ``calls`` times and then kills its process instead."""
    left = [calls]

    def wrapped(*args, **kwargs):
        if left[0] == 0:
            before(*args)
            die()
        left[0] -= 1
        return function(*args, **kwargs)

    return wrapped


def arm(moment, dice):
    """Prepare this process to be killed at a moment."""
    if moment == "in the loss":
        nn.functional.cross_entropy = die_later(nn.functional.cross_entropy, dice.randrange(2, 7))
    elif moment == "between two weights":  # the optimiser has moved some parameters and not the others
        torch.Tensor.addcdiv_ = die_later(torch.Tensor.addcdiv_, dice.randrange(13, 40))
        torch.Tensor.add_ = die_later(torch.Tensor.add_, dice.randrange(13, 60))
    elif moment == "half written":
        _files.os.fsync = die_later(
            os.fsync,
            dice.randrange(1, 3),
            before=lambda handle: os.ftruncate(handle, os.fstat(handle).st_size // 2),
        )
    elif moment == "before the rename":
        _files.os.replace = die_later(os.replace, dice.randrange(1, 3))
    elif moment == "after the rename":
        _files.os.replace = die_later(os.replace, dice.randrange(1, 3), before=os.replace)
    else:  # killed from outside; a slow disk, so that it often happens during a save
        sync = os.fsync
        _files.os.fsync = lambda handle: (time.sleep(0.02), sync(handle))


def fork(path, optimizer, moment=None, dice=None):
    """Run in a child; return how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if moment:
            arm(moment, dice)
        run(path, optimizer)
        os._exit(0)
    if moment == "any time":
        time.sleep(dice.uniform(0.02, 0.3))
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    torch.set_num_threads(1)
    dice = random.Random(int(sys.argv[1]))
    report = {}
    for optimizer in ("adamw", "sgd"):
        folder = Path(tempfile.mkdtemp())
        calm, killed = folder / "calm.pt", folder / "killed.pt"
        assert fork(calm, optimizer) == 0
        kills, resumed_at = Counter(), []
        for i in range(KILLS):
            moment = MOMENTS[i % len(MOMENTS)]
            if fork(killed, optimizer, moment, dice) == -signal.SIGKILL:
                kills[moment] += 1
            resumed_at.append(checkpoints.load_checkpoint(killed)["step"] if killed.exists() else None)
        assert fork(killed, optimizer) == 0
        one, other = (checkpoints.load_checkpoint(path.with_suffix(".result")) for path in (calm, killed))
        different = [name for name in one if not torch.equal(one[name], other[name])]
        report[optimizer] = {"kills": kills, "different": different, "resumed_at": resumed_at}
        report[optimizer]["left_over"] = sorted(p.name for p in folder.iterdir() if p.suffix == ".tmp")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
