"""A training of a second, which the tests of the loop and of its checkpoints share."""

import torch
import torch.nn.functional as F
from torch import nn

from vlmcourse.train.loop import fit

N, CLASSES = 23, 5
QUIET = {"device": "cpu", "progress": False}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(7 * 36, CLASSES)
    )


def pictures():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (N, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.arange(N) % CLASSES


def loss_fn(model, batch):
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def train(model=None, loss=loss_fn, data=None, **options):
    model = network() if model is None else model
    options = {"steps": 6, "batch_size": 8, "lr": 1e-2, **QUIET, **options}
    history = fit(model, loss, pictures() if data is None else data, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}, history


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
