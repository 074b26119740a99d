"""What the formulas are held to: PyTorch's kernels, and literal loops."""

import math

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 4e-2}


def randn(*shape: int, dtype: torch.dtype, device: torch.device, seed: int, scale: float = 1.0) -> Tensor:
    """Draw the same numbers for every dtype and device, as a leaf that collects gradients."""
    generator = torch.Generator().manual_seed(seed)
    values = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.to(device, dtype).requires_grad_()


def assert_equal_in_value_and_gradient(mine, theirs, inputs, *, dtype: torch.dtype) -> None:
    """Compare two functions of the same inputs, forward and backward through a random linear functional."""
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    one, other = mine(*inputs), theirs(*inputs)
    torch.testing.assert_close(one, other, **tolerance)
    weights = torch.randn(one.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(one)
    for mine_grad, their_grad in zip(
        torch.autograd.grad((one * weights).sum(), inputs),
        torch.autograd.grad((other * weights).sum(), inputs),
        strict=True,
    ):
        # Backward has twice the products of forward, and in bfloat16 both sides round every one of them.
        tolerance = {"rtol": 3 * TOLERANCE[dtype], "atol": 3 * TOLERANCE[dtype]}
        scale = max(1.0, their_grad.abs().max().item())
        torch.testing.assert_close(mine_grad / scale, their_grad / scale, **tolerance)


def unit(vectors: Tensor) -> list[Tensor]:
    """Return each vector divided by its length, by the school formula."""
    return [vector / vector.square().sum().sqrt() for vector in vectors]


def nt_xent_by_double_loop(view1: Tensor, view2: Tensor, temperature: float) -> Tensor:
    """SimCLR's algorithm 1, literally: one pair of embeddings at a time."""
    views, n, losses = [*unit(view1), *unit(view2)], len(view1), []
    for i, anchor in enumerate(views):
        similarities = [anchor @ other / temperature for k, other in enumerate(views) if k != i]
        positive = anchor @ views[(i + n) % (2 * n)] / temperature
        losses.append(torch.logsumexp(torch.stack(similarities), dim=0) - positive)
    return torch.stack(losses).mean()


def slide_loss_by_double_loop(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """The lecture's loss, literally: -log of exp(positive) over the mean of exp(negative)."""
    losses = []
    for anchor, positive, others in zip(unit(anchors), unit(positives), negatives, strict=True):
        numerator = (anchor @ positive / temperature).exp()
        denominator = torch.stack([(anchor @ other / temperature).exp() for other in unit(others)]).mean()
        losses.append(-(numerator / denominator).log())
    return torch.stack(losses).mean()


def info_nce_by_double_loop(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Classify each image among all texts and each text among all images, one pair at a time."""
    losses = []
    for queries, candidates in ((unit(images), unit(texts)), (unit(texts), unit(images))):
        for i, query in enumerate(queries):
            logits = torch.stack([query @ candidate / temperature for candidate in candidates])
            losses.append(torch.logsumexp(logits, dim=0) - logits[i])
    return torch.stack(losses).mean()


def uniformity_by_double_loop(embeddings: Tensor) -> Tensor:
    """log of the mean of exp(-2 ‖u - v‖²) over unordered pairs."""
    units = unit(embeddings)
    terms = [(-2 * (u - v).square().sum()).exp() for i, u in enumerate(units) for v in units[i + 1 :]]
    return (torch.stack(terms).sum() / math.comb(len(units), 2)).log()
