"""SimCLR on CIFAR-10 with one GPU: how fast it trains and why, how good it gets in how many seconds, beside baselines.

Usage: python -m book.experiments.simclr_cifar10 [--images FOLDER] [--slice SECONDS] [--seeds 0 1 2] [--trials NAME...]

Without a folder the images are torchvision's CIFAR-10, which is downloaded. A folder holds ``train/<class>/`` and
``test/<class>/``. Every trial is kept when it ends. With ``--slice``, a training stops after so many seconds with a
checkpoint, and the same call goes on there; the exit status is then 4. Once a trial has run with all seeds,
book/results/simclr_cifar10_<trial>.json is written. ``--small`` tries the program itself: a few images, no result.

Probes choose their penalty on validation images, and the curve is measured there too: by nearest neighbours, since a
probe of so many images takes as long as several epochs. Test images are looked at after a network's last step, and
choose nothing.
"""

import argparse
import math
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

from book.experiments.photographs import ROOT, SPLITS, Data, augmented, images, once, smooth
from vlmcourse import (
    SIMCLR_STEPS,
    LinearProbe,
    VisionTransformer,
    device,
    extract_features,
    fit,
    knn_accuracy,
    labels_per_class,
    record_result,
    seed_everything,
    train_simclr,
)
from vlmcourse.cli import UNFINISHED

KEPT = ROOT / "_build" / "simclr_cifar10"
# epochs of each training, images of a batch, looks at the validation images, steps that are timed
# 45,000 pictures make 90 batches of 500, all of one shape: a second one would be compiled anew
FULL = {"short": 100, "long": 400, "supervised": 50, "ViT": 180, "batch": 500, "looks": 10, "timed": 100}
SMALL = {"short": 2, "long": 2, "supervised": 2, "ViT": 1, "batch": 16, "looks": 2, "timed": 11}
SHARED: dict[str, Any] = {"views": SIMCLR_STEPS, "embed_dim": 128, "progress": False}
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def features(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """Return vectors without compiling the network once more, for batches of other sizes and evaluation mode."""
    with torch.compiler.set_stance("force_eager"):
        return extract_features(encoder, pictures)


class Lab:
    """The images on the device, the sizes of this call, and when it has to stop."""

    def __init__(self, data: Data, sizes: Mapping[str, int], kept: Path, deadline: float) -> None:
        self.data = {split: some.to(device()) for split, some in data.items()}
        self.sizes, self.kept, self.deadline = sizes, kept, deadline

    def stop_in_time(self) -> bool:
        """Ask for the end of this call as Ctrl-C does, with a checkpoint, once its time is over; return whether."""
        if late := monotonic() > self.deadline:
            os.kill(os.getpid(), signal.SIGINT)
        return late

    def probe(self, encoder: nn.Module | None, *, on: str) -> float:
        """Return a linear probe's accuracy on a split, with all training labels; without encoder, on pixels."""
        parts = {split: self.data[split] for split in {"train", "validation", on}}
        vectors = {
            split: some.float().flatten(1) if encoder is None else features(encoder, some.images)
            for split, some in parts.items()
        }
        labels = {split: some.labels.to(vectors[split].device) for split, some in parts.items()}
        fitted = LinearProbe(penalties=PENALTIES).fit(
            vectors["train"], labels["train"], vectors["validation"], labels["validation"]
        )
        return fitted.score(vectors[on], labels[on])

    def knn(self, encoder: nn.Module) -> float:
        """Return the accuracy of nearest neighbours on the validation images."""
        known, judged = self.data["train"], self.data["validation"]
        vectors = features(encoder, known.images), features(encoder, judged.images)
        return knn_accuracy(vectors[0], known.labels, vectors[1], judged.labels, k=min(20, len(known)))


def network(seed: int, *, compiled: bool) -> nn.Module:
    """Return ResNet-18 with the stem for small images: a 3 × 3 convolution, no pooling; a vector of 512 numbers."""
    seed_everything(seed)
    model = resnet18()
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool, model.fc = nn.Identity(), nn.Identity()
    if compiled and device().type == "cuda":
        model.compile()  # in place, so that a checkpoint does not depend on it
    return model


# --- how fast -------------------------------------------------------------------------------------------------------


def ours(lab: Lab, *, compiled: bool, **options: Any) -> float:
    """Return the images a second of our training, data and augmentation on the device."""
    steps, pictures = lab.sizes["timed"], lab.data["train"].images
    batch = min(lab.sizes["batch"], len(pictures))
    warm = steps // 2  # compilation and the choice of kernels come first
    encoder = network(0, compiled=compiled)
    _, history = train_simclr(encoder, pictures, steps=steps, batch_size=batch, **SHARED, **options)
    # Every tenth loss is read, and reading waits for the GPU: so between two of those the clock is right.
    first, last = history["seconds"][warm // 10 * 10], history["seconds"][(steps - 1) // 10 * 10]
    return batch * ((steps - 1) // 10 * 10 - warm // 10 * 10) / (last - first)


def lightlys(lab: Lab) -> float | None:
    """Return the images a second of lightly's loop as its documentation shows it; None where lightly is missing.

    Images are augmented one by one on the CPU, by as many workers as there are cores, and trained on in float32.
    """
    try:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform
    except ImportError:
        return None
    pictures = lab.data["train"].images.cpu().permute(0, 2, 3, 1).numpy()
    batch, where = min(lab.sizes["batch"], len(pictures)), device()  # with drop_last a larger one would have no step
    views = SimCLRTransform(input_size=pictures.shape[1], cj_strength=0.5, gaussian_blur=0.0)
    workers = 0 if lab.sizes is SMALL else joblib.cpu_count()
    loader = torch.utils.data.DataLoader(
        Photographs(pictures, views),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    model = nn.Sequential(network(0, compiled=False), SimCLRProjectionHead(512, 512, 128)).to(where)
    criterion, optimizer = NTXentLoss(temperature=0.5), torch.optim.SGD(model.parameters(), lr=0.06)
    done, began = 0, 0.0
    while True:
        for pair in loader:
            view1, view2 = (model(view.to(where)) for view in pair)
            loss = criterion(view1, view2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # waits for the GPU, as printing the loss would
            done += 1
            if done == lab.sizes["timed"] // 4:
                began = perf_counter()
            if done == lab.sizes["timed"]:
                return batch * (done - lab.sizes["timed"] // 4) / (perf_counter() - began)


class Photographs(torch.utils.data.Dataset):
    """Images as a published loop reads them: one at a time, and two views of each."""

    def __init__(self, pictures: np.ndarray, views: Callable[[Image.Image], list[Tensor]]) -> None:
        self.pictures, self.views = pictures, views

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.views(Image.fromarray(self.pictures[index]))


def throughput(seed: int, lab: Lab) -> dict[str, Any]:
    """Images a second, one change at a time, so that each gain has its cause."""
    plain: dict[str, Any] = {"autocast": False, "channels_last": False}
    found = {
        "lightly's loop": lightlys(lab),
        "views in batches on the device": ours(lab, compiled=False, **plain),
        "and bfloat16": ours(lab, compiled=False, **{**plain, "autocast": True}),
        "and channels last": ours(lab, compiled=False),
        "and compiled": ours(lab, compiled=True),
    }
    return {f"{name}, images/s": value for name, value in found.items() if value is not None}


# --- how good, and when -----------------------------------------------------------------------------------------------


def contrastive(seed: int, lab: Lab, *, length: str) -> dict[str, Any]:
    """Train without labels; return accuracy against seconds, and what the last checkpoint gives on test."""
    data, batch, epochs = lab.data["train"], lab.sizes["batch"], lab.sizes[length]
    shared: dict[str, Any] = {"batch_size": batch, **SHARED}
    train_simclr(network(seed, compiled=True), data.images, steps=2, **shared)  # compile before the clock starts
    encoder = network(seed, compiled=True)
    steps = epochs * -(-len(data) // batch)
    looks = steps // lab.sizes["looks"]  # steps between two of them

    def look(model: nn.Module, step: int) -> dict[str, float] | None:
        if step % looks and step < steps:
            lab.stop_in_time()
            return None
        began = perf_counter()
        right = lab.knn(encoder)
        # A run that goes on takes up the clock of its last step, which did not see the look after it.
        return {"validation": right, "looking": 0.0 if lab.stop_in_time() else perf_counter() - began}

    _, history = train_simclr(
        encoder, data.images, epochs=epochs, lr=2e-3, warmup=0.05, weight_decay=1e-4, seed=seed, callback=look,
        callback_every=math.gcd(looks, 50), checkpoint=lab.kept / f"{length}_{seed}.pt", **shared,
    )  # fmt: skip
    looked = history["validation"].notna()
    # A look takes no training time, and the clock of a row was read before the look that follows it.
    training = history["seconds"] - history["looking"].fillna(0).cumsum().shift(fill_value=0)
    return {
        "test": lab.probe(encoder, on="test"),
        "training seconds": float(training.iloc[-1]),
        "curve, seconds": training[looked].round(3).tolist(),
        "curve, k-NN on validation": history["validation"][looked].round(4).tolist(),
        "curve, loss": smooth(history["loss"], min(50, len(history))),
    }


def classifier(
    seed: int, lab: Lab, build: Callable[[], nn.Module], width: int, name: str
) -> tuple[nn.Module, dict[str, float]]:
    """Train with labels on crops and flips; return the encoder, the classifier's accuracy on test, and the time."""
    data, test = lab.data["train"], lab.data["test"]

    def untrained() -> nn.Sequential:
        return nn.Sequential(build(), nn.Linear(width, len(data.class_names)))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(augmented(batch[0])).float(), batch[1])

    def stop(model: nn.Module, step: int) -> None:  # not in the loss: a run goes on only with the same loss
        lab.stop_in_time()

    pair = data.images, data.labels
    shared: dict[str, Any] = {"lr": 1e-3, "batch_size": lab.sizes["batch"], "progress": False}
    fit(untrained(), loss, pair, steps=2, **shared)  # compile before the clock starts
    model = untrained()
    history = fit(
        model, loss, pair, epochs=lab.sizes[name], warmup=0.05, weight_decay=0.05, seed=seed, callback=stop,
        callback_every=lab.sizes["looks"], checkpoint=lab.kept / f"{name}_{seed}.pt", **shared,
    )  # fmt: skip
    right = features(model, test.images).argmax(1).cpu() == test.labels.cpu()
    return model[0], {"test": right.double().mean().item(), "training seconds": history["seconds"].iloc[-1]}


def baselines(seed: int, lab: Lab) -> dict[str, Any]:
    """What pixels and an untrained network give to the same probe, and what the network learns from all labels."""
    found = {"pixels": lab.probe(None, on="test"), "random": lab.probe(network(seed, compiled=False), on="test")}
    taught, trained = classifier(seed, lab, partial(network, seed, compiled=True), 512, "supervised")
    found |= {"supervised, its own layer": trained.pop("test"), "supervised": lab.probe(taught, on="test")}
    return found | trained


def vit(seed: int, lab: Lab) -> dict[str, Any]:
    """A ViT with labels, of the size that tutorials train on CIFAR-10: patches of 4 × 4, six layers, 256 numbers."""

    def build() -> nn.Module:
        seed_everything(seed)
        return VisionTransformer(image_size=32, patch_size=4, embed_dim=256, depth=6, num_heads=8, mlp_ratio=2)

    return classifier(seed, lab, build, 256, "ViT")[1]


TRIALS: dict[str, Callable[[int, Lab], dict[str, Any]]] = {
    "throughput": throughput,
    "short": partial(contrastive, length="short"),
    "long": partial(contrastive, length="long"),
    "baselines": baselines,
    "ViT": vit,
}
# the measure that stands for a trial on the page of results, and its unit
HEADLINES = {
    "throughput": ("and compiled, images/s", "images/s"),
    "short": ("test", "accuracy, fraction"),
    "long": ("test", "accuracy, fraction"),
    "baselines": ("supervised", "accuracy, fraction"),
    "ViT": ("test", "accuracy, fraction"),
}
ONE_SEED = ("throughput", "long", "ViT")


def record(name: str, runs: Mapping[int, dict[str, Any]], lab: Lab) -> None:
    """Write what all seeds of a trial measured to book/results."""
    headline, unit = HEADLINES[name]
    record_result(
        f"simclr_cifar10_{name.lower()}",
        [run[headline] for run in runs.values()],
        unit=unit,
        data=lab.data["test"].name,
        seeds=list(runs),
        # A trial that was stopped and went on timed its last call; its training's own clock went on with it.
        seconds=sum(run.get("training seconds", run[f"seconds {name}"]) for run in runs.values()),
        root=ROOT / "book" / "results",
        settings={**lab.sizes, "views": list(SIMCLR_STEPS)},
        table={what: [run[what] for run in runs.values()] for what in next(iter(runs.values()))},
    )


def main(argv: list[str] | None = None) -> int:
    """Run the trials that are missing, and write the result of each that all seeds have run."""
    parser = argparse.ArgumentParser(description="SimCLR on CIFAR-10, timed and judged.")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="train/<class>/ and test/<class>/")
    parser.add_argument("--slice", type=float, default=float("inf"), help="stop after so many seconds, to go on later")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--small", action="store_true", help="try the program on a few images; nothing is recorded")
    options = parser.parse_args(argv)
    deadline = monotonic() + options.slice
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background ignores it; stop_in_time needs it
    data = images(options.images)
    kept = KEPT / "small" if options.small else KEPT
    kept.mkdir(parents=True, exist_ok=True)
    if options.small:
        rows = {split: labels_per_class(data[split].labels, 4, seed=0) for split in SPLITS}
        data = {split: some.subset(rows[split]) for split, some in data.items()}
    lab = Lab(data, SMALL if options.small else FULL, kept, deadline)
    for name in options.trials:
        runs = {}
        for seed in options.seeds[:1] if name in ONE_SEED else options.seeds:
            if monotonic() > deadline:
                print(f"stopped before {name}, seed {seed}; the same call goes on")
                return UNFINISHED
            try:
                runs[seed] = once(kept, name, seed, partial(TRIALS[name], seed, lab))
            except KeyboardInterrupt:
                print(f"stopped in {name}, seed {seed}; the same call goes on from its checkpoint")
                return UNFINISHED
            print(f"  {name}, seed {seed}: {runs[seed][HEADLINES[name][0]]:.4g}", flush=True)
        if not options.small:
            record(name, runs, lab)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
