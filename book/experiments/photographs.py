"""The lecture's questions once more, on photographs: encoders, data, another world, and a model that answers.

Usage: python -m book.experiments.photographs [--images FOLDER] [--slice SECONDS] [--seeds 0 1 2] [--trials NAME...]

Without a folder the images are torchvision's CIFAR-10, which is downloaded. A folder holds ``train/<class>/`` and
``test/<class>/``. Every trial is kept when it ends and a training goes on from its checkpoint, so a run that was
stopped is continued by the same call; once a trial has run with all seeds, book/results/photographs_<trial>.json is
written.

Choices are made on validation images. Test images are looked at after a training's last step, once by each probe, by
the nearest neighbours and by each classifier, and choose nothing.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmcourse import (
    SCENE_STEPS,
    SIMCLR_STEPS,
    Connector,
    ConvEncoder,
    ImageDataset,
    LanguageModel,
    LinearProbe,
    Tokenizer,
    VisionLanguageModel,
    VisionTransformer,
    device,
    extract_features,
    fit,
    image_folder,
    knn_accuracy,
    labels_per_class,
    load_dataset,
    random_horizontal_flip,
    random_resized_crop,
    record_result,
    scenes,
    seed_everything,
    train_simclr,
)
from vlmcourse._files import write_whole
from vlmcourse.data.questions import Questions
from vlmcourse.train import vlm

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "_build" / "photographs"
LABELS = (10, 100, 500)  # of each class
STEPS = {"contrastive": 2000, "on scenes": 400, "supervised": 600}
GROWING = {1_000: 600, 5_000: 1_200, 45_000: 2_400}  # CNN and ViT: training images with labels, and steps
RATES = (1e-3, 2e-3, 4e-3)  # learning rates for them, chosen after CHOICE[1] steps on CHOICE[0] images
CHOICE = (5_000, 200)
STAGE_STEPS: dict[vlm.Stage, int] = {"language model": 100, "connector": 200, "joint": 400}
BATCH = 128
SPLITS = ("train", "validation", "test")
ASKED = 2000  # of the test images, in the trial that answers
QUESTION = "What is in this image <image>? Answer:"
Data = dict[str, ImageDataset]
Trial = Callable[[int, Data], dict[str, Any]]


def images(folder: Path | None) -> Data:
    """Return the three splits; the validation images are the last tenth of each class's training images."""
    if folder is None:
        return {split: load_dataset("cifar10", split=split) for split in SPLITS}
    train, test = (image_folder(folder, split=split, name="CIFAR-10 (JPEG q75)") for split in ("train", "test"))
    held_out = torch.zeros(len(train), dtype=torch.bool)
    for k in range(len(train.class_names)):
        members = (train.labels == k).nonzero().flatten()
        held_out[members[len(members) - len(members) // 10 :]] = True
    return {"train": train.subset(~held_out), "validation": train.subset(held_out), "test": test}


def cnn() -> ConvEncoder:
    """Return the network that all encoders here share: three stages, 32, 64 and 128 channels, a vector of 512."""
    return ConvEncoder(width=32, strides=(2, 1, 2, 2))


def kept(name: str) -> Path:
    """Return where a training keeps its checkpoint."""
    return KEPT / f"{name}.pt"


def smooth(losses: Any, points: int = 50) -> list[float]:
    """Return the means of equal parts of a curve, each number with four digits."""
    parts = torch.as_tensor(list(losses)).tensor_split(points)
    return [float(f"{part.mean().item():.4g}") for part in parts]


def augmented(batch: Tensor) -> Tensor:
    """Crop and flip, for supervised training: what the field does with CIFAR-10."""
    return random_horizontal_flip(random_resized_crop(batch, scale=(0.4, 1.0)))


def classify(
    model: nn.Module, data: ImageDataset, steps: int, seed: int, name: str, *, lr: float = 2e-3
) -> list[float]:
    """Train a classifier with labels, on crops and flips; return its curve."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(augmented(batch[0])), batch[1])

    pair = (data.images, data.labels)
    options: dict[str, Any] = {
        "batch_size": min(BATCH, len(data)),
        "seed": seed,
        "checkpoint": kept(name),
        "progress": False,
    }
    return smooth(fit(model, loss, pair, lr=lr, steps=steps, weight_decay=0.05, **options)["loss"])


def contrastive(
    pictures: Tensor, seed: int, name: str, steps: int = STEPS["contrastive"], **options: Any
) -> tuple[ConvEncoder, list[float]]:
    """Train the encoder without labels; return it and its curve."""
    seed_everything(seed)
    encoder = cnn()
    rest: dict[str, Any] = {"batch_size": BATCH, "seed": seed, "checkpoint": kept(name), "progress": False}
    rest |= {"views": SIMCLR_STEPS, **options}
    _, history = train_simclr(encoder, pictures, steps=steps, embed_dim=128, lr=2e-3, warmup=0.1, **rest)
    return encoder.eval(), smooth(history["loss"])


def supervised(data: Data, seed: int) -> tuple[ConvEncoder, list[float]]:
    """Train the encoder with all labels and throw its last layer away; return it and its curve."""
    seed_everything(seed)
    encoder = cnn()
    model = nn.Sequential(encoder, nn.Linear(encoder.embed_dim, len(data["train"].class_names)))
    curve = classify(model, data["train"], STEPS["supervised"], seed, f"supervised_{seed}")
    return encoder.eval(), curve


def untrained(seed: int) -> ConvEncoder:
    """Return an encoder with random weights."""
    seed_everything(seed)
    return cnn().eval()


def vectors(encoder: nn.Module | None, data: Data) -> dict[str, Tensor]:
    """Return the vectors of all splits: the encoder's, or the pixels themselves where there is none."""
    if encoder is None:
        return {split: some.float().flatten(1) for split, some in data.items()}
    return {split: extract_features(encoder, some.images) for split, some in data.items()}


def probe(features: dict[str, Tensor], data: Data, *, k: int, seed: int) -> float:
    """Return the test accuracy of a linear probe with k labels per class; validation images choose its penalty."""
    labels = {split: some.labels for split, some in data.items()}
    rows = labels_per_class(labels["train"], k, seed=seed)
    fitted = LinearProbe(penalties=[1e-2, 1e-1, 1.0, 10.0]).fit(
        features["train"][rows], labels["train"][rows], features["validation"], labels["validation"]
    )
    return fitted.score(features["test"], labels["test"])


def judged(encoder: nn.Module | None, data: Data, seed: int) -> dict[str, float]:
    """Return what probes with growing numbers of labels and the nearest neighbours make of an encoder's vectors."""
    features = vectors(encoder, data)
    found = {f"probe {k}": probe(features, data, k=k, seed=seed) for k in LABELS}
    found["k-NN"] = knn_accuracy(features["train"], data["train"].labels, features["test"], data["test"].labels)
    return found


def other_worlds(size: int) -> dict[str, Data]:
    """Return drawn scenes and handwritten digits at the photographs' size."""
    found: dict[str, Data] = {}
    for name in ("scenes", "digits"):
        found[name] = {}
        for split in SPLITS:
            some = load_dataset(name, split=split)
            large = F.interpolate(some.float().expand(-1, 3, -1, -1), size=(size, size), mode="bilinear").clamp(0, 1)
            found[name][split] = ImageDataset((large * 255).to(torch.uint8), some.labels, some.class_names, name, split)
    return found


def encoders(seed: int, data: Data) -> dict[str, Any]:
    """S04, S05, S09: four kinds of vectors, probed on photographs and in two other worlds; and the way back."""
    found: dict[str, Any] = {}
    learned, found["curve contrastive"] = contrastive(data["train"].images, seed, f"contrastive_{seed}")
    taught, found["curve supervised"] = supervised(data, seed)
    drawn = scenes.images(20_000, seed=7, image_size=data["train"].images.shape[-1]).images
    from_scenes, _ = contrastive(drawn, seed, f"scenes_{seed}", STEPS["on scenes"], views=SCENE_STEPS)
    networks = {"pixels": None, "random": untrained(seed), "supervised": taught, "contrastive": learned}
    for name, network in networks.items():
        print(f"    {name}", flush=True)
        found |= {f"{name}, {what}": value for what, value in judged(network, data, seed).items()}
    found |= {f"contrastive on scenes, {what}": value for what, value in judged(from_scenes, data, seed).items()}
    for world, other in other_worlds(data["train"].images.shape[-1]).items():
        for name, network in {**networks, "contrastive on scenes": from_scenes}.items():
            found[f"{name}, probe in {world}"] = probe(vectors(network, other), other, k=100, seed=seed)
    return found


def scene_views(seed: int, data: Data) -> dict[str, Any]:
    """S05, S07: the contrastive encoder on the same photographs, with the views that are made for drawn scenes."""
    name = "contrastive, scene views"
    learned, curve = contrastive(data["train"].images, seed, f"scene_views_{seed}", views=SCENE_STEPS)
    found: dict[str, Any] = {f"curve {name}": curve}
    found |= {f"{name}, {what}": value for what, value in judged(learned, data, seed).items()}
    for world, other in other_worlds(data["train"].images.shape[-1]).items():
        found[f"{name}, probe in {world}"] = probe(vectors(learned, other), other, k=100, seed=seed)
    return found


def classifier(kind: str, seed: int) -> nn.Module:
    """Return a CNN or a ViT for ten classes, untrained, with about as many parameters as the other."""
    seed_everything(seed)
    encoder = cnn() if kind == "CNN" else VisionTransformer(image_size=32, patch_size=4, embed_dim=96, depth=3)
    return nn.Sequential(encoder, nn.Linear(encoder.embed_dim, 10))


def accuracy(model: nn.Module, data: ImageDataset) -> float:
    """Return the part of the images whose class has the highest score."""
    return (extract_features(model, data.images).argmax(1) == data.labels).double().mean().item()


def growing(seed: int, data: Data) -> dict[str, Any]:
    """S18, S24: a CNN and a ViT with about as many parameters, trained with labels on more and more images.

    Each network has the learning rate with which it does best on validation images after a short training.
    """
    found: dict[str, Any] = {}
    parts = {n: data["train"].subset(labels_per_class(data["train"].labels, n // 10, seed=seed)) for n in GROWING}
    for kind in ("CNN", "ViT"):
        few, short = CHOICE
        for lr in RATES:
            model = classifier(kind, seed)
            classify(model, parts[few], short, seed, f"growing_{kind}_lr{lr:g}_{seed}", lr=lr)
            found[f"{kind}, validation, lr {lr:g}"] = accuracy(model, data["validation"])
        best = max(RATES, key=lambda lr: found[f"{kind}, validation, lr {lr:g}"])
        found |= {f"{kind}, lr": best, f"{kind}, parameters": sum(p.numel() for p in model.parameters())}
        for size, steps in GROWING.items():
            print(f"    {kind} on {size}, lr {best:g}", flush=True)
            model = classifier(kind, seed)
            name = f"growing_{kind}_{size}_{seed}"
            found[f"curve {kind}, {size} images"] = classify(model, parts[size], steps, seed, name, lr=best)
            found[f"{kind}, {size} images"] = accuracy(model, data["test"])
    return found


def asked(data: ImageDataset) -> Questions:
    """Ask what is in each photograph; the answer is a sentence with the name of its class."""
    names = [data.class_names[k] for k in data.labels]
    said = tuple(f"a photograph of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names)
    n, (h, w) = len(data), data.images.shape[-2:]
    return Questions(data.float(), (QUESTION,) * n, said, ("describe",) * n, ((),) * n, torch.zeros(n, h, w))


def answering(seed: int, data: Data) -> dict[str, Any]:
    """S02, S03: a small vision-language model around the frozen contrastive encoder, in stages, with its controls."""
    encoder, _ = contrastive(data["train"].images, seed, f"contrastive_{seed}")
    # A folder lies class by class, and the next picture would show the same kind of thing.
    mixed = torch.randperm(len(data["test"]), generator=torch.Generator().manual_seed(0))
    train, test = asked(data["train"]), asked(data["test"].subset(mixed[:ASKED]))
    tokenizer = Tokenizer.from_texts([QUESTION, *sorted(set(train.answers))])
    channels, rows, columns = encoder.feature_map(train.images[:1].to(next(encoder.parameters()).device)).shape[1:]
    connector = Connector(channels, 96, grid_size=(rows, columns), reduction=1)
    language_model = LanguageModel(len(tokenizer), context_length=48, embed_dim=96, depth=2, num_heads=4)
    model = VisionLanguageModel(encoder, connector, language_model, tokenizer)
    options: dict[str, Any] = {"seed": seed, "batch_size": BATCH, "progress": False}
    for stage, steps in STAGE_STEPS.items():
        file = kept(f"answering_{stage.replace(' ', '_')}_{seed}")
        vlm.train_stage(model, train, stage, freeze=("encoder",) if stage == "joint" else (), steps=steps,
                        checkpoint=file, **options)  # fmt: skip
    found: dict[str, Any] = {}
    for control in vlm.CONTROLS:
        said = vlm.answers(model, test, control=control)
        found[f"exact, {control}"] = sum(a == b for a, b in zip(said, test.answers, strict=True)) / len(test)
    return found


TRIALS: dict[str, Trial] = {
    "encoders": encoders,
    "scene_views": scene_views,
    "answering": answering,
    "growing": growing,
}
# the measure that stands for a trial on the page of results
HEADLINES = {
    "encoders": f"contrastive, probe {LABELS[-1]}",
    "scene_views": f"contrastive, scene views, probe {LABELS[-1]}",
    "answering": "exact, real image",
    "growing": f"ViT, {max(GROWING)} images",
}


def once(folder: Path, name: str, seed: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a trial measures and its seconds, or what it left in the folder when it ran before."""
    file = folder / f"{name}_{seed}.json"
    if not file.is_file():
        print(f"  {name}, seed {seed} ...", flush=True)
        start = time.monotonic()
        values = measure()
        write_whole(file, json.dumps({**values, f"seconds {name}": time.monotonic() - start}).encode())
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def record(name: str, runs: dict[int, dict[str, Any]], data: Data) -> None:
    """Write what all seeds of a trial measured to book/results/photographs_<name>.json."""
    table = {what: [run[what] for run in runs.values()] for what in next(iter(runs.values()))}
    record_result(
        f"photographs_{name}",
        table[HEADLINES[name]],
        unit="accuracy, fraction",
        data=f"{data['test'].name}, test, {ASKED if name == 'answering' else len(data['test']):,} images",
        seeds=list(runs),
        seconds=sum(table[f"seconds {name}"]),
        root=ROOT / "book" / "results",
        settings={
            "steps": STEPS | STAGE_STEPS,
            "growing": GROWING,
            "rates": list(RATES),
            "batch": BATCH,
            **({} if name == "growing" else {"views": list(SCENE_STEPS if name == "scene_views" else SIMCLR_STEPS)}),
            "device": str(device()),
        },
        table=table,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the trials that are missing, and write the result of each that all seeds have run."""
    parser = argparse.ArgumentParser(description="Measure the lecture's questions on photographs.")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="train/<class>/ and test/<class>/")
    parser.add_argument("--slice", type=float, default=float("inf"), help="start no trial after so many seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    options = parser.parse_args(argv)
    began = time.monotonic()
    data = images(options.images)
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in options.trials:
        runs = {}
        for seed in options.seeds:
            if time.monotonic() - began > options.slice:
                print(f"stopped before {name}, seed {seed}; call again to go on")
                return 0
            runs[seed] = once(KEPT, name, seed, partial(TRIALS[name], seed, data))
        record(name, runs, data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
