"""Solutions of homework 6, right and wrong, as students write them."""

import torch
import torch.nn.functional as F
from einops import rearrange

from vlmcourse.homework import check_connector, check_controls, check_splice, check_stages


def joined(pattern, features, reduction):
    return rearrange(features, pattern, rh=reduction, rw=reduction)


RIGHT_PATTERN = "b d (h rh) (w rw) -> b (h w) (rh rw d)"


def connect(pattern=RIGHT_PATTERN, use_bias=True, out=lambda x: x):
    def run(features, weight, bias, *, reduction):
        return out(joined(pattern, features, reduction) @ weight.T + bias * use_bias)

    return run


def connect_by_conv(features, weight, bias, *, reduction):
    kernel = rearrange(weight, "o (rh rw d) -> o d rh rw", rh=reduction, rw=reduction)
    return F.conv2d(features, kernel, bias, stride=reduction).flatten(2).mT


def connect_by_slices(features, weight, bias, reduction):
    corners = [features[..., y::reduction, x::reduction] for y in range(reduction) for x in range(reduction)]
    return F.linear(torch.cat(corners, dim=1).flatten(2).mT, weight, bias)


def connect_by_loops(features, weight, bias, *, reduction):
    r, tokens = reduction, []
    for y in range(0, features.shape[2], r):
        for x in range(0, features.shape[3], r):
            square = features[:, :, y : y + r, x : x + r].permute(0, 2, 3, 1)
            tokens.append(F.linear(square.flatten(1), weight, bias))
    return torch.stack(tokens, dim=1)


def pooled(pool):
    def run(features, weight, bias, *, reduction):
        squares = rearrange(features, "b d (h rh) (w rw) -> b (h w) rh rw d", rh=reduction, rw=reduction)
        return pool(squares).expand(squares.shape).flatten(2) @ weight.T + bias

    return run


def rows(build):
    def run(words, ids, image, *, image_id):
        found = []
        for row, numbers, picture in zip(words, ids.tolist(), image, strict=True):
            found.append(torch.cat(build(row, picture, numbers.index(image_id))))
        return torch.stack(found)

    return run


splice = rows(lambda row, picture, at: [row[:at], picture, row[at + 1 :]])


def splice_by_scatter(words, ids, image, *, image_id):
    b, n, d = words.shape
    k, at = image.shape[1], (ids == image_id).nonzero()[:, 1]
    columns = torch.arange(n - 1 + k, device=ids.device).expand(b, -1)
    inside = (columns >= at[:, None]) & (columns < at[:, None] + k)
    out = words.new_zeros(b, n - 1 + k, d)
    out = out.masked_scatter(inside[..., None], image)
    return out.masked_scatter(~inside[..., None], words[ids != image_id])


def splice_by_gather(words, ids, image, *, image_id):
    n, k = ids.shape[1], image.shape[1]
    at = (ids == image_id).int().argmax(1, keepdim=True)
    column = torch.arange(n - 1 + k, device=ids.device)
    source = torch.where(column < at, column, torch.where(column < at + k, n + column - at, column - k + 1))
    return torch.cat([words, image], 1).gather(1, source[..., None].expand(-1, -1, words.shape[-1]))


def splice_by_lists(words, ids, image, image_id):
    out = []
    for i in range(len(ids)):
        vectors = []
        for j in range(ids.shape[1]):
            vectors += list(image[i]) if ids[i, j] == image_id else [words[i, j]]
        out.append(torch.stack(vectors))
    return torch.stack(out)


def where_row_0_has_it(words, ids, image, *, image_id):
    at = ids[0].tolist().index(image_id)
    return torch.cat([words[:, :at], image, words[:, at + 1 :]], dim=1)


TABLE = {
    "language model": ["language_model"],
    "connector": ["connector"],
    "joint": ["encoder", "connector", "language_model"],
}


def stage(table=TABLE, **changes):
    table = table | {name.replace("_", " "): parts for name, parts in changes.items()}

    def run(parts, stage):
        for name, part in parts.items():
            part.requires_grad_(name in table[stage])

    return run


def stage_by_parameters(parts, stage):
    for name in parts:
        for parameter in parts[name].parameters():
            parameter.requires_grad = stage == "joint" or name == stage.replace(" ", "_")


def stage_by_thawing(parts, stage):
    for part in parts.values():
        part.requires_grad_(False)
    for name in TABLE[stage]:
        parts[name].requires_grad_(True)


def stage_by_ifs(parts, stage):
    parts["encoder"].requires_grad_(stage == "joint")
    parts["connector"].requires_grad_(stage != "language model")
    parts["language_model"].requires_grad_(stage != "connector")
    return parts


def only_freezes(parts, stage):
    for name, part in parts.items():
        if name not in TABLE[stage]:
            part.requires_grad_(False)


def only_thaws(parts, stage):
    for name in TABLE[stage]:
        parts[name].requires_grad_(True)


def only_weights(parts, stage):
    for name, part in parts.items():
        part[0].weight.requires_grad_(name in TABLE[stage])


def first_layer(parts, stage):
    for name, part in parts.items():
        part[0].requires_grad_(name in TABLE[stage])


def inverted(parts, stage):
    for name, part in parts.items():
        part.requires_grad_(name not in TABLE[stage])


def blank(images):
    return torch.full_like(images, 0.2)


RIGHT = {
    check_connector: [connect(), connect_by_conv, connect_by_slices, connect_by_loops],
    check_splice: [splice, splice_by_scatter, splice_by_gather, splice_by_lists],
    check_stages: [stage(), stage_by_parameters, stage_by_thawing, stage_by_ifs],
    check_controls: [
        lambda x: (blank(x), x.roll(1, 0)),
        lambda x: (torch.zeros_like(x), torch.cat([x[1:], x[:1]])),
        lambda x: [x * 0 + 0.5, x[torch.arange(len(x)) - 1]],
        lambda x: (torch.ones_like(x), x[(order := torch.randperm(len(x), device=x.device)).roll(1)[order.argsort()]]),
    ],
}
WRONG = {
    check_connector: [
        (connect("b d (h rh) (w rw) -> b (w h) (rh rw d)"), "column-major order"),
        (connect("b d (h rh) (w rw) -> b (h w) (d rh rw)"), "goes feature by feature"),
        (lambda x, w, b, *, reduction: F.linear(F.pixel_unshuffle(x, reduction).flatten(2).mT, w, b), "goes feature by feature"),
        (connect("b d (h rh) (w rw) -> b (h w) (rw rh d)"), "down the columns first"),
        (connect("b d (rh h) (rw w) -> b (h w) (rh rw d)"), "places far apart are joined"),
        (connect("b d (h rh) (rw w) -> b (h w) (rh rw d)"), "along the width places far apart"),
        (pooled(lambda s: s.mean((2, 3), keepdim=True)), "the neighbours are averaged"),
        (pooled(lambda s: s.amax((2, 3), keepdim=True)), "the largest of the neighbours"),
        (pooled(lambda s: s[:, :, :1, :1]), "only the first of the neighbours"),
        (lambda x, w, b, *, reduction: x.reshape(len(x), -1, w.shape[1]) @ w.T + b, "a plain reshape"),
        (lambda x, w, b, *, reduction: x.flatten(2).mT.reshape(len(x), -1, w.shape[1]) @ w.T + b, "not squares"),
        (connect(use_bias=False), "the bias is missing"),
        (connect(out=lambda x: x.mT), "the two last axes are swapped"),
        (connect("b d (w rw) (h rh) -> b (h w) (rh rw d)"), ""),
        (lambda x, w, b, *, reduction: x.flatten(2).mT @ w.T + b, "it stops with RuntimeError"),
    ],
    check_splice: [
        (rows(lambda row, picture, at: [row[: at + 1], picture, row[at + 1 :]]), "still there, before the image"),
        (rows(lambda row, picture, at: [row[:at], picture, row[at:]]), "still there, behind the image"),
        (rows(lambda row, picture, at: [picture, row[:at], row[at + 1 :]]), "in front of all words"),
        (rows(lambda row, picture, at: [row[:at], row[at + 1 :], picture]), "behind all words"),
        (rows(lambda row, picture, at: [row[:at], picture[: len(row) - at], row[at + len(picture) :]]), "overwrites the words"),
        (where_row_0_has_it, "where row 0 has its placeholder"),
        (lambda w, ids, image, *, image_id: splice(w, ids, image.roll(1, 0), image_id=image_id), "the images go to the wrong rows"),
        (lambda w, ids, image, *, image_id: splice(w, ids, image[:1].expand_as(image), image_id=image_id), "the image of row 0"),
        (lambda w, ids, image, *, image_id: splice(w, ids, image.flip(1), image_id=image_id), "in reverse order"),
        (lambda w, ids, image, *, image_id: splice(w, ids, image.mean(1, keepdim=True).expand_as(image), image_id=image_id), "the image is averaged"),
        (rows(lambda row, picture, at: [row[:at], picture + row[at], row[at + 1 :]]), "the placeholder's vector is added"),
        (rows(lambda row, picture, at: [row[:at], picture[:1], row[at + 1 :]]), "only one vector of the image"),
        (lambda w, ids, image, *, image_id: splice(w, ids, image.detach(), image_id=image_id), "no gradient comes back"),
        (lambda w, ids, image, *, image_id: splice(w, ids, image, image_id=99), "it stops with ValueError"),
    ],
    check_stages: [
        (lambda parts, stage: None, "nothing is frozen"),
        (only_freezes, "never thawed"),
        (only_thaws, "nothing is"),
        (inverted, "the wrong way round"),
        (only_weights, "only weights are frozen"),
        (first_layer, "only the first layer"),
        (stage(connector=["encoder", "connector"]), "'connector' trains the encoder too"),
        (stage(connector=["connector", "language_model"]), "'connector' trains the language model too"),
        (stage(connector=TABLE["joint"]), "'connector' trains everything"),
        (stage(joint=["connector", "language_model"]), "'joint' leaves the encoder frozen"),
        (stage(joint=["encoder", "connector"]), "'joint' leaves the language model frozen"),
        (stage(language_model=["connector", "language_model"]), "'language model' trains the connector too"),
        (stage(language_model=TABLE["joint"]), "'language model' trains everything"),
        (lambda parts, stage: parts[stage].requires_grad_(True), "KeyError"),
    ],
    check_controls: [
        (lambda x: (blank(x), x), "still with its own question"),
        (lambda x: (blank(x), x.flip(0)), "still with its own question"),
        (lambda x: (blank(x), x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]), "still with its own question"),
        (lambda x: (blank(x), x[torch.zeros(len(x), dtype=torch.long)]), "some images appear twice"),
        (lambda x: (blank(x), torch.cat([x.roll(1, 0)[:-1], x[:1]])), "some images appear twice"),
        (lambda x: (blank(x), x.flip(-1)), "pictures that are none of the images"),
        (lambda x: (blank(x), x.roll(1, 2)), "pictures that are none of the images"),
        (lambda x: (torch.rand_like(x), x.roll(1, 0)), "the blank images differ"),
        (lambda x: (x.mean(0, keepdim=True).expand_as(x), x.roll(1, 0)), "a blank image has structure"),
        (lambda x: (x.mean((1, 2, 3), keepdim=True).expand_as(x), x.roll(1, 0)), "the blank images differ"),
        (lambda x: (torch.zeros_like(x[:1]), x.roll(1, 0)), "blank has shape"),
        (lambda x: (blank(x), x.roll(1, 0)[1:]), "shuffled has shape"),
        (lambda x: (x.roll(1, 0), blank(x)), "the two results come in the wrong order"),
        (lambda x: blank(x), "two tensors are expected"),
        (lambda x: (x.zero_(), x.roll(1, 0)), ""),
    ],
}  # fmt: skip
