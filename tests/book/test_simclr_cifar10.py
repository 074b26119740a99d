"""The experiment that a GPU will run for an hour, tried in small: it stops in time, goes on, and records nothing."""

import json
import sys
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

from book.experiments import simclr_cifar10 as experiment
from vlmcourse import load_result
from vlmcourse.cli import UNFINISHED

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two kinds of pictures, and a network that is soon trained."""
    draws = torch.Generator().manual_seed(0)
    for split, n in (("train", 40), ("test", 5)):
        for kind in ("dark", "light"):
            (tmp_path / split / kind).mkdir(parents=True)
            for k in range(n):
                pixels = torch.randint(40 if kind == "dark" else 256, (32, 32, 3), generator=draws, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(tmp_path / split / kind / f"{k}.png")

    def network(seed, *, compiled):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 512))

    monkeypatch.setattr(experiment, "network", network)
    monkeypatch.setattr(experiment, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    return tmp_path


def call(folder, *options):
    return experiment.main(["--images", str(folder), "--small", "--seeds", "0", "--trials", *options])


def kept(folder, name):
    return json.loads((folder / "kept" / "small" / f"{name}_0.json").read_text())


def test_every_trial_runs_and_a_small_one_is_not_recorded(folder):
    assert call(folder, *experiment.TRIALS) == 0
    assert not (folder / "book").exists()
    for name, (headline, _) in experiment.HEADLINES.items():
        assert kept(folder, name)[headline] >= 0
    speeds = kept(folder, "throughput")
    assert {"views in batches on the device, images/s", "and compiled, images/s"} <= set(speeds)
    assert min(speeds.values()) > 0
    assert kept(folder, "baselines")["pixels"] == 1.0  # light and dark are no riddle


def test_the_published_loop_ends_though_there_are_fewer_images_than_a_batch_holds(folder, monkeypatch):
    """It is installed where somebody compares, and took no step there; a stand-in has the names that it uses."""
    names = {
        "loss": {"NTXentLoss": lambda temperature: lambda view1, view2: (view1 - view2).square().mean()},
        "models.modules": {"SimCLRProjectionHead": lambda *widths: nn.Linear(widths[0], widths[-1])},
        "transforms": {"SimCLRTransform": lambda **options: lambda image: 2 * [to_tensor(image)]},
    }
    for module in ("lightly", "lightly.models"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for module, members in names.items():
        stand_in = ModuleType(f"lightly.{module}")
        vars(stand_in).update(members)
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    assert call(folder, "throughput") == 0
    assert kept(folder, "throughput")["lightly's loop, images/s"] > 0


@pytest.mark.parametrize("trial", ["short", "baselines", "ViT"])
def test_a_training_that_is_out_of_time_goes_on_from_its_checkpoint(folder, monkeypatch, trial):
    files = folder / "kept" / "small"
    clock = iter([0.0, 0.0, 2.0])  # the call begins, the trial begins, the first look comes too late
    monkeypatch.setattr(experiment, "monotonic", lambda: next(clock, 2.0))
    assert call(folder, trial, "--slice", "1") == UNFINISHED
    assert not (files / f"{trial}_0.json").exists()
    assert len(list(files.glob("*_0.pt"))) == 1
    assert call(folder, trial) == 0
    stopped = kept(folder, trial)
    if trial == "short":
        seconds = stopped["curve, seconds"]
        assert len(seconds) == len(stopped["curve, k-NN on validation"]) == 2
        assert 0 < seconds[0] < seconds[1] == round(stopped["training seconds"], 3)

    for file in files.iterdir():
        file.unlink()
    assert call(folder, trial) == 0
    whole = kept(folder, trial)  # the run that nothing stopped
    assert whole.keys() == stopped.keys()
    assert [name for name in whole if "seconds" not in name and whole[name] != stopped[name]] == []


def test_what_all_seeds_measured_is_recorded_with_the_time_it_took(folder, monkeypatch):
    monkeypatch.setattr(experiment, "FULL", experiment.SMALL)
    trials = ["short", "baselines", "ViT", "throughput"]
    assert experiment.main(["--images", str(folder), "--seeds", "0", "1", "--trials", *trials]) == 0
    for trial in trials:
        result = load_result(f"simclr_cifar10_{trial.lower()}", root=folder / "book" / "results")
        assert result["seeds"] == [0, 1][: 1 if trial in experiment.ONE_SEED else 2]
        assert result["seconds"] > 0
        assert result["values"] == result["table"][experiment.HEADLINES[trial][0]]
