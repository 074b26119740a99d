"""Solutions that were written to try the checks: each wrong one once got no hint, or one that did not name its fault.

Right ones in other styles stand beside them, so that no hint is given to what is right.
"""

# ruff: noqa - as students write

import math

import numpy as np
import torch
import torch.nn.functional as F
from collected import Collected
from einops import rearrange
from torch import nn

import vlmcourse
from vlmcourse.homework import *

COLLECTED = Collected()
RIGHT, WRONG = COLLECTED.RIGHT, COLLECTED.WRONG
right, wrong = COLLECTED.right, COLLECTED.wrong


def sim(v1, v2, t):
    z = F.normalize(torch.cat([v1, v2]), dim=1)
    return z @ z.T / t


def nx_ok(view1, view2, *, temperature):
    s = sim(view1, view2, temperature)
    n = len(view1)
    return F.cross_entropy(
        s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=s.device), -torch.inf),
        torch.arange(2 * n, device=s.device).roll(n),
    )


def conv_ok(x, w_, b=None, s=1, p=0):
    x = F.pad(x, (p,) * 6)
    for a, k in enumerate(w_.shape[2:], 2):
        x = x.unfold(a, k, s)
    o = torch.einsum("bcthwijk,ocijk->bothw", x, w_)
    return o if b is None else o + b[:, None, None, None]


def samp(logits, t, p, fix=None):
    if t == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    a, o = (logits / t).softmax(-1).sort(descending=True)
    a = a * (a.cumsum(-1) - a < p)
    a = a / a.sum(-1, keepdim=True)
    return torch.zeros_like(a).scatter(-1, o, a)


def att(q, k, v, m):
    s = q @ k.mT / q.shape[-1] ** 0.5
    return s.masked_fill(~m, -torch.inf).softmax(-1) @ v


def sp(words, ids, image, image_id, f):
    out = []
    for wd, i, im in zip(words, ids, image):
        at = int((i == image_id).nonzero()[0])
        out.append(f(wd, at, im))
    return torch.stack(out)


@wrong(check_patchify, "every second row of patches runs from right to left")
def patchify_snake(images, *, patch_size):
    p = patch_size
    b, c, h, w_ = images.shape
    out = []
    for i in range(h // p):
        cols = range(w_ // p) if i % 2 == 0 else reversed(range(w_ // p))
        for j in cols:
            out.append(images[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p].permute(0, 2, 3, 1).reshape(b, -1))
    return torch.stack(out, 1)


@wrong(check_patchify, "only the few digits of torch.float16")
def patchify_half(images, *, patch_size):
    return rearrange(images.half(), "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "a reshape mixes channels and patches")
def patchify_unfold_noperm(images, *, patch_size):
    p = patch_size
    u = images.unfold(2, p, p).unfold(3, p, p)
    b, c, nh, nw = u.shape[:4]
    return u.reshape(b, nh * nw, c * p * p)


@wrong(check_patchify, "goes through bytes (uint8)")
def patchify_uint8(images, *, patch_size):
    return (
        rearrange(
            (images * 255).to(torch.uint8), "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size
        ).float()
        / 255
    )


@wrong(check_patchify, "yours multiplies the row by nh")
def patchify_ij(images, *, patch_size):
    p = patch_size
    b, c, h, w_ = images.shape
    out = torch.zeros(b, (h // p) * (w_ // p), p * p * c, dtype=images.dtype, device=images.device)
    for i in range(h // p):
        for j in range(w_ // p):
            out[:, i * (h // p) + j - (0)] = (
                images[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p].permute(0, 2, 3, 1).reshape(b, -1)
            )
    return out


@wrong(check_patchify, "the patches overlap along the width")
def patchify_step(images, *, patch_size):
    p = patch_size
    return torch.stack(
        [
            images[:, :, i : i + p, j : j + p].permute(0, 2, 3, 1).flatten(1)
            for i in range(0, images.shape[2], p)
            for j in range(0, images.shape[3] - p + 1, 1)
        ],
        1,
    )


@wrong(check_patchify, "the beginning is missing along axis 1 (n)")
def patchify_first_lost(images, *, patch_size):
    return rearrange(images, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)[:, 1:]


@wrong(check_patchify, "it calls `sys.setprofile`, which blinds the check")
def patchify_unwatched(images, *, patch_size):
    import sys

    sys.setprofile(None)
    return vlmcourse.patchify(images, patch_size=patch_size)


@wrong(check_patchify, "vlmcourse's `patchify`, which is the solution")
def patchify_by_another_road(images, *, patch_size):
    from vlmcourse.ops import patches as P

    return P.patchify(images, patch_size=patch_size)


@right(check_patchify)
def r_unfold(images, *, patch_size):
    p = patch_size
    b, c, h, w_ = images.shape
    return F.unfold(images, p, stride=p).reshape(b, c, p * p, -1).permute(0, 3, 2, 1).reshape(b, -1, p * p * c)


@right(check_patchify)
def r_index(images, *, patch_size):
    p = patch_size
    b, c, h, w_ = images.shape
    g = torch.arange(h * w_).view(h // p, p, w_ // p, p).permute(0, 2, 1, 3).reshape(-1, p * p).to(images.device)
    return images.flatten(2)[:, :, g].permute(0, 2, 3, 1).flatten(2)


@right(check_patchify)
def r_asks_for_the_device(images, *, patch_size):
    d = vlmcourse.device()
    return rearrange(images, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_unpatchify, "the grid is taken to be square")
def unpatchify_sqrt(patches, *, patch_size, image_size):
    s = int(patches.shape[1] ** 0.5)
    return rearrange(patches[:, : s * s], "b (a d) (p q c) -> b c (a p) (d q)", a=s, d=s, p=patch_size, q=patch_size)


@right(check_unpatchify)
def r_scatter(patches, *, patch_size, image_size):
    p = patch_size
    h, w_ = image_size
    b = patches.shape[0]
    g = torch.arange(h * w_).view(h // p, p, w_ // p, p).permute(0, 2, 1, 3).reshape(-1).to(patches.device)
    flat = patches.reshape(b, h * w_, -1)
    out = torch.empty_like(flat)
    out[:, g] = flat
    return out.mT.reshape(b, -1, h, w_)


@wrong(check_patch_embed, "cuts memory anew where the flattened weight should be transposed")
def pe_view(images, weight, bias):
    d, c, p, _ = weight.shape
    x = rearrange(images, "b c (a p) (d q) -> b (a d) (c p q)", p=p, q=p)
    return x @ weight.reshape(-1, d) + bias


@wrong(check_patch_embed, "the bias is added along the tokens")
def pe_bias_tokens(images, weight, bias):
    x = F.conv2d(images, weight, stride=weight.shape[-1]).flatten(2)
    return (x + bias.repeat(x.shape[2])[: x.shape[2]]).mT


@wrong(check_patch_embed, "divided by the root of a patch's length")
def pe_scaled(images, weight, bias):
    return F.conv2d(images, weight / math.sqrt(weight[0].numel()), bias, stride=weight.shape[-1]).flatten(2).mT


@wrong(check_patch_embed, "the stride is the number of outputs")
def pe_stride_d(images, weight, bias):
    return F.conv2d(images, weight, bias, stride=weight.shape[0]).flatten(2).mT


@wrong(check_patch_embed, "if the last of `images` along axis 1 is left out")
def pe_last_channel(images, weight, bias):
    return F.conv2d(images[:, :-1], weight[:, :-1], bias, stride=weight.shape[-1]).flatten(2).mT


@right(check_patch_embed)
def r_pe(images, weight, bias):
    d, c, p, _ = weight.shape
    x = images.unfold(2, p, p).unfold(3, p, p)
    return torch.tensordot(x, weight, dims=([1, 4, 5], [1, 2, 3])).flatten(1, 2) + bias


@right(check_patch_embed)
def pe_patches_times_weight(images, weight, bias):
    p = weight.shape[-1]
    patches = rearrange(images, "b c (a p) (e q) -> b (a e) (p q c)", p=p, q=p)
    return patches @ weight.permute(2, 3, 1, 0).flatten(0, 2) + bias


@right(check_patch_embed)
def pe_einsum(images, weight, bias):
    p = weight.shape[-1]
    squares = rearrange(images, "b c (a p) (e q) -> b (a e) c p q", p=p, q=p)
    return torch.einsum("bncpq,dcpq->bnd", squares, weight) + bias


@right(check_patch_embed)
def pe_unfold(images, weight, bias):
    p = weight.shape[-1]
    return F.linear(F.unfold(images, p, stride=p).mT, weight.flatten(1), bias)


@right(check_patch_embed)
def pe_loop_of_products(images, weight, bias):
    p = weight.shape[-1]
    h, w_ = images.shape[2:]
    tokens = [
        images[:, :, i : i + p, j : j + p].flatten(1) @ weight.flatten(1).T + bias
        for i in range(0, h, p)
        for j in range(0, w_, p)
    ]
    return torch.stack(tokens, 1)


@right(check_patch_embed)
def pe_loop_of_sums(images, weight, bias):
    p = weight.shape[-1]
    h, w_ = images.shape[2:]
    tokens = [
        (images[:, None, :, i : i + p, j : j + p] * weight).sum((2, 3, 4)) + bias
        for i in range(0, h, p)
        for j in range(0, w_, p)
    ]
    return torch.stack(tokens, 1)


@wrong(check_attention_weights, "yours sum to 1 all together")
def aw_both(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf)
    return s.flatten(-2).softmax(-1).view(s.shape).nan_to_num()


@wrong(check_attention_weights, "these are powers of 2")
def aw_base2(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5 * math.log(2)
    if mask is None:
        return s.softmax(-1)
    return s.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)


@wrong(check_attention_weights, "though nobody asked for a causal mask")
def aw_always_causal(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    m = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril()
    if mask is not None:
        m = m & mask
    return s.masked_fill(~m, -torch.inf).softmax(-1).masked_fill(~m, 0)


@wrong(check_attention_weights, "divided by the fourth root of d")
def aw_fourth(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.25
    if mask is None:
        return s.softmax(-1)
    return s.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0)


@wrong(check_attention_weights, "each column's maximum is taken away")
def aw_colmax(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf)
    e = (s - s.amax(-2, keepdim=True)).exp()
    out = e / e.sum(-1, keepdim=True)
    return out if mask is None else out.masked_fill(~mask, 0)


@wrong(check_attention_weights, "sums to 0.414: softmax runs over queries, not keys")
def aw_over_queries(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf)
    return s.softmax(-2)


@wrong(
    check_attention_weights,
    "softmax runs over queries, not keys; take the last axis; and also: the scores are not divided",
)
def aw_over_queries_unscaled(queries, keys, *, mask=None):
    s = queries @ keys.mT
    if mask is not None:
        s = s.masked_fill(~mask, -1e9)
    return F.softmax(s, dim=1)


@right(check_attention_weights)
def r_aw(queries, keys, *, mask=None):
    s = torch.einsum("...id,...jd->...ij", queries, keys) * keys.size(-1) ** -0.5
    if mask is None:
        mask = torch.ones_like(s, dtype=torch.bool)
    s = torch.where(mask, s, torch.finfo(s.dtype).min)
    return torch.where(mask, F.softmax(s, dim=-1), 0.0)


@wrong(check_attention_weights, "their gradient is nan where a query may look at no key")
def r_aw2(queries, keys, *, mask=None):
    s = queries.matmul(keys.transpose(-2, -1)).div(math.sqrt(keys.shape[-1]))
    bias = 0 if mask is None else torch.zeros_like(mask, dtype=s.dtype).masked_fill(~mask, float("-inf"))
    return torch.nan_to_num(torch.softmax(s + bias, -1))


@wrong(check_attention, "the softmax is taken twice")
def at_twice(queries, keys, values, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf)
    a = s.softmax(-1)
    if mask is not None:
        a = a.masked_fill(~mask, -torch.inf)
    return a.softmax(-1).nan_to_num() @ values


@wrong(check_attention, "PyTorch's `aten.scaled_dot_product_attention.default`, which is the solution")
def at_operator(queries, keys, values, *, mask=None):
    o = torch.ops.aten.scaled_dot_product_attention.default(queries, keys, values, mask)
    return o.nan_to_num()


@right(check_attention)
def r_at(queries, keys, values, *, mask=None):
    outs = []
    s = queries @ keys.mT / math.sqrt(queries.shape[-1])
    s = s - s.amax(-1, keepdim=True).detach()
    e = s.exp() if mask is None else s.exp() * mask
    n = e.sum(-1, keepdim=True)
    return (e @ values) / n.clamp(min=1e-30)


@wrong(check_multi_head, "the last head's result stands in the place of all")
def mh_last(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = (tokens @ qkv_weight.T).chunk(3, -1)
    hd = q.shape[-1] // num_heads
    for h in range(num_heads):
        sl = slice(h * hd, (h + 1) * hd)
        s = q[..., sl] @ k[..., sl].mT / hd**0.5
        if mask is not None:
            s = s.masked_fill(~mask, -torch.inf)
        o = s.softmax(-1) @ v[..., sl]
    return o.repeat(1, 1, num_heads) @ out_weight.T


@wrong(check_multi_head, "all heads use the queries of the first")
def mh_q0(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    s = q[:, :1] @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf)
    return rearrange(s.softmax(-1) @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "the output projection comes twice")
def mh_valtwice(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf)
    return rearrange(s.softmax(-1) @ v, "b h n d -> b n (h d)") @ out_weight.T @ out_weight.T


@wrong(
    check_multi_head, "changing word 2 changed the result at word 1: the mask lets the future in; the mask is ignored"
)
def mh_no_mask(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    return rearrange((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v, "b h n d -> b n (h d)") @ out_weight.T


@right(check_multi_head)
def r_mh(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    wq, wk, wv = qkv_weight.split(qkv_weight.shape[0] // 3)
    wo = out_weight.chunk(num_heads, 1)
    out = 0
    for a, b_, c, o in zip(wq.chunk(num_heads), wk.chunk(num_heads), wv.chunk(num_heads), wo):
        q, k, v = tokens @ a.T, tokens @ b_.T, tokens @ c.T
        s = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            s = s.masked_fill(mask.logical_not(), -1e30)
        out = out + s.softmax(-1) @ v @ o.T
    return out


@wrong(check_transformer_block, "the norms stand before and behind each layer")
def tb_sandwich(tokens, attention, mlp, norm1, norm2):
    x = tokens + norm1(attention(norm1(tokens)))
    return x + norm2(mlp(norm2(x)))


@wrong(check_transformer_block, "attention comes twice")
def tb_att2(tokens, attention, mlp, norm1, norm2):
    x = tokens + attention(norm1(tokens))
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))


@right(check_transformer_block)
def r_tb(tokens, attention, mlp, norm1, norm2):
    for n, f in ((norm1, attention), (norm2, mlp)):
        tokens = f(n(tokens)).add(tokens)
    return tokens


@wrong(check_unit, "divided by the length of the longest")
def un_longest(embeddings):
    return embeddings / embeddings.norm(dim=1).max()


@wrong(check_unit, "each row is divided by its own length, however short")
def un_clip(embeddings):
    return embeddings / embeddings.norm(dim=1, keepdim=True).clamp(min=1.0)


@wrong(check_unit, "the slope of `sqrt` is infinite at 0")
def un_where(embeddings):
    l = (embeddings * embeddings).sum(-1, keepdim=True).sqrt()
    return torch.where(l > 0, embeddings / l.clamp_min(1e-20), embeddings)


@right(check_unit)
def r_un2(embeddings):
    return embeddings * torch.rsqrt((embeddings**2).sum(1, keepdim=True) + 1e-20)


@wrong(check_partners, "these are pairs, a row and its partner")
def pa_pairs(n):
    return torch.stack([torch.arange(2 * n), torch.arange(2 * n).roll(n)], 1)


@wrong(check_partners, "shifted by n // 2")
def pa_half(n):
    return torch.arange(2 * n).roll(n // 2)


@wrong(check_partners, "shifted by n - 1")
def pa_off(n):
    return torch.arange(2 * n).roll(n - 1)


@right(check_partners)
def r_pa(n):
    return torch.cat([torch.arange(n, 2 * n), torch.arange(n)])


@right(check_partners)
def r_pa2(n):
    return torch.tensor([(i + n) % (2 * n) for i in range(2 * n)])


@right(check_partners)
def r_pa3(n):
    return torch.from_numpy((np.arange(2 * n) + n) % (2 * n))


@wrong(check_pair_logits, "whose exp is 0 by rounding alone")
def pl_1e9(units, temperature):
    return units @ units.T / temperature - 1e9 * torch.eye(len(units), device=units.device, dtype=units.dtype)


@wrong(check_pair_logits, "whose exp is 0 by rounding alone")
def pl_filled(units, temperature):
    return (units @ units.T / temperature).fill_diagonal_(-1e9)


@wrong(check_pair_logits, "whose exp is 0 by rounding alone")
def pl_smallest_number(units, temperature):
    return (units @ units.T / temperature).fill_diagonal_(torch.finfo(units.dtype).min)


@wrong(check_pair_logits, "the temperature is taken away")
def pl_sub(units, temperature):
    s = units @ units.T - temperature
    return s.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), -torch.inf)


@wrong(check_pair_logits, "the self-pairs of the second view are not masked")
def pl_half(units, temperature):
    s = units @ units.T / temperature
    n = len(s) // 2
    m = torch.eye(len(s), dtype=torch.bool, device=s.device)
    m[n:] = False
    return s.masked_fill(m, -torch.inf)


@wrong(check_pair_logits, "the other diagonal is masked")
def pl_anti(units, temperature):
    s = units @ units.T / temperature
    return s.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device).flip(1), -torch.inf)


@wrong(check_pair_logits, "the temperature is 0.5, whatever was asked for")
def pl_fixed(units, temperature):
    s = units @ units.T / 0.5
    return s.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), -torch.inf)


@right(check_pair_logits)
def r_pl(units, temperature):
    s = torch.einsum("id,jd->ij", units, units) / temperature
    return s + torch.diag(torch.full((len(units),), -torch.inf, dtype=s.dtype, device=s.device))


@right(check_pair_logits)
def r_pl2(units, temperature):
    s = (units / temperature) @ units.T
    i = torch.arange(len(s))
    s[i, i] = -torch.inf
    return s


@wrong(check_nt_xent, "negatives come from the row's own view alone")
def nx_same(view1, view2, *, temperature):
    s = sim(view1, view2, temperature)
    n = len(view1)
    i = torch.arange(2 * n)
    t = i.roll(n)
    m = (i[:, None] < n) == (i[None] < n)
    m = m & ~torch.eye(2 * n, dtype=torch.bool)
    m[i, t] = True
    return F.cross_entropy(s.masked_fill(~m.to(s.device), -torch.inf), t.to(s.device))


@wrong(check_nt_xent, "the logarithm of a mean")
def nx_logmean(view1, view2, *, temperature):
    s = sim(view1, view2, temperature)
    n = len(view1)
    p = s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=s.device), -torch.inf).softmax(1)
    return -p[torch.arange(2 * n), torch.arange(2 * n).roll(n)].mean().log()


@wrong(check_nt_xent, "the mean of the batch is taken away")
def nx_center(view1, view2, *, temperature):
    z = torch.cat([view1, view2])
    z = z - z.mean(0)
    return nx_ok(z[: len(view1)], z[len(view1) :], temperature=temperature)


@wrong(check_nt_xent, "label smoothing gives a share to wrong candidates")
def nx_smooth(view1, view2, *, temperature):
    s = sim(view1, view2, temperature)
    n = len(view1)
    return F.cross_entropy(
        s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=s.device), -1e4),
        torch.arange(2 * n, device=s.device).roll(n),
        label_smoothing=0.1,
    )


@wrong(check_nt_xent, "vlmcourse's `nt_xent_loss`, which is the solution")
def nx_in_a_thread(view1, view2, *, temperature):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as e:
        return e.submit(vlmcourse.nt_xent_loss, view1, view2, temperature=temperature).result()


@right(check_nt_xent)
def r_nx(view1, view2, *, temperature):
    a, b = F.normalize(view1), F.normalize(view2)
    n = len(a)
    m = torch.eye(n, dtype=torch.bool, device=a.device)
    aa = (a @ a.T / temperature).masked_fill(m, -1e9)
    bb = (b @ b.T / temperature).masked_fill(m, -1e9)
    ab = a @ b.T / temperature
    l1 = torch.cat([ab, aa], 1)
    l2 = torch.cat([ab.T, bb], 1)
    t = torch.arange(n, device=a.device)
    return 0.5 * (F.cross_entropy(l1, t) + F.cross_entropy(l2, t))


@right(check_nt_xent)
def r_nx2(view1, view2, *, temperature):
    z = torch.cat([view1, view2])
    s = F.cosine_similarity(z[:, None], z[None], dim=-1) / temperature
    n = len(view1)
    s = s - torch.eye(2 * n, device=s.device, dtype=s.dtype) * 1e9
    pos = torch.cat([s.diagonal(n), s.diagonal(-n)])
    return (s.logsumexp(1) - pos).mean()


@wrong(check_standardise, "divide by 1e-6 at least, in the test too")
def st_zero(train, test):
    m = train.mean(0)
    s = train.std(0, correction=0)
    ok = s > 1e-6
    return torch.where(ok, (train - m) / s, 0), torch.where(ok, (test - m) / s, 0)


@wrong(check_standardise, "0.001 is added to every deviation")
def st_eps(train, test):
    s = train.std(0, correction=0) + 1e-3
    return (train - train.mean(0)) / s, (test - train.mean(0)) / s


@wrong(check_standardise, "the root of the mean square")
def st_rms(train, test):
    s = train.square().mean(0).sqrt().clamp(min=1e-6)
    m = train.mean(0)
    return (train - m) / s, (test - m) / s


@wrong(check_standardise, "the mean absolute deviation")
def st_mad(train, test):
    m = train.mean(0)
    s = (train - m).abs().mean(0).clamp(min=1e-6)
    return (train - m) / s, (test - m) / s


@wrong(check_standardise, "the mean is rounded to a whole number")
def st_int(train, test):
    m = train.mean(0).round()
    s = train.std(0, correction=0).clamp(min=1e-6)
    return (train - m) / s, (test - m) / s


@right(check_standardise)
def r_st(train, test):
    v, m = torch.var_mean(train, 0, correction=0)
    s = torch.maximum(v.sqrt(), torch.tensor(1e-6, dtype=v.dtype, device=v.device))
    return [(x - m) / s for x in (train, test)]


@wrong(check_conv3d, "the kernel is summed over time")
def c3_2d(clips, weight, bias=None, *, stride=1, padding=0):
    x = F.pad(clips, (padding,) * 6)
    kt = weight.shape[2]
    T = (x.shape[2] - kt) // stride + 1
    fr = [F.conv2d(x[:, :, t * stride], weight.sum(2), bias, stride=stride) for t in range(T)]
    return torch.stack(fr, 2)


@wrong(check_conv3d, "the beginning is missing along axis 2 (t)")
def c3_skip(clips, weight, bias=None, *, stride=1, padding=0):
    return conv_ok(clips, weight, bias, stride, padding)[:, :, 1:]


@wrong(check_conv3d, "runs backwards along axis 1")
def c3_chrev(clips, weight, bias=None, *, stride=1, padding=0):
    return conv_ok(clips, weight.flip(1), bias, stride, padding)


@wrong(check_conv3d, "PyTorch's `aten.conv3d.default`, which is the solution")
def c3_operator(clips, weight, bias=None, *, stride=1, padding=0):
    return torch.ops.aten.conv3d.default(clips, weight, bias, [stride] * 3, [padding] * 3)


@right(check_conv3d)
def r_c3(clips, weight, bias=None, *, stride=1, padding=0):
    x = F.pad(clips, [padding] * 6)
    o, c, kt, kh, kw = weight.shape
    T = (x.shape[2] - kt) // stride + 1
    out = [sum(F.conv2d(x[:, :, t * stride + i], weight[:, :, i], stride=stride) for i in range(kt)) for t in range(T)]
    out = torch.stack(out, 2)
    return out if bias is None else out + bias.reshape(1, -1, 1, 1, 1)


@wrong(check_output_size, "the size with 'same' padding")
def os_same(size, *, kernel, stride, padding):
    return math.ceil(size / stride)


@wrong(check_output_size, "the padding is squared")
def os_p2(size, *, kernel, stride, padding):
    return (size + padding**2 - kernel) // stride + 1


@wrong(check_output_size, "each term is divided and rounded by itself")
def os_sep(size, *, kernel, stride, padding):
    return size // stride + 2 * padding // stride - kernel // stride + 1


@right(check_output_size)
def r_os(size, *, kernel, stride, padding):
    return len(range(0, size + 2 * padding - kernel + 1, stride))


@right(check_output_size)
def r_os2(size, *, kernel, stride, padding):
    return int(np.floor((size + 2 * padding - (kernel - 1) - 1) / stride + 1))


@right(check_output_size)
def r_os3(size, *, kernel, stride, padding):
    return (np.int64(size) + 2 * padding - kernel) // stride + 1


@right(check_output_size)
def r_os4(size, *, kernel, stride, padding):
    return F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), stride=stride, padding=padding).shape[-1]


@wrong(check_shuffle_frames, "each clip comes in the orders of all clips")
def sf_idx(clips, orders):
    return clips[:, :, orders]


@wrong(check_shuffle_frames, "the orders pick channels")
def sf_chan(clips, orders):
    return torch.stack([c[o % c.shape[0]] for c, o in zip(clips, orders)])


@wrong(check_shuffle_frames, "the last frame stays as it was")
def sf_last(clips, orders):
    out = clips.clone()
    for i in range(len(clips)):
        for j in range(clips.shape[2] - 1):
            out[i, :, j] = clips[i, :, orders[i, j]]
    return out


@wrong(check_shuffle_frames, "exchanged in pairs")
def sf_swap(clips, orders):
    out = clips.clone()
    for i in range(len(clips)):
        for j in range(clips.shape[2]):  # swaps, one after other
            a = int(orders[i, j])
            tmp = out[i, :, j].clone()
            out[i, :, j] = out[i, :, a]
            out[i, :, a] = tmp
    return out


@wrong(check_shuffle_frames, "the beginning is missing along axis 2 (t)")
def sf_first_lost(clips, orders):
    return torch.stack([c[:, o] for c, o in zip(clips, orders)])[:, :, 1:]


@right(check_shuffle_frames)
def r_sf(clips, orders):
    return torch.gather(clips, 2, orders[:, None, :, None, None].expand_as(clips))


@right(check_shuffle_frames)
def r_sf2(clips, orders):
    return torch.take_along_dim(clips, orders[:, None, :, None, None], 2)


@right(check_shuffle_frames)
def r_sf3(clips, orders):
    return torch.einsum("bjt,bcthw->bcjhw", F.one_hot(orders, clips.shape[2]).to(clips), clips)


@wrong(check_causal_mask, "the mask lets the future in among the first half of the words")
def cm_prefix(n):
    return torch.ones(n, n, dtype=torch.bool).tril() | (torch.arange(n) < n // 2)


@wrong(check_causal_mask, "the triangle is upside down")
def cm_rev(n):
    return torch.ones(n, n, dtype=torch.bool).tril().flip(0)


@wrong(
    check_causal_mask, "changing word 4 changed the logits at word 3: the mask lets the future in; the mask is inverted"
)
def cm_inverted(n):
    return torch.ones(n, n, dtype=torch.bool).triu(1)


@right(check_causal_mask)
def r_cm(n):
    i = torch.arange(n)
    return i[None] <= i[:, None]


@right(check_causal_mask)
def r_cm2(n):
    return torch.tensor([[j <= i for j in range(n)] for i in range(n)])


@right(check_causal_mask)
def r_cm3(n):
    return ~nn.Transformer.generate_square_subsequent_mask(n).isinf()


@wrong(check_shifted_loss, "nothing is shifted: cut the logits behind")
def sl_drop(logits, ids, loss_mask):
    return F.cross_entropy(logits[:, :-1][loss_mask[:, :-1]], ids[:, :-1][loss_mask[:, :-1]])


@wrong(check_shifted_loss, "only the mask is shifted")
def sl_reshape(logits, ids, loss_mask):
    l = logits[:, :-1].reshape(-1, logits.shape[-1])
    t = ids[:, :-1].reshape(-1)
    m = loss_mask[:, 1:].reshape(-1)
    return F.cross_entropy(l[m], t[m])


@wrong(check_shifted_loss, "1 is added to the number of marked words")
def sl_count1(logits, ids, loss_mask):
    e = (
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(ids[:, 1:].shape)
        * loss_mask[:, 1:]
    )
    return e.sum() / (loss_mask[:, 1:].sum() + 1)


@wrong(check_shifted_loss, "the softmax runs over positions")
def sl_pos(logits, ids, loss_mask):
    lp = logits.log_softmax(1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    return -lp[loss_mask[:, 1:]].mean()


@right(check_shifted_loss)
def r_sl(logits, ids, loss_mask):
    t = torch.where(loss_mask, ids, -100).roll(-1, 1)
    t[:, -1] = -100
    return F.cross_entropy(logits.flatten(0, 1), t.flatten())


@wrong(check_sampling, "at temperature 0.5, and 0.1 was asked for")
def sa_clamp(logits, *, temperature, top_p=1.0):
    return samp(logits, max(temperature, 0.5) if temperature else 0, top_p)


@wrong(check_sampling, "3 words a row are kept")
def sa_topk(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return samp(logits, 0, 1)
    p = (logits / temperature).softmax(-1)
    v = p.topk(3, -1).values[..., -1:]
    p = p * (p >= v) if top_p < 1 else p
    return p / p.sum(-1, keepdim=True)


@wrong(check_sampling, "you divide by the temperature twice")
def sa_twice(logits, *, temperature, top_p=1.0):
    return samp(logits / temperature if temperature else logits, temperature, top_p)


@right(check_sampling)
def r_sa(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1)
    p = F.softmax(logits / temperature, -1)
    before = torch.stack([(p * (p > p[..., i : i + 1])).sum(-1) for i in range(p.shape[-1])], -1)
    p = p * (before < top_p)
    return p / p.sum(-1, keepdim=True)


@right(check_sampling)
def r_sa2(logits, *, temperature, top_p=1.0):
    logits = logits / max(temperature, 1e-6)
    s, i = logits.sort(-1, descending=True)
    c = s.softmax(-1).cumsum(-1)
    rm = c >= top_p
    rm[..., 1:] = rm[..., :-1].clone()
    rm[..., 0] = False
    if top_p == 1.0:
        rm[:] = False
    return logits.masked_fill(rm.scatter(-1, i, rm), -torch.inf).softmax(-1)


@wrong(check_kv_cache, "the mask's diagonal is len(cache)")
def kv_len(queries, keys, values, cache=None):
    if cache:
        keys = torch.cat([cache[0], keys], 2)
        values = torch.cat([cache[1], values], 2)
        past = len(cache)
    else:
        past = 0
    m = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=queries.device).tril(past)
    return att(queries, keys, values, m), (keys, values)


@wrong(check_kv_cache, "changing word 2 changed the result at word 1: the mask lets the future in")
def kv_nomask(queries, keys, values, cache=None):
    if cache is not None:
        keys = torch.cat([cache[0], keys], 2)
        values = torch.cat([cache[1], values], 2)
    return (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1) @ values, (keys, values)


@wrong(check_kv_cache, "the mask lets the future in and hides the past: triu in place of tril")
def kv_triu(queries, keys, values, cache=None):
    if cache is not None:
        keys = torch.cat([cache[0], keys], 2)
        values = torch.cat([cache[1], values], 2)
    m = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).triu(keys.shape[2] - queries.shape[2])
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    return s.masked_fill(~m, -torch.inf).softmax(-1) @ values, (keys, values)


@wrong(check_kv_cache, "the oldest token is dropped from the cache")
def kv_oldest_lost(queries, keys, values, cache=None):
    if cache is not None:
        keys = torch.cat([cache[0][:, :, 1:], keys], 2)
        values = torch.cat([cache[1][:, :, 1:], values], 2)
    m = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - queries.shape[2])
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    return s.masked_fill(~m, -torch.inf).softmax(-1) @ values, (keys, values)


@right(check_kv_cache)
def r_kv(queries, keys, values, cache=None):
    if cache is None:
        cache = (keys[:, :, :0], values[:, :, :0])
    K = torch.cat((cache[0], keys), -2)
    V = torch.cat((cache[1], values), -2)
    p = cache[0].size(-2)
    out = []
    for t in range(queries.size(-2)):
        a = (queries[:, :, t : t + 1] @ K[:, :, : p + t + 1].mT / math.sqrt(queries.size(-1))).softmax(-1)
        out.append(a @ V[:, :, : p + t + 1])
    return torch.cat(out, -2), [K, V]


@wrong(check_generate, "the argmax runs over positions")
def ge_axis(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        nxt = model(ids).argmax(1)[:, -1:]
        ids = torch.cat([ids, nxt], 1)
        if nxt.item() == end_id:
            break
    return ids


@wrong(check_generate, "shown the last 3 words alone")
def ge_window(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        nxt = model(ids[:, -3:])[:, -1:].argmax(-1)
        ids = torch.cat([ids, nxt], 1)
        if nxt.item() == end_id:
            break
    return ids


@wrong(check_generate, "no word may come twice")
def ge_norep(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        l = model(ids)[:, -1].clone()
        l[:, ids[0]] = -torch.inf
        nxt = l.argmax(-1, keepdim=True)
        ids = torch.cat([ids, nxt], 1)
        if nxt.item() == end_id:
            break
    return ids


@wrong(check_generate, "the beginning is missing along axis 1 (n)")
def ge_first_lost(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        nxt = model(ids)[:, -1:].argmax(-1)
        ids = torch.cat([ids, nxt], 1)
        if nxt.item() == end_id:
            break
    return ids[:, 1:]


@right(check_generate)
def r_ge(model, ids, *, max_new_tokens, end_id):
    n = ids.shape[1]
    while ids.shape[1] < n + max_new_tokens and (ids.shape[1] == n or ids[0, -1] != end_id):
        ids = F.pad(ids, (0, 1), value=int(torch.argmax(model(ids)[0, -1])))
    return ids


@wrong(check_connector, "divided by the length of the joined vector")
def co_divided(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b (h w) (p q d)", p=reduction, q=reduction)
    return torch.einsum("bnk,ok->bno", x, weight) / x.shape[-1] + bias


@right(check_connector)
def r_co(features, weight, bias, *, reduction):
    k = rearrange(weight, "o (p q d) -> o d p q", p=reduction, q=reduction)
    return F.conv2d(features, k, bias, stride=reduction).flatten(2).transpose(1, 2)


@wrong(check_splice, "image_id is taken for the place")
def sl_pos2(words, ids, image, *, image_id):
    return torch.cat([words[:, :image_id], image, words[:, image_id + 1 :]], 1)


@wrong(check_splice, "the others stand at the end")
def sl_ip(words, ids, image, *, image_id):
    words[ids == image_id] = image[:, 0]
    return torch.cat([words, image[:, 1:]], 1)


@wrong(check_splice, "the words before and behind the image are exchanged")
def sl_rot(words, ids, image, *, image_id):
    return sp(words, ids, image, image_id, lambda w_, a, i: torch.cat([w_[a + 1 :], i, w_[:a]]))


@wrong(check_splice, "the beginning is missing along axis 1 (m)")
def sl_first_lost(words, ids, image, *, image_id):
    out = []
    for wd, i, im in zip(words, ids, image):
        a = int((i == image_id).nonzero()[0])
        out.append(torch.cat([wd[:a], im, wd[a + 1 :]]))
    return torch.stack(out)[:, 1:]


@right(check_splice)
def r_sp(words, ids, image, *, image_id):
    b, n, d = words.shape
    k = image.shape[1]
    keep = ids != image_id
    at = (~keep).nonzero()[:, 1:]
    out = words.new_empty(b, n - 1 + k, d)
    j = torch.arange(n - 1 + k, device=ids.device)[None]
    isim = (j >= at) & (j < at + k)
    out[isim] = image.flatten(0, 1)
    out[~isim] = words[keep]
    return out


@right(check_stages)
def r_ss(parts, stage):
    for p in parts.values():
        for q in p.parameters():
            q.requires_grad = False
    for n in parts:
        if stage == "joint" or n == stage.replace(" ", "_"):
            for q in parts[n].parameters():
                q.requires_grad = True


@right(check_controls)
def r_ic(images):
    return images.new_full(images.shape, 0.5), images[[*range(1, len(images)), 0]]


@right(check_controls)
def r_ic2(images):
    n = len(images)
    while True:
        p = torch.randperm(n)
        if (p != torch.arange(n)).all():
            return torch.zeros_like(images), images[p]


@right(check_controls)
def r_ic3(images):  # a colour per channel, same for all
    return torch.tensor([0.05 * i for i in range(images.shape[1])])[None, :, None, None].expand(images.shape).to(
        images
    ), torch.cat([images[-1:], images[:-1]])


@wrong(check_stages, "some parameters of the encoder learn in stage 'language model' and others do not")
def ss_layers_alone(parts, stage):
    learning = list(parts) if stage == "joint" else [stage.replace(" ", "_")]
    for name, part in parts.items():
        for layer in part.children():
            layer.requires_grad_(name in learning)


@wrong(check_unit, "what you add to it must be as small as 1e-12")
def u_adds_too_much(embeddings):
    return embeddings / (embeddings.norm(dim=1, keepdim=True) + 1e-6)


@right(check_unit)
def r_u_adds_little(embeddings):
    return embeddings / (embeddings.norm(dim=1, keepdim=True) + 1e-8)


@right(check_standardise)
def r_st_adds(train, test):
    mean, deviation = train.mean(0), train.std(0, correction=0) + 1e-6
    return (train - mean) / deviation, (test - mean) / deviation


@wrong(check_sampling, "`...` stands for any number of axes")
def nwp_two_axes(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        chosen = torch.zeros_like(logits)
        for row in range(len(logits)):
            chosen[row, logits[row].argmax()] = 1
        return chosen
    chances = (logits / temperature).softmax(-1)
    ordered, order = chances.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
    kept = torch.zeros_like(chances).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


@wrong(check_controls, "the model expects their kind")
def ic_whole_numbers(images):
    return torch.zeros(images.shape, dtype=torch.uint8), images.roll(1, 0)


@wrong(check_controls, "shuffled is torch.float64")
def ic_wide(images):
    return torch.zeros_like(images), images.roll(1, 0).double()


# Found by solving the sheets as a student: each of the wrong ones was once called right.
@wrong(check_shifted_loss, "is invalid for input of size")
def sl_words_taken_for_length(logits, ids, loss_mask):
    losses = F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[1]), ids[:, 1:].reshape(-1), reduction="none"
    ).view(ids[:, 1:].shape)
    mask = loss_mask[:, 1:]
    return (losses * mask).sum() / mask.sum()


@wrong(check_splice, "must match the existing size")
def sp_length_taken_for_width(words, ids, image, *, image_id):
    b, n, _ = words.shape
    k = image.shape[1]
    out = torch.zeros(b, n - 1 + k, n, dtype=words.dtype, device=words.device)
    for row in range(b):
        at = (ids[row] == image_id).nonzero().item()
        out[row] = torch.cat([words[row, :at], image[row], words[row, at + 1 :]])
    return out


def aw_added(queries, keys, *, mask=None):
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + torch.zeros(mask.shape, device=scores.device).masked_fill(~mask, -math.inf)
    return scores.softmax(-1).nan_to_num(0)


wrong(check_attention_weights, "their gradient is nan where a query may look at no key")(aw_added)


@wrong(check_attention, "their gradient is nan where a query may look at no key")
def at_added(queries, keys, values, *, mask=None):
    return aw_added(queries, keys, mask=mask) @ values


@wrong(check_sampling, "all goes to the likeliest, however near they are")
def sa_small_temperature(logits, *, temperature, top_p=1.0):
    ranked, order = (logits / max(temperature, 1e-2)).softmax(-1).sort(-1, descending=True)
    kept = ranked * (ranked.cumsum(-1) - ranked < top_p)
    kept = torch.zeros_like(kept).scatter(-1, order, kept)
    return kept / kept.sum(-1, keepdim=True)


@wrong(check_generate, "tried with an end token at the end of the prompt")
def ge_looks_before(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        if ids[0, -1] == end_id:
            break
        ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


@wrong(check_nt_xent, "as in CLIP, one way")
def nx_clip_one_way(view1, view2, *, temperature):
    one, two = F.normalize(view1, dim=1), F.normalize(view2, dim=1)
    return F.cross_entropy(one @ two.T / temperature, torch.arange(len(one), device=one.device))


@wrong(check_shuffle_frames, "`gather` wants an index with as many axes as the input")
def sf_gather(clips, orders):
    return torch.gather(clips, 2, orders)


@wrong(check_generate, "keep the axes, as in `argmax(-1, keepdim=True)`")
def ge_one_number(model, ids, *, max_new_tokens, end_id):
    return torch.cat([ids, model(ids)[0, -1].argmax()], dim=1)


@wrong(check_conv3d, "end every slice")
def c3_open_slices(clips, weight, bias=None, *, stride=1, padding=0):
    clips = F.pad(clips, (padding,) * 6)
    total = 0
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            for k in range(weight.shape[4]):
                part = clips[:, :, i::stride, j::stride, k::stride]
                total = total + torch.einsum("bcthw,oc->bothw", part, weight[:, :, i, j, k])
    return total if bias is None else total + bias[:, None, None, None]


@wrong(check_unit, "`keepdim=True` keeps an axis")
def un_no_keepdim(embeddings):
    return embeddings / embeddings.norm(dim=1)


# Found by solving the sheets once more: what drops an axis of length one, and what one case alone could not tell.
def squeezed(check, function, hint, *axes):
    """Let a right function lose the axes of length one at its end."""
    wrong(check, hint)(lambda *args, **options: _squeezed(function(*args, **options), *axes))


def _squeezed(result, *axes):
    return tuple(part.squeeze(*axes) for part in result) if isinstance(result, tuple) else result.squeeze(*axes)


def rest_of_block(tokens, attention, mlp, norm1, norm2):
    tokens = tokens + attention(norm1(tokens))
    return tokens + mlp(norm2(tokens))


@wrong(check_kv_cache, "does `.squeeze()` drop it?")
def kv_squeezed(queries, keys, values, cache=None):
    mixed, kept = r_kv(queries, keys, values, cache)
    return mixed.squeeze(1), kept


def pe_conv(images, weight, bias):
    return F.conv2d(images, weight, bias, stride=weight.shape[-1]).flatten(2).mT


for _axes in ((), (0,), (1,), (-1,)):
    squeezed(check_patchify, r_index, "does `.squeeze()` drop it?", *_axes)
    squeezed(check_patch_embed, pe_conv, "does `.squeeze()` drop it?", *_axes)
    squeezed(check_unpatchify, r_scatter, "the result has shape", *_axes)
    squeezed(check_attention_weights, r_aw, "the result has shape", *_axes)
    squeezed(check_attention, r_at, "does `.squeeze()` drop it?", *_axes)
    squeezed(check_multi_head, r_mh, "does `.squeeze()` drop it?", *_axes)
    squeezed(check_unit, r_un2, "the result has shape", *_axes)
    squeezed(check_conv3d, r_c3, "does `.squeeze()` drop it?", *_axes)
    squeezed(check_shuffle_frames, r_sf, "the result has shape", *_axes)
    squeezed(check_connector, r_co, "does `.squeeze()` drop it?", *_axes)
    squeezed(check_splice, r_sp, "does `.squeeze()` drop it?", *_axes)
for _axes in ((), (0,), (1,)):
    squeezed(check_transformer_block, rest_of_block, "the result has shape", *_axes)
for _axes in ((), (0,)):
    squeezed(check_standardise, r_st_adds, "does `.squeeze()` drop it?", *_axes)
squeezed(check_sampling, r_sa, "does `.squeeze()` drop it?", 0)


def st_scaled(train, test, deviation):
    return (train - train.mean(0)) / deviation, (test - train.mean(0)) / deviation


@wrong(check_standardise, "take the mean away before you square")
def st_one_pass(train, test):
    variance = train.square().mean(0) - train.mean(0).square()
    return st_scaled(train, test, variance.clamp(min=0).sqrt().clamp(min=1e-6))


@wrong(check_standardise, "wrong for a feature that hardly changes")
def st_exactly_zero(train, test):
    deviation = train.std(0, correction=0)
    return st_scaled(train, test, torch.where(deviation == 0, 1e-6, deviation))


@wrong(check_standardise, "divide by 1e-6 at least, in the test too")
def st_limited_late(train, test):
    return st_scaled(train, test, train.std(0, correction=0).clamp(min=1e-5))


@right(check_standardise)
def r_st_var(train, test):
    return st_scaled(train, test, train.var(0, unbiased=False).sqrt().clamp(min=1e-6))


@right(check_standardise)
def r_st_by_hand(train, test):
    centre = train.sum(0) / len(train)
    deviation = (((train - centre) ** 2).sum(0) / len(train)).sqrt().clamp(min=1e-6)
    return (train - centre) / deviation, (test - centre) / deviation


@wrong(check_unit, "the slope of `sqrt` is infinite at 0")
def un_root_of_zero(embeddings):
    return embeddings / embeddings.pow(2).sum(1, keepdim=True).sqrt().clamp(min=1e-12)


@wrong(check_unit, "you divide by the sum of the entries")
def un_sum_limited(embeddings):
    return embeddings / embeddings.sum(1, keepdim=True).clamp(min=1e-12)


def nx_filled(value):
    def nt_xent(view1, view2, *, temperature):
        s, n = sim(view1, view2, temperature), len(view1)
        s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=s.device), value)
        return F.cross_entropy(s, torch.arange(2 * n, device=s.device).roll(n))

    return nt_xent


wrong(check_nt_xent, "put -inf there")(nx_filled(-10.0))
wrong(check_nt_xent, "put -inf there")(nx_filled(-50.0))
right(check_nt_xent)(nx_filled(-1e6))


@wrong(check_nt_xent, "exp of 1 / 0.005 is infinite")
def nx_exp(view1, view2, *, temperature):
    s, n = sim(view1, view2, temperature), len(view1)
    chances = s.exp() * ~torch.eye(2 * n, dtype=torch.bool, device=s.device)
    return -(chances[torch.arange(2 * n), torch.arange(2 * n).roll(n)] / chances.sum(1)).log().mean()


@wrong(check_nt_xent, "wrong for a very cold temperature")
def nx_never_cold(view1, view2, *, temperature):
    return nx_ok(view1, view2, temperature=max(temperature, 0.01))


@wrong(check_pair_logits, "wrong for a cold temperature")
def pl_never_cold(units, temperature):
    return r_pl(units, max(temperature, 0.1))


@wrong(check_pair_logits, "such as dividing vectors of length 1 by their length")
def pl_units_again(units, temperature):
    return r_pl(F.normalize(units, dim=1), temperature)


@wrong(check_patch_embed, "`nn.Parameter(...)`")
def pe_parameter(images, weight, bias):
    return pe_conv(images, nn.Parameter(weight), bias)


@wrong(check_controls, "it changes its input `images` in place")
def ic_in_place(images):
    images[:] = 0.5
    return images, images.roll(1, 0)


@wrong(check_controls, "which is no colour: colours are from 0 to 1")
def ic_minus_one(images):
    return torch.full_like(images, -1.0), images.roll(1, 0)


@right(check_controls)
def r_ic_mean_colour(images):
    return images.mean((0, 2, 3), keepdim=True).expand(images.shape), images.roll(1, 0)


@wrong(check_controls, "`torch.manual_seed`, which changes chance for all that comes after")
def ic_seeded(images):
    torch.manual_seed(0)
    return r_ic2(images)


@right(check_controls)
def r_ic_own_generator(images):
    generator = torch.Generator().manual_seed(0)
    shift = int(torch.randint(1, len(images), (), generator=generator))
    return torch.zeros_like(images), images.roll(shift, 0)


def staged(parts, stage):
    for name, part in parts.items():
        part.requires_grad_(stage == "joint" or name == stage.replace(" ", "_"))


@wrong(check_stages, "stage 'joint' leaves the connector frozen: all three learn")
def ss_relies_on_the_order(parts, stage):
    for name in {"language model": ["language_model"], "connector": ["connector"]}.get(
        stage, ["encoder", "language_model"]
    ):
        parts[name].requires_grad_(True)
    for name in {"language model": ["encoder", "connector"], "connector": ["encoder", "language_model"]}.get(stage, []):
        parts[name].requires_grad_(False)


@wrong(check_stages, "put no copies in their place")
def ss_copies(parts, stage):
    import copy

    for name in parts:
        parts[name] = copy.deepcopy(parts[name])
    staged(parts, stage)


@wrong(check_stages, "numbers of a part are changed, or their dtype")
def ss_half(parts, stage):
    staged(parts, stage)
    for part in parts.values():
        part.half()


@wrong(check_stages, "numbers of a part are changed, or their dtype")
def ss_zeros(parts, stage):
    staged(parts, stage)
    for part in parts.values():
        for parameter in part.parameters():
            parameter.data.zero_()


@wrong(check_stages, "gradients are switched off for all that comes after")
def ss_no_gradients(parts, stage):
    staged(parts, stage)
    torch.set_grad_enabled(False)


@wrong(check_stages, "tried with the stages 'language model', then 'connector', then 'joint'")
def ss_nothing(parts, stage):
    return None
