"""Solutions of homework 3, right and wrong, as students write them."""

import math

import torch
import torch.nn.functional as F

import vlmcourse
from vlmcourse.homework import check_nt_xent, check_pair_logits, check_partners, check_standardise, check_unit


def unit(x):
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def logits(units, temperature):
    return (units @ units.mT / temperature).fill_diagonal_(-math.inf)


def by_where(units, temperature):
    cosines = torch.einsum("id,jd->ij", units, units)
    return torch.where(torch.eye(len(units)).bool().to(units.device), -math.inf, cosines / temperature)


def by_adding(units, temperature):
    alone = torch.zeros(len(units), dtype=units.dtype, device=units.device) + math.inf
    return units.matmul(units.t()).div(temperature) - torch.nan_to_num(torch.diag(alone), nan=0.0, posinf=math.inf)


def by_index(units, temperature):
    found = torch.mm(units, units.T) * (1.0 / temperature)
    rows = torch.arange(len(found), device=units.device)
    return found.index_put((rows, rows), torch.tensor(-math.inf, dtype=found.dtype, device=found.device))


def nt_xent(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view2]))
    return F.cross_entropy(logits(z, temperature), torch.arange(len(z), device=z.device).roll(len(view1)))


def by_logsumexp(view1, view2, *, temperature):
    z, n = unit(torch.cat((view1, view2), dim=0)), len(view1)
    found = by_where(z, temperature)
    positive = torch.cat([found.diagonal(n), found.diagonal(-n)])
    return (found.logsumexp(1) - positive).sum() / (2 * n)


def without_diagonal(view1, view2, *, temperature):
    z, n = F.normalize(torch.cat([view1, view2])), len(view1)
    keep = ~torch.eye(2 * n, dtype=torch.bool, device=z.device)
    found = (z @ z.T)[keep].reshape(2 * n, 2 * n - 1) / temperature
    target = torch.cat([torch.arange(n) + n - 1, torch.arange(n)]).to(z.device)
    return F.cross_entropy(found, target)


def by_rows(view1, view2, temperature):
    z, n, total = unit(torch.cat([view1, view2])), len(view1), 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        scores = z[others] @ z[i] / temperature
        total = total - scores.log_softmax(0)[others.index((i + n) % (2 * n))]
    return total / (2 * n)


def loss(normalise=F.normalize, scores=logits, target=None, ending=F.cross_entropy):
    def run(view1, view2, *, temperature):
        z, n = normalise(torch.cat([view1, view2])), len(view1)
        rows = torch.arange(2 * n, device=z.device)
        return ending(scores(z, temperature), rows.roll(n) if target is None else target(rows, n))

    return run


def one_side(view1, view2, *, temperature):
    z, n = F.normalize(torch.cat([view1, view2])), len(view1)
    return F.cross_entropy(logits(z, temperature)[:n], torch.arange(n, 2 * n))


def like_clip(view1, view2, *, temperature):
    found = F.normalize(view1) @ F.normalize(view2).T / temperature
    pair = torch.arange(len(view1))
    return (F.cross_entropy(found, pair) + F.cross_entropy(found.T, pair)) / 2


def without_positive(found, target):
    positive = found.gather(1, target[:, None])[:, 0]
    return (found.scatter(1, target[:, None], -math.inf).logsumexp(1) - positive).mean()


def with_exp(view1, view2, *, temperature):
    z, n = F.normalize(torch.cat([view1, view2])), len(view1)
    mass = (z @ z.T / temperature).exp()
    mass = mass * (1 - torch.eye(2 * n))
    return -(mass.gather(1, torch.arange(2 * n).roll(n)[:, None])[:, 0] / mass.sum(1)).log().mean()


def scale(train, test, *, mean=None, std=None):
    mean = train.mean(0) if mean is None else mean
    std = train.std(0, correction=0) if std is None else std
    return (train - mean) / std.clamp(min=1e-6), (test - mean) / std.clamp(min=1e-6)


def scale_by_squares(train, test):
    mean = train.sum(0, keepdim=True) / len(train)
    std = ((train - mean) ** 2).mean(0, keepdim=True).sqrt()
    std = torch.where(std < 1e-6, torch.full_like(std, 1e-6), std)
    return [(x - mean) / std for x in (train, test)]


def scale_by_columns(train, test):
    columns = [scale(a[:, None], b[:, None]) for a, b in zip(train.T, test.T, strict=True)]
    return torch.cat([a for a, _ in columns], dim=1), torch.cat([b for _, b in columns], dim=1)


def scale_by_maximum(train, test):
    std, mean = torch.std_mean(train, dim=0, unbiased=False)
    return tuple((x - mean).div(torch.maximum(std, torch.full_like(std, 1e-6))) for x in (train, test))


RIGHT = {
    check_unit: [
        unit,
        F.normalize,
        lambda x: x / x.square().sum(1, keepdim=True).clamp(min=1e-24).sqrt(),
        lambda x: torch.stack([F.normalize(row, dim=0) for row in x]),
    ],
    check_partners: [
        lambda n: torch.arange(2 * n).roll(n),
        lambda n: (torch.arange(2 * n) + n) % (2 * n),
        lambda n: torch.cat([torch.arange(n, 2 * n), torch.arange(n)]),
        lambda n: torch.tensor([i + n if i < n else i - n for i in range(2 * n)]),
    ],
    check_pair_logits: [logits, by_where, by_adding, by_index],
    check_nt_xent: [nt_xent, by_logsumexp, without_diagonal, by_rows],
    check_standardise: [scale, scale_by_squares, scale_by_columns, scale_by_maximum],
}
WRONG = {
    check_unit: [
        (lambda x: x / x.norm(dim=0), "you divide along the batch"),
        (lambda x: F.normalize(x, dim=0), "you divide along the batch"),
        (lambda x: x / x.norm(), "one length for the whole batch"),
        (lambda x: F.normalize(x, p=1, dim=1), "the sum of absolute values"),
        (lambda x: x / x.square().sum(1, keepdim=True), "the squared length"),
        (lambda x: x / x.abs().amax(1, keepdim=True), "the largest entry"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "this is layer normalisation"),
        (lambda x: x.softmax(1), "this is a softmax"),
        (lambda x: x / x.sum(1, keepdim=True), "the sum of the entries"),
        (lambda x: x * x.norm(dim=1, keepdim=True), "you multiply by the length"),
        (lambda x: x, "nothing is normalised"),
        (lambda x: x / x.norm(dim=1), "it stops with RuntimeError"),
        (lambda x: x / x.norm(dim=1, keepdim=True), "a row of zeros"),
        (lambda x: x / x.detach().norm(dim=1, keepdim=True).clamp(min=1e-12), "their gradient is not"),
        (lambda x: F.normalize(x.float()), "follow the dtype"),
        (lambda x: x.div_(x.norm(dim=1, keepdim=True).clamp(min=1e-12)), "it changes its input `x`"),
    ],
    check_partners: [
        (lambda n: torch.arange(2 * n), "every row names itself"),
        (lambda n: torch.arange(2 * n) ^ 1, "this pairs neighbours"),
        (lambda n: torch.arange(n).repeat(2), "rows of the second view name themselves"),
        (lambda n: torch.arange(2 * n) + n, "point beyond the end"),
        (lambda n: torch.arange(2 * n).roll(-1), "the row after it"),
        (lambda n: torch.arange(2 * n).roll(1), "the row before it"),
        (lambda n: torch.arange(2 * n).flip(0), "the order is reversed"),
        (lambda n: torch.arange(n, 2 * n), "only the first view has partners"),
        (lambda n: torch.zeros(2 * n, dtype=torch.long), "all rows name row 0"),
        (lambda n: torch.eye(2 * n).roll(n, 1).bool(), "a table of which pairs"),
        (lambda n: torch.arange(2 * n).roll(n) + 1, "rows count from 0"),
        (lambda n: [*range(n, 2 * n), *range(n)], "a torch.Tensor is expected, a builtins.list"),
        (lambda n: torch.arange(2 * n).roll(n).float(), "torch.float32 where torch.int64"),
    ],
    check_pair_logits: [
        (lambda u, t: u @ u.T / t, "an embedding is its own candidate"),
        (lambda u, t: (u @ u.T / t).fill_diagonal_(0), "exp(0) = 1"),
        (lambda u, t: (u @ u.T / t) * (1 - torch.eye(len(u))), "exp(0) = 1"),
        (lambda u, t: (u @ u.T / t).fill_diagonal_(math.inf), "makes every row choose itself"),
        (lambda u, t: (u @ u.T / t).fill_diagonal_(-1), "the opposite of a candidate"),
        (lambda u, t: (u @ u.T).fill_diagonal_(-math.inf) * t, "the temperature multiplies"),
        (lambda u, t: (u @ u.T).fill_diagonal_(-math.inf), "the temperature is ignored"),
        (lambda u, t: logits(u / t, 1), "divide by the temperature twice"),
        (lambda u, t: logits(u / t**0.25, 1), "the root of the temperature"),
        (lambda u, t: (-torch.cdist(u, u).square() / t).fill_diagonal_(-math.inf), "these are distances"),
        (lambda u, t: u.T @ u / t, "compare rows with rows"),
        (lambda u, t: logits(u, t).softmax(1), "these are probabilities"),
        (lambda u, t: (u @ u.T).abs().div(t).fill_diagonal_(-math.inf), "the sign is lost"),
        (lambda u, t: (u @ u.T / t).masked_fill(torch.ones(len(u), len(u)).tril().bool(), -math.inf), "only the diagonal is"),
    ],
    check_nt_xent: [
        (loss(normalise=lambda z: z), "the embeddings are not normalised"),
        (loss(normalise=lambda z: F.normalize(z, dim=0)), "you normalise along the batch"),
        (loss(normalise=lambda z: z / z.norm()), "one length for the whole batch"),
        (loss(scores=lambda z, t: z @ z.T / t), "a gradient reaches self-pairs"),
        (loss(scores=lambda z, t: (z @ z.T / t).fill_diagonal_(0)), "self-pairs are set to 0"),
        (loss(scores=lambda z, t: logits(z, 1 / t)), "the temperature multiplies"),
        (loss(scores=lambda z, t: logits(z, 1)), "the temperature is ignored"),
        (loss(scores=lambda z, t: logits(z, t).softmax(1)), "a softmax twice"),
        (loss(target=lambda rows, n: rows ^ 1), "its neighbour in memory"),
        (loss(target=lambda rows, n: rows.flip(0)), "in reverse order"),
        (one_side, "only the first view is asked"),
        (like_clip, "as in CLIP"),
        (loss(ending=without_positive), "missing from the denominator"),
        (loss(ending=lambda s, t: F.cross_entropy(s, t) - math.log(len(s) - 1)), "the denominator is a mean"),
        (loss(ending=lambda s, t: -s.softmax(1).gather(1, t[:, None]).mean()), "the logarithm is missing"),
        (loss(ending=lambda s, t: F.cross_entropy(s, t, reduction="sum")), "take the mean"),
        (loss(ending=lambda s, t: -F.cross_entropy(s, t)), "the sign is wrong"),
        (loss(ending=lambda s, t: F.cross_entropy(s, t, reduction="none")), "return their mean"),
        (with_exp, "exp of 1 / 0.005 is infinite"),
        (loss(normalise=lambda z: z, scores=lambda z, t: logits(z, 1)), "not normalised: divide each by its length; and also: the temperature"),
        (lambda view1, view2, *, temperature: nt_xent(view1, view2.detach(), temperature=temperature), "no gradient comes back"),
        (lambda view1, view2, *, temperature: nt_xent(view1, view2, temperature=temperature).item(), "a torch.Tensor is expected"),
        (vlmcourse.nt_xent_loss, "which is the solution"),
    ],
    check_standardise: [
        (lambda a, b: (scale(a, a)[0], scale(b, b)[0]), "scaled by their own mean"),
        (lambda a, b: scale(a, b, mean=torch.cat([a, b]).mean(0), std=torch.cat([a, b]).std(0, correction=0)), "from train and test together"),
        (lambda a, b: scale(a, b, mean=b.mean(0), std=b.std(0, correction=0)), "come from the test features"),
        (lambda a, b: scale(a, b, mean=a.mean(), std=a.std(correction=0)), "one mean and one deviation for all"),
        (lambda a, b: tuple((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0) for x in (a, b)), "you standardise each row"),
        (lambda a, b: scale(a, b, std=a.std(0)), "divides by n (correction=0)"),
        (lambda a, b: (a - a.mean(0), b - a.mean(0)), "not divided by their deviation"),
        (lambda a, b: scale(a, b, mean=torch.zeros(a.shape[1])), "not centred"),
        (lambda a, b: scale(a, b, std=a.var(0, correction=0)), "you divide by the variance"),
        (lambda a, b: tuple((x - a.amin(0)) / (a.amax(0) - a.amin(0)) for x in (a, b)), "the range from 0 to 1"),
        (lambda a, b: scale(a, b)[::-1], "in the wrong order"),
        (lambda a, b: (a, scale(a, b)[1]), "scale both"),
        (lambda a, b: scale(a, b)[1], "a tuple of 2 is expected, a Tensor came"),
        (lambda a, b: ((a - a.mean(0)) / a.std(0, correction=0), (b - a.mean(0)) / a.std(0, correction=0)), "divide by 1e-6 at least"),
    ],
}  # fmt: skip
