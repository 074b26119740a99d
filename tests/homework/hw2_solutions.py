"""Solutions of homework 2, right and wrong, as students write them."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

import vlmcourse
from vlmcourse.homework import check_attention, check_attention_weights, check_multi_head, check_transformer_block


def weights(q, k, *, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(-1)
    return scores.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num(0.0)


def by_exp(queries, keys, *, mask=None):
    scores = einsum(queries, keys, "... i d, ... j d -> ... i j") * queries.shape[-1] ** -0.5
    allowed = torch.ones_like(scores) if mask is None else mask.expand(scores.shape).to(scores)
    scores = scores - scores.masked_fill(allowed == 0, -1e30).amax(-1, keepdim=True).clamp(min=-1e20)
    mass = scores.clamp(max=0).exp() * allowed
    return mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)


def by_rows(queries, keys, *, mask=None):
    mask = (
        torch.ones_like(queries[..., 0].unsqueeze(-1) * keys[..., 0].unsqueeze(-2), dtype=bool)
        if mask is None
        else mask
    )
    rows = []
    for i in range(queries.shape[-2]):
        scores = (queries[..., i : i + 1, :] * keys).sum(-1) / queries.shape[-1] ** 0.5
        row = scores.masked_fill(~mask[..., i, :], torch.finfo(scores.dtype).min).softmax(-1)
        rows.append(row * mask[..., i, :])
    return torch.stack(rows, dim=-2)


def by_log_softmax(queries, keys, mask=None):
    logs = torch.matmul(queries, keys.transpose(-2, -1)).div(queries.size(-1) ** 0.5)
    if mask is not None:
        logs = torch.where(mask, logs, torch.full_like(logs, -1e9))
    found = logs.log_softmax(-1).exp()
    return found if mask is None else torch.where(mask, found, torch.zeros_like(found))


def faulty(scale=None, axis=-1, soft=torch.softmax, before=None, after=None):
    def run(queries, keys, *, mask=None):
        scores = queries @ keys.mT
        scores = scores / math.sqrt(queries.shape[-1]) if scale is None else scale(scores, queries, keys)
        if mask is not None:
            scores = before(scores, mask) if before else scores if after else scores.masked_fill(~mask, -math.inf)
        found = soft(scores, axis)
        return found if mask is None or not after else after(found, mask)

    return run


def in_place(queries, keys, *, mask=None):
    queries /= math.sqrt(queries.shape[-1])
    return weights(queries * math.sqrt(queries.shape[-1]), keys, mask=mask)


WRONG_WEIGHTS = [
    (faulty(scale=lambda s, q, k: s), "the scores are not divided by the square root of d"),
    (faulty(scale=lambda s, q, k: s / q.shape[-1]), "divided by d, not by its square root"),
    (faulty(scale=lambda s, q, k: s * q.shape[-1] ** 0.5), "are multiplied by the square root"),
    (faulty(scale=lambda s, q, k: s / k.shape[-2] ** 0.5), "the root of the number of keys"),
    (faulty(axis=-2), "softmax runs over queries, not keys"),
    (faulty(soft=lambda s, axis: s), "the softmax is missing"),
    (faulty(soft=lambda s, axis: s.sigmoid()), "a sigmoid looks at each key alone"),
    (faulty(soft=lambda s, axis: s.exp()), "exp without the division"),
    (faulty(soft=torch.log_softmax), "these are logarithms"),
    (faulty(before=lambda s, m: s), "the mask is ignored"),
    (faulty(before=lambda s, m: s.masked_fill(m, -math.inf)), "the mask is inverted"),
    (faulty(before=lambda s, m: s.masked_fill(~m, 0.0)), "masked scores are 0, and exp(0) is 1"),
    (faulty(before=lambda s, m: s.masked_fill(~m, -1e-9)), "masked scores are 0, and exp(0) is 1"),
    (faulty(before=lambda s, m: s + m), "the boolean mask is added"),
    (faulty(after=lambda w, m: w * m), "applied after the softmax"),
    (faulty(), "a row that may look nowhere"),
    (faulty(soft=lambda s, axis: s.exp() / s.exp().sum(axis, keepdim=True)), "exp of a large score is infinite"),
    (faulty(scale=lambda s, q, k: s, axis=-2), "softmax runs over queries, not keys; take the last axis; and also: the scores are not divided"),
    (in_place, "it changes its input `queries`"),
    (vlmcourse.attention_weights, "which is the solution"),
    (faulty(scale=lambda s, q, k: s / 3), ""),
]  # fmt: skip


def with_values(function):
    def run(queries, keys, values, *, mask=None):
        return function(queries, keys, mask=mask) @ values

    return run


def fused(queries, keys, values, *, mask=None):
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def heads(
    tokens,
    qkv,
    out,
    *,
    num_heads,
    mask=None,
    split="(qkv head d)",
    merge="(head d)",
    alpha=weights,
    order="q k v",
    project=True,
):
    parts = rearrange(tokens @ qkv.T, f"b n {split} -> qkv b head n d", qkv=3, head=num_heads)
    named = dict(zip(order.split(), parts, strict=True))
    mixed = alpha(named["q"], named["k"], mask=mask) @ named["v"]
    mixed = rearrange(mixed, f"b head n d -> b n {merge}")
    return mixed @ out.T if project else mixed


def faulty_heads(**knobs):
    return lambda tokens, qkv, out, *, num_heads, mask=None: heads(
        tokens, qkv, out, num_heads=num_heads, mask=mask, **knobs
    )


def head_by_head(tokens, qkv, out, *, num_heads, mask=None):
    q, k, v = F.linear(tokens, qkv).chunk(3, dim=-1)
    width = q.shape[-1] // num_heads
    mixed = [
        weights(q[..., s : s + width], k[..., s : s + width], mask=mask) @ v[..., s : s + width]
        for s in range(0, q.shape[-1], width)
    ]
    return F.linear(torch.cat(mixed, dim=-1), out)


def by_views(tokens, qkv, out, num_heads, mask=None):
    b, n, d = tokens.shape
    q, k, v = (tokens @ qkv.T).reshape(b, n, 3, num_heads, d // num_heads).permute(2, 0, 3, 1, 4)
    mixed = weights(q, k, mask=mask) @ v
    return mixed.transpose(1, 2).reshape(b, n, d) @ out.mT


def by_einsum(tokens, qkv, out, *, num_heads, mask=None):
    wq, wk, wv = rearrange(qkv, "(three head w) d -> three head w d", three=3, head=num_heads)
    q, k, v = (torch.einsum("bnd,hwd->bhnw", tokens, w) for w in (wq, wk, wv))
    mixed = torch.einsum("bhij,bhjw->bhiw", weights(q, k, mask=mask), v)
    return torch.einsum("bhiw,ohw->bio", mixed, rearrange(out, "o (head w) -> o head w", head=num_heads))


def reshaped_heads(tokens, qkv, out, *, num_heads, mask=None):
    b, n, d = tokens.shape
    q, k, v = (part.reshape(b, num_heads, n, d // num_heads) for part in (tokens @ qkv.T).chunk(3, -1))
    return (weights(q, k, mask=mask) @ v).transpose(1, 2).reshape(b, n, d) @ out.T


def reshaped_back(tokens, qkv, out, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv.T, "b n (qkv head d) -> qkv b head n d", qkv=3, head=num_heads)
    return (weights(q, k, mask=mask) @ v).reshape(tokens.shape) @ out.T


def between_heads(tokens, qkv, out, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv.T, "b n (qkv head d) -> qkv b n head d", qkv=3, head=num_heads)
    return (weights(q, k) @ v).flatten(2) @ out.T


def scaled_by_embedding(q, k, *, mask=None):
    return weights(q / 5, k, mask=mask)


def pre_norm(tokens, attention, mlp, norm1, norm2):
    x = tokens + attention(norm1(tokens))
    return x + mlp(norm2(x))


def with_layers(tokens, attention, mlp, norm1, norm2):
    for norm, layer in ((norm1, attention), (norm2, mlp)):
        tokens = torch.add(layer(norm(tokens)), tokens)
    return tokens


def with_copies(tokens, attention, mlp, norm1, norm2):
    x = tokens.clone()
    x += attention(norm1(tokens))
    y = x.clone()
    y += mlp(norm2(x))
    return y


def nested(tokens, attention, mlp, norm1, norm2):
    def half(x, norm, layer):
        return x + layer(norm(x))

    return half(half(tokens, norm1, attention), norm2, mlp)


def block_in_place(tokens, attention, mlp, norm1, norm2):
    tokens += attention(norm1(tokens))
    return tokens + mlp(norm2(tokens))


RIGHT = {
    check_attention_weights: [weights, by_exp, by_rows, by_log_softmax],
    check_attention: [with_values(f) for f in (weights, by_exp, by_rows, by_log_softmax)],
    check_multi_head: [heads, head_by_head, by_views, by_einsum],
    check_transformer_block: [pre_norm, with_layers, with_copies, nested],
}
WRONG = {
    check_attention_weights: WRONG_WEIGHTS,
    check_attention: [(with_values(f), hint) for f, hint in WRONG_WEIGHTS if "logarithms" not in hint and "input" not in hint] + [
        (lambda q, k, v, *, mask=None: weights(q, k, mask=mask) @ k, "the keys are mixed, not the values"),
        (lambda q, k, v, *, mask=None: v.take_along_dim(weights(q, k, mask=mask).argmax(-1, keepdim=True), dim=-2), "each query takes its best value alone"),
        (lambda q, k, v, *, mask=None: weights(q, k, mask=mask) @ v / v.shape[-2], "the weights already sum to 1"),
        (fused, "PyTorch's `scaled_dot_product_attention`"),
    ],
    check_multi_head: [
        (reshaped_heads, "a reshape that mixes tokens"),
        (reshaped_back, "without moving their axis"),
        (between_heads, "between the heads of one token"),
        (faulty_heads(split="(head qkv d)"), "split as (head, qkv, d)"),
        (faulty_heads(split="(head d qkv)"), "with qkv innermost"),
        (faulty_heads(split="(qkv d head)"), "a head is a block of neighbours"),
        (faulty_heads(merge="(d head)"), "interleaved when they are put together"),
        (faulty_heads(order="k q v"), "queries and keys are swapped"),
        (faulty_heads(order="q v k"), "keys and values are swapped"),
        (faulty_heads(order="v k q"), "queries and values are swapped"),
        (faulty_heads(project=False), "the output projection is missing"),
        (lambda x, qkv, out, *, num_heads, mask=None: heads(x, qkv, out.T, num_heads=num_heads, mask=mask), "the output weight is transposed"),
        (lambda x, qkv, out, *, num_heads, mask=None: x + heads(x, qkv, out, num_heads=num_heads, mask=mask), "the residual belongs to the block"),
        (lambda x, qkv, out, *, num_heads, mask=None: heads(x, qkv, out, num_heads=num_heads), "the mask is ignored"),
        (lambda x, qkv, out, *, num_heads, mask=None: heads(x, qkv, out, num_heads=1, mask=mask), ""),
        (faulty_heads(alpha=faulty(axis=-2)), "softmax runs over queries"),
        (faulty_heads(alpha=faulty(scale=lambda s, q, k: s)), "not divided by the square root"),
        (faulty_heads(alpha=lambda q, k, *, mask=None: weights(q, k, mask=mask).detach()), "their gradient is not"),
        (lambda x, qkv, out, *, num_heads, mask=None: heads(x, qkv.T.reshape(qkv.shape), out, num_heads=num_heads, mask=mask), ""),
    ],
    check_transformer_block: [
        (lambda x, a, m, n1, n2: n2(n1(x + a(x)) + m(n1(x + a(x)))), "the norms stand after the sums"),
        (lambda x, a, m, n1, n2: (y := x + n1(a(x))) + n2(m(y)), "the norms stand behind the layers"),
        (lambda x, a, m, n1, n2: (y := x + a(x)) + m(y), "the norms are missing"),
        (lambda x, a, m, n1, n2: (y := x + m(n1(x))) + a(n2(y)), "the MLP comes first"),
        (lambda x, a, m, n1, n2: (y := a(n1(x))) + m(n2(y)), "the first residual is missing"),
        (lambda x, a, m, n1, n2: m(n2(x + a(n1(x)))), "the second residual is missing"),
        (lambda x, a, m, n1, n2: m(n2(a(n1(x)))), "both residuals are missing"),
        (lambda x, a, m, n1, n2: x + a(n1(x)) + m(n2(x)), "the MLP comes after"),
        (lambda x, a, m, n1, n2: (y := x + a(n1(x))) + m(n1(y)), "norm2 belongs to the MLP"),
        (lambda x, a, m, n1, n2: (y := x + a(n2(x))) + m(n1(y)), "the two norms are swapped"),
        (lambda x, a, m, n1, n2: (y := n1(x)) + a(y) if False else (z := n2(n1(x) + a(n1(x)))) + m(z), "adds the normalised tokens"),
        (lambda x, a, m, n1, n2: x + m(n2(x + a(n1(x)))), "adds the block's input"),
        (lambda x, a, m, n1, n2: (y := x + a(n1(x))) + m(y), "the second norm is missing"),
        (lambda x, a, m, n1, n2: n2((y := x + a(n1(x))) + m(n2(y))), "one norm too many"),
        (block_in_place, "it changes its input `tokens`"),
        (lambda x, a, m, n1, n2: (y := x.detach() + a(n1(x))) + m(n2(y)), "cut off by `.detach()`"),
    ],
}  # fmt: skip
