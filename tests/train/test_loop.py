"""The training loop: what it computes, and what it says when something is wrong."""

import itertools
import math
import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_training import CLASSES, QUIET, N, assert_same, loss_fn, network, pictures, train
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)  # fmt: skip

from vlmcourse.data import scenes
from vlmcourse.train._surroundings import has_bfloat16
from vlmcourse.train.checkpoints import load_checkpoint
from vlmcourse.train.loop import batch_of_step, fit, warmup_cosine
from vlmcourse.train.runtime import seed_everything

HERE = Path(__file__).parent


# --- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fit_equals_the_loop_written_out(optimizer):
    x, y = torch.randn(12, 3), torch.randn(12, 1)
    mine, reference = nn.Linear(3, 1), nn.Linear(3, 1)
    reference.load_state_dict(mine.state_dict())
    groups = [{"params": [reference.weight], "weight_decay": 0.1}, {"params": [reference.bias], "weight_decay": 0.0}]
    kinds = {"adamw": torch.optim.AdamW, "sgd": lambda g, lr: torch.optim.SGD(g, lr, momentum=0.9, nesterov=True)}
    optimiser = kinds[optimizer](groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: (s + 1) / 4 if s < 4 else (1 + math.cos(math.pi * (s - 4) / 16)) / 2
    )
    losses = []
    for _ in range(20):
        loss = (reference(x) - y).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimiser.step()
        schedule.step()
    history = fit(
        mine, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), (x, y), epochs=20, batch_size=12,
        lr=0.1, optimizer=optimizer, weight_decay=0.1, warmup=4, clip_norm=0.5, autocast=False, **QUIET,
    )  # fmt: skip
    torch.testing.assert_close(mine.state_dict(), reference.state_dict())
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-4)


@pytest.mark.parametrize(
    "stored",
    [lambda: torch.zeros(4, 6)[:, ::2], lambda: torch.zeros(3, 4).t(), lambda: torch.zeros(4, 3, dtype=torch.cfloat)],
    ids=["with gaps", "columns first", "complex"],
)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_weights_move_as_pytorch_moves_them_one_by_one_however_they_are_stored(device, stored, optimizer):
    target = torch.randn(4, 3, dtype=stored().dtype).to(device)

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(stored())

        def forward(self):
            return (self.weight - target).abs().square().sum()

    mine, reference = Table().to(device), Table().to(device)
    options = {"momentum": 0.9, "nesterov": True} if optimizer is torch.optim.SGD else {}
    one_by_one = optimizer(reference.parameters(), lr=0.1, weight_decay=0.1, foreach=False, **options)
    for step in range(5):
        one_by_one.param_groups[0]["lr"] = 0.1 * warmup_cosine(step, steps=5)
        one_by_one.zero_grad()
        reference().backward()
        one_by_one.step()
    fit(
        mine, lambda model, batch: model(), torch.zeros(8, 1), steps=5, batch_size=8, lr=0.1, weight_decay=0.1,
        warmup=0, optimizer=optimizer.__name__.lower(), autocast=False, device=device, progress=False,
    )  # fmt: skip
    torch.testing.assert_close(mine.weight, reference.weight)


def test_the_rate_warms_up_to_one_and_ends_near_zero():
    rates = [warmup_cosine(step, steps=100, warmup=10) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_history_has_a_row_for_each_step_with_rate_metrics_and_seconds():
    def with_metric(model, batch):
        logits = model(batch[0])
        return F.cross_entropy(logits, batch[1]), {"accuracy": (logits.argmax(1) == batch[1]).float().mean(), "two": 2}

    _, history = train(loss=with_metric, steps=25, warmup=5)
    assert list(history.columns) == ["step", "loss", "lr", "accuracy", "two", "seconds"]
    assert history["step"].tolist() == list(range(1, 26))
    assert history["lr"].tolist() == [1e-2 * warmup_cosine(step, steps=25, warmup=5) for step in range(25)]
    assert history["accuracy"].between(0, 1).all()
    assert (history["two"] == 2).all()
    assert history["seconds"].is_monotonic_increasing
    assert history["loss"].notna().all()


def test_a_metric_that_is_a_weight_is_recorded_as_it_was_in_its_step():
    seen = []

    def with_metric(model, batch):
        seen.append(model.bias.item())
        return (model(batch[0]) - 1).square().mean(), {"bias": model.bias, "before": model.bias.double()}

    history = fit(nn.Linear(2, 1), with_metric, (torch.rand(8, 2),), lr=0.1, steps=12, batch_size=8, **QUIET)
    assert len(set(seen)) == 12
    assert history["bias"].tolist() == history["before"].tolist() == seen


@pytest.mark.parametrize("number", ["much", None, torch.zeros(3)])
def test_a_metric_that_is_no_number_is_named(number):
    with pytest.raises(TypeError, match=r"metric 'mine' must be one number, received .*; try \.mean"):
        train(loss=lambda m, b: (loss_fn(m, b), {"mine": number}))


def test_parameters_that_no_step_would_move_are_refused_by_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, model, batch):
            return self.scale * loss_fn(model, batch)

    with pytest.raises(ValueError, match=r"part of model, .* but loss_fn\.scale would never move"):
        train(loss=Scaled())
    train(loss=Scaled().requires_grad_(False))
    model = network()
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"model\.0\.weight, model\.0\.bias would never move; .*after unfreezing"):
        train(model, callback=lambda model, step: model[0].requires_grad_(True) and None, callback_every=2)


def test_a_loss_that_calls_another_network_is_refused_and_moves_nothing():
    model, other = network(), network()
    before = [p.detach().clone() for p in (*model.parameters(), *other.parameters())]
    with pytest.raises(ValueError, match=r"depends on the model that fit hands to it, .* reach none of its param"):
        train(model, lambda _, batch: loss_fn(other, batch))
    assert all(map(torch.equal, before, (*model.parameters(), *other.parameters())))
    second = nn.ModuleList([model, other])  # not every part has to be in every loss
    train(second, lambda both, batch: loss_fn(both[1], batch))


def test_a_callback_is_also_called_after_the_last_step():
    called = []
    train(steps=5, callback=lambda model, step: called.append(step), callback_every=2)
    assert called == [2, 4, 5]


def test_an_epoch_shows_every_example_once_in_batches_of_nearly_one_size():
    for n, batch_size, sizes in ((10, 4, [4, 3, 3]), (9, 4, [3, 3, 3]), (3, 256, [3]), (8, 4, [4, 4]), (1, 1, [1])):
        for epoch in range(3):
            batches = [batch_of_step(epoch * len(sizes) + i, n=n, batch_size=batch_size) for i in range(len(sizes))]
            assert [len(batch) for batch in batches] == sizes
            assert sorted(torch.cat(batches).tolist()) == list(range(n))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(epoch, seed):
        return batch_of_step(epoch, n=101, batch_size=101, seed=seed).tolist()

    orders = [order(epoch, seed) for epoch in range(3) for seed in range(3)]
    assert len({tuple(o) for o in orders}) == 9
    torch.manual_seed(5)
    assert order(1, 1) == orders[4]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: warmup_cosine(10, steps=6), ValueError, "step must lie between 0 and steps - 1 = 5, received 10"),
        (lambda: warmup_cosine(-3, steps=6), ValueError, "step must lie between 0 and steps - 1 = 5, received -3"),
        (lambda: batch_of_step(-1, n=10, batch_size=4), ValueError, "step must be at least 0, received -1"),
        (lambda: batch_of_step(0, n=0, batch_size=4), ValueError, "n must be at least 1, received 0"),
        (lambda: batch_of_step(0, n=10, batch_size=2.5), TypeError, "batch_size must be an integer, received 2.5"),
    ],
)
def test_a_step_or_a_size_that_there_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_epochs_count_passes_over_the_data():
    seen = []

    def watching(model, batch):
        seen.extend(batch[1].tolist())
        return loss_fn(model, batch)

    _, history = train(loss=watching, data=(pictures()[0], torch.arange(N) % CLASSES), steps=None, epochs=2)
    assert len(history) == 2 * 3
    assert sorted(seen) == sorted(2 * pictures()[1].tolist())


def test_pictures_stay_uint8_until_the_batch_and_arrive_between_0_and_1():
    batches = []

    def watching(model, batch):
        batches.append(batch)
        return F.cross_entropy(model(batch[0]), batch[2])

    images, labels = pictures()
    masks = torch.randint(256, (N, 8, 8), dtype=torch.uint8)
    train(loss=watching, data=(images, masks, labels), steps=1, batch_size=N)
    order = batch_of_step(0, n=N, batch_size=N)
    got_images, got_masks, got_labels = batches[0]
    assert torch.equal(got_images, images[order].float() / 255)
    assert got_images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got_masks, masks[order])
    assert got_masks.dtype == torch.uint8
    assert torch.equal(got_labels, labels[order])
    assert images.dtype == torch.uint8


def test_data_may_be_a_tensor_a_tuple_or_a_dataset_and_keeps_its_form():
    images, labels = pictures()
    forms = []

    def watching(model, batch):
        forms.append(type(batch) if isinstance(batch, torch.Tensor) else [type(part) for part in batch])
        return model(batch if isinstance(batch, torch.Tensor) else batch[0]).float().square().mean()

    for data in (images, (images, labels), [images], SimpleNamespace(images=images, labels=labels),
                 SimpleNamespace(images=images, labels=None)):  # fmt: skip
        train(loss=watching, data=data, steps=1)
    tensor = torch.Tensor
    assert forms == [tensor, [tensor, tensor], [tensor], [tensor, tensor], tensor]


def test_only_the_first_tensor_of_a_batch_is_taken_for_pictures():
    batches = []

    def watching(model, batch):
        batches.append(batch)
        return F.cross_entropy(model(batch[0]), batch[2])

    images, labels = pictures()
    masks = torch.randint(3, (N, 1, 8, 8), dtype=torch.uint8)
    train(loss=watching, data=(images, masks, labels), steps=1, batch_size=N)
    assert torch.equal(batches[0][1], masks[batch_of_step(0, n=N, batch_size=N)])


class Examples(Dataset):
    """The same pictures one by one, shifted by a random number each."""

    def __init__(self, noise=0.0):
        self.images, self.labels = pictures()
        self.noise = noise

    def __len__(self):
        return N

    def __getitem__(self, index):
        noise = self.noise * (torch.randn(1) + random.random() + np.random.rand())
        return self.images[index].float() / 255 + noise, self.labels[index]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TensorDataset(*pictures()),
        Examples,
        lambda: DataLoader(TensorDataset(*pictures()), batch_size=8, shuffle=True),
        lambda: DataLoader(Examples(), batch_size=8, num_workers=2),
        lambda: DataLoader(Subset(Examples(), range(N)), batch_size=8),
    ],
    ids=["tensor dataset", "dataset", "loader", "loader with workers", "loader of a subset"],
)
def test_a_dataset_and_a_loader_train_to_the_weights_of_their_tensors(make):
    weights, history = train()
    batch_size = None if isinstance(make(), DataLoader) else 8
    other, other_history = train(data=make(), batch_size=batch_size)
    assert_same(other, weights)
    assert other_history["loss"].tolist() == history["loss"].tolist()


def test_random_examples_depend_on_seed_and_step_and_not_on_workers_or_where_a_run_was_resumed(tmp_path, monkeypatch):
    weights, _ = train(data=Examples(noise=0.1))
    for workers in (0, 1, 2):
        loader = DataLoader(Examples(noise=0.1), batch_size=8, num_workers=workers)
        assert_same(train(data=loader, batch_size=None)[0], weights)
    assert not torch.equal(train(data=Examples(noise=0.1), seed=1)[0]["0.weight"], weights["0.weight"])
    with monkeypatch.context() as patched:
        left = [1] * 4  # the run dies in the middle of its second epoch
        patched.setattr(F, "cross_entropy", lambda *arguments, f=F.cross_entropy: left.pop() * f(*arguments))
        with pytest.raises(IndexError):
            train(data=Examples(noise=0.1), checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    assert load_checkpoint(tmp_path / "run.pt")["step"] == 4
    assert_same(train(data=Examples(noise=0.1), checkpoint=tmp_path / "run.pt")[0], weights)
    with pytest.raises(ValueError, match=r"another dataset \(noise: 0\.1 there, 0\.2 here\)"):
        train(data=Examples(noise=0.2), checkpoint=tmp_path / "run.pt")


def test_a_loader_keeps_its_batch_size_and_the_form_that_its_collate_function_gives():
    forms = []

    def watching(model, batch):
        forms.append((list(batch), batch["image"].shape, batch["name"]))
        return F.cross_entropy(model(batch["image"]), batch["label"])

    class Named(Examples):
        def __getitem__(self, index):
            return {"name": f"no. {index}", "image": self.images[index], "label": self.labels[index]}

    train(loss=watching, data=DataLoader(Named(), batch_size=12), batch_size=None, steps=1)
    ((keys, shape, names),) = forms
    assert keys == ["name", "image", "label"]
    assert shape == (12, 3, 8, 8)
    assert names == [f"no. {index}" for index in batch_of_step(0, n=N, batch_size=12)]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(pictures())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda: DataLoader(Examples(), batch_size=4), ValueError, "left to the DataLoader, which has 4, received 8"),
        (Stream, TypeError, "an order of its own, received a DataLoader of Stream"),
        (lambda: DataLoader(Stream(), batch_size=8), TypeError, "received a DataLoader of Stream"),
        (lambda: DataLoader(Examples(), batch_size=None), TypeError, "batch_size=None; try DataLoader"),
        (
            lambda: DataLoader(Examples(), batch_size=8, sampler=WeightedRandomSampler([1.0] * N, N)),
            TypeError, "with WeightedRandomSampler",
        ),
        (
            lambda: DataLoader(Examples(), batch_size=8, sampler=RandomSampler(Examples(), replacement=True)),
            TypeError, "with RandomSampler",
        ),
        (
            lambda: DataLoader(Examples(), batch_size=8, sampler=RandomSampler(Examples(), num_samples=4)),
            TypeError, "with RandomSampler",
        ),
        (lambda: Subset(Examples(), []), ValueError, "at least one example, received an empty Subset"),
        (lambda: SimpleNamespace(images=["a.png"]), TypeError, "received SimpleNamespace"),
    ],
)  # fmt: skip
def test_data_that_fit_cannot_put_in_order_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        train(data=data())


def test_channels_last_and_a_compiled_model_change_the_speed_and_not_the_result():
    # SGD, because AdamW divides by the gradient's size: it would magnify the rounding of the bias before BatchNorm,
    # whose gradient is zero but for rounding. No dropout, because its mask follows the order in memory.
    def trained(wrapped=lambda model: model, **options):
        model = network()
        model[3] = nn.Identity()
        train(wrapped(model), autocast=False, optimizer="sgd", **options)
        return model.state_dict()

    plain = trained(channels_last=False)
    for other in (trained(channels_last=True), trained(lambda model: torch.compile(model, backend="eager"))):
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


FEW_CHANNELS = """
import sys
import torch
from torch import nn
from vlmcourse.models.cnn import ConvEncoder
from vlmcourse.train.loop import fit

networks = {f"ConvEncoder of width {width}": ConvEncoder(width=width) for width in (1, 2, 3, 6)}
networks["one's own"] = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
)
images = torch.rand(32, 3, 16, 16).contiguous(memory_format=torch.channels_last)
for name, network in networks.items():
    print(name, flush=True)
    fit(network, lambda model, batch: model(batch).square().mean(), images, lr=1e-3, steps=20, batch_size=16,
        device="cpu", progress=False)
print("all trained")
"""  # PyTorch's kernel for strided 1 × 1 convolutions of few channels, stored last, crashes or hangs: see CHANGELOG


CAPABILITIES = {
    "as it is": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX": {"ONEDNN_MAX_CPU_ISA": "AVX", "ATEN_CPU_CAPABILITY": "default"},
}
if torch.backends.cpu.get_cpu_capability() == "AVX2" and "ATEN_CPU_CAPABILITY" not in os.environ:
    del CAPABILITIES["AVX2"]  # as it is


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("capability", CAPABILITIES.values(), ids=CAPABILITIES)
def test_convolutions_of_few_channels_train_without_a_crash(capability, threads):
    environment = {**os.environ, **capability, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", FEW_CHANNELS], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.endswith("all trained\n")


def test_weights_are_contiguous_after_training_as_files_of_weights_must_have_them(tmp_path):
    model = network()
    formats = []

    def watching(model, batch):
        formats.append(model[0].weight.is_contiguous(memory_format=torch.channels_last))
        return loss_fn(model, batch)

    train(model, watching)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert formats == [True] * 6
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    with pytest.raises(ZeroDivisionError):
        train(model, lambda model, batch: 1 / 0)
    assert model[0].weight.is_contiguous()
    assert model[0].weight.grad.is_contiguous()


def test_channels_last_leaves_models_with_3d_convolutions_alone():
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 8, 1))
    clips = torch.randint(256, (5, 1, 4, 4, 4), dtype=torch.uint8)
    train(model, lambda model, batch: model(batch).float().square().mean(), clips)


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this CPU only emulates bfloat16")
def test_autocast_computes_the_model_in_bfloat16_and_the_loss_in_float32():
    dtypes = []

    def watching(model, batch):
        logits = model(batch[0])
        dtypes.append(logits.dtype)
        return F.cross_entropy(logits, batch[1])

    weights, _ = train(loss=watching, steps=1)
    train(loss=watching, steps=1, autocast=False)
    assert dtypes == [torch.bfloat16, torch.float32]
    assert weights["0.weight"].dtype == torch.float32


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, _ = train(seed=1)
    torch.manual_seed(99)
    assert_same(train(seed=1)[0], one)
    assert not torch.equal(train(seed=2)[0]["0.weight"], one["0.weight"])


def test_the_callers_random_state_and_training_mode_are_left_as_they_were():
    model = network().eval()
    model[1].train()
    drawn = []
    for between in (lambda: None, lambda: train(model)):
        seed_everything(5)
        between()
        drawn.append((torch.rand(1), random.random(), np.random.rand()))
    assert drawn[0] == drawn[1]
    assert [module.training for module in model] == [False, True, False, False, False, False]


def test_a_frozen_part_does_not_move_and_neither_do_its_batchnorm_statistics():
    model = network()
    frozen = model[:2].requires_grad_(False)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    head = model[5].weight.clone()
    train(model, callback=lambda model, step: model.train() and None, callback_every=1)
    assert_same(frozen.state_dict(), before)
    assert not torch.equal(model[5].weight, head)


def test_a_callback_adds_columns_and_cannot_disturb_the_training():
    def callback(model, step):
        model.eval()
        return {"norm": model[0].weight.norm(), "noise": torch.rand(1).item()} if step != 6 else None

    calm, _ = train()
    weights, history = train(callback=callback, callback_every=2)
    assert_same(weights, calm)
    assert history["norm"].notna().tolist() == [False, True, False, True, False, False]


def test_weights_that_are_shared_stay_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.there, self.back = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
            self.back.weight = self.there.weight

        def forward(self, x):
            return self.there(x) @ self.back.weight

    torch.manual_seed(0)
    model = Tied()
    before = model.there.weight.detach().clone()
    train(model, lambda model, batch: (model(batch) - batch).square().mean(), torch.randn(8, 4))
    assert model.there.weight is model.back.weight
    assert not torch.equal(model.there.weight, before)


# --- when something goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_advice_and_spares_the_checkpoint(tmp_path, value):
    steps = []

    def breaking(model, batch):
        steps.append(None)
        return loss_fn(model, batch) * (value if len(steps) == 5 else 1)

    with pytest.raises(FloatingPointError, match=rf"loss is {value} at step 5.*lr.*warmup.*autocast=False"):
        train(loss=breaking, checkpoint=tmp_path / "run.pt", checkpoint_every=4, steps=100)
    assert len(steps) < 20
    kept = load_checkpoint(tmp_path / "run.pt")
    assert kept["step"] == 4
    assert all(t.isfinite().all() for t in kept["model"].values())


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path):
    steps = []

    def finite_loss_of_nan_gradient(model, batch):
        steps.append(None)
        zero = model[0].weight.sum() * 0  # the square root has an infinite slope at zero
        return loss_fn(model, batch) + (zero.square().sqrt() if len(steps) == 4 else 0)

    with pytest.raises(FloatingPointError, match="weights are not finite after step 4"):
        train(loss=finite_loss_of_nan_gradient, checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    kept = load_checkpoint(tmp_path / "run.pt")
    assert kept["step"] == 2
    assert all(t.isfinite().all() for t in kept["model"].values())
    steps.clear()
    with pytest.raises(FloatingPointError, match="weights are not finite after step 4"):
        train(loss=finite_loss_of_nan_gradient, steps=4)


@pytest.mark.parametrize(
    ("batch_size", "advice"), [(23, "try batch_size=8"), (2, "batch_size=1"), (1, "smaller images")]
)
def test_out_of_memory_says_which_batch_size_to_try(batch_size, advice):
    def too_large(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(MemoryError, match=rf"batch_size={batch_size}.*{advice}"):
        train(loss=too_large, batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, received 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"lr": 0}, ValueError, "lr must be a finite number above zero, .*, received 0"),
        ({"lr": -1e-3}, ValueError, "lr must be"),
        ({"lr": math.nan}, ValueError, "lr must be"),
        ({"lr": "fast"}, TypeError, "lr must be a number"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": None}, ValueError, "either steps or epochs"),
        ({"epochs": 3}, ValueError, "either steps or epochs"),
        ({"steps": None, "epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"optimizer": "lion"}, ValueError, "'adamw' or 'sgd', received 'lion'"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
        ({"weight_decay": None}, ValueError, "weight_decay must be a finite number of at least 0, received None"),
        ({"warmup": None}, TypeError, "warmup must be an integer, received None"),
        ({"warmup": True}, TypeError, "warmup must be an integer, received True"),
        ({"optimizer": ["adamw"]}, ValueError, "optimizer must be 'adamw' or 'sgd'"),
        ({"warmup": 6}, ValueError, "warmup must lie between 0 and steps - 1 = 5"),
        ({"warmup": 1.0}, ValueError, r"warmup as a float .* received 1.0"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
        ({"callback_every": 0}, ValueError, "callback_every must be at least 1"),
        ({"seed": 1.5}, TypeError, "seed must be an integer"),
        ({"data": torch.zeros(0, 3, 8, 8)}, ValueError, r"at least one example, received shapes \[\(0, 3, 8, 8\)\]"),
        ({"data": ()}, ValueError, "at least one example"),
        ({"data": torch.tensor(1.0)}, ValueError, "at least one example"),
        (
            {"data": (torch.zeros(3, 1), torch.zeros(2))},
            ValueError,
            r"one length .* shapes \[\(3, 1\), \(2,\)\]",
        ),
        ({"data": np.zeros((3, 2))}, TypeError, "received ndarray; try torch.from_numpy"),
        ({"data": "digits"}, TypeError, "received str"),
        ({"model": nn.ReLU()}, ValueError, "parameters to train, received ReLU without any"),
        ({"model": nn.Linear(2, 1).requires_grad_(False)}, ValueError, "2 parameters, all frozen"),
        ({"loss": lambda m, b: m(b[0])}, ValueError, r"a scalar, received shape \(8, 5\); try .mean"),
        ({"loss": lambda m, b: loss_fn(m, b).item()}, TypeError, "must return a tensor.* received float"),
        ({"loss": lambda m, b: loss_fn(m, b).detach()}, ValueError, "without a gradient; look for .item"),
        ({"loss": lambda m, b: m(b[0]).bfloat16().sum()}, TypeError, "received torch.bfloat16"),
        ({"loss": lambda m, b: (loss_fn(m, b), {"lr": 1})}, ValueError, r"other names .* received \['lr'\]"),
        ({"loss": lambda m, b: (loss_fn(m, b), 3)}, TypeError, "dictionary of metrics"),
        ({"callback": lambda m, s: 3}, TypeError, "callback must return None or a dictionary"),
        ({"callback": lambda m, s: {"loss": 3}}, ValueError, r"other names .* received \['loss'\]"),
    ],
)
def test_bad_input_is_refused_with_one_clear_message(options, error, message):
    with pytest.raises(error, match=message):
        train(**options)


def test_no_warning_is_raised_by_a_plain_run(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(checkpoint=tmp_path / "run.pt")


def test_the_progress_bar_shows_the_loss_and_can_be_switched_off(capsys):
    train(progress=True, steps=10)
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "loss=" in shown
    train(progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.cuda
def test_data_that_does_not_fit_the_gpu_stays_on_the_cpu_and_trains_the_same(monkeypatch):
    # AdamW would divide rounding errors by themselves where a gradient is zero, as before a norm.
    options = {"device": "cuda", "autocast": False, "optimizer": "sgd"}
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        held, _ = train(**options)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
        streamed, _ = train(**options)
    torch.testing.assert_close(held, streamed, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
def test_cuda_trains_to_the_result_of_the_cpu_in_float32():
    def noiseless(model, batch):
        model[3].eval()  # dropout draws other numbers on another device
        return loss_fn(model, batch)

    one, _ = train(loss=noiseless, autocast=False, optimizer="sgd")
    other, _ = train(loss=noiseless, autocast=False, optimizer="sgd", device="cuda")
    torch.testing.assert_close({k: v.cpu() for k, v in other.items()}, one, rtol=1e-2, atol=1e-3)


def test_gradients_left_on_frozen_weights_are_not_clipped_with_the_others():
    def moved(left):
        seed_everything(0)
        model = network()
        model[0].requires_grad_(False)
        model[0].weight.grad = torch.full_like(model[0].weight, left)
        before = model[-1].weight.detach().clone()
        fit(model, loss_fn, pictures(), lr=0.1, steps=1, optimizer="sgd", clip_norm=1e-3, **QUIET)
        return model[-1].weight.detach() - before

    assert moved(0.0).norm() > 0
    torch.testing.assert_close(moved(100.0), moved(0.0))


def test_a_lazy_layer_is_refused_before_it_knows_its_shape_and_decays_afterwards():
    model, data = nn.LazyLinear(3, bias=False), torch.rand(8, 5)
    options = {"steps": 20, "batch_size": 8, "lr": 0.1, "weight_decay": 1.0, "device": "cpu", "progress": False}
    with pytest.raises(ValueError, match="call it once on a batch"):
        fit(model, lambda model, batch: 0 * model(batch).sum(), data, **options)
    model(data)
    before = model.weight.norm()
    fit(model, lambda model, batch: 0 * model(batch).sum(), data, **options)
    assert model.weight.norm() < before / 2


def test_no_gradient_is_left_that_would_be_added_to_the_next_one():
    model, data = nn.Linear(2, 3), torch.rand(8, 2)
    fit(model, lambda model, batch: model(batch).square().mean(), data, steps=2, batch_size=8, lr=0.1, device="cpu")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_dataset_of_clips_is_trained_on_like_its_tensors():
    film = scenes.clips(8, seed=0)
    histories = []
    for data in (film, (film.clips, film.labels)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(film.clips[0].numel(), 8))
        histories.append(train(model, loss_fn, data=data, steps=3)[1].loss.tolist())
    assert histories[0] == histories[1]


def test_a_dataset_without_a_length_is_told_what_is_needed():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield torch.rand(3)

    for data in (Endless(), DataLoader(Endless(), batch_size=2)):
        with pytest.raises(TypeError, match="a dataset that has a length and an index"):
            fit(nn.Linear(3, 1), lambda model, batch: model(batch).mean(), data, steps=1, lr=0.1, device="cpu")
