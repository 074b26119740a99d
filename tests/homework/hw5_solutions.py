"""Solutions of homework 5, right and wrong, as students write them."""

import math

import torch
import torch.nn.functional as F

import vlmcourse
from vlmcourse.homework import check_causal_mask, check_generate, check_kv_cache, check_sampling, check_shifted_loss


def loss(logits, ids, loss_mask):
    return F.cross_entropy(logits[:, :-1][loss_mask[:, 1:]], ids[:, 1:][loss_mask[:, 1:]])


def loss_by_gather(logits, ids, loss_mask):
    logs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    mask = loss_mask[:, 1:].to(logits)
    return -(logs * mask).sum() / mask.sum()


def loss_by_ignoring(logits, ids, loss_mask):
    target = ids.masked_fill(~loss_mask, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), target)


def loss_by_loops(logits, ids, loss_mask):
    terms = [
        logits[i, j - 1].logsumexp(0) - logits[i, j - 1, ids[i, j]]
        for i in range(len(ids))
        for j in range(1, ids.shape[1])
        if loss_mask[i, j]
    ]
    return torch.stack(terms).mean()


def wrong_loss(reads=slice(None, -1), targets=slice(1, None), marks=slice(1, None), ending=None, scores=lambda x: x):
    def run(logits, ids, loss_mask):
        read, target, mask = scores(logits[:, reads]), ids[:, targets], loss_mask[:, marks]
        each = F.cross_entropy(read.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        return (each * mask).sum() / mask.sum() if ending is None else ending(each, mask)

    return run


def sample(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    p = (logits / temperature).softmax(-1)
    ranked, order = p.sort(descending=True)
    ranked = ranked * (ranked.cumsum(-1) - ranked < top_p)
    p = torch.zeros_like(p).scatter(-1, order, ranked)
    return p / p.sum(-1, keepdim=True)


@torch.no_grad()
def sample_by_mask(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return (logits == logits.amax(-1, keepdim=True)).to(logits.dtype)
    logits = logits / temperature
    ranked, order = torch.sort(logits, descending=True)
    remove = ranked.softmax(-1).cumsum(-1) >= top_p
    remove = torch.cat([torch.zeros_like(remove[..., :1]), remove[..., :-1]], dim=-1)
    remove = torch.empty_like(remove).scatter_(-1, order, remove)
    return logits.masked_fill(remove, -math.inf).softmax(-1)


def sample_by_rank(logits, temperature, top_p=1.0):
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    p = torch.softmax(logits / temperature, dim=-1)
    likelier = (p[..., None, :] * (p[..., None, :] > p[..., :, None])).sum(-1)
    p = p * (likelier < top_p)
    return p / p.sum(-1, keepdim=True)


def sample_by_loops(logits, *, temperature, top_p=1.0):
    rows = []
    for row in logits.reshape(-1, logits.shape[-1]):
        p = (row / max(temperature, 1e-4)).softmax(0)
        kept, total = torch.zeros_like(p), 0.0
        for k in p.argsort(descending=True).tolist():
            kept[k], total = p[k], total + float(p[k])
            if total >= top_p:
                break
        rows.append(kept / kept.sum())
    return torch.stack(rows).view_as(logits)


def wrong_sample(heat=lambda x, t: x / t, keep=None, ending=None, descending=True):
    def run(logits, *, temperature, top_p=1.0):
        if temperature == 0:
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
        p = heat(logits, temperature).softmax(-1)
        ranked, order = p.sort(descending=descending)
        kept = ranked * ((ranked.cumsum(-1) - ranked < top_p) if keep is None else keep(ranked, top_p))
        if ending:
            return ending(kept, order)
        p = torch.zeros_like(p).scatter(-1, order, kept)
        return p / p.sum(-1, keepdim=True)

    return run


def unsorted_sample(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return sample(logits, temperature=0)
    p = (logits / temperature).softmax(-1)
    p = p * (p.cumsum(-1) - p < top_p)
    return p / p.sum(-1, keepdim=True)


def cut_before_heat(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return sample(logits, temperature=0)
    kept = sample(logits, temperature=1.0, top_p=top_p) > 0
    return (logits / temperature).masked_fill(~kept, -math.inf).softmax(-1)


def attend(q, k, v, cache=None):
    if cache is not None:
        k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
    n, m = q.shape[2], k.shape[2]
    mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v, (k, v)


def attend_by_positions(q, k, v, cache=None):
    past = 0 if cache is None else cache[0].shape[-2]
    if past:
        k, v = (torch.cat(pair, dim=-2) for pair in zip(cache, (k, v), strict=True))
    i, j = torch.arange(q.shape[-2], device=q.device) + past, torch.arange(k.shape[-2], device=q.device)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    scores = scores + torch.zeros_like(scores).masked_fill(j[None] > i[:, None], -1e9)
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, -1), v), (k, v)


def attend_token_by_token(q, k, v, cache=None):
    mixed = []
    for t in range(q.shape[2]):
        new = k[:, :, t : t + 1], v[:, :, t : t + 1]
        cache = new if cache is None else tuple(torch.cat(pair, dim=2) for pair in zip(cache, new, strict=True))
        alpha = (q[:, :, t : t + 1] @ cache[0].mT / math.sqrt(q.shape[-1])).softmax(-1)
        mixed.append(alpha @ cache[1])
    return torch.cat(mixed, dim=2), cache


def attend_with_empty(q, k, v, cache=None):
    old_k, old_v = cache or (k[:, :, :0], v[:, :, :0])
    keys, values = torch.concat((old_k, k), -2), torch.concat((old_v, v), -2)
    allowed = torch.cat(
        [torch.ones(q.shape[-2], old_k.shape[-2]), torch.tril(torch.ones(q.shape[-2], q.shape[-2]))], dim=1
    )
    scores = torch.matmul(q, keys.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return torch.where(allowed.bool().to(q.device), scores, -math.inf).softmax(dim=-1) @ values, [keys, values]


def wrong_attend(
    join=lambda old, new: torch.cat([old, new], dim=2),
    triangle=lambda ones, n, m: ones.tril(m - n),
    give=lambda k, v, new, old: (k, v),
    scale=0.5,
):
    def run(q, k, v, cache=None):
        new = k, v
        if cache is not None:
            k, v = join(cache[0], k), join(cache[1], v)
        n, m = q.shape[2], k.shape[2]
        mask = triangle(torch.ones(n, m, dtype=torch.bool), n, m)
        scores = (q @ k.mT / q.shape[-1] ** scale).masked_fill(~mask, -math.inf)
        return scores.softmax(-1) @ v, give(k, v, new, cache)

    return run


def generate(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        word = model(ids)[:, -1].argmax(-1)
        ids = torch.cat([ids, word[:, None]], dim=1)
        if word == end_id:
            break
    return ids


def generate_list(model, ids, *, max_new_tokens, end_id):
    words = ids[0].tolist()
    while len(words) < ids.shape[1] + max_new_tokens:
        words.append(int(model(torch.tensor([words], device=ids.device))[0, -1].argmax()))
        if words[-1] == end_id:
            break
    return torch.tensor([words], device=ids.device)


def generate_recursive(model, ids, max_new_tokens, end_id):
    if max_new_tokens == 0:
        return ids
    longer = torch.hstack([ids, model(ids)[:, -1:].argmax(-1)])
    return longer if longer[0, -1] == end_id else generate_recursive(model, longer, max_new_tokens - 1, end_id)


def generate_in_place(model, ids, *, max_new_tokens, end_id):
    n, room = ids.shape[1], F.pad(ids, (0, max_new_tokens))
    for k in range(n, n + max_new_tokens):
        room[:, k] = model(room[:, :k]).softmax(-1)[0, -1].max(0).indices
        if room[0, k].item() == end_id:
            return room[:, : k + 1]
    return room


def wrong_generate(
    pick=lambda logits: logits[:, -1].argmax(-1),
    shown=lambda ids, prompt: ids,
    stop=True,
    keep_end=True,
    more=0,
    give=lambda ids, n: ids,
):
    def run(model, ids, *, max_new_tokens, end_id):
        prompt = ids
        for _ in range(max_new_tokens + more):
            word = pick(model(shown(ids, prompt)))
            if word == end_id and not keep_end:
                break
            ids = torch.cat([ids, word[:, None]], dim=1)
            if stop and word == end_id:
                break
        return give(ids, prompt.shape[1])

    return run


def ones(n):
    return torch.ones(n, n, dtype=torch.bool)


RIGHT = {
    check_causal_mask: [
        lambda n: ones(n).tril(),
        lambda n: torch.arange(n)[:, None] >= torch.arange(n),
        lambda n: ~torch.triu(torch.ones(n, n), diagonal=1).bool(),
        lambda n: torch.tensor([[j <= i for j in range(n)] for i in range(n)]),
    ],
    check_shifted_loss: [loss, loss_by_gather, loss_by_ignoring, loss_by_loops],
    check_sampling: [sample, sample_by_mask, sample_by_rank, sample_by_loops],
    check_kv_cache: [attend, attend_by_positions, attend_token_by_token, attend_with_empty],
    check_generate: [generate, generate_list, generate_recursive, generate_in_place],
}
WRONG = {
    check_causal_mask: [
        (lambda n: ones(n).triu(), "lets the future in"),
        (lambda n: ~ones(n).tril(), "the mask is inverted"),
        (lambda n: ones(n).triu(1), "the mask is inverted"),
        (lambda n: ones(n).tril(-1), "a word may not look at itself"),
        (lambda n: ones(n).tril(1), "the very word it has to predict"),
        (ones, "nothing is hidden"),
        (lambda n: torch.eye(n).bool(), "a word may look at itself alone"),
        (lambda n: ones(n).tril() & ones(n).triu(-1), "only the word before"),
        (lambda n: torch.tril(torch.ones(n, n)), "torch.float32 where torch.bool"),
        (lambda n: torch.zeros(n, n).masked_fill(~ones(n).tril(), -math.inf), "to be added to scores"),
        (lambda n: ones(n).tril().flip(1), "the triangle is mirrored"),
        (lambda n: torch.arange(n) < n, "one row came back"),
        (lambda n: ones(n).tril()[None, None], "the result has shape"),
    ],
    check_shifted_loss: [
        (wrong_loss(slice(None), slice(None), slice(None)), "nothing is shifted"),
        (wrong_loss(slice(1, None), slice(None, -1), slice(None, -1)), "shifted the wrong way"),
        (wrong_loss(slice(None, -2), slice(2, None), slice(2, None)), "shifted by two"),
        (wrong_loss(marks=slice(None, -1)), "the loss mask is not shifted"),
        (wrong_loss(ending=lambda e, m: e.mean()), "the loss mask is ignored"),
        (wrong_loss(ending=lambda e, m: (e * ~m).sum() / (~m).sum()), "the loss mask is inverted"),
        (wrong_loss(ending=lambda e, m: (e * m).sum()), "you sum"),
        (wrong_loss(ending=lambda e, m: (e * m).mean()), "the number of all words"),
        (wrong_loss(ending=lambda e, m: ((e * m).sum(1) / m.sum(1)).mean()), "a mean of means"),
        (wrong_loss(ending=lambda e, m: (e * m).sum() / len(e)), "the size of the batch"),
        (wrong_loss(ending=lambda e, m: -(e * m).sum() / m.sum()), "the sign is wrong"),
        (wrong_loss(ending=lambda e, m: ((e * m).sum() / m.sum()).exp()), "this is the perplexity"),
        (wrong_loss(ending=lambda e, m: e[m]), "return their mean"),
        (wrong_loss(scores=lambda x: x.softmax(-1)), "a softmax twice"),
        (wrong_loss(slice(None), slice(None), slice(None), ending=lambda e, m: (e * m).sum()), "not repeat word i; and also: you sum"),
        (lambda logits, ids, loss_mask: vlmcourse.next_token_loss(logits, ids, loss_mask=loss_mask), "which is the solution"),
    ],
    check_sampling: [
        (wrong_sample(heat=lambda x, t: x * t), "the temperature multiplies"),
        (wrong_sample(heat=lambda x, t: x), "the temperature changes nothing"),
        (wrong_sample(heat=lambda x, t: x / t**0.5), "the root of the temperature"),
        (wrong_sample(keep=lambda r, p: torch.ones_like(r)), "top_p is ignored"),
        (wrong_sample(keep=lambda r, p: (r.cumsum(-1) <= p) | (r == r.amax(-1, keepdim=True))), "the word that crosses top_p is dropped"),
        (wrong_sample(keep=lambda r, p: r.cumsum(-1) <= p), "the word that crosses top_p is dropped"),
        (wrong_sample(ending=lambda kept, order: torch.zeros_like(kept).scatter(-1, order, kept)), "do not sum to 1"),
        (wrong_sample(descending=False), "the least likely words are kept"),
        (unsorted_sample, "not sorted before you add up"),
        (wrong_sample(ending=lambda kept, order: kept / kept.sum(-1, keepdim=True)), "stay in sorted order"),
        (wrong_sample(keep=lambda r, p: (r >= p) | (r == r.amax(-1, keepdim=True))), "words have a chance where"),
        (wrong_sample(keep=lambda r, p: torch.arange(r.shape[-1]) < p * r.shape[-1]), "a share of the words is kept"),
        (cut_before_heat, "cuts before the temperature"),
        (lambda x, *, temperature, top_p=1.0: wrong_sample()(x, temperature=temperature or 1.0, top_p=top_p), "temperature 0 is no division"),
        (lambda x, *, temperature, top_p=1.0: x / temperature, "must sum to 1"),
        (vlmcourse.models.language_model.next_token_probabilities, "which is the solution"),
    ],
    check_kv_cache: [
        (wrong_attend(join=lambda old, new: new), "the cache is ignored"),
        (wrong_attend(join=lambda old, new: torch.cat([new, old], 2)), "the new keys come before"),
        (wrong_attend(join=lambda old, new: old), ""),
        (wrong_attend(give=lambda k, v, new, old: new), "only the new keys and values come back"),
        (wrong_attend(give=lambda k, v, new, old: old or new), "comes back as it was"),
        (wrong_attend(give=lambda k, v, new, old: (v, k)), "are swapped in the cache"),
        (wrong_attend(give=lambda k, v, new, old: None), "no cache comes back"),
        (wrong_attend(triangle=lambda ones, n, m: ones.tril()), "aligned with the first key"),
        (wrong_attend(triangle=lambda ones, n, m: ones), "see each other's future"),
        (wrong_attend(triangle=lambda ones, n, m: ones.tril(m - n + 1)), "sees the one after it"),
        (wrong_attend(scale=0.0), "not divided by the square root"),
        (wrong_attend(scale=1.0), "divided by d"),
        (wrong_attend(join=lambda old, new: torch.cat([old, new], 0)), "it stops with RuntimeError"),
        (lambda q, k, v, cache=None: attend(q, k, v, cache)[0], "is expected"),
        (wrong_attend(scale=0.0, triangle=lambda ones, n, m: ones), "and also"),
    ],
    check_generate: [
        (wrong_generate(pick=lambda x: x[:, 0].argmax(-1)), "the logits after the first word"),
        (wrong_generate(pick=lambda x: x[:, -2].argmax(-1)), "the logits one before the last"),
        (wrong_generate(pick=lambda x: x[:, -1].argmin(-1)), "the least likely word"),
        (wrong_generate(stop=False), "goes on after the end token"),
        (wrong_generate(keep_end=False), "the end token itself is missing"),
        (wrong_generate(more=1), "one word too many"),
        (wrong_generate(more=-1), "one word too few"),
        (wrong_generate(shown=lambda ids, prompt: ids[:, -1:]), "reads only the last word"),
        (wrong_generate(shown=lambda ids, prompt: prompt), "reads the prompt again"),
        (wrong_generate(give=lambda ids, n: ids[:, n:]), "only the new words come back"),
        (wrong_generate(give=lambda ids, n: ids[0]), "the batch axis is gone"),
        (wrong_generate(give=lambda ids, n: ids[:, -1:]), "only the last word comes back"),
        (wrong_generate(give=lambda ids, n: ids.tolist()), "a torch.Tensor is expected"),
    ],
}  # fmt: skip
