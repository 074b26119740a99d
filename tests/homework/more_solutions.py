"""More solutions, right and wrong: written before anybody knew what the checks would say of them.

Each wrong one stands under the hint that it must get.
"""

# ruff: noqa - as students write

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from collected import Collected
from einops import rearrange
from torch import nn

from vlmcourse.homework import *

COLLECTED = Collected()
RIGHT, WRONG = COLLECTED.RIGHT, COLLECTED.WRONG
right, wrong = COLLECTED.right, COLLECTED.wrong


# ---------------- HW1
@wrong(check_patchify, "your images are read as")
def p_transposed_images(images, *, patch_size):  # grid columns first and rows within too: image transposed
    x = images.transpose(2, 3)
    return rearrange(x, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "this is what comes out if `images` runs backwards along axis 2")
def p_rows_backwards(images, *, patch_size):
    return rearrange(images.flip(2), "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "the patches overlap")
def p_stride_one(images, *, patch_size):
    u = images.unfold(2, patch_size, 1).unfold(3, patch_size, 1)
    return rearrange(u, "b c a d p q -> b (a d) (p q c)")


@wrong(check_patchify, "this is what comes out if `images` runs backwards along axis 1")
def p_bgr(images, *, patch_size):
    return rearrange(images.flip(1), "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "every number is 0.003922 times what it should be")
def p_normalised_255(images, *, patch_size):
    return rearrange(images / 255.0, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "the numbers are right, but of")
def p_forgets_last_row(images, *, patch_size):
    out = []
    for i in range(0, images.shape[2] - patch_size, patch_size):
        for j in range(0, images.shape[3], patch_size):
            out.append(images[:, :, i : i + patch_size, j : j + patch_size].permute(0, 2, 3, 1).flatten(1))
    return torch.stack(out, 1)


@wrong(check_patchify, "patch_size is taken for the number of patches in a row")
def p_num_patches_confused(images, *, patch_size):  # takes patch_size as patches per side
    return rearrange(images, "b c (a p) (d q) -> b (a d) (p q c)", a=patch_size, d=patch_size)


@wrong(check_patchify, "the numbers are right, but of")
def p_only_first(images, *, patch_size):
    return rearrange(images[:1], "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "this is what comes out if `images` is averaged along axis 1")
def p_grey(images, *, patch_size):
    g = images.mean(1, keepdim=True).expand_as(images)
    return rearrange(g, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "each patch is averaged to one pixel")
def p_pooled(images, *, patch_size):
    return F.avg_pool2d(images, patch_size).flatten(2).mT


@wrong(check_patchify, "a torch.Tensor is expected, a builtins.list came")
def p_list(images, *, patch_size):
    x = rearrange(images, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)
    return [r for r in x.unbind(1)]


@wrong(check_patchify, "a name that has no value: is it misspelt")
def p_typo(images, *, patch_size):
    return rearrange(imges, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)


@wrong(check_patchify, "the numbers do not fit into this shape: is the image taken")
def p_square_assumption(images, *, patch_size):
    n = images.shape[2] // patch_size
    return (
        images.reshape(images.shape[0], images.shape[1], n, patch_size, n, patch_size)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(images.shape[0], n * n, -1)
    )


@wrong(check_patchify, "the numbers are right, but the result has shape")
def p_three_channels(images, *, patch_size):
    x = rearrange(images, "b c (a p) (d q) -> b (a d) (p q c)", p=patch_size, q=patch_size)
    return x.reshape(images.shape[0], -1, patch_size * patch_size * 3)


@wrong(check_unpatchify, "your images are read as")
def u_transposed_result(patches, *, patch_size, image_size):
    h, w = image_size
    x = rearrange(patches, "b (a d) (p q c) -> b c (a p) (d q)", a=h // patch_size, p=patch_size, q=patch_size)
    return x.transpose(2, 3)


@wrong(check_unpatchify, "a length in the pattern does not fit: is the image taken to")
def u_rgb_only(patches, *, patch_size, image_size):
    h, w = image_size
    return rearrange(patches, "b (a d) (p q c) -> b c (a p) (d q)", a=h // patch_size, p=patch_size, q=patch_size, c=3)


@wrong(check_unpatchify, "a length in the pattern does not fit: is the image taken to")
def u_square(patches, *, patch_size, image_size):
    n = int(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (a d) (p q c) -> b c (a p) (d q)", a=n, d=n, p=patch_size, q=patch_size)


@wrong(check_unpatchify, "inside a patch your numbers go channel by channel")
def u_fold_plain(patches, *, patch_size, image_size):
    return F.fold(patches.mT, image_size, kernel_size=patch_size, stride=patch_size)


@wrong(check_unpatchify, "many numbers are 0")
def u_loop_overwrites(patches, *, patch_size, image_size):
    b, n, d = patches.shape
    p = patch_size
    h, w = image_size
    out = patches.new_zeros(b, d // (p * p), h, w)
    k = 0
    for i in range(h // p):
        for j in range(w // p):
            out[:, :, i : i + p, j : j + p] = patches[:, k].reshape(b, p, p, -1).permute(0, 3, 1, 2)
            k += 1
    return out


@wrong(check_patch_embed, "all along axis 0")
def e_bias_every_pixel(images, weight, bias):
    p = weight.shape[-1]
    cols = F.unfold(images, p, stride=p).mT
    return cols @ weight.flatten(1).T + bias * weight[0].numel()


@wrong(check_patch_embed, "this is what comes out if only the first of `images` along axis 1 is used")
def e_first_channel(images, weight, bias):
    return F.conv2d(images[:, :1], weight[:, :1], bias, stride=weight.shape[-1]).flatten(2).mT


@wrong(check_patch_embed, "the image is padded")
def e_padded(images, weight, bias):
    p = weight.shape[-1]
    return F.conv2d(images, weight, bias, stride=p, padding=p // 2).flatten(2).mT


@wrong(check_patch_embed, "the numbers are right, but 1 too many come along axis 1")
def e_cls(images, weight, bias):
    t = F.conv2d(images, weight, bias, stride=weight.shape[-1]).flatten(2).mT
    return torch.cat([t.new_zeros(len(t), 1, t.shape[-1]), t], 1)


@wrong(check_patch_embed, "shapes are matched from the last axis backwards: what")
def e_bias_wrong_axis(images, weight, bias):  # bias per token instead of per feature -> crash or wrong
    t = F.conv2d(images, weight, None, stride=weight.shape[-1]).flatten(2)
    return (t + bias).mT


@wrong(check_patch_embed, "the same input gives another result the second time")
def e_own_conv(images, weight, bias):
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], stride=weight.shape[-1]).to(images)
    return conv(images).flatten(2).mT


@wrong(check_patch_embed, "a reshape turns")
def e_reshape_tokens(images, weight, bias):
    t = F.conv2d(images, weight, bias, stride=weight.shape[-1])
    return t.reshape(t.shape[0], -1, t.shape[1])


# ---------------- HW2
@wrong(check_attention_weights, "the softmax is taken twice")
def a_softmax_twice(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    s = s.softmax(-1).softmax(-1)
    return s if mask is None else s.masked_fill(~mask, 0)


@wrong(check_attention_weights, "these are cosines")
def a_cosine(queries, keys, *, mask=None):
    q, k = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
    s = q @ k.mT
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention_weights, "the scores have the wrong sign")
def a_negative(queries, keys, *, mask=None):
    s = -(queries @ keys.mT) / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention_weights, "queries and keys are swapped")
def a_swapped(queries, keys, *, mask=None):
    s = keys @ queries.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask.mT, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention_weights, "this is what comes out if `queries` stands for `keys` too")
def a_self(queries, keys, *, mask=None):
    s = queries @ queries.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention_weights, "needs zeros of your own: its weights are all zero")
def a_big_negative(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -1e9)
    return s.softmax(-1)


@wrong(check_attention_weights, "query 0 looks at key 1, which the mask forbids")
def a_soft_mask(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s - 10.0 * (~mask)
    return s.softmax(-1)


@wrong(check_attention_weights, "masked scores are 0, and exp")
def a_mask_multiplied(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s * mask
    return s.softmax(-1)


@wrong(check_attention_weights, "row 0 sums to 0.0486, and every row of weights must sum to 1")
def a_global_softmax(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    e = (s - s.amax()).exp()
    return e / e.sum()


@wrong(check_attention_weights, "each query takes its best key alone")
def a_hard(queries, keys, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    out = F.one_hot(s.argmax(-1), keys.shape[-2]).to(queries.dtype)
    return out if mask is None else out * mask


@wrong(check_attention_weights, "use the last two axes, `...` for all before")
def a_bmm(queries, keys, *, mask=None):
    s = torch.bmm(queries, keys.transpose(1, 2)) / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention_weights, "shapes are matched from the last axis backwards: what")
def a_transpose_12(queries, keys, *, mask=None):
    s = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention_weights, "the values are right, but of torch.float32 where torch.float64 was expected")
def a_float_scale(queries, keys, *, mask=None):
    s = (queries @ keys.mT).float() / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0)


@wrong(check_attention, "the scores are divided by the root of the entries of a value")
def at_scale_dv(queries, keys, values, *, mask=None):
    s = queries @ keys.mT / values.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).nan_to_num(0) @ values


@wrong(check_attention, "the softmax is missing")
def at_no_softmax(queries, keys, values, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s * mask
    return s @ values


@wrong(check_attention, "the softmax comes after the values are mixed")
def at_softmax_after(queries, keys, values, *, mask=None):
    s = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, 0)
    return (s @ values).softmax(-1)


def _w(q, k, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1)


@wrong(check_multi_head, "in `a @ b` the last axis of a and the last but one of b")
def m_weight_untransposed(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    x = tokens @ qkv_weight  # shapes do not fit
    q, k, v = rearrange(x, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    return rearrange(_w(q, k, mask) @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "num_heads is taken for the width of a head")
def m_heads_and_width_swapped(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, d=num_heads)
    return rearrange(_w(q, k, mask) @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "this is what comes out if `num_heads` is 1")
def m_single(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = (tokens @ qkv_weight.T).chunk(3, -1)
    return _w(q, k, mask) @ v @ out_weight.T


@wrong(check_multi_head, "all heads use the weights of the first")
def m_first_head_only(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    w = _w(q, k, mask)[:, :1]
    return rearrange(w @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "the weights are averaged over the heads")
def m_mean_weights(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    w = _w(q, k, mask).mean(1, keepdim=True)
    return rearrange(w @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "the scores are divided by the root of num_heads")
def m_scale_heads(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    s = q @ k.mT / num_heads**0.5
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return rearrange(s.softmax(-1) @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "the projection is read as values, queries, keys")
def m_kqv(tokens, qkv_weight, out_weight, *, num_heads, mask=None):  # rotated order: v q k
    v, q, k = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    return rearrange(_w(q, k, mask) @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "the mask is transposed")
def m_mask_wrong_heads(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    q, k, v = rearrange(tokens @ qkv_weight.T, "b n (t h d) -> t b h n d", t=3, h=num_heads)
    if mask is not None:
        mask = mask.mT
    return rearrange(_w(q, k, mask) @ v, "b h n d -> b n (h d)") @ out_weight.T


@wrong(check_multi_head, "it calls PyTorch's `multi_head_attention_forward`, which is the solution")
def m_functional(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    x = tokens.transpose(0, 1)
    m = None if mask is None else ~mask
    out, _ = F.multi_head_attention_forward(
        x, x, x, x.shape[-1], num_heads, qkv_weight, None, None, None, False, 0.0, out_weight, None, attn_mask=m
    )
    return out.transpose(0, 1)


@wrong(check_transformer_block, "the first norm stands after the sum, the second before its layer")
def b_norm_after_attention_residual(tokens, attention, mlp, norm1, norm2):
    x = norm1(tokens + attention(tokens))
    return x + mlp(norm2(x))


@wrong(check_transformer_block, "`tokens` is added to the result")
def b_residual_twice(tokens, attention, mlp, norm1, norm2):
    x = tokens + attention(norm1(tokens))
    return tokens + x + mlp(norm2(x))


@wrong(check_transformer_block, "this is what comes out if `mlp` is left out")
def b_no_mlp(tokens, attention, mlp, norm1, norm2):
    x = tokens + attention(norm1(tokens))
    return x + norm2(x)


@wrong(check_transformer_block, "this is what comes out if nothing comes from `attention`")
def b_no_attention(tokens, attention, mlp, norm1, norm2):
    return tokens + mlp(norm2(tokens))


@wrong(check_transformer_block, "this is what comes out if nothing comes from `mlp`")
def b_stops_early(tokens, attention, mlp, norm1, norm2):
    return tokens + attention(norm1(tokens))


@wrong(check_transformer_block, "attention and MLP read the same tokens")
def b_mlp_reads_old(tokens, attention, mlp, norm1, norm2):
    x = tokens + attention(norm1(tokens))
    return x + mlp(norm2(tokens))


@wrong(check_transformer_block, "this is what comes out if `norm1` is left out")
def b_attention_unnormed(tokens, attention, mlp, norm1, norm2):
    x = tokens + attention(tokens)
    return x + mlp(norm2(x))


@wrong(check_transformer_block, "each sum is halved")
def b_halved(tokens, attention, mlp, norm1, norm2):
    x = (tokens + attention(norm1(tokens))) / 2
    return (x + mlp(norm2(x))) / 2


@wrong(check_transformer_block, "what the layers give is taken away")
def b_minus(tokens, attention, mlp, norm1, norm2):
    x = tokens - attention(norm1(tokens))
    return x - mlp(norm2(x))


# ---------------- HW3
@wrong(check_unit, "you divide by the root of the mean of squares")
def n_rms(embeddings):
    return embeddings / embeddings.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)


@wrong(check_unit, "a row of zeros has length 0")
def n_nan(embeddings):
    return embeddings / torch.sqrt((embeddings**2).sum(-1, keepdim=True))


@wrong(check_unit, "points the right way, but its length is")
def n_big_eps(embeddings):
    return embeddings / (embeddings.norm(dim=1, keepdim=True) + 0.1)


@wrong(check_unit, "this is what comes out if `embeddings` is centred along axis 1, its mean taken away")
def n_centred(embeddings):
    x = embeddings - embeddings.mean(1, keepdim=True)
    return F.normalize(x, dim=1)


@wrong(check_partners, "rows of the second view name themselves")
def pa_second_half_zero(n):
    return torch.cat([torch.arange(n) + n, torch.arange(n) + n])


@wrong(check_pair_logits, "only one view is compared with the other")
def pl_only_first(units, temperature):
    n = len(units) // 2
    return units[:n] @ units[n:].T / temperature


@wrong(check_pair_logits, "the diagonal holds -7.57, so an embedding is still a candidate for itself")
def pl_minus9(units, temperature):
    logits = units @ units.T / temperature
    return logits - 9 * torch.eye(len(logits)).to(logits)


@wrong(check_pair_logits, "NaN for a warm temperature")
def pl_nan(units, temperature):
    logits = units @ units.T / temperature
    return logits + torch.eye(len(logits)).to(logits) * -math.inf


@wrong(check_pair_logits, "the diagonal is taken out,")
def pl_removed(units, temperature):
    logits = units @ units.T / temperature
    m = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits[m].view(len(logits), -1)


@wrong(check_nt_xent, "the temperature is ignored")
def x_temp_before_norm(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view2]) / temperature, dim=1)
    s = (z @ z.T).fill_diagonal_(-math.inf)
    n = len(view1)
    return F.cross_entropy(s, torch.arange(2 * n, device=z.device).roll(n))


@wrong(check_nt_xent, "you take e away for the self-pairs")
def x_both_masked(view1, view2, *, temperature):
    # subtracts exp(1/t) as in some repos, but e instead of e^(1/t)
    z = F.normalize(torch.cat([view1, view2]), dim=1)
    n = len(view1)
    e = (z @ z.T / temperature).exp()
    den = e.sum(1) - math.e
    pos = torch.cat([(z[:n] * z[n:]).sum(1), (z[:n] * z[n:]).sum(1)]) / temperature
    return (den.log() - pos).mean()


@wrong(check_nt_xent, "the views are interleaved, and the positives are those of stacked views")
def x_interleaved(view1, view2, *, temperature):
    z = F.normalize(torch.stack([view1, view2], 1).flatten(0, 1), dim=1)
    n = len(view1)
    s = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(s, torch.arange(2 * n, device=z.device).roll(n))


@wrong(check_nt_xent, "this is in bits")
def x_log2(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view2]), dim=1)
    n = len(view1)
    s = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(s, torch.arange(2 * n, device=z.device).roll(n)) / math.log(2)


@wrong(check_nt_xent, "each pair is judged alone, with a sigmoid")
def x_bce(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view2]), dim=1)
    n = len(view1)
    s = z @ z.T / temperature
    t = torch.eye(2 * n).roll(n, 1).to(s)
    m = ~torch.eye(2 * n, dtype=torch.bool, device=s.device)
    return F.binary_cross_entropy_with_logits(s[m], t[m])


@wrong(check_nt_xent, "this is what comes out if `view1` stands for `view2` too")
def x_same_view(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view1]), dim=1)
    n = len(view1)
    s = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(s, torch.arange(2 * n, device=z.device).roll(n))


@wrong(check_nt_xent, "the denominator is a mean over 2n")
def x_margin(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view2]), dim=1)
    n = len(view1)
    s = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    pos = s.gather(1, torch.arange(2 * n, device=z.device).roll(n)[:, None])
    return (s.exp().mean(1).log() - pos[:, 0]).mean()


@wrong(check_nt_xent, "self-pairs are set to cosine -1, and exp")
def x_soft_mask(view1, view2, *, temperature):
    z = F.normalize(torch.cat([view1, view2]), dim=1)
    n = len(view1)
    s = (z @ z.T).fill_diagonal_(-1) / temperature
    return F.cross_entropy(s, torch.arange(2 * n, device=z.device).roll(n))


@wrong(check_standardise, "this is `test` as it came")
def s_twice(train, test):
    tr = (train - train.mean(0)) / train.std(0, correction=0).clamp(min=1e-6)
    te = (test - tr.mean(0)) / tr.std(0, correction=0).clamp(min=1e-6)
    return tr, te


@wrong(check_standardise, "you divide each row by its length")
def s_normalise(train, test):
    return F.normalize(train, dim=1), F.normalize(test, dim=1)


@wrong(check_standardise, "the test features are centred by their own mean")
def s_own_mean_train_std(train, test):
    s = train.std(0, correction=0).clamp(min=1e-6)
    return (train - train.mean(0)) / s, (test - test.mean(0)) / s


@wrong(check_standardise, "something is added to every deviation")
def s_add_one(train, test):
    m, s = train.mean(0), train.std(0, correction=0) + 1
    return (train - m) / s, (test - m) / s


@wrong(check_standardise, "you divide before you take the mean away")
def s_divide_first(train, test):
    m, s = train.mean(0), train.std(0, correction=0).clamp(min=1e-6)
    return train / s - m, test / s - m


@wrong(check_standardise, "its deviation is 0")
def s_where_one(train, test):
    m, s = train.mean(0), train.std(0, correction=0)
    return (train - m) / s, ((test - m) / s)


@wrong(check_standardise, "you take the median away")
def s_median(train, test):
    m, s = train.median(0).values, train.std(0, correction=0).clamp(min=1e-6)
    return (train - m) / s, (test - m) / s


# ---------------- HW4
def _conv(c, w, b=None, stride=(1, 1, 1), padding=(0, 0, 0)):
    x = F.pad(c, (padding[2], padding[2], padding[1], padding[1], padding[0], padding[0]))
    for a, (k, s) in enumerate(zip(w.shape[2:], stride)):
        x = x.unfold(a + 2, k, s)
    o = torch.einsum("bcthwijk,ocijk->bothw", x, w)
    return o if b is None else o + b[:, None, None, None]


@wrong(check_conv3d, "something is None: an option that was not given, or a")
def c_bias_required(clips, weight, bias=None, *, stride=1, padding=0):
    return _conv(clips, weight, None, (stride,) * 3, (padding,) * 3) + bias[:, None, None, None]


@wrong(check_conv3d, "shapes are matched from the last axis backwards: what")
def c_bias_last(clips, weight, bias=None, *, stride=1, padding=0):
    o = _conv(clips, weight, None, (stride,) * 3, (padding,) * 3)
    return o if bias is None else o + bias


@wrong(check_conv3d, "the size of the result follows the stride, and the windows are neighbours still")
def c_dilated(clips, weight, bias=None, *, stride=1, padding=0):
    x = F.pad(clips, (padding,) * 6)
    kt, kh, kw = weight.shape[2:]
    T, H, Wd = ((n - k) // stride + 1 for n, k in zip(x.shape[2:], (kt, kh, kw)))
    o = 0
    for i in range(kt):
        for j in range(kh):
            for k in range(kw):
                o = o + torch.einsum(
                    "bcthw,oc->bothw", x[:, :, i : i + T, j : j + H, k : k + Wd], weight[:, :, i, j, k]
                )  # stride forgotten in slice
    return o if bias is None else o + bias[:, None, None, None]


@wrong(check_conv3d, "this is what comes out if `clips` is averaged along axis 1")
def c_depthwise(clips, weight, bias=None, *, stride=1, padding=0):
    o = _conv(clips, weight.mean(1, keepdim=True).expand_as(weight), None, (stride,) * 3, (padding,) * 3)
    return o if bias is None else o + bias[:, None, None, None]


@wrong(check_conv3d, "the numbers are right, but of")
def c_off_by_one(clips, weight, bias=None, *, stride=1, padding=0):
    x = F.pad(clips, (padding,) * 6)
    kt, kh, kw = weight.shape[2:]
    o = _conv(x, weight, bias, (stride,) * 3)
    return o[:, :, :-1, :-1, :-1]


@wrong(check_conv3d, "the padding is half of the kernel, whatever was asked for")
def c_same(clips, weight, bias=None, *, stride=1, padding=0):
    return _conv(clips, weight, bias, (stride,) * 3, tuple(k // 2 for k in weight.shape[2:]))


@wrong(check_conv3d, "the border is filled from the opposite side")
def c_circular(clips, weight, bias=None, *, stride=1, padding=0):
    x = F.pad(clips, (padding,) * 6, mode="circular") if padding else clips
    return _conv(x, weight, bias, (stride,) * 3)


@wrong(check_conv3d, "the border is filled with ones")
def c_pad_ones(clips, weight, bias=None, *, stride=1, padding=0):
    return _conv(F.pad(clips, (padding,) * 6, value=1.0), weight, bias, (stride,) * 3)


@wrong(check_conv3d, "this is what comes out if `weight` is averaged along axis 2")
def c_per_frame_mean(clips, weight, bias=None, *, stride=1, padding=0):
    w2 = weight.mean(2, keepdim=True).expand_as(weight)
    return _conv(clips, w2, bias, (stride,) * 3, (padding,) * 3)


@wrong(check_conv3d, "all padding comes behind")
def c_pad_one_side_all(clips, weight, bias=None, *, stride=1, padding=0):
    return _conv(F.pad(clips, (0, 2 * padding) * 3), weight, bias, (stride,) * 3)


@wrong(check_output_size, "kernel and stride are swapped")
def o_swapped(size, *, kernel, stride, padding):
    return (size + 2 * padding - stride) // kernel + 1


@wrong(check_output_size, "a whole number is expected, a Tensor came")
def o_tensor(size, *, kernel, stride, padding):
    return torch.tensor((size + 2 * padding - kernel) // stride + 1)


@wrong(check_output_size, "two are added")
def o_plus_two(size, *, kernel, stride, padding):
    return (size + 2 * padding - kernel) // stride + 2


@wrong(check_output_size, "half of the kernel is taken away")
def o_half_kernel(size, *, kernel, stride, padding):
    return (size + 2 * padding - kernel // 2) // stride + 1


@wrong(check_output_size, "nothing came back")
def o_print(size, *, kernel, stride, padding):
    print((size + 2 * padding - kernel) // stride + 1)


@wrong(check_output_size, "the padding is added after the division")
def o_padding_outside(size, *, kernel, stride, padding):
    return (size - kernel) // stride + 1 + 2 * padding


@wrong(check_output_size, "the kernel is taken away after the division")
def o_floor_size(size, *, kernel, stride, padding):
    return (size + 2 * padding) // stride - kernel + 1


@wrong(check_shuffle_frames, "the same input gives another result the second time")
def f_random(clips, orders):
    return torch.stack([c[:, torch.randperm(c.shape[1])] for c in clips])


@wrong(check_shuffle_frames, "nothing is shuffled")
def f_sorted(clips, orders):
    o = orders.sort(1).values
    return torch.stack([c[:, k] for c, k in zip(clips, o)])


@wrong(check_shuffle_frames, "frames are overwritten before they are read")
def f_clobber(clips, orders):
    out = clips.clone()
    for i in range(len(clips)):
        for j in range(clips.shape[2]):
            out[i, :, j] = out[i, :, orders[i, j]]
    return out


@wrong(check_shuffle_frames, "the numbers are right, but the axes are in the order")
def f_stack_wrong(clips, orders):
    return torch.stack([c[:, k] for c, k in zip(clips, orders)], 1)


@wrong(check_shuffle_frames, "the numbers are wrong only where axis 0")
def f_only_first_clip(clips, orders):
    out = clips.clone()
    out[0] = clips[0][:, orders[0]]
    return out


# ---------------- HW5
@wrong(check_causal_mask, "nobody may look at the first word")
def k_prefix(n):
    m = torch.ones(n, n, dtype=torch.bool).tril()
    m[:, 0] = False
    return m


@wrong(check_causal_mask, "the values are right, but of torch.uint8 where torch.bool was expected")
def k_uint8(n):
    return torch.tril(torch.ones(n, n, dtype=torch.uint8))


@wrong(check_causal_mask, "a torch.Tensor is expected, a builtins.list came")
def k_list(n):
    return [[j <= i for j in range(n)] for i in range(n)]


@wrong(check_causal_mask, "a torch.Tensor is expected, a numpy.ndarray came")
def k_numpy(n):
    return np.tril(np.ones((n, n), dtype=bool))


@wrong(check_causal_mask, "the numbers are right, but the result has shape")
def k_batched(n):
    return torch.ones(n, n, dtype=torch.bool).tril()[None]


@wrong(check_causal_mask, "the values are -inf and 0, to be added to scores")
def k_minus_inf_only(n):
    return torch.triu(torch.full((n, n), -math.inf), diagonal=1)


@wrong(check_causal_mask, "word i may look two words ahead")
def k_two_ahead(n):
    return torch.ones(n, n, dtype=torch.bool).tril(2)


@wrong(check_shifted_loss, "the rows are joined and then shifted, so that the end of one text predicts the beginning")
def l_flat_shift(logits, ids, loss_mask):  # flattens, then shifts: crosses rows
    lg, t, m = logits.flatten(0, 1)[:-1], ids.flatten()[1:], loss_mask.flatten()[1:]
    return F.cross_entropy(lg[m], t[m])


@wrong(check_shifted_loss, "`F.cross_entropy` wants the classes on axis 1: flatten all")
def l_no_transpose(logits, ids, loss_mask):
    return F.cross_entropy(logits[:, :-1], ids[:, 1:])


@wrong(check_shifted_loss, "unmarked words are replaced by word 0, and count still")
def l_mask_ids(logits, ids, loss_mask):  # sets unmarked ids to 0 and averages
    t = (ids * loss_mask)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), t.flatten())


@wrong(check_shifted_loss, "the logits of unmarked words are 0, and count still")
def l_mask_logits(logits, ids, loss_mask):
    lg = logits * loss_mask[..., None]
    return F.cross_entropy(lg[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@wrong(check_shifted_loss, "the ids are rolled, so that the last word of a row predicts its first")
def l_roll(logits, ids, loss_mask):
    t, m = ids.roll(-1, 1), loss_mask.roll(-1, 1)
    return F.cross_entropy(logits[m], t[m])


@wrong(check_shifted_loss, "only the last word of a row counts")
def l_only_last(logits, ids, loss_mask):
    return F.cross_entropy(logits[:, -2], ids[:, -1])


@wrong(check_shifted_loss, "these are squared differences")
def l_mse(logits, ids, loss_mask):
    p = logits[:, :-1].softmax(-1)
    t = F.one_hot(ids[:, 1:], logits.shape[-1]).to(p)
    m = loss_mask[:, 1:]
    return (p - t).square().sum(-1)[m].mean()


@wrong(check_shifted_loss, "the logits are taken as log-probabilities")
def l_no_normaliser(logits, ids, loss_mask):
    m = loss_mask[:, 1:]
    return -logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][m].mean()


@wrong(check_shifted_loss, "a torch.Tensor is expected, a builtins.float came")
def l_item(logits, ids, loss_mask):
    m = loss_mask[:, 1:]
    return F.cross_entropy(logits[:, :-1][m], ids[:, 1:][m]).item()


@wrong(check_sampling, "one word a row came back")
def d_draws(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1)[..., 0]


@wrong(check_sampling, "the temperature changes nothing")
def d_temp_on_probs(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    p = logits.softmax(-1) / temperature
    r, o = p.sort(-1, descending=True)
    r = r * (r.cumsum(-1) - r < top_p)
    p = torch.zeros_like(p).scatter(-1, o, r)
    return p / p.sum(-1, keepdim=True)


@wrong(check_sampling, "the kept probabilities go through a softmax once more")
def d_softmax_again(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    p = (logits / temperature).softmax(-1)
    r, o = p.sort(-1, descending=True)
    keep = torch.zeros_like(p).scatter(-1, o, (r.cumsum(-1) - r < top_p).to(p)).bool()
    return p.masked_fill(~keep, -math.inf).softmax(-1)


@wrong(check_sampling, "one word too many is kept")
def d_one_more(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    p = (logits / temperature).softmax(-1)
    r, o = p.sort(-1, descending=True)
    before2 = (r.cumsum(-1) - r).roll(1, -1)
    before2[..., 0] = 0
    r = r * (before2 < top_p)
    p = torch.zeros_like(p).scatter(-1, o, r)
    return p / p.sum(-1, keepdim=True)


@wrong(check_sampling, "the way back from sorted order is scatter, or gather by order.argsort")
def d_gather_instead(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    p = (logits / temperature).softmax(-1)
    r, o = p.sort(-1, descending=True)
    r = r * (r.cumsum(-1) - r < top_p)
    p = r.gather(-1, o)
    return p / p.sum(-1, keepdim=True)


@wrong(check_sampling, "all kept words are equally likely")
def d_uniform(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    p = (logits / temperature).softmax(-1)
    r, o = p.sort(-1, descending=True)
    k = torch.zeros_like(p).scatter(-1, o, (r.cumsum(-1) - r < top_p).to(p))
    return k / k.sum(-1, keepdim=True)


@wrong(check_sampling, "the probabilities sum to -31.7")
def d_logprob(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    return (logits / temperature).log_softmax(-1)


@wrong(check_sampling, "temperature 0 is no division")
def d_zero_div(logits, *, temperature, top_p=1.0):
    p = (logits / temperature).softmax(-1)
    r, o = p.sort(-1, descending=True)
    r = r * (r.cumsum(-1) - r < top_p)
    p = torch.zeros_like(p).scatter(-1, o, r)
    return p / p.sum(-1, keepdim=True)


def _kv(q, k, v, cache, m=None, ret=None, scale=0.5, ax=2):
    kk, vv = (k, v) if cache is None else (torch.cat([cache[0], k], ax), torch.cat([cache[1], v], ax))
    i, j = q.shape[2], kk.shape[2]
    mask = torch.ones(i, j, dtype=torch.bool, device=q.device).tril(j - i)
    return (q @ kk.mT / q.shape[-1] ** scale).masked_fill(~mask, -math.inf).softmax(-1) @ vv, (kk, vv)


@wrong(check_kv_cache, "a tuple of 2 is expected, a Tensor came")
def v_stacked(queries, keys, values, cache=None):
    m, (k, v) = _kv(queries, keys, values, cache)
    return m, torch.stack([k, v])


@wrong(check_kv_cache, "2 results are expected, 3 came")
def v_three(queries, keys, values, cache=None):
    m, (k, v) = _kv(queries, keys, values, cache)
    return m, k, v


@wrong(check_kv_cache, "the mask hides the cache")
def v_mask_hides_cache(queries, keys, values, cache=None):
    kk, vv = (keys, values) if cache is None else (torch.cat([cache[0], keys], 2), torch.cat([cache[1], values], 2))
    i, j = queries.shape[2], kk.shape[2]
    mask = torch.zeros(i, j, dtype=torch.bool)
    mask[:, j - i :] = torch.ones(i, i, dtype=torch.bool).tril()
    return (queries @ kk.mT / queries.shape[-1] ** 0.5).masked_fill(~mask, -math.inf).softmax(-1) @ vv, (kk, vv)


@wrong(check_kv_cache, "`torch.cat` joins along one axis, and all others must")
def v_cat_heads(queries, keys, values, cache=None):
    kk, vv = (keys, values) if cache is None else (torch.cat([cache[0], keys], 1), torch.cat([cache[1], values], 1))
    i, j = queries.shape[2], kk.shape[2]
    mask = torch.ones(i, j, dtype=torch.bool).tril(j - i)
    return (queries @ kk.mT / queries.shape[-1] ** 0.5).masked_fill(~mask, -math.inf).softmax(-1) @ vv, (kk, vv)


@wrong(check_kv_cache, "softmax runs over queries, not keys")
def v_softmax_axis(queries, keys, values, cache=None):
    kk, vv = (keys, values) if cache is None else (torch.cat([cache[0], keys], 2), torch.cat([cache[1], values], 2))
    i, j = queries.shape[2], kk.shape[2]
    mask = torch.ones(i, j, dtype=torch.bool).tril(j - i)
    return (queries @ kk.mT / queries.shape[-1] ** 0.5).masked_fill(~mask, -math.inf).softmax(-2) @ vv, (kk, vv)


@wrong(check_kv_cache, "only the last new token's result comes back")
def v_only_last(queries, keys, values, cache=None):
    m, c = _kv(queries, keys, values, cache)
    return m[:, :, -1:], c


@wrong(check_kv_cache, "queries are cached")
def v_queries_cached(queries, keys, values, cache=None):
    m, (k, v) = _kv(queries, keys, values, cache)
    return m, (queries, k)


@wrong(check_kv_cache, "masked scores are 0, and exp")
def v_mask_zero(queries, keys, values, cache=None):
    kk, vv = (keys, values) if cache is None else (torch.cat([cache[0], keys], 2), torch.cat([cache[1], values], 2))
    i, j = queries.shape[2], kk.shape[2]
    mask = torch.ones(i, j, dtype=torch.bool).tril(j - i)
    return (queries @ kk.mT / queries.shape[-1] ** 0.5).masked_fill(~mask, 0).softmax(-1) @ vv, (kk, vv)


@wrong(check_generate, "the same input gives another result the second time")
def g_samples(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        p = model(ids)[:, -1].softmax(-1)
        w = torch.multinomial(p, 1)
        ids = torch.cat([ids, w], 1)
        if w.item() == end_id:
            break
    return ids


@wrong(check_generate, "max_new_tokens is taken for the length of the whole text")
def g_total(model, ids, *, max_new_tokens, end_id):
    while ids.shape[1] < max_new_tokens:
        w = model(ids)[:, -1:].argmax(-1)
        ids = torch.cat([ids, w], 1)
        if w.item() == end_id:
            break
    return ids


@wrong(check_generate, "after the end token more end tokens come")
def g_pads_end(model, ids, *, max_new_tokens, end_id):
    n = ids.shape[1]
    done = False
    for _ in range(max_new_tokens):
        w = model(ids)[:, -1:].argmax(-1)
        if done:
            w = torch.full_like(w, end_id)
        ids = torch.cat([ids, w], 1)
        done = done or w.item() == end_id
    return ids


@wrong(check_generate, "the numbers are right, but 52 too many come along axis 1")
def g_no_limit(model, ids, *, max_new_tokens, end_id):
    while True:
        w = model(ids)[:, -1:].argmax(-1)
        ids = torch.cat([ids, w], 1)
        if w.item() == end_id or ids.shape[1] > 60:
            break
    return ids


@wrong(check_generate, "the second likeliest word is taken")
def g_second(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        w = model(ids)[:, -1].topk(2).indices[:, 1:]
        ids = torch.cat([ids, w], 1)
        if w.item() == end_id:
            break
    return ids


# ---------------- HW6
@wrong(check_connector, "this is what comes out if `bias` is averaged along axis 0")
def j_bias_first(features, weight, bias, *, reduction):  # bias added before projection
    x = rearrange(features, "b d (h p) (w q) -> b (h w) (p q d)", p=reduction, q=reduction)
    return F.linear(x, weight) + bias.mean()


@wrong(check_connector, "the right result goes through GELU once more")
def j_gelu(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b (h w) (p q d)", p=reduction, q=reduction)
    return F.gelu(F.linear(x, weight, bias))


@wrong(check_connector, "the vectors are normalised")
def j_norm(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b (h w) (p q d)", p=reduction, q=reduction)
    return F.linear(F.layer_norm(x, x.shape[-1:]), weight, bias)


@wrong(check_connector, "the neighbours are added")
def j_sum(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b (h w) p q d", p=reduction, q=reduction)
    x = x.sum((2, 3), keepdim=True).expand_as(x).flatten(2)
    return F.linear(x, weight, bias)


@wrong(check_connector, "the numbers are right, but the result has shape")
def j_grid(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b h w (p q d)", p=reduction, q=reduction)
    return F.linear(x, weight, bias)


@wrong(check_connector, "the squares overlap")
def j_overlap(features, weight, bias, *, reduction):
    k = rearrange(weight, "o (p q d) -> o d p q", p=reduction, q=reduction)
    return F.conv2d(features, k, bias).flatten(2).mT


@wrong(check_connector, "this is what comes out if `weight` runs backwards along axis 1")
def j_flip(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b (h w) (p q d)", p=reduction, q=reduction).flip(-1)
    return F.linear(x, weight, bias)


@wrong(check_connector, "this is what comes out if `weight` is reshaped where it should be transposed")
def j_weight(features, weight, bias, *, reduction):
    x = rearrange(features, "b d (h p) (w q) -> b (h w) (p q d)", p=reduction, q=reduction)
    return x @ weight.reshape(weight.shape[1], weight.shape[0]) + bias


@wrong(check_splice, "every row gets its image where the last row has its placeholder")
def i_flat(words, ids, image, *, image_id):
    # puts at index of first occurrence in flattened ids
    at = int((ids.flatten() == image_id).nonzero()[-1]) % ids.shape[1]
    return torch.cat([words[:, :at], image, words[:, at + 1 :]], 1)


@wrong(check_splice, "the image is averaged to one vector")
def i_inplace_one(words, ids, image, *, image_id):
    out = words.clone()
    out[ids == image_id] = image.mean(1)
    return out


@wrong(check_splice, "a torch.Tensor is expected, a builtins.list came")
def i_list(words, ids, image, *, image_id):
    return [
        torch.cat([w[:a], p, w[a + 1 :]]) for w, p, a in zip(words, image, (ids == image_id).int().argmax(1).tolist())
    ]


@wrong(check_splice, "the words behind the image are in reverse order")
def i_from_end(words, ids, image, *, image_id):
    at = (ids == image_id).int().argmax(1).tolist()
    return torch.stack([torch.cat([w[:a], p, w[a + 1 :].flip(0)]) for w, p, a in zip(words, image, at)])


@wrong(check_splice, "the image stands at the first word that is no placeholder")
def i_nonplace(words, ids, image, *, image_id):
    at = (ids != image_id).int().argmax(1).tolist()
    return torch.stack([torch.cat([w[:a], p, w[a + 1 :]]) for w, p, a in zip(words, image, at)])


@wrong(check_splice, "the word behind the placeholder is lost")
def i_drops(words, ids, image, *, image_id):
    at = (ids == image_id).int().argmax(1).tolist()
    return torch.stack(
        [
            torch.cat([w[:a], p, w[a + 2 :]]) if a + 2 <= len(w) else torch.cat([w[: a - 1], p])
            for w, p, a in zip(words, image, at)
        ]
    )


@wrong(check_splice, "a reshape has mixed the image's vectors")
def i_reshaped_image(words, ids, image, *, image_id):
    image = image.mT.reshape(image.shape)
    at = (ids == image_id).int().argmax(1).tolist()
    return torch.stack([torch.cat([w[:a], p, w[a + 1 :]]) for w, p, a in zip(words, image, at)])


@wrong(check_stages, "nothing is frozen")
def t_eval(parts, stage):
    table = {"language model": ["language_model"], "connector": ["connector"], "joint": list(parts)}
    for n, p in parts.items():
        p.train(n in table[stage])


@wrong(check_stages, "nothing is frozen")
def t_attribute(parts, stage):
    table = {"language model": ["language_model"], "connector": ["connector"], "joint": list(parts)}
    for n, p in parts.items():
        p.requires_grad = n in table[stage]


@wrong(check_stages, "stage 'language model' freezes the language model")
def t_underscore(parts, stage):
    for n, p in parts.items():
        p.requires_grad_(stage == "joint" or n == stage)


@wrong(check_stages, "stage 'connector' trains the language model too")
def t_cumulative(parts, stage):
    order = ["language model", "connector", "joint"]
    for n, p in parts.items():
        p.requires_grad_(False)
    parts["language_model"].requires_grad_(True)
    if order.index(stage) >= 1:
        parts["connector"].requires_grad_(True)
    if order.index(stage) >= 2:
        parts["encoder"].requires_grad_(True)


@wrong(check_stages, "only biases are frozen")
def t_bias_only(parts, stage):
    table = {"language model": ["language_model"], "connector": ["connector"], "joint": list(parts)}
    for n, p in parts.items():
        for name, q in p.named_parameters():
            q.requires_grad = n in table[stage] if "bias" in name else True


@wrong(check_stages, "nothing is frozen")
def t_optimizer(parts, stage):
    table = {"language model": ["language_model"], "connector": ["connector"], "joint": list(parts)}
    return [q for n in table[stage] for q in parts[n].parameters()]


@wrong(check_stages, "stage 'joint' leaves the encoder frozen")
def t_encoder_always_frozen(parts, stage):
    parts["encoder"].requires_grad_(False)
    parts["connector"].requires_grad_(stage != "language model")
    parts["language_model"].requires_grad_(stage != "connector")


@wrong(check_controls, "the blank images differ from each other, so the model can still tell them apart")
def q_noise(images):
    return torch.randn_like(images), images.roll(1, 0)


@wrong(check_controls, "blank holds NaN or infinity")
def q_nan(images):
    return torch.full_like(images, float("nan")), images.roll(1, 0)


@wrong(check_controls, "shuffled holds pictures that are none of the images")
def q_pixels(images):
    flat = images.flatten(2)
    return torch.zeros_like(images), flat[..., torch.randperm(flat.shape[-1])].reshape(images.shape)


@wrong(check_controls, "image 2 is still with its own question")
def q_pairs(images):  # swaps pairs, odd one stays
    x = images.clone()
    n = len(x) // 2 * 2
    x[0:n:2], x[1:n:2] = images[1:n:2], images[0:n:2]
    return torch.zeros_like(images), x


@wrong(check_controls, "two tensors are expected,")
def q_dict(images):
    return {"blank": torch.zeros_like(images), "shuffled": images.roll(1, 0)}


@wrong(check_controls, "some images appear twice and others never")
def q_random_other(images):
    n = len(images)
    i = torch.arange(n)
    j = (i + 1) % n
    j[j == 0] = 1 if n > 1 else 0
    j[0] = 1
    j[1] = 0
    return torch.zeros_like(images), images[j]


@wrong(check_controls, "a blank image has structure")
def q_channel_means(images):
    g = torch.linspace(0, 1, images.shape[-1]).to(images)
    return torch.zeros_like(images) + g, images.roll(1, 0)


@wrong(check_controls, "shuffled holds pictures that are none of the images")
def q_mixed(images):
    return torch.zeros_like(images), (images + images.roll(1, 0)) / 2


# ---------------- right ones in other styles
@right(check_patchify)
def rp_numpyish(images, *, patch_size):
    b, c, h, w = images.shape
    p = patch_size
    x = images.swapaxes(1, 2).swapaxes(2, 3)  # b h w c
    x = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)
    return x.reshape(b, -1, p * p * c)


@right(check_patchify)
def rp_split(images, *, patch_size):
    rows = images.split(patch_size, 2)
    tiles = [t for r in rows for t in r.split(patch_size, 3)]
    return torch.stack([t.permute(0, 2, 3, 1).flatten(1) for t in tiles], dim=1)


@right(check_patchify)
def rp_conv(images, *, patch_size):
    c, p = images.shape[1], patch_size
    k = torch.eye(p * p * c, dtype=images.dtype, device=images.device)
    k = rearrange(k, "o (p q c) -> o c p q", p=p, q=p)
    return F.conv2d(images, k, stride=p).flatten(2).transpose(1, 2)


@right(check_patchify)
def rp_pixel_unshuffle(images, *, patch_size):
    x = F.pixel_unshuffle(images, patch_size)
    return rearrange(x, "b (c p q) h w -> b (h w) (p q c)", p=patch_size, q=patch_size)


@right(check_patchify)
def rp_vmap(images, *, patch_size):
    return torch.vmap(lambda im: rearrange(im, "c (a p) (d q) -> (a d) (p q c)", p=patch_size, q=patch_size))(images)


@right(check_unpatchify)
def ru_shuffle(patches, *, patch_size, image_size):
    x = rearrange(
        patches, "b (h w) (p q c) -> b (c p q) h w", h=image_size[0] // patch_size, p=patch_size, q=patch_size
    )
    return F.pixel_shuffle(x, patch_size)


@right(check_unpatchify)
def ru_index(patches, *, patch_size, image_size):
    h, w = image_size
    p = patch_size
    y, x = torch.meshgrid(torch.arange(h, device=patches.device), torch.arange(w, device=patches.device), indexing="ij")
    n = (y // p) * (w // p) + x // p
    t = patches.reshape(*patches.shape[:2], p, p, -1)
    return t[:, n, y % p, x % p].permute(0, 3, 1, 2)


@right(check_patch_embed)
def re_einsum(images, weight, bias):
    x = rearrange(images, "b c (a p) (d q) -> b (a d) c p q", p=weight.shape[-2], q=weight.shape[-1])
    return torch.einsum("bncpq,ocpq->bno", x, weight) + bias


@right(check_patch_embed)
def re_functional(images, weight, bias):
    d, c, p, _ = weight.shape
    conv = nn.Conv2d(c, d, p, stride=p)
    out = torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (images,))
    return out.reshape(len(images), d, -1).swapaxes(1, 2)


@right(check_attention_weights)
def ra_numpyish(queries, keys, *, mask=None):
    s = torch.matmul(queries, keys.swapaxes(-1, -2)) / math.sqrt(queries.shape[-1])
    mask = torch.ones_like(s, dtype=torch.bool) if mask is None else mask.broadcast_to(s.shape)
    s = torch.where(mask, s, torch.tensor(-torch.inf, dtype=s.dtype, device=s.device))
    top = s.max(-1, keepdim=True).values
    top = torch.where(top.isinf(), torch.zeros_like(top), top)
    e = torch.exp(s - top)
    z = e.sum(-1, keepdim=True)
    return e / torch.where(z == 0, torch.ones_like(z), z)


@right(check_attention_weights)
def ra_einsum_ellipsis(queries, keys, *, mask=None):
    s = torch.einsum("...id,...jd->...ij", queries, keys).mul(queries.size(-1) ** -0.5)
    if mask is None:
        return torch.softmax(s, dim=-1)
    w = torch.softmax(s.masked_fill(mask.logical_not(), torch.finfo(s.dtype).min), dim=-1)
    return w * mask


@wrong(check_attention_weights, "their gradient is nan where a query may look at no key")
def ra_divided_queries(queries, keys, *, mask=None):
    d4 = queries.shape[-1] ** 0.25
    s = (queries / d4) @ (keys / d4).transpose(-1, -2)
    if mask is not None:
        s = s + torch.zeros_like(s).masked_fill(~mask, float("-inf"))
    return torch.nan_to_num(F.softmax(s, dim=-1), nan=0.0)


@right(check_attention)
def rat_loops(queries, keys, values, *, mask=None):
    out = []
    for i in range(queries.shape[-2]):
        s = (keys @ queries[..., i, :, None])[..., 0] / queries.shape[-1] ** 0.5
        if mask is not None:
            s = s.masked_fill(~mask[..., i, :], -math.inf)
        w = s.softmax(-1).nan_to_num(0.0)
        out.append((w[..., None] * values).sum(-2))
    return torch.stack(out, -2)


@right(check_multi_head)
def rm_vmap(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    d = tokens.shape[-1]
    w = d // num_heads
    wq, wk, wv = qkv_weight.split(d)
    out = torch.zeros_like(tokens)
    for h in range(num_heads):
        s = slice(h * w, (h + 1) * w)
        q, k, v = tokens @ wq[s].T, tokens @ wk[s].T, tokens @ wv[s].T
        a = q @ k.transpose(1, 2) / math.sqrt(w)
        if mask is not None:
            a = a.masked_fill(~mask, -1e30)
        out = out + a.softmax(2) @ v @ out_weight[:, s].T
    return out


@right(check_multi_head)
def rm_batched_heads(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    b, n, d = tokens.size()
    qkv = F.linear(tokens, qkv_weight).view(b, n, 3 * num_heads, -1).transpose(1, 2)
    q, k, v = qkv.split(num_heads, dim=1)
    a = torch.baddbmm(
        torch.zeros(1, 1, 1, dtype=q.dtype, device=q.device),
        q.reshape(-1, n, q.size(-1)),
        k.reshape(-1, n, q.size(-1)).mT,
        alpha=q.size(-1) ** -0.5,
    ).view(b, num_heads, n, n)
    if mask is not None:
        a = a.masked_fill(mask == 0, float("-inf"))
    return F.linear((a.softmax(-1) @ v).transpose(1, 2).contiguous().view(b, n, d), out_weight)


@right(check_transformer_block)
def rb_functools(tokens, attention, mlp, norm1, norm2):
    return functools.reduce(lambda x, f: x + f(x), (lambda x: attention(norm1(x)), lambda x: mlp(norm2(x))), tokens)


@right(check_transformer_block)
def rb_expanded(tokens, attention, mlp, norm1, norm2):
    a = attention(norm1(tokens))
    return tokens + a + mlp(norm2(tokens + a))


@right(check_unit)
def rn_where(embeddings):
    length = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    return embeddings / torch.where(length > 0, length, torch.ones_like(length))


@right(check_unit)
def rn_rsqrt(embeddings):
    return embeddings * torch.einsum("nd,nd->n", embeddings, embeddings).clamp_min(1e-24).rsqrt()[:, None]


@wrong(check_unit, "0 / 0 stays nan on the way back")
def rn_nan(embeddings):
    return (embeddings / embeddings.norm(dim=1, keepdim=True)).nan_to_num()


@right(check_partners)
def rpa_view(n):
    return torch.arange(2 * n).view(2, n).flip(0).reshape(-1)


@right(check_partners)
def rpa_numpy(n):
    return torch.from_numpy(np.roll(np.arange(2 * n), n))


@right(check_partners)
def rpa_xor(n):
    i = torch.arange(2 * n)
    return torch.where(i < n, i + n, i - n)


@right(check_pair_logits)
def rpl_loop(units, temperature):
    rows = []
    for i in range(len(units)):
        rows.append(
            torch.stack(
                [
                    (units[i] * units[j]).sum() / temperature if i != j else units.new_tensor(-math.inf)
                    for j in range(len(units))
                ]
            )
        )
    return torch.stack(rows)


@right(check_pair_logits)
def rpl_mask(units, temperature):
    s = torch.inner(units, units).div(temperature)
    s.masked_fill_(torch.eye(s.shape[0], device=s.device, dtype=torch.bool), float("-inf"))
    return s


@right(check_nt_xent)
def rx_log_softmax(view1, view2, *, temperature):
    n = view1.shape[0]
    z = torch.cat([F.normalize(view1, dim=-1), F.normalize(view2, dim=-1)])
    s = (z @ z.mT / temperature) - torch.diag(torch.full((2 * n,), 1e9, dtype=z.dtype, device=z.device))
    lp = s.log_softmax(-1)
    return -(lp.diagonal(n).mean() + lp.diagonal(-n).mean()) / 2


@right(check_nt_xent)
def rx_symmetric(view1, view2, *, temperature):
    a, b = F.normalize(view1), F.normalize(view2)
    n = len(a)
    e = torch.eye(n, dtype=torch.bool, device=a.device)

    def half(x, y):
        s = torch.cat([x @ y.T, (x @ x.T).masked_fill(e, -math.inf)], 1) / temperature
        return F.cross_entropy(s, torch.arange(n, device=a.device))

    return (half(a, b) + half(b, a)) / 2


@right(check_standardise)
def rs_var_mean(train, test):
    v, m = torch.var_mean(train, dim=0, correction=0)
    s = v.sqrt().clamp_min(1e-6)
    return tuple((t - m) / s for t in (train, test))


@right(check_standardise)
def rs_max(train, test):
    m = train.mean(dim=0, keepdim=True)
    s = torch.clamp(torch.sqrt(torch.mean(torch.square(train - m), dim=0, keepdim=True)), 1e-6)
    return [torch.divide(train - m, s), torch.divide(test - m, s)]


@right(check_conv3d)
def rc_conv1d(clips, weight, bias=None, *, stride=1, padding=0):
    b, c, t, h, w = clips.shape
    x = F.pad(clips, (0, 0, 0, 0, padding, padding))
    frames = rearrange(x.unfold(2, weight.shape[2], stride), "b c t h w k -> (b t) (c k) h w")
    out = F.conv2d(frames, weight.flatten(1, 2), bias, stride=stride, padding=padding)
    return rearrange(out, "(b t) o h w -> b o t h w", b=b)


@right(check_conv3d)
def rc_naive(clips, weight, bias=None, *, stride=1, padding=0):
    x = F.pad(clips, [padding] * 6)
    kt, kh, kw = weight.shape[2:]
    T, H, W_ = [(n - k) // stride + 1 for n, k in zip(x.shape[2:], weight.shape[2:])]
    out = []
    for t in range(T):
        for i in range(H):
            for j in range(W_):
                win = x[:, :, t * stride : t * stride + kt, i * stride : i * stride + kh, j * stride : j * stride + kw]
                out.append(win.flatten(1) @ weight.flatten(1).T)
    out = torch.stack(out, -1).reshape(len(x), -1, T, H, W_)
    return out if bias is None else out + bias.view(1, -1, 1, 1, 1)


@right(check_output_size)
def ro_count(size, *, kernel, stride, padding):
    count, start = 0, -padding
    while start + kernel <= size + padding:
        count += 1
        start += stride
    return count


@right(check_output_size)
def ro_divmod(size, *, kernel, stride, padding):
    return divmod(size + 2 * padding - kernel, stride)[0] + 1


@right(check_output_size)
def ro_torch(size, *, kernel, stride, padding):
    return F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), stride=stride, padding=padding).shape[-1]


@right(check_shuffle_frames)
def rf_take_along(clips, orders):
    return torch.take_along_dim(clips, orders[:, None, :, None, None], dim=2)


@right(check_shuffle_frames)
def rf_adv(clips, orders):
    b = torch.arange(clips.shape[0], device=clips.device).unsqueeze(1)
    return clips.movedim(2, 1)[b, orders].movedim(1, 2)


@right(check_shuffle_frames)
def rf_vmap(clips, orders):
    return torch.vmap(lambda c, o: c.index_select(1, o))(clips, orders)


@right(check_causal_mask)
def rk_cumsum(n):
    return torch.eye(n).flip(1).cumsum(1).flip(1).bool()


@right(check_causal_mask)
def rk_indices(n):
    m = torch.zeros(n, n, dtype=torch.bool)
    i, j = torch.tril_indices(n, n)
    m[i, j] = True
    return m


@right(check_causal_mask)
def rk_numpy(n):
    return torch.from_numpy(np.tri(n, dtype=bool))


@right(check_shifted_loss)
def rl_ignore(logits, ids, loss_mask):
    t = torch.where(loss_mask, ids, torch.full_like(ids, -100))[..., 1:].reshape(-1)
    return F.cross_entropy(logits[..., :-1, :].reshape(-1, logits.size(-1)), t, ignore_index=-100)


@right(check_shifted_loss)
def rl_nll(logits, ids, loss_mask):
    logp = logits[:, :-1].log_softmax(dim=-1)
    nll = F.nll_loss(logp.permute(0, 2, 1), ids[:, 1:], reduction="none")
    m = loss_mask[:, 1:].to(nll.dtype)
    return (nll * m).sum() / m.sum().clamp(min=1)


@right(check_shifted_loss)
def rl_onehot(logits, ids, loss_mask):
    m = loss_mask[:, 1:]
    hot = F.one_hot(ids[:, 1:], logits.shape[-1]).to(logits)
    ce = logits[:, :-1].logsumexp(-1) - (logits[:, :-1] * hot).sum(-1)
    return ce.masked_select(m).mean()


@right(check_sampling)
def rd_masked(logits, *, temperature, top_p=1.0):
    if temperature < 1e-8:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1)
    p, order = torch.sort(torch.softmax(logits / temperature, -1), dim=-1, descending=True)
    drop = p.cumsum(-1) - p >= top_p
    p = p.masked_fill(drop, 0)
    p = p / p.sum(-1, keepdim=True)
    return p.gather(-1, order.argsort(-1))


@right(check_sampling)
def rd_searchsorted(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        out = torch.zeros_like(logits)
        out.view(-1, out.shape[-1])[
            torch.arange(out.numel() // out.shape[-1]), logits.reshape(-1, logits.shape[-1]).argmax(-1)
        ] = 1
        return out
    p = torch.softmax(logits / temperature, -1)
    s = p.sort(-1, descending=True).values
    k = (s.cumsum(-1) < top_p).sum(-1, keepdim=True).clamp(max=p.shape[-1] - 1)
    return (q := p * (p >= s.gather(-1, k))) / q.sum(-1, keepdim=True)


@right(check_kv_cache)
def rv_split(queries, keys, values, cache=None):
    pk, pv = cache if cache is not None else (keys[..., :0, :], values[..., :0, :])
    scale = queries.shape[-1] ** -0.5
    past = torch.einsum("bhid,bhjd->bhij", queries, pk) * scale
    new = torch.einsum("bhid,bhjd->bhij", queries, keys) * scale
    n = new.shape[-1]
    new = new.masked_fill(torch.triu(torch.ones(n, n, device=new.device), 1).bool(), -torch.inf)
    w = torch.cat([past, new], -1).softmax(-1)
    mixed = w[..., : pk.shape[-2]] @ pv + w[..., pk.shape[-2] :] @ values
    return mixed, (torch.cat([pk, keys], -2), torch.cat([pv, values], -2))


@right(check_generate)
def rg_topk(model, ids, *, max_new_tokens, end_id):
    new = 0
    while new < max_new_tokens:
        _, w = model(ids)[:, -1, :].topk(1)
        ids = torch.cat((ids, w), dim=-1)
        new += 1
        if (w == end_id).all():
            return ids
    return ids


@right(check_generate)
def rg_nograd(model, ids, max_new_tokens, end_id):
    with torch.no_grad():
        out = ids.clone()
        for _ in range(max_new_tokens):
            nxt = torch.log_softmax(model(out)[0, -1], 0).argmax().view(1, 1)
            out = torch.cat([out, nxt], 1)
            if int(nxt) == int(end_id):
                break
        return out


@right(check_connector)
def rj_unfold(features, weight, bias, *, reduction):
    x = F.unfold(features, reduction, stride=reduction)
    x = rearrange(x, "b (d p q) n -> b n (p q d)", p=reduction, q=reduction)
    return torch.addmm(bias, x.flatten(0, 1), weight.t()).view(x.shape[0], x.shape[1], -1)


@right(check_connector)
def rj_pixel(features, weight, bias, *, reduction):
    x = F.pixel_unshuffle(features, reduction)
    x = rearrange(x, "b (d p q) h w -> b (h w) (p q d)", p=reduction, q=reduction)
    return torch.einsum("bnk,ok->bno", x, weight) + bias


@right(check_splice)
def ri_mask(words, ids, image, *, image_id):
    b, n, d = words.shape
    k = image.shape[1]
    at = (ids == image_id).float().argmax(1)
    out = []
    for r in range(b):
        head, tail = words[r].tensor_split([int(at[r])])
        out.append(torch.vstack([head, image[r], tail[1:]]))
    return torch.stack(out)


@right(check_splice)
def ri_repeat(words, ids, image, *, image_id):
    k = image.shape[1]
    counts = torch.where(ids == image_id, k, 1)
    rows = []
    for w, c, im, i in zip(words, counts, image, ids):
        x = w.repeat_interleave(c, 0)
        m = (i == image_id).repeat_interleave(c, 0)
        rows.append(x.masked_scatter(m[:, None], im))
    return torch.stack(rows)


@right(check_stages)
def rt_match(parts, stage):
    match stage:
        case "joint":
            on = {"encoder", "connector", "language_model"}
        case _:
            on = {stage.replace(" ", "_")}
    for name in ("encoder", "connector", "language_model"):
        [p.requires_grad_(name in on) for p in parts[name].parameters()]


@right(check_stages)
def rt_named(parts, stage):
    for k, m in parts.items():
        grad = {
            "encoder": stage == "joint",
            "connector": stage in ("joint", "connector"),
            "language_model": stage in ("language model", "joint"),
        }[k]
        for _, p in m.named_parameters():
            p.requires_grad = grad


@right(check_controls)
def rq_shift(images):
    i = torch.arange(len(images), device=images.device)
    return images.new_zeros(images.shape), images[(i + len(images) // 2) % len(images)]


@right(check_controls)
def rq_sattolo(images):
    o = list(range(len(images)))
    g = torch.Generator().manual_seed(0)
    for i in range(len(o) - 1, 0, -1):
        j = int(torch.randint(0, i, (), generator=g))
        o[i], o[j] = o[j], o[i]
    return torch.ones_like(images) * 0.5, images[o]


# ---- what a student ran into who had nothing but the handout -------------------------------------------------------


def plain_attention(queries, keys, values, mask=None):
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    return torch.nan_to_num(scores.softmax(-1)) @ values


@wrong(check_attention_weights, "`.mT` swaps the last two")
def every_axis_turned(queries, keys, *, mask=None):
    return torch.softmax(queries @ torch.permute(keys, (2, 1, 0)) / queries.shape[-1] ** 0.5, dim=-1)


@wrong(check_attention_weights, "in the line `return torch.softmax(queries @ keys.mT / math.squareroot(3), dim=-1)`")
def the_line_is_shown(queries, keys, *, mask=None):
    return torch.softmax(queries @ keys.mT / math.squareroot(3), dim=-1)


@wrong(check_attention_weights, "is an `import` missing")
def without_import(queries, keys, *, mask=None):
    return torch.softmax(queries @ keys.mT / maths.sqrt(3), dim=-1)


@wrong(check_attention_weights, "changes a tensor in place")
def zeros_written_over(queries, keys, *, mask=None):
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, float("-inf")), dim=-1)
    weights[torch.isnan(weights)] = 0
    return weights


@wrong(check_attention_weights, "needs zeros of your own")
def a_large_negative_number(queries, keys, *, mask=None):
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -1e9), dim=-1)


@wrong(check_attention, "or is it `b @ a`?")
def product_turned_round(queries, keys, values, *, mask=None):
    return values @ torch.softmax(queries @ keys.mT, dim=-1)


@wrong(check_attention, "is given by its name, as in `mask=mask`")
def mask_by_place(queries, keys, values, *, mask=None):
    def weights(queries, keys, *, mask=None):
        return torch.softmax(queries @ keys.mT, dim=-1)

    return weights(queries, keys, mask) @ values


@wrong(
    check_multi_head,
    "a reshape that mixes tokens: split the last axis into (head, d), then move head in front; and also: ",
)
def cut_and_put_together_by_reshape(tokens, qkv_weight, out_weight, *, num_heads, mask=None):
    b, n, d = tokens.shape
    parts = [part.reshape(b, num_heads, n, d // num_heads) for part in (tokens @ qkv_weight.T).chunk(3, dim=-1)]
    return plain_attention(*parts, mask=mask).reshape(b, n, d) @ out_weight.T


@wrong(check_shifted_loss, "the first of each row too, which has no prediction")
def divided_by_the_whole_mask(logits, ids, loss_mask):
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * loss_mask[:, 1:]).sum() / loss_mask.sum()


@wrong(check_sampling, "the largest of all logits is taken: each row has its own")
def one_maximum_for_all(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return (logits == logits.max()).float()
    p = torch.softmax(logits / temperature, -1)
    ranked, order = p.sort(descending=True)
    ranked = ranked * (ranked.cumsum(-1) - ranked < top_p)
    return torch.zeros_like(p).scatter(-1, order, ranked / ranked.sum(-1, keepdim=True))


@wrong(check_sampling, "`cumsum < top_p` forgets it")
def crossing_word_lost(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    p = torch.softmax(logits / temperature, -1)
    ranked, order = p.sort(descending=True)
    keep = ranked.cumsum(-1) < top_p
    keep[..., 0] = True
    ranked = ranked * keep
    return torch.zeros_like(p).scatter(-1, order, ranked / ranked.sum(-1, keepdim=True))


@wrong(check_generate, "keep an axis, as in `x[:, -1:]`")
def a_word_without_axis(model, ids, *, max_new_tokens, end_id):
    return torch.cat([ids, model(ids)[:, -1].argmax(-1)], dim=1)


@wrong(check_generate, "does yours stop after max_new_tokens?")
def until_the_end_alone(model, ids, *, max_new_tokens, end_id):
    while ids[0, -1] != end_id:
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    return ids


@wrong(check_generate, "after the prompt the model reads only the newest word")
def newest_word_alone(model, ids, *, max_new_tokens, end_id):
    new = ids
    for _ in range(max_new_tokens):
        new = model(new)[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], dim=1)
        if new == end_id:
            break
    return ids


# Patches ------------------------------------------------------------------------------------------------


@wrong(check_patchify, "the last patch of each row is missing")
def p_range_too_short(images, *, patch_size):
    p = patch_size
    out = []
    for i in range(images.shape[2] // p):
        for j in range(images.shape[3] // p - 1):
            tile = images[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p]
            out.append(tile.permute(0, 2, 3, 1).reshape(len(images), -1))
    return torch.stack(out, 1)


@wrong(check_patchify, "the channels are moved behind, but a plain reshape cuts memory")
def p_channels_last_and_reshape(images, *, patch_size):
    b, c, h, w = images.shape
    p = patch_size
    return images.permute(0, 2, 3, 1).reshape(b, (h // p) * (w // p), p * p * c)


@wrong(check_unpatchify, "the channels are moved behind, but a plain reshape cuts memory")
def u_reshape_and_channels_first(patches, *, patch_size, image_size):
    return patches.reshape(len(patches), *image_size, -1).permute(0, 3, 1, 2)


@wrong(check_unpatchify, "patch number row * nw + column: yours multiplies the row by nh")
def u_wrong_row_length(patches, *, patch_size, image_size):
    h, w = image_size
    p, b = patch_size, len(patches)
    nh, nw, c = h // p, w // p, patches.shape[2] // p**2
    out = patches.new_zeros(b, c, h, w)
    for i in range(nh):
        for j in range(nw):
            k = min(i * nh + j, nh * nw - 1)
            out[:, :, i * p : i * p + p, j * p : j * p + p] = patches[:, k].reshape(b, p, p, c).permute(0, 3, 1, 2)
    return out


@wrong(check_patch_embed, "the stride is the number of channels")
def e_stride_of_channels(images, weight, bias):
    return F.conv2d(images, weight, bias, stride=weight.shape[1]).flatten(2).mT


# Attention ----------------------------------------------------------------------------------------------


@wrong(check_attention, "the last axis of a and the last but one of b must agree")
def a_weights_transposed(queries, keys, values, *, mask=None):
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).mT @ values


# Contrastive learning -----------------------------------------------------------------------------------


@wrong(check_unit, "points the right way, but its length is")
def n_large_epsilon(embeddings):
    return embeddings / (embeddings.norm(dim=1, keepdim=True) + 1e-2)


@wrong(check_unit, "each row is divided by its own length, however short")
def n_short_rows_stay(embeddings):
    return embeddings / embeddings.norm(dim=1, keepdim=True).clamp(min=1)


@wrong(check_partners, "whole numbers: `.long()`")
def t_float(n):
    return torch.cat([torch.arange(n) + n, torch.arange(n)]).float()


def eye(units):
    return torch.eye(len(units), dtype=torch.bool)


@wrong(check_pair_logits, "the partners are masked too")
def l_partners_masked(units, temperature):
    mask = eye(units) | eye(units).roll(len(units) // 2, 0)
    return (units @ units.T / temperature).masked_fill(mask, -torch.inf)


@wrong(check_pair_logits, "these are exp of the logits")
def l_exp(units, temperature):
    return (units @ units.T / temperature).exp().fill_diagonal_(0)


@wrong(check_pair_logits, "these are distances, with a root")
def l_distance(units, temperature):
    return (-torch.cdist(units, units) / temperature).fill_diagonal_(-torch.inf)


@wrong(check_nt_xent, "the positive of some row is masked")
def x_labels_count_up(view1, view2, *, temperature):
    units = F.normalize(torch.cat([view1, view2]), dim=1)
    logits = (units @ units.T / temperature).fill_diagonal_(-1e9)
    return F.cross_entropy(logits, torch.arange(len(units)))


@wrong(check_standardise, "the test features are divided, but not centred")
def s_test_not_centred(train, test):
    mean, spread = train.mean(0), train.std(0, correction=0).clamp(min=1e-6)
    return (train - mean) / spread, test / spread


@wrong(check_standardise, "wrong for a feature that hardly changes")
def rs_in_place(train, test):
    spread = ((train - train.mean(0)) ** 2).mean(0).sqrt()
    spread[spread == 0] = 1e-6
    return (train - train.mean(0)) / spread, (test - train.mean(0)) / spread


@right(check_standardise)
def rs_std_in_place(train, test):
    mean, spread = train.mean(0), train.std(0, correction=0)
    spread[spread < 1e-6] = 1e-6
    return [(x - mean) / spread for x in (train, test)]


@wrong(check_pair_logits, "no gradient can be computed")
def l_saved_tensor_overwritten(units, temperature):
    products = (units @ units.T).exp()
    logits = products.log() / temperature
    products.fill_diagonal_(0)  # exp and log need what is overwritten here
    return logits.masked_fill(eye(units), -torch.inf)


# A language model ---------------------------------------------------------------------------------------


def losses(logits, ids):
    return F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")


@wrong(check_shifted_loss, "the shift runs along the batch")
def c_shift_along_the_batch(logits, ids, loss_mask):
    mask = loss_mask[1:]
    return F.cross_entropy(logits[:-1][mask], ids[1:][mask])


@wrong(check_shifted_loss, "word 0 never counts")
def c_ignores_word_0(logits, ids, loss_mask):
    target = ids.clone()
    target[~loss_mask] = 0
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)


@wrong(check_shifted_loss, "the logits of unmarked words are set to 0, which costs log(words) each")
def c_masked_logits(logits, ids, loss_mask):
    mask = loss_mask[:, 1:]
    masked = logits[:, :-1] * mask[..., None]
    return F.cross_entropy(masked.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / mask.sum()


def likeliest(logits):
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def nucleus(p, top_p):
    ranked, order = p.sort(descending=True)
    ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0.0)
    return torch.zeros_like(p).scatter(-1, order, ranked / ranked.sum(-1, keepdim=True))


@wrong(check_sampling, "top_p is taken as a share of the likeliest word's probability")
def w_min_p(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return likeliest(logits)
    p = (logits / temperature).softmax(-1)
    if top_p < 1:
        p = p * (p >= top_p * p.amax(-1, keepdim=True))
    return p / p.sum(-1, keepdim=True)


@wrong(check_sampling, "all rows are sorted and cut together")
def w_rows_together(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return likeliest(logits)
    p, order = (logits / temperature).softmax(-1).flatten().sort(descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    return torch.zeros_like(p).scatter(-1, order, p / p.sum()).reshape(logits.shape)


@wrong(check_sampling, "a share of the words is kept, rounded down")
def w_share_of_words(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return likeliest(logits)
    values, places = (logits / temperature).topk(max(1, int(top_p * logits.shape[-1])), -1)
    return torch.zeros_like(logits).scatter(-1, places, values.softmax(-1))


@wrong(check_sampling, "the softmax runs over the rows")
def w_softmax_over_rows(logits, *, temperature, top_p=1.0):
    return likeliest(logits) if temperature == 0 else nucleus((logits / temperature).softmax(0), top_p)


@wrong(check_sampling, "dropped words have the logit 0, and exp(0) is 1")
def w_dropped_logits_are_0(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return likeliest(logits)
    heated = logits / temperature
    return heated.masked_fill(nucleus(heated.softmax(-1), top_p) == 0, 0.0).softmax(-1)


@right(check_sampling)
def rw_in_place(logits, *, temperature, top_p=1.0):
    if temperature == 0:
        return likeliest(logits)
    p = (logits / temperature).softmax(-1)
    ranked, order = p.sort(-1, descending=True)
    for row, places, words in zip(p.reshape(-1, p.shape[-1]), order.flatten(0, -2), ranked.flatten(0, -2)):
        total = 0.0
        for place, share in zip(places.tolist(), words.tolist()):
            if total >= top_p:
                row[place] = 0
            total += share
    return p / p.sum(-1, keepdim=True)


@wrong(check_generate, "an end token in the prompt stops the text")
def g_end_in_the_prompt(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        if (ids == end_id).any():
            break
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    return ids


@wrong(check_generate, "after one word it stops for an end token in the prompt")
def g_end_anywhere(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
        if end_id in ids[0].tolist():
            break
    return ids


@wrong(check_generate, "all new words come from one pass over the prompt")
def g_one_pass(model, ids, *, max_new_tokens, end_id):
    return torch.cat([ids, model(ids).argmax(-1)[:, -max_new_tokens:]], 1)


@wrong(check_generate, "an end token is put behind a text that has not ended")
def g_forced_end(model, ids, *, max_new_tokens, end_id):
    for _ in range(max_new_tokens):
        new = model(ids)[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], 1)
        if new.item() == end_id:
            return ids
    return torch.cat([ids, torch.tensor([[end_id]])], 1)


@wrong(check_kv_cache, "wrong for one new token and a cache")
def k_last_key_repeated(queries, keys, values, cache=None):
    if cache is not None:
        values = torch.cat([cache[1], values], 2)
        keys = torch.cat([cache[0], cache[0][:, :, -1:].expand_as(keys)], 2)
    new, seen = queries.shape[2], keys.shape[2]
    mask = torch.ones(new, seen, dtype=torch.bool).tril(seen - new)
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ values, (keys, values)


# Video --------------------------------------------------------------------------------------------------


def convolve(clips, weight, bias, stride, padding):
    windows = F.pad(clips, (padding,) * 6)
    for axis, size in enumerate(weight.shape[2:], 2):
        windows = windows.unfold(axis, size, stride)
    out = torch.einsum("bcthwijk,ocijk->bothw", windows, weight)
    return out if bias is None else out + bias[:, None, None, None]


@wrong(check_conv3d, "the last offset of the kernel is left out")
def v_offsets_end_early(clips, weight, bias=None, *, stride=1, padding=0):
    kernel = weight.clone()
    kernel[:, :, -1] = 0
    kernel[:, :, :, -1] = 0
    kernel[..., -1] = 0
    return convolve(clips, kernel, bias, stride, padding)


@wrong(check_conv3d, "are two axes swapped?")
def v_channels_of_the_weight_swapped(clips, weight, bias=None, *, stride=1, padding=0):
    return convolve(clips, weight.transpose(0, 1), bias, stride, padding)


@wrong(check_output_size, "the last place where a window may begin is left out")
def o_range_too_short(size, *, kernel, stride, padding):
    return len(range(-padding, size + padding - kernel, stride))


@wrong(check_shuffle_frames, "each clip's rows of the picture are shuffled")
def f_rows_of_each_clip(clips, orders):
    return torch.stack([clip[:, :, order % clip.shape[2]] for clip, order in zip(clips, orders)])


@wrong(check_shuffle_frames, "these are entries of `clips` along axis 0 as they came")
def f_whole_clips(clips, orders):
    return clips[orders[:, 0] % len(clips)]


# A small VLM --------------------------------------------------------------------------------------------


def places(ids, image_id):
    return (ids == image_id).int().argmax(1).tolist()


@wrong(check_splice, "the image is averaged to one vector")
def i_mean_in_place(words, ids, image, *, image_id):
    return torch.where((ids == image_id)[..., None], image.mean(1, keepdim=True), words)


@wrong(check_splice, "the image stands where the largest id is")
def i_largest_id(words, ids, image, *, image_id):
    at = ids.argmax(1).tolist()
    return torch.stack([torch.cat([w[:p], i, w[p + 1 :]]) for w, i, p in zip(words, image, at)])


@wrong(check_splice, "is a batch of one assumed?")
def i_batch_of_one(words, ids, image, *, image_id):
    p = (ids == image_id).nonzero()[:, 1].item()
    return torch.cat([words[:, :p], image, words[:, p + 1 :]], 1)


LEARNS = {
    "language model": {"language_model"},
    "connector": {"connector"},
    "joint": {"encoder", "connector", "language_model"},
}


@wrong(check_stages, "some parameters of the encoder learn in stage 'language model' and others do not")
def z_weights_alone(parts, stage):
    for name, part in parts.items():
        for which, parameter in part.named_parameters():
            if "weight" in which:
                parameter.requires_grad_(name in LEARNS[stage])


@wrong(check_stages, "some parameters of the encoder learn in stage 'language model' and others do not")
def z_loop_variable(parts, stage):
    for name, part in parts.items():
        for parameter in part.parameters():
            pass
        parameter.requires_grad_(name in LEARNS[stage])


@wrong(check_stages, "in stage 'joint' the encoder is frozen: it is to learn")
def z_names_compared(parts, stage):
    for name, part in parts.items():
        part.requires_grad_(name.replace("_", " ") == stage)


@wrong(check_controls, "the two results come in the wrong order")
def q_order(images):
    return images.roll(1, 0), torch.zeros_like(images)


@wrong(check_controls, "some images appear twice and others never")
def q_one_for_all(images):
    return torch.zeros_like(images), images[:1].expand_as(images)
