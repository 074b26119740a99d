"""Homework 3: four repairs in a contrastive training, and its loss (slides S07 and S08)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse.homework.checking import ONES, Case, Draw, check
from vlmcourse.ops.contrastive import nt_xent_loss


def _unit(
    embeddings: Tensor, *, dim: int | None = 1, power: float = 2.0, root: bool = True, kind: str = "norm"
) -> Tensor:
    """Divide vectors by their length, or by something else."""
    if kind == "layer norm":
        return F.layer_norm(embeddings, embeddings.shape[1:])
    if kind == "standardised":
        return (embeddings - embeddings.mean(1, keepdim=True)) / embeddings.std(1, keepdim=True)
    if kind == "softmax":
        return embeddings.softmax(1)
    if kind == "max":
        return embeddings / embeddings.abs().amax(1, keepdim=True).clamp(min=1e-12)
    if kind == "sum":
        return embeddings / embeddings.sum(1, keepdim=True)
    if kind == "sum, limited":
        return embeddings / embeddings.sum(1, keepdim=True).clamp(min=1e-12)
    if kind == "as it was":
        return embeddings.clone()
    if kind == "mean of squares":
        return embeddings / embeddings.square().mean(1, keepdim=True).sqrt()
    if kind == "longest":
        return embeddings / embeddings.norm(dim=1).amax().clamp(min=1e-12)
    if kind == "centred":
        return F.normalize(embeddings - embeddings.mean(0), dim=1)
    if kind == "eps":
        return embeddings / (embeddings.norm(dim=1, keepdim=True) + 1e-12)
    length = embeddings.norm(p=power, dim=dim, keepdim=True) if dim is not None else embeddings.norm(p=power)
    length = length if root else length**2
    return embeddings * length if kind == "times" else embeddings / length.clamp(min=1e-12)


def _wrong_length(case: Case, got: Tensor, right: Tensor) -> str | None:
    """Say how long a row is that points the right way."""
    lengths, before = got.norm(dim=1), case.args[0].detach().norm(dim=1)
    if not torch.allclose(F.normalize(got, dim=1), right, atol=1e-4):
        return None
    row = int((lengths - right.norm(dim=1)).abs().argmax())
    divisors = (before / lengths)[before > 0]
    short = divisors > before[before > 0] + 1e-4  # what is limited from below is limited to one number
    floor = short.any() and torch.allclose(divisors[short], divisors[short][:1], rtol=1e-3)
    added = short.all() and torch.allclose(
        divisors - before[before > 0], (divisors - before[before > 0])[:1], rtol=1e-2
    )
    why = "every row is divided by its own length"
    if added or (floor and (~short).any()):
        why = f"what {'is added to the length' if added else 'limits it from below'} must be very small, such as 1e-12"
    return f"row {row} points the right way, but its length is {float(lengths[row]):.3g}, not 1: {why}"


@check(
    "unit(embeddings)",
    _unit,
    layout="n d",
    variant=_unit,
    mistakes={
        "you divide along the batch, each column by its length: every embedding, a row, must have length 1": {"dim": 0},
        "you divide by one length for the whole batch: every row has its own": {"dim": None},
        "you divide by the sum of absolute values (L1): take the root of the sum of squares": {"power": 1.0},
        "you divide by the squared length: the root is missing": {"root": False},
        "you divide by the largest entry: divide by the length": {"kind": "max", "power": math.inf},
        "this is layer normalisation, mean 0 and variance 1: divide by the length alone": {"kind": "layer norm"},
        "this is standardisation, mean 0 and deviation 1: divide by the length alone": {"kind": "standardised"},
        "this is a softmax: divide by the length": {"kind": "softmax"},
        "you divide by the root of the mean of squares: the length is the root of their sum": {"kind": "mean of squares"},
        "you divide by the sum of the entries: divide by the length": {"kind": "sum"},
        "you divide by the sum of the entries, and where it is below 0 by what limits it: divide by the length": {"kind": "sum, limited"},
        "you multiply by the length: divide": {"kind": "times"},
        "nothing is normalised: divide each row by its length": {"kind": "as it was"},
        "all rows are divided by the length of the longest: every row has its own": {"kind": "longest"},
        "the mean of the batch is taken away first: divide by the length alone": {"kind": "centred"},
    },
    symptoms=[_wrong_length],
)  # fmt: skip
def check_unit(draw: Draw) -> Iterator[Case]:
    """Check ``unit(embeddings)`` → ``(n, d)``: every row divided by its length; a row of zeros stays zeros.

    >>> check_unit(lambda embeddings: embeddings / embeddings.norm()).passed
    False
    """
    n, d = draw.primes(2)
    d = 7 if d == 2 and not draw.small else d  # of two numbers, all deviations from the mean are alike
    yield Case("random embeddings", (draw.normal(n, d),))
    yield Case("a single embedding", (draw.normal(1, d),))
    # So short that 1e-6 added to its length is always seen, and 1e-8 never; with a hint, gradients are not compared.
    mixed = torch.cat([F.normalize(draw.normal(1, d), dim=1) / 1000, 3 * draw.normal(n, d)])
    hint = "each row is divided by its own length, however short; what you add to it must be as small as 1e-12"
    yield Case("a short embedding among long ones", (mixed,), hint=hint)
    zero = draw.normal(n, d)
    zero[0] = 0
    hint = "a row of zeros has length 0: it stays zeros"
    nan = "the values are right, but the gradient at a row of zeros is nan: the slope of `sqrt` is infinite at 0 (that of `norm` "
    nan += "is not: it counts as 0), and 0 / 0 stays nan on the way back, whatever takes its place later"
    yield Case("an embedding of length zero", (zero,), hint=hint, nan=nan)
    yield Case("an embedding of one number", (draw.normal(1, 1).exp(),), hint=ONES)


def _partners(n: int, *, kind: str = "roll") -> Tensor:
    """Return the row of the other view of each of 2n rows, or a mistaken one."""
    rows = torch.arange(2 * n)
    return {
        "roll": lambda: rows.roll(n),
        "itself": lambda: rows,
        "neighbour": lambda: rows ^ 1,
        "twice": lambda: torch.arange(n).repeat(2),
        "no wrap": lambda: rows + n,
        "next": lambda: rows.roll(-1),
        "previous": lambda: rows.roll(1),
        "reversed": lambda: rows.flip(0),
        "one side": lambda: torch.arange(n) + n,
        "forward": lambda: torch.cat([torch.arange(n) + n] * 2),
        "zeros": lambda: torch.zeros_like(rows),
        "one-hot": lambda: torch.eye(2 * n, dtype=torch.bool).roll(n, dims=1),
        "rows": lambda: (rows + n) % (2 * n) + 1,
        "half": lambda: rows.roll(n // 2),
        "one less": lambda: rows.roll(n - 1),
        "one more": lambda: rows.roll(n + 1),
        "pairs": lambda: torch.stack([rows, rows.roll(n)], dim=1),
    }[kind]()


@check(
    "partners(n)",
    _partners,
    layout="2n",
    variant=_partners,
    mistakes={
        "every row names itself: its positive is the other view, n rows away": {"kind": "itself"},
        "this pairs neighbours, rows 0 and 1: the views are stacked, so the partner is n rows away": {"kind": "neighbour"},
        "rows of the second view name themselves and the first ones too: row i pairs with i + n, and i + n with i": {
            "kind": "twice"
        },
        "rows of the second view point beyond the end: i + n, modulo 2n": {"kind": "no wrap"},
        "each row names the row after it: its other view is n rows away": {"kind": "next"},
        "each row names the row before it: its other view is n rows away": {"kind": "previous"},
        "the order is reversed: row i pairs with row i + n": {"kind": "reversed"},
        "only the first view has partners: give all 2n rows one": {"kind": "one side"},
        "rows of the second view name themselves: row i + n pairs with i": {"kind": "forward"},
        "all rows name row 0": {"kind": "zeros"},
        "this is a table of which pairs belong together: return the partner's number, 2n of them": {"kind": "one-hot"},
        "the numbers count from 1: rows count from 0": {"kind": "rows"},
        "the rows are shifted by n // 2: the other view is n rows away": {"kind": "half"},
        "the rows are shifted by n - 1: the other view is n rows away": {"kind": "one less"},
        "the rows are shifted by n + 1: the other view is n rows away": {"kind": "one more"},
        "these are pairs, a row and its partner: return the partners alone, one number a row": {"kind": "pairs"},
    },
)  # fmt: skip
def check_partners(draw: Draw) -> Iterator[Case]:
    """Check ``partners(n)`` → ``(2n,)`` int64: in two stacked views of n images, the row of each row's other view.

    >>> check_partners(lambda n: torch.arange(2 * n)).passed
    False
    """
    yield from (Case(f"n={n}", (n,)) for n in (*draw.primes(3), 1))


def _pair_logits(
    units: Tensor, temperature: float, *, heat: str = "divide", diagonal: float = -math.inf, kind: str = "dot"
) -> Tensor:
    """Return the logits of all pairs, self-pairs masked, or what a mistake gives."""
    products = units @ units.T
    if kind == "distance":
        products = -(2 - 2 * products)
    if kind == "root of distance":
        products = -(2 - 2 * products).clamp(min=0).sqrt()
    if kind == "columns":
        products = units.T @ units
    if kind == "absolute":
        products = products.abs()
    self_pairs = torch.eye(len(products), dtype=torch.bool, device=units.device)
    if kind == "softmax":
        return (products / temperature).masked_fill(self_pairs, -math.inf).softmax(1)
    scales = {
        "divide": 1 / temperature,
        "times": temperature,
        "none": 1.0,
        "squared": temperature**-2,
        "root": temperature**-0.5,
        "fixed": 2.0,
    }
    logits = products - temperature if heat == "minus" else products * scales.get(heat, 1.0)
    if math.isnan(diagonal):
        return logits
    if kind == "across":
        return logits[: len(logits) // 2, len(logits) // 2 :]
    if kind == "removed":
        return logits[~self_pairs].view(len(logits), -1)
    if kind == "opposite":
        diagonal = -1 / temperature
    if kind == "partners too":
        self_pairs = self_pairs | self_pairs.roll(len(units) // 2, dims=1)
    if kind == "exp":
        logits, diagonal = logits.exp(), 0.0
    if kind == "positives":
        self_pairs = self_pairs.roll(len(units) // 2, dims=1)
    if kind == "first half":
        self_pairs = self_pairs & (torch.arange(len(units), device=units.device) < len(units) // 2)
    if kind == "other diagonal":
        self_pairs = self_pairs.flip(1)
    if kind == "upper":
        self_pairs = torch.ones_like(self_pairs).tril()
    return logits.masked_fill(self_pairs, diagonal)


@check(
    "pair_logits(units, temperature)",
    _pair_logits,
    layout="i j",
    variant=_pair_logits,
    mistakes={
        "an embedding is its own candidate, and always the best one: put -inf on the diagonal": {"diagonal": math.nan},
        "the diagonal is 0, and exp(0) = 1 is still a candidate: put -inf there": {"diagonal": 0.0},
        "the diagonal is +inf, which makes every row choose itself: put -inf there": {"diagonal": math.inf},
        "the diagonal is -1, the opposite of a candidate but still one: put -inf there": {"diagonal": -1.0},
        "the diagonal is 1: put -inf there": {"diagonal": 1.0},
        "the temperature multiplies: divide by it": {"heat": "times"},
        "the temperature is ignored": {"heat": "none"},
        "you divide by the temperature twice": {"heat": "squared"},
        "you divide by the root of the temperature": {"heat": "root"},
        "the temperature is taken away: divide by it": {"heat": "minus"},
        "the temperature is 0.5, whatever was asked for": {"heat": "fixed"},
        "the self-pairs of the second view are not masked: the diagonal is 2n long": {"kind": "first half"},
        "the other diagonal is masked, from the upper right to the lower left: self-pairs stand from the upper left": {"kind": "other diagonal"},
        "these are distances: the logit is the dot product": {"kind": "distance"},
        "these are distances, with a root: the logit is the dot product": {"kind": "root of distance"},
        "the partners are masked too, and nobody is left to be found: only the diagonal is -inf": {"kind": "partners too"},
        "these are exp of the logits: cross-entropy takes exp itself": {"kind": "exp"},
        "these are products of features, (d, d): compare rows with rows, (2n, 2n)": {"kind": "columns"},
        "the sign is lost: opposite embeddings are unlike, not alike": {"kind": "absolute"},
        "these are probabilities: cross-entropy takes the softmax itself": {"kind": "softmax"},
        "the positives are masked, and the self-pairs are not": {"kind": "positives"},
        "half of the pairs is masked: only the diagonal is": {"kind": "upper"},
        "only one view is compared with the other: all 2n rows meet all 2n": {"kind": "across"},
        "the diagonal is taken out, (2n, 2n - 1): keep it, as -inf, so that row and column keep their numbers": {"kind": "removed"},
        "the diagonal is -1 over the temperature, the opposite of a candidate but still one: put -inf there": {"kind": "opposite"},
    },
    symptoms=[
        lambda case, got, right: f"the diagonal holds {float(got[0, 0]):.3g}, whose exp is 0 by rounding alone: put -inf there"
        if got.diagonal().isfinite().all() and (got.diagonal() < -1e3).all() else None,
        lambda case, got, right: f"the diagonal holds {float(got[0, 0]):.3g}, so an embedding is still a candidate for "
        "itself: put -inf there" if got.diagonal().isfinite().all() else None,
    ],
)  # fmt: skip
def check_pair_logits(draw: Draw) -> Iterator[Case]:
    """Check ``pair_logits(units, temperature)`` → ``(2n, 2n)``: dot products over the temperature, self-pairs at -inf.

    >>> check_pair_logits(lambda units, temperature: units @ units.T / temperature).passed
    False
    """
    n, d = draw.primes(2)
    yield Case("a warm temperature", (F.normalize(draw.normal(2 * n, d), dim=1), 0.7))
    yield Case("a cold temperature", (F.normalize(draw.normal(2 * n, d), dim=1), 0.05))


def _nt_xent(
    view1: Tensor,
    view2: Tensor,
    *,
    temperature: float,
    unit: dict[str, Any] | None = None,
    partners: str = "roll",
    logits: dict[str, Any] | None = None,
    ending: str = "mean",
    stacked: str = "behind",
) -> Tensor:
    """Return SimCLR's loss, with one step done otherwise."""
    n = len(view1)
    views = torch.cat([view1, view2]) if stacked == "behind" else torch.stack([view1, view2], dim=1).flatten(0, 1)
    scores = _pair_logits(_unit(views, **(unit or {})), temperature, **(logits or {}))
    target = _partners(n, kind=partners).to(views.device)
    if ending == "one side":
        return F.cross_entropy(scores[:n], target[:n])
    if ending == "across":  # only the other view's rows are candidates
        across = scores[:n, n:]
        return (F.cross_entropy(across, target[:n] - n) + F.cross_entropy(across.T, target[:n] - n)) / 2
    if ending == "across once":
        return F.cross_entropy(scores[:n, n:], target[:n] - n)
    if ending == "same view":  # the positive, and negatives of the row's own view
        others = (torch.arange(2 * n) < n)[:, None] == (torch.arange(2 * n) >= n)
        wanted = F.one_hot(target, 2 * n).bool()
        return F.cross_entropy(scores.masked_fill(others.to(wanted.device) & ~wanted, -math.inf), target)
    if ending == "log of mean":
        return -scores.softmax(1).gather(1, target[:, None]).mean().log()
    if ending == "smoothed":
        return F.cross_entropy(scores.masked_fill(scores.isinf(), -1e4), target, label_smoothing=0.1)
    if ending == "without positive":
        positive = scores.gather(1, target[:, None])
        others = scores.masked_fill(F.one_hot(target, 2 * n).bool(), -math.inf)
        return (others.logsumexp(1) - positive[:, 0]).mean()
    if ending in ("mean of negatives", "mean of all"):
        return F.cross_entropy(scores, target) - math.log(2 * n - (ending == "mean of negatives"))
    if ending == "minus e":
        products = _pair_logits(_unit(views), temperature, diagonal=math.nan)
        return ((products.exp().sum(1) - math.e).log() - products.gather(1, target[:, None])[:, 0]).mean()
    if ending == "binary":
        others = ~torch.eye(2 * n, dtype=torch.bool, device=views.device)
        return F.binary_cross_entropy_with_logits(scores[others], F.one_hot(target, 2 * n).to(scores)[others])
    if ending == "bits":
        return F.cross_entropy(scores, target) / math.log(2)
    if ending == "no log":
        return -scores.softmax(1).gather(1, target[:, None]).mean()
    return _ended(F.cross_entropy(scores, target, reduction="none"), n, ending)


def _ended(loss: Tensor, n: int, ending: str) -> Tensor:
    """Return what is made of the losses of all rows, of which two belong to each of n images."""
    endings = {
        "sum": loss.sum(),
        "minus": -loss.mean(),
        "per row": loss,
        "halved": loss.mean() / 2,
        "over n": loss.sum() / n,
    }
    return endings.get(ending, loss.mean())


@check(
    "nt_xent(view1, view2, *, temperature)",
    nt_xent_loss,
    variant=_nt_xent,
    mistakes={
        "the embeddings are not normalised: divide each by its length": {"unit": {"kind": "as it was"}},
        "you normalise along the batch: every embedding, a row, must have length 1": {"unit": {"dim": 0}},
        "you normalise by one length for the whole batch: every row has its own": {"unit": {"dim": None}},
        "you normalise to mean 0 and variance 1: divide by the length instead": {"unit": {"kind": "layer norm"}},
        "a gradient reaches self-pairs: mask them with -inf before the softmax": {"logits": {"diagonal": math.nan}},
        "self-pairs are set to 0, and exp(0) = 1 stays in the denominator: mask with -inf": {"logits": {"diagonal": 0.0}},
        "the temperature multiplies: divide by it": {"logits": {"heat": "times"}},
        "the temperature is ignored": {"logits": {"heat": "none"}},
        "you divide by the temperature twice": {"logits": {"heat": "squared"}},
        "you compare distances, not cosines": {"logits": {"kind": "distance"}},
        "cross-entropy takes logits; you hand it probabilities, a softmax twice": {"logits": {"kind": "softmax"}},
        "the positive of row i is row i + n; yours is its neighbour in memory": {"partners": "neighbour"},
        "the positive of row i is row i + n; yours is the row itself": {"partners": "itself"},
        "the positives point to the wrong rows, in reverse order: i pairs with i + n": {"partners": "reversed"},
        "only the first view is asked for its partner: average over all 2n rows": {"ending": "one side"},
        "negatives come from the other view alone (as in CLIP): all 2n - 2 other rows are negatives": {"ending": "across"},
        "only the first view asks, and among the other view alone (as in CLIP, one way): all 2n rows ask, among all other rows": {"ending": "across once"},
        "negatives come from the row's own view alone: all 2n - 2 other rows are negatives": {"ending": "same view"},
        "this is the logarithm of a mean: take each row's logarithm first, then the mean": {"ending": "log of mean"},
        "the mean of the batch is taken away before you normalise: divide each embedding by its length, and no more": {"unit": {"kind": "centred"}},
        "the temperature is taken away from the cosines: divide by it": {"logits": {"heat": "minus"}},
        "label smoothing gives a share to wrong candidates, masked ones too: the positive alone is the target": {"ending": "smoothed"},
        "the positive is missing from the denominator": {"ending": "without positive"},
        "the denominator is a mean: SimCLR's is a sum": {"ending": "mean of negatives"},
        "the denominator is a mean over 2n: SimCLR's is a sum": {"ending": "mean of all"},
        "you take e away for the self-pairs; over a temperature they are exp(1 / temperature): mask them instead": {"ending": "minus e"},
        "each pair is judged alone, with a sigmoid: the candidates of a row compete in one softmax": {"ending": "binary"},
        "this is in bits: use the natural logarithm": {"ending": "bits"},
        "the views are interleaved, and the positives are those of stacked views: torch.cat, row i pairs with i + n": {"stacked": "between"},
        "self-pairs are set to cosine -1, and exp(-1 / temperature) stays in the denominator: mask with -inf": {"logits": {"kind": "opposite"}},
        "the logarithm is missing: this is a mean probability": {"ending": "no log"},
        "you sum over the rows: take the mean": {"ending": "sum"},
        "the sum over 2n rows is divided by n: take the mean over all rows": {"ending": "over n"},
        "the mean is halved once more": {"ending": "halved"},
        "the sign is wrong: a loss falls when positives come closer": {"ending": "minus"},
        "one loss a row came back: return their mean": {"ending": "per row"},
    },
    symptoms=[
        lambda case, got, right: "the loss is infinite, or nearly: the positive of some row is masked, or label smoothing gives masked "
        "candidates a share; the positive of row i is row i + n, never the row itself" if got > 1e3 else None,
        lambda case, got, right: "the loss is negative: minus the log of a probability never is" if got < 0 else None,
    ],
)  # fmt: skip
def check_nt_xent(draw: Draw) -> Iterator[Case]:
    """Check ``nt_xent(view1, view2, *, temperature)`` → a scalar, SimCLR's loss.

    >>> check_nt_xent(lambda view1, view2, temperature: (view1 - view2).square().mean()).passed
    False
    """
    n, d = draw.primes(2)
    n = max(n, 2)
    yield Case("a warm temperature", (draw.normal(n, d), draw.normal(n, d)), {"temperature": 0.7})
    overflow = "exp of 1 / 0.005 is infinite: use F.cross_entropy or logsumexp"
    yield Case(
        "a very cold temperature", (draw.normal(n, d), draw.normal(n, d)), {"temperature": 0.005}, overflow=overflow
    )
    yield Case("two images", (draw.normal(2, d), draw.normal(2, d)), {"temperature": 0.2})
    alike = draw.normal(n, d)
    yield Case("views that are alike", (alike, alike.clone()), {"temperature": 0.5})
    # The corners of a tetrahedron, at any distances: all cosines are -1/3.
    corners = (torch.eye(4, device=draw.device) - 0.25) * draw.normal(4, 1).exp()
    hint = "all logits of other rows are -67 here, so that -10 for self-pairs, say, would win: put -inf there"
    yield Case("embeddings far from each other", corners.chunk(2), {"temperature": 0.005}, hint)


def _standardise(train: Tensor, test: Tensor, *, source: str = "train", axis: Any = 0, kind: str = "") -> Any:
    """Standardise both by the training features, or by something that an honest probe may not use."""
    sources = {"train": (train, train), "own": (train, test), "test": (test, test), "swapped": (test, train)}
    if source == "both":
        sources["both"] = (torch.cat([train, test]),) * 2

    def scaled(features: Tensor, statistics: Tensor) -> Tensor:
        keep = {"dim": axis, "keepdim": True} if axis is not None else {}
        if axis == 1:
            statistics = features
        center = statistics.mean(**keep)
        spread = statistics.std(**keep, correction=1 if kind == "correction" else 0)
        spread = torch.ones_like(spread) if kind == "center" else spread**2 if kind == "variance" else spread
        center = torch.zeros_like(center) if kind == "scale" else center
        if kind == "unit":
            return F.normalize(features, dim=1)
        if kind == "test not centred" and features is test:
            center = torch.zeros_like(center)
        if kind == "own mean":
            center = features.mean(0)
        if kind == "median":
            center = statistics.median(0).values
        if kind == "divide first":
            return features / spread.clamp(min=1e-6) - center
        if kind == "add":
            spread = spread + 1
        if kind == "rms":
            spread = statistics.square().mean(0).sqrt()
        if kind == "absolute":
            spread = (statistics - center).abs().mean(0)
        if kind == "rounded":
            center = center.round()
        if kind == "range":
            low, high = statistics.amin(0), statistics.amax(0)
            return (features - low) / (high - low).clamp(min=1e-6)
        return (features - center) / spread.clamp(min=1e-6)

    results = [scaled(x, by) for x, by in zip((train, test), sources[source], strict=True)]
    return tuple(results[::-1] if kind == "order" else [train, results[1]] if kind == "test only" else results)


def _added(case: Case, got: Any, _right: Any) -> str | None:
    """Say what is added to every deviation, where the same number is."""
    deviations = case.args[0].double().std(0, correction=0)
    more = deviations / got[0].double().std(0, correction=0) - deviations
    if not torch.allclose(more, more[:1], rtol=0.02) or float(more[0]) < 1e-5:
        return None
    return f"{float(more[0]):.2g} is added to every deviation: only one that is smaller than 1e-6 is replaced"


@check(
    "standardise(train, test)",
    _standardise,
    layout="n d",
    variant=_standardise,
    mistakes={
        "the test features are scaled by their own mean and deviation: use those of the training features": {"source": "own"},
        "mean and deviation come from train and test together: what the test set looks like has leaked": {"source": "both"},
        "mean and deviation come from the test features: they are not to be seen before the end": {"source": "test"},
        "each part is scaled by the statistics of the other": {"source": "swapped"},
        "one mean and one deviation for all features: every feature, a column, has its own": {"axis": None},
        "you standardise each row: every feature, a column, has its own mean and deviation": {"axis": 1},
        "you divide by n - 1: here the deviation divides by n (correction=0)": {"kind": "correction"},
        "the features are centred, but not divided by their deviation": {"kind": "center"},
        "the features are divided, but not centred: take the mean away first": {"kind": "scale"},
        "the test features are divided, but not centred: take the training mean away from both": {"kind": "test not centred"},
        "you divide by the variance: its root is the deviation": {"kind": "variance"},
        "this scales to the range from 0 to 1: take the mean away and divide by the deviation": {"kind": "range"},
        "you divide each row by its length: every feature, a column, has its own mean and deviation": {"kind": "unit"},
        "the test features are centred by their own mean: use that of the training features": {"kind": "own mean"},
        "you take the median away: take the mean": {"kind": "median"},
        "you divide before you take the mean away: first the mean, then the deviation": {"kind": "divide first"},
        "something is added to every deviation: only one that is smaller than 1e-6 is replaced": {"kind": "add"},
        "the spread is the root of the mean square: take the mean away before you square, that is the deviation": {"kind": "rms"},
        "this is the mean absolute deviation: square, take the mean, and the root": {"kind": "absolute"},
        "the mean is rounded to a whole number: take it as it is": {"kind": "rounded"},
        "the two parts come back in the wrong order: train, then test": {"kind": "order"},
        "the training features come back as they were: scale both": {"kind": "test only"},
    },
    symptoms=[_added],
    gradients=False,  # features for a probe: nobody trains through them
)  # fmt: skip
def check_standardise(draw: Draw) -> Iterator[Case]:
    """Check ``standardise(train, test)`` → both with the mean and deviation of the training features.

    A feature whose deviation in training is below 1e-6 is divided by 1e-6; to add 1e-6 to each is as good.

    >>> check_standardise(lambda train, test: (train - train.mean(0), test - train.mean(0))).passed
    False
    """
    n, m, d = draw.primes(3)
    n = max(n, 2)
    train, test = 3 * draw.normal(n, d) + 2, 2 * draw.normal(m, d) - 1
    train[0] = train[1] + 2  # no deviation so small that 1e-6 beside it would show
    yield Case("random features", (train, test))
    # Even steps: a deviation that is small by chance would leave right answers no digits either.
    far = torch.cat([100 + torch.linspace(-0.02, 0.02, n, device=draw.device)[:, None], train], dim=1)
    hint = "the mean of squares minus the square of the mean loses all digits: take the mean away before you square"
    yield Case("a feature far from 0", (far, torch.cat([far[:1, :1].expand(m, 1), test], dim=1)), hint=hint)
    hint = "its deviation is 0, or nearly: divide by 1e-6 at least, in the test too"
    for what, number, jump in (("never", 0.0, 0.0), ("hardly", 0.1, 1e-8)):
        constant, other = train.clone(), test.clone()
        constant[:, 0] = number
        constant[0, 0] += jump
        other[:, 0] = number + 3e-6  # which shows by what it is divided
        yield Case(f"a feature that {what} changes", (constant, other), hint=hint)
    yield Case("one feature of one picture", (train[:, :1], test[:1, :1]), hint=ONES)
