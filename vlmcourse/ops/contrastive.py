"""Contrastive losses: views of one image together, different images apart (slides S07 and S08).

All divide the embeddings by their L2 norm (the slide says "layer-normalised", which gives another length) and compare
by cosine, in float32 or wider, also under autocast. An embedding of length zero, or so short that its gradient would
overflow (1e-12; in float16 1e-3), counts as zero: no gradient, a cosine of 0, and alignment with its like.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from vlmcourse._checks import check_floating, check_int, check_positive, check_rank, check_same_kind
from vlmcourse._precision import no_autocast, widened

Scalar = float | Tensor  # a temperature may be learned


def slide_contrastive_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, *, temperature: Scalar) -> Tensor:
    """Return the lecture's contrastive loss: pull each positive, push the mean of m sampled negatives.

    The denominator is the *mean* over the negatives and leaves the positive out, so the loss may fall below zero.

    Shapes:
        anchors ``(b, d)``, positives ``(b, d)``, negatives ``(b, m, d)``: m for each anchor → a scalar.

    Source:
        Slide S07, after Chen et al. 2020 (arXiv 2002.05709).

    >>> anchors = torch.tensor([[1.0, 0.0]])
    >>> slide_contrastive_loss(anchors, anchors, -anchors[:, None], temperature=0.5)  # -(1/τ) + (-1/τ)
    tensor(-4.)
    """
    _check_pairs(anchors=anchors, positives=positives)
    check_floating("negatives", negatives, "b m d")
    check_positive("temperature", temperature)
    if negatives.shape[::2] != anchors.shape:
        expected = f"({anchors.shape[0]}, m, {anchors.shape[1]})"
        raise ValueError(f"negatives must hold m for each anchor, shape {expected}, received {tuple(negatives.shape)}")
    check_same_kind(anchors=anchors, negatives=negatives)
    with no_autocast(anchors):
        anchors, positives, negatives = _units(anchors, positives, negatives)
        attraction = einsum(anchors, positives, "b d, b d -> b") / temperature
        repulsion = einsum(anchors, negatives, "b d, b m d -> b m") / temperature
        # log of the mean of exp, taken so that exp never overflows
        log_mean_exp = repulsion.logsumexp(dim=1) - math.log(negatives.shape[1])
        return (log_mean_exp - attraction).mean()


def nt_xent_loss(
    view1: Tensor, view2: Tensor, *, temperature: Scalar, chunk_size: int | None = None, anchors: slice | None = None
) -> Tensor:
    """Return SimCLR's loss: name the other view of each image among all 2n - 1 other views.

    The denominator is the *sum* over the positive and the 2n - 2 negatives. An embedding is no candidate for itself:
    self-pairs are masked before the softmax, so no gradient leaks through them.

    With ``chunk_size`` the loss takes that many of the 2n anchors at a time: value and gradient stay, memory grows with
    chunk_size × n instead of n², and there is no gradient of the gradient. ``anchors`` chooses the images whose losses
    are averaged, by default all; the others serve as candidates only.

    Shapes:
        view1 ``(n, d)``, view2 ``(n, d)``, row i of both from image i, n of at least two → a scalar.

    Source:
        Chen et al. 2020, equation 1 and algorithm 1 (arXiv 2002.05709); slide S07.

    >>> nt_xent_loss(torch.ones(4, 3), torch.ones(4, 3), temperature=0.1)  # nothing to tell apart: log(2n - 1)
    tensor(1.9459)
    """
    _check_pairs(view1=view1, view2=view2, at_least=2)
    check_positive("temperature", temperature)
    with no_autocast(view1):
        (views,) = _units(torch.cat([view1, view2]))
        candidates = torch.arange(len(views), device=views.device)
        # The positive of row i is row i + n, and of row i + n row i.
        partner = candidates.roll(len(view1))
        own = candidates if anchors is None else torch.cat([half[anchors] for half in candidates.chunk(2)])
        check_rank("the images that anchors chooses", own, "rows")
        if chunk_size is not None:
            check_int("chunk_size", chunk_size)
            return _ChunkedCrossEntropy.apply(views[own], views, temperature, own, partner[own], chunk_size)
        logits = einsum(views[own], views, "i d, j d -> i j") / temperature
        return F.cross_entropy(logits.scatter_(1, rearrange(own, "i -> i 1"), -math.inf), partner[own])


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of naming each query's partner among all candidates but itself, some queries at a time."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, temperature: Scalar, own: Tensor, partner: Tensor, size: int
    ) -> Tensor:
        # ∂loss/∂logits is the softmax minus one at the partner; a chunk's logits go once its part is added.
        losses = queries.new_empty(len(queries))
        grad_queries, grad_candidates = torch.empty_like(queries), torch.zeros_like(candidates)
        for chunk in torch.arange(len(queries), device=queries.device).split(size):
            itself, positive = rearrange(own[chunk], "i -> i 1"), rearrange(partner[chunk], "i -> i 1")
            logits = einsum(queries[chunk], candidates, "i d, j d -> i j").div_(temperature)
            log_probability = logits.scatter_(1, itself, -math.inf).log_softmax(dim=1)
            losses[chunk] = -log_probability.gather(1, positive).squeeze(1)
            error = log_probability.exp_()
            error.scatter_add_(1, positive, -torch.ones_like(positive, dtype=error.dtype))
            error /= temperature * len(queries)
            grad_queries[chunk] = einsum(error, candidates, "i j, j d -> i d")
            grad_candidates += einsum(error, queries[chunk], "i j, i d -> j d")
        # logits = q·k / τ, hence ∂loss/∂τ = -Σ q · (∂loss/∂q) / τ.
        grad_temperature = -(queries * grad_queries).sum() / temperature
        ctx.save_for_backward(grad_queries, grad_candidates, grad_temperature)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # with create_graph=True: what was saved does not know how it came about
            raise RuntimeError("a loss with chunk_size has no gradient of its gradient; leave chunk_size out for that")
        needed = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        return *(gradient * by_input if needs else None for by_input, needs in needed), None, None, None


def info_nce_loss(images: Tensor, texts: Tensor, *, temperature: Scalar) -> Tensor:
    """Return the symmetric loss for two modalities: find each image's text, and each text's image.

    Shapes:
        images ``(n, d)``, texts ``(n, d)``, row i of both a pair, n of at least two → a scalar.

    Source:
        van den Oord et al. 2018 (arXiv 1807.03748); Radford et al. 2021, figure 3 (arXiv 2103.00020); slide S03.

    >>> info_nce_loss(torch.ones(4, 3), torch.ones(4, 3), temperature=0.1)  # nothing to tell apart: log(n)
    tensor(1.3863)
    """
    _check_pairs(images=images, texts=texts, at_least=2)
    check_positive("temperature", temperature)
    with no_autocast(images):
        image_units, text_units = _units(images, texts)
        logits = einsum(image_units, text_units, "i d, j d -> i j") / temperature
        pair = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, pair) + F.cross_entropy(rearrange(logits, "i j -> j i"), pair)) / 2


def alignment(view1: Tensor, view2: Tensor) -> Tensor:
    """Return the mean squared distance between the unit embeddings of two views: 0 is robust, 4 opposite.

    Shapes:
        view1 ``(n, d)``, view2 ``(n, d)`` → a scalar.

    Source:
        Wang and Isola 2020, with α = 2 (arXiv 2005.10242); slide S08.

    >>> x = torch.tensor([[1.0, 0.0]])
    >>> alignment(x, 3 * x), alignment(x, -x)
    (tensor(0.), tensor(4.))
    """
    _check_pairs(view1=view1, view2=view2)
    with no_autocast(view1):
        unit1, unit2 = _units(view1, view2)
        return (unit1 - unit2).square().sum(dim=1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    """Return how evenly unit embeddings spread: the log of the mean of exp(-2 × squared distance) over pairs.

    Shapes:
        embeddings ``(n, d)`` with n of at least two → a scalar: 0 where all coincide, the lower the more evenly.

    Source:
        Wang and Isola 2020, with t = 2 (arXiv 2005.10242); slide S08.

    >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # distance 2, squared 4, times 2
    tensor(-8.)
    """
    check_floating("embeddings", embeddings, "n d")
    n = len(embeddings)
    if n < 2:
        raise ValueError(f"embeddings must hold at least two vectors to have a distance, received {n}")
    with no_autocast(embeddings):
        (units,) = _units(embeddings)
        squared_distance = 2 - 2 * einsum(units, units, "i d, j d -> i j")
        self_pairs = torch.eye(n, dtype=torch.bool, device=units.device)
        exponents = (-2 * squared_distance).masked_fill(self_pairs, -math.inf)
        return exponents.logsumexp(dim=(0, 1)) - math.log(n * (n - 1))


def _units(*embeddings: Tensor) -> list[Tensor]:
    """Divide each vector by its L2 norm, in float32 or wider."""
    units = []
    for given, wide in zip(embeddings, widened(*embeddings), strict=True):
        length = wide.detach().norm(dim=-1, keepdim=True)
        # The gradient grows as 1 / length, and must fit into the embeddings' own dtype, with a margin of 64.
        shortest = max(1e-12, 64 / torch.finfo(given.dtype).max)
        units.append(F.normalize(wide.masked_fill(length < shortest, 0.0), dim=-1))
    return units


def _check_pairs(*, at_least: int = 1, **pair: Tensor) -> None:
    for name, tensor in pair.items():
        check_floating(name, tensor, "n d")
    (first, one), (second, other) = pair.items()
    if one.shape != other.shape:
        received = tuple(other.shape)
        raise ValueError(f"{second} must have the shape of {first}: expected {tuple(one.shape)}, received {received}")
    if len(one) < at_least:
        raise ValueError(f"{first} must hold at least two embeddings, or there is nothing to tell apart, received 1")
    check_same_kind(**pair)
