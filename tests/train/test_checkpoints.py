"""Checkpoints: a killed run goes on exactly, another run is refused, a damaged file is one clear error."""

import functools
import io
import json
import logging
import math
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_training import CLASSES, QUIET, assert_same, loss_fn, network, pictures, train
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from vlmcourse.data.questions import questions
from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.train import checkpoints, loop
from vlmcourse.train.checkpoints import load_checkpoint, save_checkpoint
from vlmcourse.train.loop import fit, warmup_cosine
from vlmcourse.train.simclr import train_simclr
from vlmcourse.train.vlm import train_vlm

HERE = Path(__file__).parent


# --- killed, interrupted, continued ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_same_bits():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, HERE / "killed_runs.py", "0"], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    for optimizer, report in json.loads(done.stdout.splitlines()[-1]).items():
        assert sum(report["kills"].values()) >= 20, (optimizer, report)
        assert len(report["kills"]) == 6, (optimizer, report)  # every kind of moment
        assert report["different"] == [], (optimizer, report)
        assert report["left_over"] == [], (optimizer, report)


@pytest.fixture
def on_interrupt():
    """Set what SIGINT does, for one test: a shell that started these tests in the background has it ignored."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint_that_continues_exactly(
    tmp_path, monkeypatch, on_interrupt, optimizer
):
    steps = []

    def interrupting(*arguments, cross_entropy=F.cross_entropy):
        steps.append(None)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return cross_entropy(*arguments)

    calm, calm_history = train(optimizer=optimizer)
    handler = signal.default_int_handler
    on_interrupt(handler)
    monkeypatch.setattr(F, "cross_entropy", interrupting)
    with pytest.raises(KeyboardInterrupt, match=r"after step 3 of 6; .*run\.pt holds it"):
        train(optimizer=optimizer, checkpoint=tmp_path / "run.pt")
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_checkpoint(tmp_path / "run.pt")["step"] == 3
    weights, history = train(optimizer=optimizer, checkpoint=tmp_path / "run.pt")
    assert len(steps) == 6
    assert_same(weights, calm)
    assert history["loss"].tolist() == calm_history["loss"].tolist()
    assert history["seconds"].is_monotonic_increasing


def test_a_second_ctrl_c_does_not_wait_for_the_step(on_interrupt):
    on_interrupt(signal.default_int_handler)

    def stuck(model, batch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt):
        train(loss=stuck)


@pytest.mark.parametrize("outside", [signal.SIG_IGN, None])
def test_ctrl_c_stays_with_who_has_it_outside_of_python(on_interrupt, monkeypatch, outside):
    def pressing(model, batch):
        signal.raise_signal(signal.SIGINT)
        return loss_fn(model, batch)

    on_interrupt(signal.SIG_IGN)  # as for a script's background; a program that embeds Python shows as None
    monkeypatch.setattr(signal, "getsignal", lambda number: outside)
    _, history = train(loss=pressing)
    assert len(history) == 6


def never(*arguments):
    raise AssertionError("trained again")


def test_resuming_a_finished_run_trains_nothing(tmp_path, capsys, monkeypatch):
    weights, history = train(checkpoint=tmp_path / "run.pt")
    written = (tmp_path / "run.pt").stat().st_mtime_ns
    monkeypatch.setattr(F, "cross_entropy", never)
    again, same_history = train(checkpoint=tmp_path / "run.pt")
    assert_same(again, weights)
    assert same_history.equals(history)
    assert (tmp_path / "run.pt").stat().st_mtime_ns == written
    assert "after step 6 of 6" in capsys.readouterr().out


def test_a_finished_run_goes_on_when_asked_for_more_steps_and_the_longer_run_resumes_exactly(tmp_path, monkeypatch):
    first, _ = train(checkpoint=tmp_path / "run.pt")
    longer, history = train(checkpoint=tmp_path / "run.pt", steps=10)
    assert history["step"].tolist() == list(range(1, 11))
    assert history["lr"].tolist()[6:] == [1e-2 * warmup_cosine(step, steps=10, warmup=1) for step in range(6, 10)]
    assert not torch.equal(longer["0.weight"], first["0.weight"])
    with pytest.raises(ValueError, match="steps: 10 there, 6 here"):
        train(checkpoint=tmp_path / "run.pt")

    train(checkpoint=tmp_path / "killed.pt")
    with monkeypatch.context() as patched:
        calls = [1, 1, 1]
        patched.setattr(F, "cross_entropy", lambda *arguments, f=F.cross_entropy: calls.pop() * f(*arguments))
        with pytest.raises(IndexError):
            train(checkpoint=tmp_path / "killed.pt", steps=10, checkpoint_every=2)
    assert load_checkpoint(tmp_path / "killed.pt")["step"] == 8
    assert_same(train(checkpoint=tmp_path / "killed.pt", steps=10)[0], longer)


def test_an_unfinished_run_is_not_continued_with_another_number_of_steps(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(F, "cross_entropy", never)
        with pytest.raises(AssertionError):
            train(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="steps: 6 there, 7 here"):
        train(checkpoint=tmp_path / "run.pt", steps=7)


def test_resume_false_starts_anew_in_the_place_of_the_old_file(tmp_path):
    train(checkpoint=tmp_path / "run.pt", lr=1e-3)
    fresh, _ = train()
    again, history = train(checkpoint=tmp_path / "run.pt", resume=False)
    assert_same(again, fresh)
    assert len(history) == 6
    assert load_checkpoint(tmp_path / "run.pt")["configuration"]["lr"] == 1e-2


def test_a_warm_start_takes_the_weights_and_nothing_else(tmp_path):
    weights, _ = train(checkpoint=tmp_path / "run.pt")
    model = network()
    model.load_state_dict(load_checkpoint(tmp_path / "run.pt")["model"])
    assert_same(model.state_dict(), weights)


def test_a_checkpoint_of_another_model_is_refused_and_says_where_it_differs(tmp_path):
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    before = path.read_bytes()
    other = network()
    other[5] = nn.Linear(7 * 36, CLASSES + 1)
    with pytest.raises(
        ValueError, match=r"another model .*5\.weight: \(5, 252\) torch\.float32 there, \(6, 252\) torch\.float32 here"
    ):
        train(other, checkpoint=path)
    with pytest.raises(ValueError, match=r"another model .*torch\.float32 there, .*torch\.float64 here"):
        train(network().double(), checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 2e-2}, "lr: 0.01 there, 0.02 here"),
        ({"steps": 5}, "steps: 6 there, 5 here"),
        ({"batch_size": 9}, "batch_size: 8 there, 9 here"),
        ({"optimizer": "sgd"}, "optimizer: adamw there, sgd here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"weight_decay": 0.5}, "weight_decay: 0.0001 there, 0.5 here"),
        ({"warmup": 3}, "warmup: 0 there, 3 here"),
        ({"clip_norm": 1.0}, "clip_norm: None there, 1.0 here"),
        ({"autocast": False}, "autocast: True there, False here"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_and_says_which(tmp_path, options, message):
    train(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=f"another configuration .*{message}"):
        train(checkpoint=tmp_path / "run.pt", **options)


class Noisy(nn.Module):
    """A loss with a part that is fixed, a part that is plain, and a method that can be given."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength
        self.register_buffer("scale", torch.tensor(strength))

    def forward(self, model, batch):
        return loss_fn(model, batch) * self.strength

    def scaled(self, model, batch):
        return loss_fn(model, batch) * self.scale


GLOBAL = 1.0


def closing_over(strength):
    return lambda model, batch: loss_fn(model, batch) * strength


def closing_over_a_function(function):
    return lambda model, batch: function(loss_fn(model, batch))


def closing_over_tensors(weights):
    return lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], weights["classes"])


def with_default(strength):
    def loss(model, batch, *, strength=strength):
        return loss_fn(model, batch) * strength

    return loss


def weighted(strength, model, batch, power=1):
    return loss_fn(model, batch) * strength**power


def other_loss(model, batch):
    return 2 * loss_fn(model, batch)


def reading_a_global(model, batch):
    return loss_fn(model, batch) * GLOBAL


def holding(value):
    return lambda model, batch: loss_fn(model, batch) if value is not None else None


@dataclass(slots=True)
class Slots:
    strength: float


def reading_settings(strength):
    class Settings:
        temperature = strength

    return lambda model, batch: loss_fn(model, batch) / Settings.temperature


def scaled_by(of_the_class):
    class Scaled:
        strength = of_the_class

        def __call__(self, model, batch):
            return self.strength * loss_fn(model, batch)

    return Scaled()


def grey_picture(shade):
    return Image.new("L", (2, 2), shade)


class WithHelper:
    def __call__(self, model, batch):
        return self.scaled(loss_fn(model, batch)) * GLOBAL

    def scaled(self, x):
        return 2 * x


PAIRS = {  # a loss, another one, and what the message says of them
    "name": (loss_fn, other_loss, r"function: small_training\.loss_fn there, test_checkpoints\.other_loss here"),
    "code": (lambda m, b: loss_fn(m, b), lambda m, b: loss_fn(m, b).abs(), "code: "),
    "code inside": (
        lambda m, b: (lambda: loss_fn(m, b) * 1)(), lambda m, b: (lambda: loss_fn(m, b) * 2)(), "code: "
    ),
    "closure": (closing_over(1.0), closing_over(2.0), r"strength: 1\.0 there, 2\.0 here"),
    "function in a closure": (
        closing_over_a_function(torch.nn.Identity().forward), closing_over_a_function(lambda x: 2 * x), "function: "
    ),
    "tensor in a closure": (
        closing_over_tensors({"classes": torch.ones(CLASSES)}),
        closing_over_tensors({"classes": torch.arange(1.0, CLASSES + 1)}), "weights: ",
    ),
    "default": (with_default(1.0), with_default(2.0), r"strength: 1\.0 there, 2\.0 here"),
    "partial": (functools.partial(weighted, 1.0), functools.partial(weighted, 2.0), r"argument 0: 1\.0 there, 2\.0"),
    "keyword of a partial": (
        functools.partial(weighted, 2.0), functools.partial(weighted, 2.0, power=2), "power: 1 there, 2 here"
    ),
    "module": (Noisy(1.0), Noisy(2.0), r"strength: 1\.0 there, 2\.0 here"),
    "method": (Noisy(1.0).scaled, Noisy(2.0).scaled, "self: "),
    "number of numpy": (holding(np.float32(1)), holding(np.float32(2)), r"value: 1\.0 there, 2\.0 here"),
    "deque": (holding(deque([1.0])), holding(deque([2.0])), "value: "),
    "slots": (holding(Slots(1.0)), holding(Slots(2.0)), "value: "),
    "what it shows": (holding(date(2020, 1, 1)), holding(date(2020, 1, 2)), "value: "),
    "class of settings": (reading_settings(1.0), reading_settings(2.0), "Settings: "),
    "setting of a class": (scaled_by(1.0), scaled_by(2.0), r"strength: 1\.0 there, 2\.0 here"),
    "table": (holding(pd.DataFrame({"a": [1, 2]})), holding(pd.DataFrame({"a": [1, 3]})), "value: "),
    "column": (holding(pd.Series(["a", "b"])), holding(pd.Series(["a", "c"])), "value: "),
    "pictures": (holding([grey_picture(0)]), holding([grey_picture(1)]), "value: "),
    "method of a dictionary": (holding({"a": 1}.get), holding({"a": 2}.get), "value: "),
}  # fmt: skip


@pytest.mark.parametrize("what", ["a global variable of forward", "a helper of forward"])
def test_what_the_methods_of_a_loss_use_belongs_to_it(tmp_path, monkeypatch, what):
    train(loss=WithHelper(), checkpoint=tmp_path / "run.pt")
    if what == "a helper of forward":
        monkeypatch.setattr(WithHelper, "scaled", lambda self, x: 3 * x)
    else:
        monkeypatch.setitem(globals(), "GLOBAL", 2.0)
    with pytest.raises(ValueError, match="another loss"):
        train(loss=WithHelper(), checkpoint=tmp_path / "run.pt")


class Noting:
    """A loss that keeps, on its first call, its first attribute: a private one."""

    def __call__(self, model, batch):
        self._seen = len(batch[0])
        return loss_fn(model, batch)


def test_what_a_loss_keeps_for_itself_makes_no_other_run_of_it(tmp_path):
    loss = Noting()
    train(loss=loss, checkpoint=tmp_path / "run.pt", steps=2)
    assert loss._seen
    assert len(train(loss=loss, checkpoint=tmp_path / "run.pt", steps=4)[1]) == 4


class Friend:
    """One of several that all know each other."""

    def __init__(self):
        self.friends = []


def test_values_that_know_each_other_are_looked_at_once_each(tmp_path):
    friends = [Friend() for _ in range(30)]  # ways through them all: more than there are atoms
    for friend in friends:
        friend.friends = [other for other in friends if other is not friend]
    weights, _ = train(loss=holding(friends), checkpoint=tmp_path / "run.pt")
    assert_same(train(loss=holding(friends), checkpoint=tmp_path / "run.pt")[0], weights)


def test_a_logger_s_level_and_a_generator_s_state_make_no_other_run(tmp_path):
    used = [logging.getLogger("a loss"), random.Random(0), np.random.default_rng(0), torch.Generator()]
    train(loss=holding(used), checkpoint=tmp_path / "run.pt")
    used[0].setLevel(logging.DEBUG)
    used[1].random(), used[2].random(), torch.rand(1, generator=used[3])
    train(loss=holding(used), checkpoint=tmp_path / "run.pt")


def test_a_dictionary_in_another_order_is_the_same(tmp_path):
    weights, _ = train(loss=holding({"a": 1, "b": 2}), checkpoint=tmp_path / "run.pt")
    assert_same(train(loss=holding({"b": 2, "a": 1}), checkpoint=tmp_path / "run.pt")[0], weights)


def test_what_a_loader_makes_of_examples_belongs_to_the_data(tmp_path):
    def run(collate):
        pairs = TensorDataset(*pictures())
        return train(data=DataLoader(pairs, batch_size=8, collate_fn=collate), checkpoint=tmp_path / "run.pt")

    weights, _ = run(default_collate)
    assert_same(run(None)[0], weights)
    with pytest.raises(ValueError, match=r"another dataset .*collate_fn: absent there"):
        run(lambda rows: default_collate(rows[::-1]))


def test_what_another_run_of_a_longer_name_is_writing_stays(tmp_path):
    others = [tmp_path / ".run.pt.12.34.tmp", tmp_path / ".run.1.12.34.tmp"]
    for path in (*others, tmp_path / ".run.12.34.tmp"):
        path.write_bytes(b"half")
    train(checkpoint=tmp_path / "run")
    assert sorted(tmp_path.glob(".*.tmp")) == sorted(others)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_checkpoint_of_another_loss_is_refused_and_says_which(tmp_path, pair):
    one, other, message = PAIRS[pair]
    weights, _ = train(loss=one, checkpoint=tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match=f"another loss .*{message}"):
        train(loss=other, checkpoint=tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before
    assert_same(train(loss=one, checkpoint=tmp_path / "run.pt")[0], weights)


def test_a_global_variable_that_the_loss_reads_belongs_to_it(tmp_path, monkeypatch):
    train(loss=reading_a_global, checkpoint=tmp_path / "run.pt")
    monkeypatch.setitem(globals(), "GLOBAL", 2.0)
    with pytest.raises(ValueError, match=r"another loss .*GLOBAL: 1\.0 there, 2\.0 here"):
        train(loss=reading_a_global, checkpoint=tmp_path / "run.pt")


def test_a_loss_that_closes_over_the_model_goes_on_with_it(tmp_path):
    def of(model):
        return lambda _, batch: loss_fn(model, batch)

    for scale in (1, 2):
        model = network()
        with torch.no_grad():
            model[0].weight.mul_(scale)  # the checkpoint decides about weights
        train(model, of(model), checkpoint=tmp_path / "run.pt")


def test_contrastive_training_at_another_temperature_or_with_other_views_is_another_run(tmp_path):
    def run(**options):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        images = pictures()[0].float() / 255
        return train_simclr(encoder, images, steps=3, batch_size=8, checkpoint=tmp_path / "run.pt", **QUIET, **options)

    run()
    with pytest.raises(ValueError, match=r"another loss .*temperature: 0\.2 there, 0\.01 here"):
        run(temperature=0.01)
    with pytest.raises(ValueError, match=r"another loss .*views: "):
        run(views={"noise": lambda images, generator=None: images + torch.randn_like(images)})


IMAGES, LABELS = pictures()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES, CLASSES - 1 - LABELS), r"data\[1\]: \(23,\) torch.int64 \w+ there, \(23,\) torch.int64 \w+ here"),
        ((IMAGES.flip(0), LABELS), r"data\[0\]: "),
        ((IMAGES[1:], LABELS[1:]), r"data\[0\]: \(23, 3, 8, 8\) torch.uint8 \w+ there, \(22, 3, 8, 8\)"),
        ((IMAGES.float() / 255, LABELS), r"torch\.uint8 \w+ there, .*torch\.float32"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused_and_says_which(tmp_path, data, message):
    train(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=f"another dataset .*{message}"):
        train(data=data, checkpoint=tmp_path / "run.pt")


def test_the_layout_of_data_in_memory_does_not_matter(tmp_path):
    train(checkpoint=tmp_path / "run.pt")
    train(data=(IMAGES.contiguous(memory_format=torch.channels_last), LABELS), checkpoint=tmp_path / "run.pt")


def two_equal_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, CLASSES))


def test_a_checkpoint_of_a_run_in_which_other_parts_learned_is_refused(tmp_path):
    model = two_equal_layers()
    model[1].requires_grad_(False)
    train(model, checkpoint=tmp_path / "run.pt")
    for frozen in (2, 3):
        model = two_equal_layers()
        model[frozen].requires_grad_(False)
        before = model[frozen].weight.clone()
        with pytest.raises(ValueError, match=r"another choice of what learns \(1\.weight: False there, True here"):
            train(model, checkpoint=tmp_path / "run.pt")
        assert torch.equal(model[frozen].weight, before)


def test_each_stage_of_a_vision_language_model_has_a_file_of_its_own(tmp_path):
    encoder = ConvEncoder(width=2)

    def run(steps):
        asked = questions(8, seed=0, kinds="describe", image_size=16)
        return train_vlm(
            encoder, asked, steps=steps, embed_dim=8, batch_size=4, freeze=("encoder", "language_model"),
            checkpoint=tmp_path / "run.pt", **QUIET,
        )[1]  # fmt: skip

    history = run({"connector": 2, "joint": 3})
    assert len(history) == 5
    assert history["loss"].is_unique
    again = run({"connector": 2, "joint": 3})
    assert again["loss"].tolist() == history["loss"].tolist()
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["run-connector.pt", "run-joint.pt"]


RESUME_IN_ANOTHER_PROCESS = """
import functools, sys
import torch
from PIL import Image
from small_training import *
from vlmcourse.data.augment import SCENE_STEPS

names = {"red", "green", "blue"}

def helper(x):
    return x * len(names)

def loss(model, batch, views=SCENE_STEPS, kinds={"a": {1, 2}}, *, weight):
    return helper(loss_fn(model, batch)) * weight

train(loss=functools.partial(loss, weight=0.5), checkpoint=sys.argv[1])
"""


@pytest.mark.slow
def test_the_same_call_in_another_process_is_the_same_run(tmp_path):
    for hash_seed, expected in (("1", ""), ("2", "after step 6 of 6")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
        done = subprocess.run(
            [sys.executable, "-c", RESUME_IN_ANOTHER_PROCESS, tmp_path / "run.pt"],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_settings_from_numpy_are_kept_like_others(tmp_path, number):
    options = {
        "lr": number(0.01), "clip_norm": number(1), "weight_decay": number(0.5), "warmup": number(0.5),
        "autocast": np.bool_(False), "steps": np.int64(4), "batch_size": np.int32(8), "seed": np.uint8(3),
    }  # fmt: skip
    weights, _ = train(checkpoint=tmp_path / "run.pt", **options)
    again, history = train(checkpoint=tmp_path / "run.pt", **options)
    assert_same(again, weights)
    assert len(history) == 4
    plain = {name: value.item() for name, value in options.items()}
    assert_same(train(checkpoint=tmp_path / "run.pt", **plain)[0], weights)


def test_a_state_comes_back_as_it_was(tmp_path):
    shared = torch.randn(3, 4)
    state = {
        "tensors": [shared, shared, shared[1], torch.tensor(7), torch.zeros(0, 3), torch.ones(2, dtype=torch.bfloat16)],
        "layout": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "tied": nn.Linear(2, 2).state_dict(),
        "numbers": (1, -2.5, True, None, math.inf), "text": "größer", "by number": {0: {"step": 1}, 1: []},
    }  # fmt: skip
    save_checkpoint(tmp_path / "run.pt", state)
    again = load_checkpoint(tmp_path / "run.pt")
    for name in ("tensors", "layout", "tied"):
        torch.testing.assert_close(again.pop(name), state.pop(name), rtol=0, atol=0)
    assert again == state
    save_checkpoint(tmp_path / "run.pt", {"accuracy": np.float64(0.9), "count": np.int64(3)})
    assert load_checkpoint(tmp_path / "run.pt") == {"accuracy": 0.9, "count": 3}


@pytest.mark.parametrize("value", [np.zeros(3), {1.5: 2}, [object()], {"deep": ({1, 2},)}, torch])
def test_a_state_that_cannot_be_kept_is_refused_and_the_old_file_stays(tmp_path, value):
    save_checkpoint(tmp_path / "run.pt", {"step": 1})
    with pytest.raises(TypeError, match=r"state\['value'\].* must be a tensor, a number, text"):
        save_checkpoint(tmp_path / "run.pt", {"value": value})
    assert load_checkpoint(tmp_path / "run.pt") == {"step": 1}


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda model: torch.compile(model, backend="eager"),
        compiled_in_place,
        nn.DataParallel,
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    ],
    ids=["compiled", "compiled in place", "data parallel", "both"],
)
def test_a_wrapped_model_and_the_plain_one_share_a_checkpoint(tmp_path, wrapped):
    plain, _ = train(checkpoint=tmp_path / "plain.pt")
    train(wrapped(network()), checkpoint=tmp_path / "wrapped.pt")
    assert load_checkpoint(tmp_path / "wrapped.pt")["model"].keys() == plain.keys()
    assert_same(train(checkpoint=tmp_path / "wrapped.pt")[0], load_checkpoint(tmp_path / "wrapped.pt")["model"])
    model = network()
    train(wrapped(model), checkpoint=tmp_path / "plain.pt")
    assert_same(model.state_dict(), plain)


def test_a_model_with_one_compiled_part_shares_a_checkpoint_with_the_plain_one(tmp_path):
    plain, _ = train(checkpoint=tmp_path / "run.pt")
    model = network()
    model[0] = torch.compile(model[0], backend="eager")
    train(model, checkpoint=tmp_path / "run.pt")
    assert torch.equal(model[0].weight, plain["0.weight"])


def test_weights_in_a_checkpoint_lie_as_other_files_want_them(tmp_path):
    from safetensors.torch import save

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    pictures = torch.rand(8, 3, 3, 3)

    def loss(model, batch):
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        return model(batch).square().mean()

    fit(model, loss, pictures, lr=1e-3, steps=2, checkpoint=tmp_path / "run.pt", device="cpu", progress=False)
    weights = load_checkpoint(tmp_path / "run.pt")["model"]
    assert all(weight.is_contiguous() for weight in weights.values())
    save(weights)


def test_the_home_folder_and_folders_that_are_not_there_yet_may_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    weights, _ = train(checkpoint="~/new/runs/a.pt")
    assert_same(load_checkpoint("~/new/runs/a.pt")["model"], weights)
    assert (tmp_path / "new" / "runs" / "a.pt").is_file()
    assert not (tmp_path / "~").exists()


# --- two runs at once ------------------------------------------------------------------------------------------------


def test_a_second_run_with_the_same_checkpoint_is_refused_while_the_first_is_running(tmp_path):
    refusals = []

    def second(model, step):
        with pytest.raises(RuntimeError, match=r"run\.pt is in use by another run; .* a checkpoint of its own") as info:
            train(checkpoint=tmp_path / "run.pt")
        refusals.append(info)

    calm, _ = train()
    weights, _ = train(callback=second, callback_every=2, checkpoint=tmp_path / "run.pt")
    assert len(refusals) == 3
    assert_same(weights, calm)
    train(checkpoint=tmp_path / "run.pt")


HOLDING = """
import sys, time
from PIL import Image
from small_training import *
def waiting(model, step):
    print(step, flush=True)
    time.sleep(60)
train(checkpoint=sys.argv[1], steps=6, callback_every=2, callback=waiting)
"""


@pytest.mark.slow
def test_the_hold_on_a_checkpoint_ends_with_its_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, tmp_path / "run.pt"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "2\n"
        with pytest.raises(RuntimeError, match="in use by another run"):
            train(checkpoint=tmp_path / "run.pt")
        process.kill()
    assert_same(train(checkpoint=tmp_path / "run.pt")[0], train()[0])


@pytest.mark.slow
def test_nothing_of_windows_or_unix_alone_is_imported():
    code = "import sys; sys.modules['fcntl'] = None; import vlmcourse; vlmcourse.fit, vlmcourse.load_vlm"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=HERE.parents[1])


# --- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_refused_and_left_alone(tmp_path, share):
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    cut = path.read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt cannot be used: it is damaged, cut short.*left as it is"):
        train(checkpoint=path)
    assert path.read_bytes() == cut


def test_a_single_wrong_bit_in_the_weights_is_noticed(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"weights": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(500.0, 503.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        load_checkpoint(path)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, network().state_dict())
    with pytest.raises(ValueError, match="was not written by fit"):
        train(checkpoint=path)
    path.write_text("notes of the day")
    with pytest.raises(ValueError, match="no checkpoint"):
        train(checkpoint=path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no checkpoint"):
        train(checkpoint=path)


class Trap:
    """An object whose pickle runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_reading_a_checkpoint_executes_no_code(tmp_path, monkeypatch):
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "run.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with monkeypatch.context() as patched:  # somebody who also writes a fitting checksum
        patched.setattr(checkpoints, "_plain", lambda value, name: value)
        save_checkpoint(tmp_path / "forged.pt", {"model": Trap(tmp_path / "sprung")})
    for name in ("run.pt", "raw.pt", "forged.pt"):
        with pytest.raises(ValueError, match="cannot be used"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_file_much_larger_than_the_run_needs_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    with open(path, "r+b") as file:
        file.truncate(2**40)  # takes no room on the disk, and does not fit into any memory
    with pytest.raises(ValueError, match=r"cannot be used: .*it has 1099511627776 bytes"):
        train(checkpoint=path)


def test_a_file_that_unpacks_to_more_than_it_holds_is_refused_without_unpacking(tmp_path):
    from vlmcourse.train.checkpoints import _checksum

    whole, packed = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(2**20)}}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    content = packed.getvalue()
    assert len(content) < 2**16
    (tmp_path / "run.pt").write_bytes(_checksum(content) + content)
    with pytest.raises(ValueError, match="it unpacks to more than it holds"):
        load_checkpoint(tmp_path / "run.pt")


def test_a_file_that_holds_a_list_is_no_checkpoint(tmp_path):
    from vlmcourse.train.checkpoints import _checksum

    file = io.BytesIO()
    torch.save([1, 2], file)
    (tmp_path / "run.pt").write_bytes(_checksum(file.getvalue()) + file.getvalue())
    with pytest.raises(ValueError, match="it holds a list"):
        load_checkpoint(tmp_path / "run.pt")


@pytest.mark.parametrize("missing", ["model", "optimizer", "step", "history", "configuration", "loss"])
def test_a_checkpoint_that_lacks_something_is_one_clear_error(tmp_path, missing):
    train(checkpoint=tmp_path / "run.pt")
    state = load_checkpoint(tmp_path / "run.pt")
    del state[missing]
    save_checkpoint(tmp_path / "run.pt", state)
    with pytest.raises(ValueError, match=r"run\.pt was not written by fit: it holds .* try another name"):
        train(checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_one_clear_error_however_it_is_damaged(tmp_path, count):
    path = tmp_path / "run.pt"
    torch.manual_seed(0)
    train(nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)), steps=3, checkpoint=path)
    whole, dice = path.read_bytes(), random.Random(count)
    header = 8 + int.from_bytes(whole[:8], "little")
    read = 0
    for _ in range(count):
        damaged = mutated(whole, dice, header)
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            read += 1
            assert state.keys() == {"model", "optimizer", "step", "history", "configuration", "dataset", "loss",
                                    "choice of what learns"}  # fmt: skip
    assert read < count / 10


def mutated(content, dice, header):
    """Return bytes with one to three faults: changed, cut, moved, doubled or overwritten, in the header or anywhere."""
    content = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        content = content or bytearray(1)
        end = dice.choice((8, header, len(content)))
        place, length = dice.randrange(min(end, len(content))), dice.choice((1, 1, 2, 8, 100))
        kind = dice.randrange(6)
        if kind == 0:
            content[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            content[place : place + length] = dice.randbytes(length)
        elif kind == 2:
            del content[place : place + length]
        elif kind == 3:
            content[place:place] = content[place : place + length]
        elif kind == 4:
            content[place : place + length] = dice.choice((b"0", b"9", b"-", b"null", b"{}", b"[]", b'"', b"1e999"))
        else:
            content = content[: max(place, 1)]
    return bytes(content)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a file larger than this cannot be written
    try:
        with pytest.raises(OSError, match=r"could not write .*untouched; free some space"):
            save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_folder_that_cannot_be_written_is_noticed_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"could not write .*run\.pt .*nothing was written"):
        train(loss=never, checkpoint=tmp_path / "file" / "run.pt")
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match="try another folder"):
            train(loss=never, checkpoint=tmp_path / "run.pt")


def test_a_state_that_cannot_be_kept_is_noticed_before_the_first_step(tmp_path):
    class WithExtra(nn.Linear):
        def get_extra_state(self):
            return Trap(tmp_path / "sprung")

    with pytest.raises(TypeError, match=r"_extra_state.* received Trap"):
        train(WithExtra(2, 1), lambda model, batch: 1 / 0, torch.randn(4, 2), checkpoint=tmp_path / "run.pt")


def test_checkpoints_of_one_name_do_not_disturb_those_of_another(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"step": 1})
    (tmp_path / ".b.pt.123.tmp").write_text("being written by another run")
    save_checkpoint(tmp_path / "a.pt", {"step": 2})
    assert (tmp_path / ".b.pt.123.tmp").exists()
    assert load_checkpoint(tmp_path / "a.pt") == {"step": 2}


def test_a_buffer_may_hold_infinity_and_not_nan(tmp_path):
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    fit(model, loss_fn, pictures(), lr=1e-3, steps=2, checkpoint=tmp_path / "run.pt", **QUIET)
    model.mask[0] = math.nan
    with pytest.raises(FloatingPointError, match="weights are not finite"):
        fit(model, loss_fn, pictures(), lr=1e-3, steps=2, **QUIET)


def test_the_memory_of_a_resumed_optimizer_lies_as_its_weights_do(tmp_path, monkeypatch):
    strides = []
    made = loop._make_optimizer

    def watched(*arguments):
        optimizer = made(*arguments)
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: strides.append(
                {(weight.stride(), memory["exp_avg"].stride()) for weight, memory in optimizer.state.items()}
            )
        )
        return optimizer

    monkeypatch.setattr(loop, "_make_optimizer", watched)
    train(checkpoint=tmp_path / "run.pt", steps=2)
    train(checkpoint=tmp_path / "run.pt", steps=4)
    assert len(strides) == 4
    assert strides[2]  # the first step after resuming
    assert all(one == other for pairs in strides for one, other in pairs)


def test_a_stage_that_began_with_other_weights_is_not_continued(tmp_path):
    asked = questions(8, seed=0, kinds="describe", image_size=16)
    options = {"embed_dim": 8, "device": "cpu", "progress": False, "checkpoint": tmp_path / "run.pt"}
    encoder = ConvEncoder(width=2)
    model, _ = train_vlm(encoder, asked, steps={"connector": 2, "joint": 2}, **options)
    again, _ = train_vlm(encoder, asked, steps={"connector": 2, "joint": 2}, **options)
    assert_same(again.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"run-joint\.pt belongs to another loss \(began_with"):
        train_vlm(encoder, asked, steps={"connector": 4, "joint": 2}, **options)
    with pytest.raises(ValueError, match=r"run-connector\.pt belongs to another loss \(began_with"):
        train_vlm(ConvEncoder(width=2), asked, steps={"connector": 4, "joint": 2}, **options)


def test_two_threads_may_write_one_file_and_a_link_stays_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "run.pt"
    link.symlink_to(tmp_path / "scratch" / "run.pt")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: save_checkpoint(link, {"k": k}), range(32)))
    assert link.is_symlink()
    assert load_checkpoint(tmp_path / "scratch" / "run.pt")["k"] in range(32)
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["run.pt"]
