"""Homework 2: attention from its formula, many heads, and the block around them (slides S23 and S24)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from vlmcourse.homework.checking import ONES, Case, Draw, check
from vlmcourse.ops.attention import attention_weights, self_attention

KERNELS = frozenset({"scaled_dot_product", "multi_head_attention", "flash_attention", "efficient_attention"})


def _weights(
    queries: Tensor,
    keys: Tensor,
    *,
    mask: Tensor | None = None,
    scale: str = "sqrt d",
    axis: int = -1,
    masking: str = "before",
    activation: str = "softmax",
    transposed: bool = False,
    cosine: bool = False,
    causal: bool = False,
) -> Tensor:
    """Return α, or what comes out when one step of the formula is another."""
    n, d = keys.shape[-2:]
    if cosine:
        queries, keys = (torch.nn.functional.normalize(x, dim=-1) for x in (queries, keys))
    scores = einsum(queries, keys, "... i d, ... j d -> ... i j")
    scores = scores / _divisor(scale, queries.shape[-2], n, d)
    if causal:
        triangle = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        mask = triangle if mask is None else mask & triangle
    if mask is not None and masking == "transposed":
        mask, masking = mask.mT, "before"
    if mask is not None and masking in ("before", "inverted"):
        scores = scores.masked_fill(mask if masking == "inverted" else ~mask, -math.inf)
    if mask is not None and masking in ("zero", "tiny"):
        scores = scores.masked_fill(~mask, 0.0 if masking == "zero" else 1e-9)
    if mask is not None and masking == "added":
        scores = scores + mask
    weights = {
        "softmax": lambda: scores.softmax(axis),
        "twice": lambda: scores.softmax(axis).softmax(axis),
        "column maximum": lambda: _shares((scores - scores.amax(-2, keepdim=True)).exp()),
        "none": lambda: scores,
        "sigmoid": scores.sigmoid,
        "shares": lambda: scores / scores.sum(axis, keepdim=True),
        "log": lambda: scores.log_softmax(axis),
        "exp": scores.exp,
        "relu": lambda: scores.relu() / scores.relu().sum(axis, keepdim=True).clamp(min=1e-12),
        "hard": lambda: torch.nn.functional.one_hot(scores.argmax(axis), n).to(scores),
    }[activation]()
    if mask is not None and masking in ("before", "after", "again"):
        weights = weights.masked_fill(~mask, 0.0)
    if mask is not None and masking == "again":
        weights = weights / weights.sum(axis, keepdim=True)
    return weights.mT if transposed else weights


def _divisor(scale: str, i: int, n: int, d: int) -> float:
    """Return what scores of i queries and n keys of width d are divided by."""
    divisors = {
        "sqrt d": d**0.5,
        "none": 1.0,
        "d": d,
        "times": d**-0.5,
        "sqrt n": n**0.5,
        "sqrt i": i**0.5,
        "sqrt 2d": (2 * d) ** 0.5,
        "minus": -(d**0.5),
        "fourth": d**0.25,
        "base 2": d**0.5 / math.log(2),
    }
    return divisors[scale]


def _shares(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def _a_row(case: Case, got: Tensor, _right: Any) -> str | None:
    """Say which row does not sum to one, and to what it sums."""
    sums = got.sum(-1)
    off = ((sums - 1).abs() > 1e-3) & ((sums.abs() > 1e-6) if case.options.get("mask") is not None else True)
    if not off.any():
        return None
    row = off.nonzero()[0].tolist()
    return f"row {row[-1]} sums to {float(sums[tuple(row)]):.3g}"


def _row_sums(case: Case, got: Tensor, right: Tensor) -> str | None:
    """Say what a row that does not sum to one shows."""
    if (row := _a_row(case, got, right)) is None:
        return None
    if ((got.sum((-2, -1)) - 1).abs() < 1e-3).all() or abs(float(got.sum()) - 1) < 1e-3:
        why = ": yours sum to 1 all together, so the softmax runs over more than the keys"
    else:
        why = ": softmax runs over queries, not keys" if ((got.sum(-2) - 1).abs() < 1e-3).all() else ""
    return f"{row}, and every row of weights must sum to 1{why}"


def lets_the_future_in(words: Tensor, read: Callable[[Tensor], Tensor], *, first: int = 0, what: str = "result") -> str:
    """Change each of the ``words`` ``(..., n, d)``, the last first, and say which earlier one got another result.

    >>> lets_the_future_in(torch.zeros(3, 1), lambda words: words.flip(0).cumsum(0).flip(0))
    'changing word 2 changed the result at word 1'
    """
    before = read(words)
    for late in range(words.shape[-2] - 1, 0, -1):
        other = words.clone()
        other[..., late, :] += 1
        moved = (read(other) - before)[..., :late, :].abs() > 1e-4
        if moved.any():
            early = int(moved.movedim(-2, 0).flatten(1).any(1).nonzero()[-1])
            return f"changing word {first + late} changed the {what} at word {first + early}"
    return ""


def _sees_what_it_may_not(case: Case, got: Tensor, _right: Tensor) -> str | None:
    mask = case.options.get("mask")
    if mask is None:
        return None
    leaks = ((got.nan_to_num() != 0) & ~mask.expand(got.shape)).nonzero().tolist()
    return f"query {leaks[0][-2]} looks at key {leaks[0][-1]}, which the mask forbids" if leaks else None


FORMULA_MISTAKES: dict[str, dict[str, Any]] = {
    "row sums are not 1: softmax runs over queries, not keys; take the last axis": {"axis": -2},
    "the scores are not divided by the square root of d, the number of entries of a query": {"scale": "none"},
    "the scores have the wrong sign: a large dot product means alike, and a large weight": {"scale": "minus"},
    "the scores are divided by d, not by its square root": {"scale": "d"},
    "the scores are multiplied by the square root of d: divide": {"scale": "times"},
    "the scores are divided by the root of the number of keys: d is the number of entries of a vector": {"scale": "sqrt n"},
    "the scores are divided by the root of the number of queries: d is the number of entries of a vector": {"scale": "sqrt i"},
    "softmax runs over the batch: take the last axis, dim=-1": {"axis": 0},
    "softmax runs over axis 1, counted from the front: take the last axis, dim=-1": {"axis": 1},
    "the softmax is missing: these are scores": {"activation": "none"},
    "a sigmoid looks at each key alone: the softmax lets keys compete, so that a row sums to 1": {"activation": "sigmoid"},
    "the scores are divided by their sum: exponentiate first, that is the softmax": {"activation": "shares"},
    "these are logarithms: softmax, not log_softmax": {"activation": "log"},
    "exp without the division by its row's sum: the rows must sum to 1": {"activation": "exp"},
    "queries and keys are swapped: row i belongs to query i, column j to key j": {"transposed": True, "axis": -2},
    "these are cosines: the dot product is not divided by norms, only by the root of d": {"cosine": True, "scale": "none"},
    "queries and keys are normalised: the score is their dot product as it is": {"cosine": True},
    "scores below 0 are cut off and the rest divided by its sum: exponentiate, that is the softmax": {"activation": "relu"},
    "each query takes its best key alone: the softmax gives every key a share": {"activation": "hard"},
    "the weights are transposed: row i belongs to query i, column j to key j": {"transposed": True},
    "the softmax is taken twice: once makes the weights": {"activation": "twice"},
    "each column's maximum is taken away, which changes the weights: take each row's, along the last axis": {"activation": "column maximum"},
    "the scores are divided by the fourth root of d: by its square root, d**0.5": {"scale": "fourth"},
    "these are powers of 2 (exp2): the softmax takes powers of e": {"scale": "base 2"},
    "key j is hidden from query i wherever j > i, though nobody asked for a causal mask: only `mask` hides": {"causal": True},
    "the mask is ignored": {"masking": "ignored"},
    "the mask is inverted: True is where i may look at j": {"masking": "inverted"},
    "the mask is transposed: its row i says where query i may look": {"masking": "transposed"},
    "the mask is applied after the softmax, so that rows no longer sum to 1: put -inf into the scores before it": {
        "masking": "after"
    },
    "masked scores are 0, and exp(0) is 1: put -inf there": {"masking": "zero"},
    "the boolean mask is added to the scores: put -inf where it is False": {"masking": "added"},
}  # fmt: skip


def _masked_cases(draw: Draw, *, values: bool) -> Iterator[Case]:
    """Yield batches, heads, masks, a row that may look nowhere, and scores whose exp overflows."""
    b, head, i, j, d, dv = draw.primes(6)

    def inputs(*leading: int, scale: float = 1.0) -> tuple[Tensor, ...]:
        pair = scale * draw.normal(*leading, i, d), scale * draw.normal(*leading, j, d)
        return (*pair, draw.normal(*leading, j, dv)) if values else pair

    yield Case("one batch", inputs(b))
    yield Case("a batch of heads", inputs(b, head), hint="use the last two axes, `...` for all before them")
    mask = draw.integers(2, b, i, j).bool()
    mask[..., 0] = True
    yield Case("a mask", inputs(b), {"mask": mask})
    causal = torch.ones(i, j, dtype=torch.bool, device=draw.device).tril()
    yield Case("a causal mask for all heads", inputs(b, head), {"mask": causal})
    yield Case(
        "scores in the thousands",
        inputs(b, scale=100.0),
        overflow="exp of a large score is infinite: use torch.softmax, or take each row's maximum away first",
    )
    nowhere = mask.clone()
    nowhere[:, 0] = False
    hint = "a row that may look nowhere (after -inf the softmax gives 0 / 0) needs zeros of your own: its weights are all zero"
    nan = "the values are right, but their gradient is nan where a query may look at no key: put -inf in with `masked_fill`, "
    nan += "which stops a gradient on its way back; -inf that is added does not"
    yield Case("a query that may look at no key", inputs(b), {"mask": nowhere}, hint, nan)
    i = j = d = dv = 1
    yield Case("one number each", inputs(1), hint=ONES)


@check(
    "attention_weights(queries, keys, *, mask=None)",
    attention_weights,
    layout="... i j",
    variant=_weights,
    mistakes=FORMULA_MISTAKES,
    symptoms=[_sees_what_it_may_not, _row_sums],
    numbers={"row sums are not 1": _a_row},
    forbidden=KERNELS,
)
def check_attention_weights(draw: Draw) -> Iterator[Case]:
    """Check ``attention_weights(queries, keys, *, mask=None)`` → ``(..., i, j)``: the softmax over keys of q·k / √d.

    >>> check_attention_weights(lambda queries, keys, mask=None: queries @ keys.mT).passed
    False
    """
    yield from _masked_cases(draw, values=False)


def _mix(queries: Tensor, keys: Tensor, values: Tensor, *, mix: str = "values", **knobs: Any) -> Tensor:
    """Return the mixed values, or what comes out when one step is another."""
    if mix == "width of values":
        queries = queries * (keys.shape[-1] / values.shape[-1]) ** 0.5
    weights = _weights(queries, keys, **knobs)
    if mix == "softmax last":
        scores = einsum(queries, keys, "... i d, ... j d -> ... i j") / keys.shape[-1] ** 0.5
        return (scores @ values).softmax(-1)
    if mix == "hard":
        return values.take_along_dim(weights.argmax(-1, keepdim=True), dim=-2)
    if mix == "mean":
        return weights @ values / values.shape[-2]
    return weights @ (keys if mix == "keys" else values)


@check(
    "attention(queries, keys, values, *, mask=None)",
    self_attention,
    layout="... i d",
    variant=_mix,
    mistakes={
        hint: knobs for hint, knobs in FORMULA_MISTAKES.items()
        if "transposed" not in knobs and knobs.get("activation") != "hard"
    } | {
        "the keys are mixed, not the values": {"mix": "keys"},
        "each query takes its best value alone: mix all of them, by weight": {"mix": "hard"},
        "the scores are divided by the root of the entries of a value: d is the number of entries of queries and keys": {"mix": "width of values"},
        "the softmax comes after the values are mixed: the weights need it, before": {"mix": "softmax last"},
        "the result is divided by the number of keys: the weights already sum to 1": {"mix": "mean"},
    },
    forbidden=KERNELS,
)  # fmt: skip
def check_attention(draw: Draw) -> Iterator[Case]:
    """Check ``attention(queries, keys, values, *, mask=None)`` → ``(..., i, dv)``: values mixed by their weights.

    >>> check_attention(lambda queries, keys, values, mask=None: values).passed
    False
    """
    yield from _masked_cases(draw, values=True)


def _heads(
    tokens: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    *,
    num_heads: int,
    mask: Tensor | None = None,
    split: str = "(qkv head d)",
    merge: str = "(head d)",
    cut: str = "axes",
    roles: tuple[int, int, int] = (0, 1, 2),
    width: str = "head",
    project: str = "out",
    reduced: str = "",
    shared: str = "",
    **knobs: Any,
) -> Tensor:
    """Attend with several heads, or with one step done otherwise."""
    x = tokens @ (qkv_weight.T if cut != "weight" else qkv_weight.reshape(qkv_weight.shape[::-1]))
    if cut == "reshape":  # heads cut out of memory, tokens and features mixed
        b, n, _ = x.shape
        qkv = torch.stack([part.reshape(b, num_heads, n, -1) for part in x.chunk(3, dim=-1)])
    else:
        count = {"d" if cut == "width" else "head": num_heads}
        qkv = rearrange(x, f"b n {split} -> qkv b head n d", qkv=3, **count)
    queries, keys, values = (qkv[role] for role in roles)
    if cut == "over heads":  # attends between the heads of one token
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
    if width == "embedding":
        queries = queries / num_heads**0.5
    weights = _weights(queries, keys, mask=mask, **knobs)
    if shared == "queries":
        weights = _weights(queries[:, :1], keys, mask=mask, **knobs)
    if shared == "keys":
        weights = _weights(queries, keys[:, :1], mask=mask, **knobs)
    if shared == "mean":
        weights = weights.mean(1, keepdim=True)
    if shared == "first":
        weights = weights[:, :1]
    mixed = weights @ values
    mixed = mixed.transpose(1, 2) if cut == "over heads" else mixed
    if reduced == "last":
        mixed = mixed[:, -1:].expand(mixed.shape)
    elif reduced:
        mixed = getattr(mixed, reduced)(1, keepdim=True).expand(mixed.shape)
    mixed = mixed.reshape(tokens.shape) if merge == "reshape" else rearrange(mixed, f"b head n d -> b n {merge}")
    if project == "none":
        return mixed
    mixed = mixed @ (out_weight if project == "transposed" else out_weight.T)
    mixed = mixed @ out_weight.T if project == "twice" else mixed
    return mixed + tokens if project == "residual" else mixed


def _later_tokens(case: Case, run: Callable[[Case], Any]) -> str:
    """Change one token after another where the mask is causal."""
    tokens, *weights = case.args
    mask = case.options.get("mask")
    if mask is None or mask.triu(1).any():
        return ""
    return lets_the_future_in(tokens, lambda words: run(replace(case, args=(words, *weights))))


@check(
    "multi_head_attention(tokens, qkv_weight, out_weight, *, num_heads, mask=None)",
    _heads,
    layout="b n d",
    variant=_heads,
    mistakes={
        "the heads are cut out with a reshape that mixes tokens: split the last axis into (head, d), then move head in "
        "front": {"cut": "reshape"},
        "the heads are put back together without moving their axis behind the tokens: use 'b head n d -> b n (head d)'": {
            "merge": "reshape"
        },
        "attention runs between the heads of one token: it must run between tokens": {"cut": "over heads"},
        "the qkv axis is split as (head, qkv, d): the projection gives all queries first, then keys, then values": {
            "split": "(head qkv d)"
        },
        "the qkv axis is split with qkv innermost: the projection gives all queries first, then keys, then values": {
            "split": "(head d qkv)"
        },
        "each head takes every num_heads-th feature: a head is a block of neighbours, (head d)": {"split": "(qkv d head)"},
        "the heads are interleaved when they are put together: the order is (head d)": {"merge": "(d head)"},
        "queries and keys are swapped: the projection's order is queries, keys, values": {"roles": (1, 0, 2)},
        "keys and values are swapped: the projection's order is queries, keys, values": {"roles": (0, 2, 1)},
        "queries and values are swapped: the projection's order is queries, keys, values": {"roles": (2, 1, 0)},
        "the projection is read as values, queries, keys: its order is queries, keys, values": {"roles": (1, 2, 0)},
        "the projection is read as keys, values, queries: its order is queries, keys, values": {"roles": (2, 0, 1)},
        "the queries are used as values too": {"roles": (0, 1, 0)},
        "the scores are divided by the root of num_heads: each head has vectors of d / num_heads numbers": {
            "width": "embedding", "scale": "none"
        },
        "the weights are averaged over the heads: each head mixes its own values by its own weights": {"shared": "mean"},
        "all heads use the weights of the first: each has its own": {"shared": "first"},
        "num_heads is taken for the width of a head: it is how many there are": {"cut": "width"},
        "the scores are divided by the root of d, the width of all heads: each has only d / num_heads numbers": {
            "width": "embedding"
        },
        "the output projection is missing": {"project": "none"},
        "the output projection comes twice": {"project": "twice"},
        "all heads use the queries of the first: each has its own": {"shared": "queries"},
        "all heads use the keys of the first: each has its own": {"shared": "keys"},
        "the last head's result stands in the place of all: is a loop's result overwritten?": {"reduced": "last"},
        "the output weight is transposed: like nn.Linear, x @ weight.T": {"project": "transposed"},
        "the input is added: the residual belongs to the block, not to the attention": {"project": "residual"},
        "the heads are averaged: put them side by side": {"reduced": "mean"},
        "the heads are added: put them side by side": {"reduced": "sum"},
    } | {hint: knobs for hint, knobs in FORMULA_MISTAKES.items()
        if {"axis", "scale", "masking", "causal"} & knobs.keys() or knobs.get("activation") == "twice"},
    future=_later_tokens,
    forbidden=KERNELS,
)  # fmt: skip
def check_multi_head(draw: Draw) -> Iterator[Case]:
    """Check ``multi_head_attention(tokens, qkv_weight, out_weight, *, num_heads, mask=None)`` → ``(b, n, d)``.

    The weights are laid out as in ``nn.Linear``: ``qkv_weight`` ``(3d, d)`` gives all queries, then all keys, then all
    values, and within each the heads one after the other; ``out_weight`` is ``(d, d)``. There are no biases.

    >>> check_multi_head(lambda tokens, qkv_weight, out_weight, num_heads, mask=None: tokens).passed
    False
    """
    b, n, heads, width = draw.primes(4)
    d = heads * width
    weights = draw.normal(3 * d, d) / d**0.5, draw.normal(d, d) / d**0.5
    yield Case("several heads", (draw.normal(b, n, d), *weights), {"num_heads": heads})
    yield Case("one head", (draw.normal(b, n, d), *weights), {"num_heads": 1})
    yield Case("as many heads as features", (draw.normal(b, n, d), *weights), {"num_heads": d})
    causal = torch.ones(n, n, dtype=torch.bool, device=draw.device).tril()
    yield Case("a causal mask", (draw.normal(b, n, d), *weights), {"num_heads": heads, "mask": causal})
    one = draw.normal(1, 1, 1), draw.normal(3, 1), draw.normal(1, 1)
    yield Case("one token of one number", one, {"num_heads": 1}, ONES)


Layer = Callable[[Tensor], Tensor]


def _block(
    tokens: Tensor,
    attention: Layer,
    mlp: Layer,
    norm1: Layer,
    norm2: Layer,
    *,
    place: str = "pre",
    first: str = "attention",
    residuals: tuple[int, int] = (1, 1),
    wiring: str = "",
) -> Tensor:
    """Return a transformer block's tokens, with its parts in another order if asked."""
    if wiring == "parallel":
        return tokens + attention(norm1(tokens)) + mlp(norm2(tokens))
    if wiring == "attention twice":
        tokens = tokens + attention(norm1(tokens))
    if wiring == "sandwich":
        x = tokens + norm1(attention(norm1(tokens)))
        return x + norm2(mlp(norm2(x)))
    if wiring == "halved":
        x = (tokens + attention(norm1(tokens))) / 2
        return (x + mlp(norm2(x))) / 2
    if wiring == "minus":
        x = tokens - attention(norm1(tokens))
        return x - mlp(norm2(x))
    norms = {"shared norm": (norm1, norm1), "swapped norms": (norm2, norm1)}
    norm1, norm2 = norms.get(wiring, (norm1, norm2))
    if first == "mlp":
        attention, mlp = mlp, attention
    if place == "post":
        tokens = norm1(residuals[0] * tokens + attention(tokens))
        return norm2(residuals[1] * tokens + mlp(tokens))
    if place == "none":
        norm1 = norm2 = lambda x: x
    if place == "after":
        x = residuals[0] * tokens + norm1(attention(tokens))
        return residuals[1] * x + norm2(mlp(x))
    if place == "first after":
        x = norm1(tokens + attention(tokens))
        return x + mlp(norm2(x))
    normed = norm1(tokens)
    x = residuals[0] * (normed if wiring == "from normed" else tokens) + attention(normed)
    if wiring == "no second norm":
        return x + mlp(x)
    again = norm2(x)
    base = {"from input": tokens, "from normed": again}.get(wiring, x)
    out = residuals[1] * base + mlp(again)
    out = out + mlp(norm2(out)) if wiring == "mlp twice" else out
    return norm2(out) if wiring == "norm at the end" else out


@check(
    "transformer_block(tokens, attention, mlp, norm1, norm2)",
    _block,
    layout="b n d",
    variant=_block,
    mistakes={
        "the norms stand after the sums (post-norm, as in 2017): here each norm stands before its layer, inside the "
        "residual": {"place": "post"},
        "the norms stand behind the layers: each norm stands before its layer": {"place": "after"},
        "the first norm stands after the sum, the second before its layer: both stand before": {"place": "first after"},
        "the norms are missing": {"place": "none"},
        "what the layers give is taken away: it is added": {"residuals": (-1, 1), "wiring": "minus"},
        "the MLP comes first: attention, then MLP": {"first": "mlp"},
        "the first residual is missing: tokens + attention(...)": {"residuals": (0, 1)},
        "the second residual is missing: x + mlp(...)": {"residuals": (1, 0)},
        "both residuals are missing: each layer adds to what came in": {"residuals": (0, 0)},
        "attention and MLP read the same tokens: the MLP comes after, and reads what attention has made": {
            "wiring": "parallel"
        },
        "the first norm is used twice: norm2 belongs to the MLP": {"wiring": "shared norm"},
        "the two norms are swapped": {"wiring": "swapped norms"},
        "the residual adds the normalised tokens: add the tokens as they came": {"wiring": "from normed"},
        "the second residual adds the block's input: add what attention has made": {"wiring": "from input"},
        "the second norm is missing": {"wiring": "no second norm"},
        "each sum is halved: add, and no more": {"wiring": "halved"},
        "there is one norm too many, at the end": {"wiring": "norm at the end"},
        "attention comes twice, one after the other: once, then the MLP": {"wiring": "attention twice"},
        "the MLP comes twice, one after the other: once": {"wiring": "mlp twice"},
        "the norms stand before and behind each layer: before it alone": {"wiring": "sandwich"},
    },
)  # fmt: skip
def check_transformer_block(draw: Draw) -> Iterator[Case]:
    """Check ``transformer_block(tokens, attention, mlp, norm1, norm2)`` → ``(b, n, d)``: pre-norm, two residuals.

    The four layers are functions from tokens to tokens.

    >>> check_transformer_block(lambda tokens, attention, mlp, norm1, norm2: tokens + attention(tokens)).passed
    False
    """
    b, n, d = draw.primes(3)
    between, up, gain1, gain2 = draw.normal(n, n).softmax(-1), draw.normal(d, d), draw.normal(d), draw.normal(d)

    def attention(x: Tensor) -> Tensor:
        return between[: x.shape[1], : x.shape[1]].to(x) @ x

    def mlp(x: Tensor) -> Tensor:
        return (x @ up.to(x)).tanh()

    def norm1(x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:]) * gain1.to(x)

    def norm2(x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:]) * gain2.to(x) + 1

    yield Case("a batch", (draw.normal(b, n, d), attention, mlp, norm1, norm2))
    yield Case("one sequence", (draw.normal(1, n, d), attention, mlp, norm1, norm2))
    yield Case("one token", (draw.normal(1, 1, d), attention, mlp, norm1, norm2), hint=ONES)
