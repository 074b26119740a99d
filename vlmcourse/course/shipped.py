"""The small vision-language model that comes with the package, and how it knows that a picture is not of its world."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from typing import Any

import torch
from einops import reduce
from torch import Tensor

from vlmcourse._devices import on_cpu
from vlmcourse.models.vlm import VisionLanguageModel, load_vlm
from vlmcourse.ops._modes import evaluating

WEIGHTS = ("weights", "small_vlm.safetensors")  # inside the package
ACCEPTED = 0.99  # the share of pictures held back that lies within the threshold


def shipped_vlm() -> tuple[VisionLanguageModel, dict[str, Any]]:
    """Return the model that comes with the package, ready to answer, and its provenance.

    Source:
        Trained by ``book/experiments/small_vlm.py``; slides S02 and S03.

    >>> model, provenance = shipped_vlm()
    >>> model.tokenizer.decode(model.tokenizer.encode("a red star"))
    'a red star'
    """
    with as_file(files("vlmcourse").joinpath(*WEIGHTS)) as path:
        return load_vlm(path)


@dataclass(frozen=True)
class Familiarity:
    """How far a picture is from those a model learned from, as its own encoder sees them.

    A picture is summarised by the mean of each channel of the encoder's map. Its distance from those of training is
    Mahalanobis's, in standard deviations, over the root of the number of channels, so that 1 is typical.

    Shapes:
        mean ``(c,)``, whitening ``(c, c)``, for an encoder with c channels.

    Source:
        Lee et al. 2018, section 2 (arXiv 1807.03888), here without classes. Slide S05, whose pictures are outside.

    >>> from vlmcourse import scenes
    >>> from vlmcourse.train.vlm import build_vlm
    >>> model, seen = build_vlm(), scenes.captions(200, seed=0).images
    >>> world = Familiarity.measure(model, seen[:150], seen[150:])
    >>> world.is_out_of_distribution(model, torch.rand(1, 3, 32, 32))
    tensor([True])
    """

    mean: Tensor
    whitening: Tensor
    threshold: float

    @classmethod
    @on_cpu()
    def measure(cls, model: VisionLanguageModel, images: Tensor, held_back: Tensor) -> "Familiarity":
        """Learn what is usual from ``images``, and set the threshold so that 99 % of ``held_back`` is inside.

        Shapes:
            images ``(b, 3, h, w)``, b above the number of channels; held_back ``(m, 3, h, w)``, of the same world.
        """
        features = _summary(model, images).double()
        if len(features) <= features.shape[1]:
            raise ValueError(f"images must be more than {features.shape[1]}, received {len(features)}")
        covariance = features.T.cov()
        # A little of the average variance everywhere: what never varied in training would weigh without bound.
        covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        values, directions = torch.linalg.eigh(covariance)
        world = cls(features.mean(0).float(), (directions / values.sqrt()).float(), 0.0)
        return replace(world, threshold=float(world.distance(model, held_back).quantile(ACCEPTED)))

    def distance(self, model: VisionLanguageModel, images: Tensor) -> Tensor:
        """Return how far each picture is, in standard deviations: ``(b, 3, h, w)`` → ``(b,)``."""
        difference = _summary(model, images) - self.mean
        return (difference @ self.whitening).square().mean(-1).sqrt()

    def is_out_of_distribution(self, model: VisionLanguageModel, images: Tensor) -> Tensor:
        """Return for each picture whether it is farther away than the threshold: ``(b, 3, h, w)`` → ``(b,)``."""
        return self.distance(model, images) > self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, which a model's provenance can carry."""
        return {"mean": self.mean.tolist(), "whitening": self.whitening.tolist(), "threshold": self.threshold}

    @classmethod
    @on_cpu()
    def from_dict(cls, state: Mapping[str, Any]) -> "Familiarity":
        """Return what :meth:`to_dict` described."""
        return cls(torch.tensor(state["mean"]), torch.tensor(state["whitening"]), float(state["threshold"]))


@torch.no_grad()
def _summary(model: VisionLanguageModel, images: Tensor) -> Tensor:
    """Return the mean of each channel of the encoder's map, ``(b, c)``, on the CPU."""
    where = next(model.parameters()).device
    rows = []
    with evaluating(model):
        for some in images.split(500):
            features = model.features(some.to(where))
            layout = "b n d -> b d" if features.ndim == 3 else "b c h w -> b c"
            rows.append(reduce(features, layout, "mean").cpu())
    return torch.cat(rows)
