"""Homework 5: a language model's mask, loss, sampling and cache (slides S02 and S03)."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse.homework.attention import KERNELS, lets_the_future_in
from vlmcourse.homework.checking import ONES, Case, Draw, check
from vlmcourse.models.language_model import next_token_loss, next_token_probabilities


def _causal_mask(n: int, *, kind: str = "right") -> Tensor:
    """Return who may look where, or a mistaken answer."""
    ones = torch.ones(n, n, dtype=torch.bool)
    return {
        "right": ones.tril,
        "future": ones.triu,
        "inverted": lambda: ~ones.tril(),
        "strict": lambda: ones.tril(-1),
        "one ahead": lambda: ones.tril(1),
        "two ahead": lambda: ones.tril(2),
        "without the first": lambda: ones.tril() & (torch.arange(n) > 0),
        "all": lambda: ones,
        "itself": lambda: torch.eye(n, dtype=torch.bool),
        "window": lambda: ones.tril() & ones.triu(-1),
        "float": lambda: ones.tril().float(),
        "int": lambda: ones.tril().long(),
        "additive": lambda: torch.zeros(n, n).masked_fill(~ones.tril(), -math.inf),
        "corner": lambda: ones.tril().flip(1),
        "first": lambda: torch.arange(n) <= n - 1,
        "upside down": lambda: ones.tril().flip(0),
        "prefix": lambda: ones.tril() | (torch.arange(n) < n // 2),
    }[kind]()


def _read_through(case: Case, run: Callable[[Case], Tensor]) -> str:
    """Read words through the mask, with logits that are sums of what may be seen."""
    mask = run(case).double()
    return lets_the_future_in(torch.zeros(case.args[0], 1).double(), lambda words: mask @ words, what="logits")


@check(
    "causal_mask(n)",
    _causal_mask,
    layout="i j",
    variant=_causal_mask,
    mistakes={
        "the mask lets the future in and hides the past: True where j <= i, the lower triangle": {"kind": "future"},
        "the mask is inverted: True is where i may look at j": {"kind": "inverted"},
        "a word may not look at itself in your mask, and the first word may look nowhere: the diagonal is True": {"kind": "strict"},
        "word i may look at word i + 1, the very word it has to predict": {"kind": "one ahead"},
        "word i may look two words ahead: True where j <= i": {"kind": "two ahead"},
        "nobody may look at the first word: True where j <= i, column 0 included": {"kind": "without the first"},
        "the mask lets the future in: nothing is hidden": {"kind": "all"},
        "the mask lets the future in among the first half of the words, which all may look at: True where j <= i": {"kind": "prefix"},
        "a word may look at itself alone: all earlier words are allowed too": {"kind": "itself"},
        "only the word before is seen: all earlier words are allowed": {"kind": "window"},
        "the values are -inf and 0, to be added to scores: here the mask is boolean, True where i may look": {"kind": "additive"},
        "the triangle is mirrored: column j is the word that is looked at": {"kind": "corner"},
        "the triangle is upside down: row i is the word that looks": {"kind": "upside down"},
        "one row came back: every query i has a row of its own, (n, n)": {"kind": "first"},
    },
    future=_read_through,
)  # fmt: skip
def check_causal_mask(draw: Draw) -> Iterator[Case]:
    """Check ``causal_mask(n)`` → ``(n, n)`` boolean, True where word i may look at word j.

    >>> check_causal_mask(lambda n: torch.ones(n, n)).passed
    False
    """
    yield from (Case(f"n={n}", (n,)) for n in (*draw.primes(3), 1))


def _misread(logits: Tensor, ids: Tensor, loss_mask: Tensor, given: str, joined: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs of the loss as they are, or spoiled before anything is computed."""
    if joined == "one text":  # the last word of a row would predict the first of the next
        logits, ids, loss_mask = logits.flatten(0, 1)[None], ids.flatten()[None], loss_mask.flatten()[None]
    if joined == "batch":
        logits, ids, loss_mask = (x.transpose(0, 1) for x in (logits, ids, loss_mask))
    if joined == "a ring":
        logits, ids, loss_mask = (torch.cat([x, x[:, :1]], dim=1) for x in (logits, ids, loss_mask))
    if joined == "cut":
        logits, ids, loss_mask = (x[:, :-1] for x in (logits, ids, loss_mask))
    if joined == "cut, mask shifted":
        logits, ids, loss_mask = logits[:, :-1], ids[:, :-1], loss_mask[:, 1:]
    if given == "positions":
        logits = logits.log_softmax(1)
    if given == "logits times mask":
        logits = logits * loss_mask[..., None]
    if given == "words times mask":
        ids = ids * loss_mask
    return logits, ids, loss_mask


def _ended(loss: Tensor, mask: Tensor, loss_mask: Tensor, ending: str) -> Tensor:
    """Return what is made of the losses of all words: the mean over those that are marked, or something else."""
    total, count = (loss * mask).sum(), mask.sum()
    return {
        "mean": lambda: total / count,
        "sum": lambda: total,
        "over all": lambda: total / mask.numel(),
        "over n": lambda: total / loss_mask.numel(),
        "first too": lambda: total / loss_mask.sum(),
        "one too many": lambda: total / (count + 1),
        "all over marked": lambda: loss.sum() / count,
        "rows": lambda: ((loss * mask).sum(1) / mask.sum(1)).mean(),
        "minus": lambda: -total / count,
        "batch": lambda: total / len(loss),
        "perplexity": lambda: (total / count).exp(),
        "bits": lambda: total / count / math.log(2),
        "each": lambda: loss[mask],
    }[ending]()


def _shifted_loss(
    logits: Tensor,
    ids: Tensor,
    loss_mask: Tensor,
    *,
    shift: int = 1,
    marks: str = "target",
    ending: str = "mean",
    given: str = "logits",
    joined: str = "",
) -> Tensor:
    """Return the loss of predicting the next token, or another loss."""
    logits, ids, loss_mask = _misread(logits, ids, loss_mask, given, joined)
    n = ids.shape[1]
    if marks == "last":
        loss_mask = torch.arange(n, device=ids.device).expand(ids.shape) == n - 1
    if shift >= 0:
        read, target = logits[:, : n - shift], ids[:, shift:]
        mask = loss_mask[:, shift:] if marks != "source" else loss_mask[:, : n - shift]
    else:
        read, target, mask = logits[:, 1:], ids[:, :-1], loss_mask[:, :-1] if marks != "source" else loss_mask[:, 1:]
    if marks == "not word 0":
        mask = mask & (target != 0)
    if given == "read times mask":
        read = read * mask[..., None]
    if marks == "all":
        mask = torch.ones_like(mask)
    if marks == "inverted":
        mask = ~mask
    if given == "probabilities":
        read = read.softmax(-1)
    loss = F.cross_entropy(read.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    loss = loss if given != "no log" else -(-loss).exp()
    if given in ("scores", "positions"):
        loss = -read.gather(-1, target[..., None])[..., 0]
    if given == "squares":
        loss = (read.softmax(-1) - F.one_hot(target, read.shape[-1])).square().sum(-1)
    return _ended(loss, mask, loss_mask, ending)


@check(
    "shifted_loss(logits, ids, loss_mask)",
    lambda logits, ids, loss_mask: next_token_loss(logits, ids, loss_mask=loss_mask).to(logits.dtype),
    variant=_shifted_loss,
    mistakes={
        "nothing is shifted: the logits after word i must predict word i + 1, not repeat word i": {"shift": 0},
        "shifted the wrong way: you predict the word before": {"shift": -1},
        "shifted by two: the logits after word i predict word i + 1": {"shift": 2},
        "the loss mask is not shifted with the words: it marks the words to be predicted": {"marks": "source"},
        "the loss mask is ignored": {"marks": "all"},
        "the loss mask is inverted: True marks what counts": {"marks": "inverted"},
        "you sum: take the mean over the marked words": {"ending": "sum"},
        "you divide by the number of all words: divide by the number of marked words": {"ending": "over all"},
        "you divide by all words, the first of each row included: divide by the number of marked words": {"ending": "over n"},
        "you divide by all marked words, the first of each row too, which has no prediction: cut the mask first": {"ending": "first too"},
        "1 is added to the number of marked words: divide by the number itself": {"ending": "one too many"},
        "logits and ids both lose their last word, and nothing is shifted: cut the logits behind, [:, :-1], and the ids in "
        "front, [:, 1:]": {"joined": "cut", "shift": 0},
        "logits and ids both lose their last word, and only the mask is shifted: cut the ids in front, [:, 1:]": {
            "joined": "cut, mask shifted", "shift": 0
        },
        "the softmax runs over positions: take the last axis, the words": {"given": "positions"},
        "the shift runs along the batch: texts stand on axis 0, words on axis 1": {"joined": "batch"},
        "word 0 never counts, marked or not: use another number for what is to be ignored, such as -100": {"marks": "not word 0"},
        "this is a mean of means, one a row: every marked word counts the same, whatever its row": {"ending": "rows"},
        "you divide by the size of the batch: divide by the number of marked words": {"ending": "batch"},
        "the sign is wrong: minus the log-probability": {"ending": "minus"},
        "this is the perplexity, exp of the loss": {"ending": "perplexity"},
        "this is in bits: use the natural logarithm": {"ending": "bits"},
        "one loss a word came back: return their mean": {"ending": "each"},
        "cross-entropy takes logits; you hand it probabilities, a softmax twice": {"given": "probabilities"},
        "the logarithm is missing: this is a mean probability": {"given": "no log"},
        "the rows are joined and then shifted, so that the end of one text predicts the beginning of the next: shift inside "
        "each row": {"joined": "one text"},
        "the ids are rolled, so that the last word of a row predicts its first: cut, [:, :-1] and [:, 1:]": {"joined": "a ring"},
        "only the last word of a row counts: all marked words do": {"marks": "last"},
        "unmarked words are replaced by word 0, and count still: leave them out of the mean": {"given": "words times mask", "marks": "all"},
        "the logits of unmarked words are 0, and count still: leave them out of the mean": {"given": "logits times mask", "marks": "all"},
        "the logits of unmarked words are set to 0, which costs log(words) each: leave these words out": {
            "given": "read times mask", "ending": "all over marked"
        },
        "the logits of unmarked words are set to 0, and count still: leave these words out of the mean": {
            "given": "read times mask", "marks": "all"
        },
        "the logits are taken as log-probabilities: a log_softmax makes them such": {"given": "scores"},
        "these are squared differences: take the cross-entropy": {"given": "squares"},
    },
)  # fmt: skip
def check_shifted_loss(draw: Draw) -> Iterator[Case]:
    """Check ``shifted_loss(logits, ids, loss_mask)`` → the mean loss of predicting the words that the mask marks.

    >>> check_shifted_loss(lambda logits, ids, loss_mask: logits.mean()).passed
    False
    """
    b, n, words = draw.primes(3)
    b, n = min(b, n), max(b, n, 3)  # a text has three words at least, and its length is no other axis's
    for what, texts in (("several texts", b), ("one text", 1)):
        mask = draw.integers(2, texts, n).bool()
        mask[:, -1], mask[:, 1] = True, False
        mask[:, 0] = True  # marked, and nothing predicts it: of joined rows the row before would
        mask[0] = True
        logits, ids = draw.normal(texts, n, words), draw.integers(words, texts, n)
        ids[0, 2] = 0  # a word that counts, though its number is 0
        yield Case(what, (logits, ids, mask))


FEW = (1, 2, 3, 4, 5)


def _kept(ranked: Tensor, top_p: float, cut: str) -> Tensor:
    """Return which of the ranked words stay, or which would by a mistaken rule."""
    words = ranked.shape[-1]
    reached, rank = ranked.cumsum(-1), torch.arange(words, device=ranked.device).expand(ranked.shape)
    keep = reached - ranked < top_p
    return {
        "too few": lambda: (
            (reached <= top_p) | (ranked == ranked.amax(-1, keepdim=True))
        ),  # the word that crosses is lost
        "below": lambda: (reached < top_p) | (rank == 0),
        "threshold": lambda: ranked >= top_p,
        "far threshold": lambda: ranked >= 1 - top_p,
        "count": lambda: rank < top_p * words,
        "count down": lambda: rank < max(1, int(top_p * words)),
        **{f"{k} words": functools.partial(rank.lt, k) if top_p < 1 else lambda: keep for k in FEW},
        "share of the likeliest": lambda: ranked >= top_p * ranked[..., :1] if top_p < 1 else keep,
        "one more": lambda: keep | (reached - ranked).roll(1, -1).lt(top_p),
        "inverted": lambda: ~keep,
        "none": lambda: torch.ones_like(keep),
    }.get(cut, lambda: keep)()


def _probabilities(
    logits: Tensor, *, temperature: float, top_p: float = 1.0, heat: str = "divide", cut: str = "right"
) -> Tensor:
    """Return the distribution to draw from, or a mistaken one."""
    if temperature == 0:
        best = logits == logits.max() if heat == "coldest" else F.one_hot(logits.argmax(-1), logits.shape[-1])
        return best.to(logits.dtype)
    divisors = {
        "divide": temperature,
        "times": 1 / temperature,
        "none": 1.0,
        "root": temperature**0.5,
        "twice": temperature**2,
        "coldest": temperature,
    }
    heated = logits / divisors[heat]
    probabilities = heated.softmax(0 if cut == "over rows" else -1)
    if cut == "rows together":
        probabilities = probabilities.flatten()
    if cut == "before heat":
        probabilities = logits.softmax(-1)
    ranked, order = probabilities.sort(dim=-1, descending=cut != "least likely")
    if cut == "unsorted":
        ranked, order = probabilities, torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape)
    keep = _kept(ranked, top_p, cut)
    if cut == "before heat":
        ranked = heated.softmax(-1).gather(-1, order)
    kept = ranked * keep
    if cut == "gathered":
        kept = kept.gather(-1, order)
    elif cut != "left in order":
        kept = torch.zeros_like(kept).scatter(-1, order, kept)
    if cut == "rows together":
        kept = (kept / kept.sum()).view(logits.shape)
    if cut == "zero":
        return heated.masked_fill(kept == 0, 0.0).softmax(-1)
    if cut == "softmax again":
        return probabilities.masked_fill(kept == 0, -math.inf).softmax(-1)
    if cut == "equal":
        kept = (kept > 0).to(kept)
    return kept if cut in ("not renormalised", "rows together") else kept / kept.sum(-1, keepdim=True)


def _other_temperature(case: Case, got: Tensor, _right: Tensor) -> str | None:
    """Say which temperature would give these probabilities."""
    logits, asked = case.args[0].double(), case.options["temperature"]
    centred = logits - logits.mean(-1, keepdim=True)
    slopes = (centred * got.double().log()).sum(-1) / centred.square().sum(-1)
    if not torch.allclose((logits * slopes[:, None]).softmax(-1), got.double(), atol=1e-4) or not (slopes > 1e-3).all():
        return None
    if not torch.allclose(slopes, slopes[:1], rtol=1e-2) or abs(1 / float(slopes[0]) - asked) < 1e-2 * asked:
        return None
    return f"these are the probabilities at temperature {1 / float(slopes[0]):.3g}, and {asked:g} was asked for"


@check(
    "next_word_probabilities(logits, *, temperature, top_p=1.0)",
    lambda logits, *, temperature, top_p=1.0: next_token_probabilities(
        logits, temperature=temperature, top_p=top_p
    ).to(logits.dtype),
    layout="... words",
    variant=_probabilities,
    mistakes={
        "the temperature multiplies: divide the logits by it": {"heat": "times"},
        "the temperature changes nothing: it divides the logits (probabilities that sum to 1 again forget it)": {"heat": "none"},
        "you divide by the root of the temperature": {"heat": "root"},
        "you divide by the temperature twice": {"heat": "twice"},
        "at temperature 0 the largest of all logits is taken: each row has its own, along the last axis": {"heat": "coldest"},
        "top_p is ignored": {"cut": "none"},
        "the word that crosses top_p is dropped: the kept words must have at least top_p together": {"cut": "too few"},
        "the word that reaches top_p is dropped: it is the last that is kept (`cumsum < top_p` forgets it)": {"cut": "below"},
        "the kept probabilities do not sum to 1: divide by their sum": {"cut": "not renormalised"},
        "the least likely words are kept: sort in descending order": {"cut": "least likely"},
        "the words are not sorted before you add up: the likeliest come first": {"cut": "unsorted"},
        "the probabilities stay in sorted order: scatter them back to their words": {"cut": "left in order"},
        **{f"{k} word{'s' * (k > 1)} a row {'are' if k > 1 else 'is'} kept, however likely: top_p is a share of probability": {"cut": f"{k} words"}
           for k in FEW},
        "top_p is taken as a threshold for each word: it is a limit for the sum": {"cut": "threshold"},
        "1 - top_p is taken as a threshold for each word: top_p is a limit for the sum": {"cut": "far threshold"},
        "a share of the words is kept, however likely: top_p is a share of probability": {"cut": "count"},
        "a share of the words is kept, rounded down: top_p is a share of probability": {"cut": "count down"},
        "top_p is taken as a share of the likeliest word's probability: it is a limit for the sum": {"cut": "share of the likeliest"},
        "the softmax runs over the rows, not the words: take the last axis": {"cut": "over rows"},
        "all rows are sorted and cut together: each row has its own words, take the last axis": {"cut": "rows together"},
        "dropped words have the logit 0, and exp(0) is 1: put -inf there": {"cut": "zero"},
        "the words outside top_p are kept, and the ones inside dropped": {"cut": "inverted"},
        "top_p cuts before the temperature: divide by it first": {"cut": "before heat"},
        "one word too many is kept: the word that crosses top_p is the last": {"cut": "one more"},
        "the way back from sorted order is scatter, or gather by order.argsort(); gather by order sorts again": {"cut": "gathered"},
        "the kept probabilities go through a softmax once more: divide them by their sum": {"cut": "softmax again"},
        "all kept words are equally likely: they keep their shares": {"cut": "equal"},
    },
    symptoms=[
        _other_temperature,
        lambda case, got, right: "one word a row came back: return the probabilities of all words, nothing is drawn yet"
        if got.shape in (right.shape[:-1], (*right.shape[:-1], 1)) else None,
        lambda case, got, right: f"the probabilities sum to {float(got.sum(-1).flatten()[0]):.3g}: they must sum to 1"
        if ((got.sum(-1) - 1).abs() > 1e-3).any() else None,
        lambda case, got, right: f"{int((got > 0).sum(-1).max())} words have a chance where {int((right > 0).sum(-1).max())} "
        "should" if ((got > 0).sum(-1) != (right > 0).sum(-1)).any() else None,
    ],
    gradients=False,
)  # fmt: skip
def check_sampling(draw: Draw) -> Iterator[Case]:
    """Check ``next_word_probabilities(logits, *, temperature, top_p=1.0)`` → ``(..., words)``, which sum to 1.

    >>> check_sampling(lambda logits, temperature, top_p=1.0: logits.softmax(-1)).passed
    False
    """
    b = draw.primes(1)[0]
    words = 5 if draw.small else 11

    def logits() -> Tensor:  # no two alike, so that the order of words is certain; each row has a maximum of its own
        shares = torch.stack([draw.order(words) for _ in range(b)]) + 1.0
        return (shares**1.7 + 0.1).log() + draw.order(b)[:, None]

    yield Case("temperature 1", (logits(),), {"temperature": 1.0})
    yield Case("a high temperature", (logits(),), {"temperature": 3.0})
    yield Case("a low temperature", (logits(),), {"temperature": 0.1})
    for top_p in (0.35, 0.8):
        yield Case(f"top_p={top_p}", (logits(),), {"temperature": 1.0, "top_p": top_p})
    yield Case("temperature and top_p", (logits(),), {"temperature": 2.0, "top_p": 0.6})
    hint = "temperature 0 is no division: all probability goes to the likeliest word"
    yield Case("temperature 0", (logits(),), {"temperature": 0.0}, hint)
    hint = "a very small temperature in its place gives the next words a share: all goes to the likeliest, however near they are"
    yield Case("temperature 0, words that are nearly alike", (0.02 * logits(),), {"temperature": 0.0}, hint)
    yield Case("a tiny top_p", (logits(),), {"temperature": 1.0, "top_p": 1e-6}, "one word always stays")
    for what, some in {"one text": logits()[0], "texts along two axes": torch.stack([logits(), logits()])}.items():
        yield Case(what, (some,), {"temperature": 0.0}, "`...` stands for any number of axes: use the last one, -1")
    yield Case("a batch of one text", (logits()[:1],), {"temperature": 1.0}, ONES)


Cache = tuple[Tensor, Tensor] | None


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cache: Cache = None,
    *,
    join: str = "behind",
    mask: str = "causal",
    returned: str = "all",
    scale: float = 0.5,
    over: int = -1,
) -> tuple[Tensor, Cache]:
    """Attend to the tokens so far, and return them with the result, or do it with a mistake."""
    new = keys, values
    old = () if cache is None or join == "none" else (cache,)
    parts = [*old, new] if join != "front" else [new, *old]
    axis = 0 if join == "batch" else -2
    all_keys, all_values = (torch.cat(tensors, dim=axis) for tensors in zip(*parts, strict=True))
    if join == "oldest lost" and cache is not None:
        all_keys, all_values = all_keys[..., 1:, :], all_values[..., 1:, :]
    if join == "heads" and cache is not None:
        all_keys, all_values = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    if join == "old only" and cache is not None:
        all_keys, all_values = cache
    if join == "keys only" and cache is not None:
        all_values = torch.cat([cache[1], cache[1][..., -values.shape[-2] :, :]], dim=-2)
    i, j = queries.shape[-2], all_keys.shape[-2]
    ones = torch.ones(i, j, dtype=torch.bool, device=queries.device)
    may = {"causal": ones.tril(j - i), "square": ones.tril(), "none": ones, "strict": ones.tril(j - i - 1),
           "ahead": ones.tril(j - i + 1), "zero": ones.tril(j - i), "future": ones.triu(j - i),
           "pair": ones.tril(0 if cache is None else len(cache)),
           "no past": ones.tril(j - i) & (torch.arange(j, device=queries.device) >= j - i)}[mask]  # fmt: skip
    scores = queries @ all_keys.mT / queries.shape[-1] ** scale
    mixed = scores.masked_fill(~may, 0.0 if mask == "zero" else -math.inf).softmax(over) @ all_values
    mixed = mixed[..., -1:, :] if returned == "last" else mixed
    kept = {"last": (all_keys, all_values), "queries": (queries, all_keys), "all": (all_keys, all_values), "new": new, "old": cache or new, "swapped": (all_values, all_keys),
            "none": None, "keys twice": (all_keys, all_keys)}[returned]  # fmt: skip
    return mixed, kept


def _later_words(case: Case, run: Callable[[Case], Any]) -> str:
    """Change one new word after another: its query, key and value."""
    cache = case.args[3] if len(case.args) > 3 else None
    sizes = [part.shape[-1] for part in case.args[:3]]

    def read(words: Tensor) -> Tensor:
        return run(replace(case, args=(*words.split(sizes, dim=-1), *case.args[3:])))[0]

    past = 0 if cache is None else cache[0].shape[-2]
    return lets_the_future_in(torch.cat(case.args[:3], dim=-1), read, first=past)


@check(
    "attend_with_cache(queries, keys, values, cache=None)",
    _attend,
    variant=_attend,
    mistakes={
        "the cache is ignored: the new tokens must see the old ones": {"join": "none"},
        "the new keys come before the old ones: old first, in the order of the text": {"join": "front"},
        "the new tokens see the old ones, but not themselves: append before you attend": {"join": "old only"},
        "the values are not extended with the keys": {"join": "keys only"},
        "only the new keys and values come back: return all, old and new": {"returned": "new"},
        "the cache comes back as it was: return it with the new keys and values": {"returned": "old"},
        "keys and values are swapped in the cache that comes back": {"returned": "swapped"},
        "no cache comes back: return (mixed, (keys, values))": {"returned": "none"},
        "the cache that comes back holds the keys twice": {"returned": "keys twice"},
        "the mask is aligned with the first key: behind `past` cached tokens, new token i stands at place past + i, tril(diagonal=past)": {"mask": "square"},
        "the mask lets the future in: new tokens see each other's future, and among them it must be causal": {"mask": "none"},
        "the mask lets the future in and hides the past: triu in place of tril": {"mask": "future"},
        "the mask's diagonal is len(cache), which is 2, keys and values: past is how many tokens they hold, "
        "cache[0].shape[-2]": {"mask": "pair"},
        "the oldest token is dropped from the cache: it keeps all": {"join": "oldest lost"},
        "a new token does not see itself": {"mask": "strict"},
        "the mask hides the cache: a new token sees all that is in it": {"mask": "no past"},
        "masked scores are 0, and exp(0) is 1: put -inf there": {"mask": "zero"},
        "softmax runs over queries, not keys: take the last axis": {"over": -2},
        "only the last new token's result comes back: return all": {"returned": "last"},
        "queries are cached: keep keys and values": {"returned": "queries"},
        "the mask lets the future in: a new token sees the one after it": {"mask": "ahead"},
        "the scores are not divided by the square root of d": {"scale": 0.0},
        "the scores are divided by d, not by its square root": {"scale": 1.0},
    },
    future=_later_words,
    forbidden=KERNELS,
)  # fmt: skip
def check_kv_cache(draw: Draw) -> Iterator[Case]:
    """Check ``attend_with_cache(queries, keys, values, cache=None)`` → ``mixed, (keys, values)``.

    Tensors are ``(b, head, n, d)``. The new tokens see all in the cache, and among themselves only backwards.

    >>> check_kv_cache(lambda queries, keys, values, cache=None: (values, (keys, values))).passed
    False
    """
    b, head, new, past, d = draw.primes(5)

    def tokens(n: int) -> tuple[Tensor, Tensor, Tensor]:
        return draw.normal(b, head, n, d), draw.normal(b, head, n, d), draw.normal(b, head, n, d)

    yield Case("one new token and a cache", (*tokens(1), tokens(past)[:2]))
    yield Case("the first tokens, no cache yet", tokens(new))
    yield Case("several new tokens and a cache", (*tokens(new), tokens(past)[:2]))
    b = head = d = 1
    yield Case("one number each", (*tokens(1), tokens(past)[:2]), hint=ONES)


Model = Callable[[Tensor], Tensor]


def _generate(
    model: Model,
    ids: Tensor,
    *,
    max_new_tokens: int,
    end_id: int,
    read: int = -1,
    choose: str = "argmax",
    stop: str = "after",
    extra: int = 0,
    context: str = "all",
    returned: str = "all",
    limit: str = "new words",
) -> Tensor:
    """Continue a text greedily, or with a mistake."""
    prompt = ids
    if context == "one pass":
        return torch.cat([ids, model(ids).argmax(-1)[:, -max_new_tokens:]], dim=1)
    for _ in range(max_new_tokens + extra):
        if stop == "seen" and end_id in ids:
            break
        newest = ids[:, -1:] if ids.shape[1] > prompt.shape[1] else ids
        shown = {"all": ids, "last": ids[:, -1:], "prompt": prompt, "newest": newest}.get(context, ids)
        shown = ids[:, -int(context) :] if context.isdigit() else shown
        logits = model(shown)[:, read]
        if choose == "new words alone":
            logits = logits.clone().index_fill(1, ids[0], -math.inf)
        if choose == "second":
            nxt = logits.topk(2).indices[:, 1:]
        elif choose == "positions":
            nxt = model(ids).argmax(1)[:, -1:]
        else:
            nxt = (logits.argmin if choose == "argmin" else logits.argmax)(-1, keepdim=True)
        if stop == "before" and int(nxt) == end_id:
            break
        nxt = torch.full_like(nxt, end_id) if stop == "filled" and end_id in ids[0, prompt.shape[1] :] else nxt
        if limit == "all words" and ids.shape[1] >= max_new_tokens:
            break
        ids = torch.cat([nxt, ids] if returned == "front" else [ids, nxt], dim=1)
        if (stop in ("after", "forced") and int(nxt) == end_id) or (stop == "anywhere" and end_id in ids):
            break
    else:
        ids = torch.cat([ids, torch.full_like(ids[:, :1], end_id)], dim=1) if stop == "forced" else ids
    return {"new": ids[:, prompt.shape[1] :], "last": ids[:, -1:], "flat": ids[0]}.get(returned, ids)


@check(
    "generate(model, ids, *, max_new_tokens, end_id)",
    _generate,
    layout="1 n",
    variant=_generate,
    mistakes={
        "the logits after the first word are read: the last position, [:, -1], predicts the next word": {"read": 0},
        "the logits one before the last are read: the last position predicts the next word": {"read": -2},
        "the least likely word is taken: argmax": {"choose": "argmin"},
        "the second likeliest word is taken: argmax": {"choose": "second"},
        "the argmax runs over positions: take the last axis, the words": {"choose": "positions"},
        "no word may come twice in your text: argmax among all words": {"choose": "new words alone"},
        **{f"the model is shown the last {k} words alone: give it the whole text": {"context": str(k)} for k in range(2, 6)},
        "the text goes on after the end token: stop there": {"stop": "never"},
        "an end token in the prompt stops the text: only one that was appended ends it": {"stop": "seen"},
        "after one word it stops for an end token in the prompt: only one that was appended ends the text": {"stop": "anywhere"},
        "an end token is put behind a text that has not ended: after max_new_tokens words it simply stops": {"stop": "forced"},
        "all new words come from one pass over the prompt: append one, and ask the model again": {"context": "one pass"},
        "after the end token more end tokens come: stop there": {"stop": "filled"},
        "max_new_tokens is taken for the length of the whole text: it counts the new words": {"limit": "all words"},
        "max_new_tokens is no limit: stop after so many new words": {"extra": 20},
        "the end token itself is missing: append it, then stop": {"stop": "before"},
        "one word too many: at most max_new_tokens": {"extra": 1},
        "one word too few: max_new_tokens words, unless the end comes first": {"extra": -1},
        "the model reads only the last word: without a cache it needs the whole text": {"context": "last"},
        "after the prompt the model reads only the newest word: without a cache it needs the whole text": {"context": "newest"},
        "the model reads the prompt again and again: give it the text with the new words": {"context": "prompt"},
        "only the new words come back: return prompt and continuation": {"returned": "new"},
        "only the last word comes back: return prompt and continuation": {"returned": "last"},
        "the new word is put in front: append it at the end": {"returned": "front"},
        "the batch axis is gone: ids are (1, n)": {"returned": "flat"},
    },
)  # fmt: skip
def check_generate(draw: Draw) -> Iterator[Case]:
    """Check ``generate(model, ids, *, max_new_tokens, end_id)`` → ``(1, n + new)``, greedy, until the end token.

    ``model(ids)`` gives logits ``(1, n, words)``.

    >>> check_generate(lambda model, ids, max_new_tokens, end_id: ids).passed
    False
    """
    words = 11
    table, places = draw.normal(words, words) + 0.01 * draw.integers(9, words, words), draw.normal(64, words)

    def model_that_ends(end: int, at: int) -> Model:
        def model(ids: Tensor) -> Tensor:
            """Score the next word by all words so far and their places, and the end where it belongs."""
            if ids.shape[1] > len(places):
                raise ValueError(
                    f"a text of {ids.shape[1]} words came to the model: does yours stop after max_new_tokens?"
                )
            scores = (table[ids] + places[: ids.shape[1]]).sin().cumsum(1)
            scores[..., end] += 100 if ids.shape[1] == at else -100
            return scores

        return model

    for what, n, limit, at, end in (
        ("a text without end", 3, 6, -1, 4),
        ("a text that ends early", 2, 8, 5, 7),
        ("one new word", 4, 1, -1, 4),
        ("an end at once", 3, 4, 3, 2),
    ):
        options = {"max_new_tokens": limit, "end_id": end}
        yield Case(what, (model_that_ends(end, at), draw.integers(words, 1, n)), options)
    hint = "only an end token that was appended ends the text"
    for what, at, hints in (("in", 1, ()), ("at the end of", 2, (hint,))):
        prompt = draw.integers(7, 1, 3)  # no word of it is the end but one
        prompt[:, at] = 7
        options = {"max_new_tokens": 4, "end_id": 7}
        yield Case(f"an end token {what} the prompt", (model_that_ends(7, -1), prompt), options, *hints)
