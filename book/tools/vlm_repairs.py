"""Measure chapter 9's repairs, alone and together, on three seeds: ``python book/tools/vlm_repairs.py --work FOLDER``.

Every finished run is kept in the folder, so that the script can be stopped and called again. In the end
they are written to book/results, where the chapter reads them; `--record` writes those that are done.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from vlmcourse.course.results import record_result
from vlmcourse.data.questions import questions
from vlmcourse.train import vlm

SEEDS = (0, 1, 2)
REPAIRS: dict[str, dict] = {
    "none": {},
    "wider pairing": {"partners": 5},
    "contrastive encoder": {"encoder": "contrastive"},
    "wider + contrastive": {"partners": 5, "encoder": "contrastive"},
    "dropped colors": {"drop": {"color": 0.25}},
    "contrastive, frozen": {"encoder": "contrastive", "freeze": ("encoder",)},
    "wider + contrastive, frozen": {"partners": 5, "encoder": "contrastive", "freeze": ("encoder",)},
    "wider + contrastive + dropped": {"partners": 5, "encoder": "contrastive", "drop": {"color": 0.25}},
}
WORLD: dict[str, Any] = {"colors": vlm.COLORS, "shapes": vlm.SHAPES, "kinds": "describe", "phrasings": 1}
STEPS: dict[vlm.Stage, int] = {"language model": 60, "connector": 60, "joint": 300}


def measure(repair: dict, seed: int) -> dict:
    start = time.time()
    train = questions(
        3000, seed=100 + seed, only=vlm.pairings(repair.get("partners", 2)), drop=repair.get("drop"), **WORLD
    )
    batches = {
        "seen": questions(300, seed=7, only=vlm.pairings(2), **WORLD),
        "held out": questions(300, seed=8, only=vlm.held_out(), **WORLD),
    }
    encoder = vlm.contrastive_encoder() if repair.get("encoder") else None
    model, history = vlm.train_vlm(
        encoder, train, steps=STEPS, freeze=repair.get("freeze", ()), seed=seed, batch_size=128,
        progress=False,
    )  # fmt: skip
    scores = vlm.evaluate(model, batches)
    return {
        "scores": {f"{name}, {control}": row.round(4).to_dict() for (name, control), row in scores.iterrows()},
        "leading": {name: vlm.leading(model, batch) for name, batch in batches.items()},
        "loss": history["loss"].round(3).tolist(),
        "seconds": round(time.time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs that are done")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run these only")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    parser.add_argument("--record", action="store_true", help="run nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    start = time.time()
    for name, repair in REPAIRS.items():
        for seed in options.seeds:
            file = file_of(options.work, name, seed)
            if not file.exists():
                if options.record:
                    continue
                if time.time() - start > 60 * options.minutes:
                    return
                file.write_text(json.dumps(measure(repair, seed)))
                print(name, seed, json.loads(file.read_text())["scores"]["held out, real image"], flush=True)
    record(options.work)


def file_of(work: Path, name: str, seed: int) -> Path:
    return work / f"{name.replace(' ', '_')}_{seed}.json"


def record(work: Path) -> None:
    """Write down what has been measured: every repair with the seeds that are done."""
    runs = {
        name: [json.loads(file.read_text()) for seed in SEEDS if (file := file_of(work, name, seed)).exists()]
        for name in REPAIRS
    }
    runs = {name: some for name, some in runs.items() if some}
    record_result(
        "vlm_repairs",
        [run["scores"]["held out, real image"]["exact"] for run in runs["none"]],
        unit="exact answers about held-out pairs before any repair, fraction",
        data="questions about drawn scenes, 32 × 32, six colours, six shapes, 300 pictures a score",
        seeds=SEEDS,
        seconds=sum(run["seconds"] for some in runs.values() for run in some),
        repairs=runs,
    )


if __name__ == "__main__":
    main()
