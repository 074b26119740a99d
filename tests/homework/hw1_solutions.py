"""Solutions of homework 1, right and wrong, as students write them."""

import torch
import torch.nn.functional as F
from einops import rearrange

import vlmcourse
from vlmcourse.homework import check_patch_embed, check_patchify, check_unpatchify


def cut(pattern):
    return lambda images, *, patch_size: rearrange(images, pattern, ph=patch_size, pw=patch_size)


def by_loops(images, *, patch_size):
    p, patches = patch_size, []
    for row in range(0, images.shape[2], p):
        for column in range(0, images.shape[3], p):
            patch = images[:, :, row : row + p, column : column + p]
            patches.append(patch.permute(0, 2, 3, 1).flatten(1))
    return torch.stack(patches, dim=1)


def by_reshape(images, *, patch_size):
    b, c, h, w = images.shape
    split = images.reshape(b, c, h // patch_size, patch_size, w // patch_size, patch_size)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch_size**2 * c)


def by_slices(images, patch_size):
    tiles = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return tiles.movedim(1, -1).flatten(3).flatten(1, 2)


def columns_first(images, *, patch_size):
    p, patches = patch_size, []
    for column in range(0, images.shape[3], p):
        for row in range(0, images.shape[2], p):
            patch = images[:, :, row : row + p, column : column + p]
            patches.append(patch.permute(0, 2, 3, 1).flatten(1))
    return torch.stack(patches, dim=1)


def in_place(images, *, patch_size):
    images *= 1.5
    return by_reshape(images / 1.5, patch_size=patch_size)


def square_only(images, *, patch_size):
    n = images.shape[2] // patch_size
    return rearrange(images, "b c (nh ph) (nw pw) -> b (nh nw) (ph pw c)", nh=n, nw=n, ph=patch_size)


def for_ever(images, *, patch_size):
    while True:
        patch_size += 1


def into_float32(images, *, patch_size):
    patches = by_reshape(images, patch_size=patch_size)
    out = torch.zeros(patches.shape)
    out[:] = patches
    return out


def with_view(images, *, patch_size):
    b, c, h, w = images.shape
    split = images.reshape(b, c, h // patch_size, patch_size, w // patch_size, patch_size)
    return split.permute(0, 2, 4, 3, 5, 1).view(b, -1, patch_size**2 * c)


def unfinished(images, *, patch_size):
    raise NotImplementedError


def sloppy(images, *, patch_size):
    patches = by_reshape(images, patch_size=patch_size).clone()
    patches[:, -1] = 0
    return patches


def paste(pattern, *, swapped=False):
    def run(patches, *, patch_size, image_size):
        h, w = image_size[::-1] if swapped else image_size
        return rearrange(patches, pattern, nh=h // patch_size, nw=w // patch_size, ph=patch_size, pw=patch_size)

    return run


def paste_by_loops(patches, *, patch_size, image_size):
    p, (h, w) = patch_size, image_size
    images = patches.new_zeros(len(patches), patches.shape[2] // p**2, h, w)
    for k in range(patches.shape[1]):
        row, column = divmod(k, w // p)
        tile = patches[:, k].reshape(len(patches), p, p, -1).permute(0, 3, 1, 2)
        images[:, :, row * p : row * p + p, column * p : column * p + p] = tile
    return images


def paste_by_fold(patches, *, patch_size, image_size):
    b, n, d = patches.shape
    columns = patches.reshape(b, n, patch_size**2, -1).permute(0, 3, 2, 1).reshape(b, d, n)
    return F.fold(columns, image_size, kernel_size=patch_size, stride=patch_size)


def paste_by_reshape(patches, patch_size, image_size):
    p, (h, w) = patch_size, image_size
    tiles = patches.reshape(len(patches), h // p, w // p, p, p, -1)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, h, w)


def paste_by_rows(patches, *, patch_size, image_size):
    p, w = patch_size, image_size[1]
    tiles = [tile.reshape(len(tile), p, p, -1).movedim(-1, 1) for tile in patches.unbind(1)]
    rows = [torch.cat(tiles[k : k + w // p], dim=3) for k in range(0, len(tiles), w // p)]
    return torch.cat(rows, dim=2)


def wrong_in_place(patches, *, patch_size, image_size):
    patches.mul_(2)
    return paste_by_reshape(patches / 2, patch_size, image_size)


def embed_patches(pattern="b c (nh ph) (nw pw) -> b (nh nw) (c ph pw)", weight="d c ph pw -> d (c ph pw)"):
    def run(images, kernel, bias):
        patches = rearrange(images, pattern, ph=kernel.shape[2], pw=kernel.shape[3])
        return patches @ rearrange(kernel, weight).T + bias

    return run


def conv(images, weight, bias):
    return F.conv2d(images, weight, bias, stride=weight.shape[-1])


def embed_by_loops(images, weight, bias):
    p, tokens = weight.shape[-1], []
    for row in range(0, images.shape[2], p):
        for column in range(0, images.shape[3], p):
            window = images[:, None, :, row : row + p, column : column + p]
            tokens.append((window * weight).sum((2, 3, 4)) + bias)
    return torch.stack(tokens, dim=1)


def embed_by_unfold(images, weight, bias):
    p = weight.shape[-1]
    return F.linear(F.unfold(images, p, stride=p).transpose(1, 2), weight.flatten(1), bias)


P, Q = "b c (nh ph) (nw pw)", "b (nh nw) (ph pw c)"
EMBED = "b c (nh ph) (nw pw) -> b (nh nw) (c ph pw)"

RIGHT = {
    check_patchify: [cut(f"{P} -> {Q}"), by_loops, by_reshape, by_slices],
    check_unpatchify: [paste_by_loops, paste_by_fold, paste_by_reshape, paste_by_rows, paste(f"{Q} -> {P}")],
    check_patch_embed: [embed_patches(), lambda i, w, b: conv(i, w, b).flatten(2).mT, embed_by_loops, embed_by_unfold],
}
WRONG = {
    check_patchify: [
        (columns_first, "patch 1 should be right of patch 0"),
        (cut(f"{P} -> b (nh nw) (c ph pw)"), "inside a patch your numbers go channel by channel"),
        (lambda images, *, patch_size: F.unfold(images, patch_size, stride=patch_size).mT, "channel by channel"),
        (cut(f"{P} -> b (nh nw) (pw ph c)"), "inside a patch you read down the columns"),
        (cut("b c (ph nh) (pw nw) -> b (nh nw) (ph pw c)"), "every nh-th row"),
        (cut("b c (nh ph) (pw nw) -> b (nh nw) (ph pw c)"), "every nw-th pixel"),
        (lambda images, *, patch_size: images.reshape(len(images), -1, patch_size**2 * images.shape[1]), "a plain reshape"),
        (cut(f"{P} -> b (ph pw c) (nh nw)"), "the two last axes are swapped"),
        (cut(f"{P} -> (b nh nw) (ph pw c)"), "the batch is mixed into the patches"),
        (cut(f"{P} -> b nh nw (ph pw c)"), "the grid is still there"),
        (cut(f"{P} -> b (nh nw) ph pw c"), "flatten it into one vector"),
        (cut(f"{P} -> b (c nh nw) (ph pw)"), "each channel became a patch"),
        (cut(f"{P} -> b (nw nh) (c ph pw)"), "column-major order: patch 1 should be right of patch 0, not below it; and also: inside a patch"),
        (square_only, "it stops with"),
        (with_view, "use `.reshape`"),
        (in_place, "it changes its input `images`"),
        (for_ever, "loop without end"),
        (into_float32, "follow the dtype"),
        (unfinished, "is not written yet"),
        (sloppy, "the smallest example that fails"),
        (lambda images, *, patch_size: None, "is a `return` missing"),
        (lambda images, *, patch_size: by_reshape(images, patch_size=patch_size).numpy(force=True), "a torch.Tensor is expected, a numpy"),
        (lambda images, *, patch_size: by_reshape(images, patch_size=patch_size).detach(), "no gradient comes back"),
        (lambda images, size: by_reshape(images, patch_size=size), "it is called as patchify(images, *, patch_size)"),
        (lambda images, *, patch_size: by_reshape(images, patch_size=patch_size) + torch.rand(()).to(images), "leave chance out"),
        (vlmcourse.patchify, "which is the solution"),
        (lambda images, *, patch_size: vlmcourse.patchify(images, patch_size=patch_size), "vlmcourse's `patchify`"),
    ],
    check_unpatchify: [
        (paste("b (nw nh) (ph pw c) -> b c (nh ph) (nw pw)"), "patch 1 should be right of patch 0"),
        (paste("b (nh nw) (c ph pw) -> b c (nh ph) (nw pw)"), "channel by channel"),
        (paste("b (nh nw) (pw ph c) -> b c (nh ph) (nw pw)"), "read down the columns"),
        (paste(f"{Q} -> b c (ph nh) (pw nw)"), "every nh-th row"),
        (paste(f"{Q} -> b c (nh ph) (pw nw)"), "every nw-th pixel"),
        (paste(f"{Q} -> {P}", swapped=True), "image_size is (height, width)"),
        (paste(f"{Q} -> b (nh ph) (nw pw) c"), "channels come last"),
        (paste(f"{Q} -> b c (nw pw) (nh ph)"), "height comes before width"),
        (paste(f"{Q} -> b (nh nw) c ph pw"), "the patches are still apart"),
        (lambda patches, *, patch_size, image_size: patches.reshape(len(patches), -1, *image_size), "a plain reshape"),
        (wrong_in_place, "it changes its input `patches`"),
        (lambda patches, *, patch_size, image_size: paste_by_reshape(patches.data, patch_size, image_size), "no gradient comes back"),
        (vlmcourse.unpatchify, "which is the solution"),
    ],
    check_patch_embed: [
        (lambda i, w, b: F.conv2d(i, w, stride=w.shape[-1]).flatten(2).mT, "the bias is missing"),
        (lambda i, w, b: F.conv2d(i, w, b).flatten(2).mT, "the stride of the convolution is the patch size"),
        (lambda i, w, b: conv(i, w, b).flatten(2), "the two last axes are swapped"),
        (lambda i, w, b: conv(i, w, b), "the grid is still there"),
        (lambda i, w, b: conv(i, w, b).mT.flatten(2).mT, "column-major"),
        (lambda i, w, b: conv(i, w.flip(2, 3), b).flatten(2).mT, "the kernel is flipped"),
        (embed_patches("b c (nh ph) (nw pw) -> b (nh nw) (ph pw c)"), "give both one order"),
        (lambda i, w, b: conv(i, w.mT, b).flatten(2).mT, "rows and columns of the kernel are swapped"),
        (lambda i, w, b: conv(i, w, b).relu().flatten(2).mT, "the embedding is linear"),
        (lambda i, w, b: conv(i, w / w[0].numel(), b).flatten(2).mT, "a mean over the patch"),
        (lambda i, w, b: F.layer_norm(conv(i, w, b).flatten(2).mT, w.shape[:1]), "the embedding is normalised"),
        (lambda i, w, b: conv(i, w, 2 * b).flatten(2).mT, "the bias comes twice"),
        (lambda i, w, b: conv(i, w.detach(), b).flatten(2).mT, "no gradient comes back"),
        (lambda i, w, b: conv(i, torch.tensor(w.tolist()).to(i), b).flatten(2).mT, "no gradient comes back"),
        (lambda i, w, b: vlmcourse.patchify(i, patch_size=w.shape[-1]) @ w.permute(0, 2, 3, 1).flatten(1).T + b, "which is the solution"),
    ],
}  # fmt: skip
