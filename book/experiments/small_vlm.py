"""Train the two files in vlmcourse/weights anew: ``python -m book.experiments.small_vlm --work FOLDER``.

Two encoders learn without labels from single shapes: a small one, which chapter 10 starts from, and a larger one.
Around the larger one a small vision-language model is then built, in a world where each colour comes with two shapes.
It takes a while on a laptop. Stop it whenever you like: called again with the same folder, it goes on where it stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vlmcourse import SCENE_STEPS, ConvEncoder, scenes, seed_everything
from vlmcourse.course.results import provenance
from vlmcourse.course.shipped import Familiarity
from vlmcourse.data.questions import KINDS, questions
from vlmcourse.models.vlm import save_vlm
from vlmcourse.train.simclr import train_simclr
from vlmcourse.train.vlm import (
    COLORS,
    METRICS,
    SHAPES,
    Stage,
    answers,
    build_vlm,
    held_out,
    pairings,
    score,
    small_encoder,
    train_stage,
)

WEIGHTS = Path(__file__).parents[2] / "vlmcourse" / "weights"
SEED = 0
CONTRASTIVE: dict[str, int] = {"chapter": 400, "model": 900}  # steps of the two encoders
WORLD: dict[str, Any] = {"colors": COLORS, "shapes": SHAPES, "num_objects": [1, 2], "phrasings": 3, "image_size": 32}
PARTNERS = 2
PICTURES = 20_000
STAGES: dict[Stage, int] = {"language model": 100, "connector": 100, "joint": 4000}


def train_contrastively(encoder: ConvEncoder, work: Path, name: str) -> dict[str, Any]:
    """Train the encoder in place, and return how."""
    pictures = scenes.images(8000, seed=12, image_size=24, radius=(0.30, 0.65))
    how: dict[str, Any] = {"steps": CONTRASTIVE[name], "batch_size": 256, "seed": SEED}
    file = work / f"encoder_{name}.pt"
    train_simclr(encoder, pictures, views=SCENE_STEPS, checkpoint=file, checkpoint_every=25, **how)
    return {"data": "scenes.images, every shape in every colour, no labels", **how}


def main() -> None:
    """Train what is not trained yet, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--only-encoder", action="store_true", help="train the small encoder and leave the model")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)

    seed_everything(SEED)
    encoder = small_encoder()
    about = train_contrastively(encoder, options.work, "chapter") | provenance()
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, options.out / "contrastive_encoder.safetensors", {"provenance": json.dumps(about)})
    if options.only_encoder:
        return

    seed_everything(SEED)
    encoder = ConvEncoder()
    contrastively = train_contrastively(encoder, options.work, "model")
    # A description is asked twice as often as anything else: it is the hardest, and what chapter 1 shows.
    seen = pairings(PARTNERS)
    asked = questions(PICTURES, seed=1, only=seen, kinds=[*KINDS, "describe"], **WORLD)
    seed_everything(SEED)
    model = build_vlm(encoder, embed_dim=64, depth=3, context_length=96)
    for stage, steps in STAGES.items():
        train_stage(
            model, asked, stage, steps=steps, lr=2e-3, batch_size=128, seed=SEED,
            checkpoint=options.work / f"{stage.replace(' ', '_')}.pt", checkpoint_every=25,
        )  # fmt: skip

    scores: dict[str, object] = {}
    for name, pairs, seed in (("seen", seen, 2), ("held out", held_out(), 3)):
        batch = questions(800, seed=seed, only=pairs, **WORLD)
        said = answers(model, batch)
        scores[name] = {
            kind: sum(a == b for a, b, k in zip(said, batch.answers, batch.kinds, strict=True) if k == kind)
            / batch.kinds.count(kind)
            for kind in KINDS
        }
        described = questions(400, seed=seed + 2, kinds="describe", only=pairs, **(WORLD | {"num_objects": 1}))
        scores[f"{name}, one object described"] = score(answers(model, described), described)
    others = questions(2000, seed=6, only=seen, **WORLD).images
    about = {
        "image_size": WORLD["image_size"], "familiarity": Familiarity.measure(model, asked.images, others).to_dict(),
        "data": "vlmcourse.data.questions, one and two objects, each colour with two shapes",
        "pairs": seen, "held_out": held_out(), "pictures": PICTURES, "steps": STAGES, "seed": SEED,
        "encoder": contrastively, "validation": scores,
    }  # fmt: skip
    save_vlm(model, options.out / "small_vlm.safetensors", provenance=about | provenance())
    print(json.dumps(scores, indent=1), METRICS)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
