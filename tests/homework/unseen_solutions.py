"""Solutions that were written without a look at the checks, and that a check at first refused or could not name.

Each wrong one stands under the hint that it must get.
"""

# ruff: noqa: B007, B905 - as students write

import torch
import torch.nn.functional as F

from vlmcourse.homework import (
    check_attention,
    check_controls,
    check_conv3d,
    check_generate,
    check_kv_cache,
    check_nt_xent,
    check_output_size,
    check_pair_logits,
    check_partners,
    check_patch_embed,
    check_patchify,
    check_sampling,
    check_shifted_loss,
    check_shuffle_frames,
    check_splice,
    check_stages,
    check_standardise,
    check_unit,
    check_unpatchify,
)

RIGHT, WRONG = {}, {}


def wrong(check, hint):
    def add(function):
        WRONG.setdefault(check, []).append((function, hint))
        return function

    return add


def right(check):
    def add(function):
        RIGHT.setdefault(check, []).append(function)
        return function

    return add


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


@wrong(check_unit, "points the right way, but its length is")
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


@right(check_standardise)
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


@wrong(check_shifted_loss, "the first of each row too, which has no prediction")
def c_first_marks_counted(logits, ids, loss_mask):
    return (losses(logits, ids) * loss_mask[:, 1:]).sum() / loss_mask.sum()


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


@wrong(check_generate, "after the prompt the model reads only the newest word")
def g_reads_the_new_word(model, ids, *, max_new_tokens, end_id):
    new = ids
    for _ in range(max_new_tokens):
        new = model(new)[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], 1)
        if new.item() == end_id:
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
