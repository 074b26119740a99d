"""Device, seeds and profile: what the environment asks for is what runs, or a clear error."""

import random

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from vlmcourse import Chapter, device, fit, pick, profile, seed_everything
from vlmcourse.train.runtime import reseed


def pretend(monkeypatch, *, cuda=0, mps=False):
    """Make PyTorch report these accelerators."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.mps, "device_count", lambda: int(mps))


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(2, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_the_best_device_present_is_chosen(monkeypatch, cuda, mps, chosen):
    monkeypatch.delenv("VLMCOURSE_DEVICE", raising=False)
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert device() == torch.device(chosen)


@pytest.mark.parametrize("wanted", ["cpu", "cuda", "cuda:1", "mps", " cpu "])
def test_the_environment_overrides_the_choice(monkeypatch, wanted):
    monkeypatch.setenv("VLMCOURSE_DEVICE", wanted)
    pretend(monkeypatch, cuda=2, mps=True)
    assert device() == torch.device(wanted.strip())


@pytest.mark.parametrize("wanted", ["cuda:2", "cuda:7"])
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_is(monkeypatch, wanted):
    monkeypatch.setenv("VLMCOURSE_DEVICE", wanted)
    pretend(monkeypatch, cuda=2)
    with pytest.raises(RuntimeError, match=f"{wanted} is not available: .* sees 2 cuda"):
        device()


@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_an_accelerator_without_hardware_is_an_error(monkeypatch, wanted):
    monkeypatch.setenv("VLMCOURSE_DEVICE", wanted)
    pretend(monkeypatch)
    with pytest.raises(RuntimeError, match=f"sees 0 {wanted}.* or set it to cpu"):
        device()


@pytest.mark.parametrize("wanted", ["gpu", "CPU?", "xla", "cuda:x", "meta"])
def test_a_word_that_is_no_device_is_an_error(monkeypatch, wanted):
    monkeypatch.setenv("VLMCOURSE_DEVICE", wanted)
    with pytest.raises(ValueError, match="VLMCOURSE_DEVICE must be cpu, mps, cuda or cuda:N, received"):
        device()


def test_seeding_reaches_every_generator(device):
    def draw():
        legacy = np.random.rand()
        return random.random(), legacy, torch.rand(2).tolist(), torch.rand(2, device=device).tolist()

    seed_everything(11)
    first = draw()
    seed_everything(11)
    assert draw() == first
    seed_everything(12)
    assert draw() != first


def test_a_step_seeds_as_everything_is_seeded():
    def draw():
        return random.random(), np.random.rand(), torch.rand(2).tolist(), torch.rand(2, device="cpu").tolist()

    drawn = []
    for seeding in (seed_everything, lambda seed: reseed(seed, torch.device("cpu"))):
        torch.rand(3)
        seeding(11)
        drawn.append(draw())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None, True])
def test_bad_seeds_are_named(seed):
    with pytest.raises(ValueError, match="seed must be an integer from 0"):
        seed_everything(seed)


def test_profile_picks_and_rejects(monkeypatch):
    monkeypatch.delenv("VLMCOURSE_PROFILE", raising=False)
    assert (profile(), pick(quick=1, full=2)) == ("quick", 1)
    monkeypatch.setenv("VLMCOURSE_PROFILE", "full")
    assert (profile(), pick(quick=1, full=2)) == ("full", 2)
    monkeypatch.setenv("VLMCOURSE_PROFILE", "fast")
    with pytest.raises(ValueError, match="VLMCOURSE_PROFILE must be one of quick, full, received 'fast'"):
        profile()


@pytest.fixture
def three_threads():
    """As many as a large machine would have, in a container that may use fewer cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 3), (64, 3)])
def test_a_training_has_no_more_threads_than_a_container_leaves_cores(monkeypatch, three_threads, cores, threads):
    def loss(model, batch):
        meanwhile.add(torch.get_num_threads())
        return model(batch).square().mean()

    meanwhile: set[int] = set()
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    fit(nn.Linear(2, 1), loss, torch.ones(4, 2), lr=0.1, steps=2, device="cpu", progress=False)
    assert meanwhile == {threads}
    assert torch.get_num_threads() == 3  # the caller's own


@pytest.mark.parametrize(("cores", "threads"), [(2, 2), (64, 3)])
def test_a_chapter_has_no_more_threads_than_a_container_leaves_cores(monkeypatch, three_threads, cores, threads):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    Chapter("00_no_such_chapter")
    assert torch.get_num_threads() == threads
