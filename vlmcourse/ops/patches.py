"""Patches: an image as a sequence of small squares, and the linear map that embeds them (slides S21 and S22)."""

from einops import rearrange
from torch import Tensor, nn

from vlmcourse.ops._checks import (
    as_sizes,
    check_divides,
    check_floating,
    check_positive_int,
    check_rank,
    check_same_kind,
)


def patchify(images: Tensor, *, patch_size: int) -> Tensor:
    """Cut images into disjoint square patches and flatten each one.

    Patches are in row-major order. Inside a patch the order is (row, column, channel), as in the lecture's p × p × C;
    a strided convolution's weight is ordered (channel, row, column) instead, see :class:`PatchEmbed`.

    Shapes:
        images ``(b, c, h, w)`` → ``(b, n, p*p*c)`` with ``n = (h / p) * (w / p)`` and ``p = patch_size``. Any dtype.

    Raises:
        ValueError: ``images`` is not four-dimensional or is empty, or ``patch_size`` does not divide height and width.
        TypeError: ``images`` is not a tensor or ``patch_size`` not an integer.

    Source:
        Dosovitskiy et al. 2021, section 3.1 (arXiv 2010.11929); slide S22, step 1.

    >>> import torch
    >>> patchify(torch.arange(16).reshape(1, 1, 4, 4), patch_size=2)
    tensor([[[ 0,  1,  4,  5],
             [ 2,  3,  6,  7],
             [ 8,  9, 12, 13],
             [10, 11, 14, 15]]])
    """
    check_rank("images", images, "b c h w")
    check_positive_int("patch_size", patch_size)
    check_divides("patch_size", patch_size, height=images.shape[2], width=images.shape[3])
    return rearrange(images, "b c (nh ph) (nw pw) -> b (nh nw) (ph pw c)", ph=patch_size, pw=patch_size)


def unpatchify(patches: Tensor, *, patch_size: int, image_size: int | tuple[int, int]) -> Tensor:
    """Put patches back together: the inverse of :func:`patchify`.

    Shapes:
        patches ``(b, n, p*p*c)`` → images ``(b, c, h, w)``, where ``image_size`` is ``(h, w)`` or one number for both.

    Raises:
        ValueError: the number of patches, or the length of one, does not fit ``image_size`` and ``patch_size``.
        TypeError: ``patches`` is not a tensor or a size not an integer.

    Source:
        Slide S22, step 1, read backwards.

    >>> import torch
    >>> images = torch.rand(2, 3, 4, 6)
    >>> torch.equal(unpatchify(patchify(images, patch_size=2), patch_size=2, image_size=(4, 6)), images)
    True
    """
    check_rank("patches", patches, "b n d")
    check_positive_int("patch_size", patch_size)
    height, width = as_sizes("image_size", image_size, axes=("height", "width"), minimum=1)
    check_divides("patch_size", patch_size, height=height, width=width)
    nh, nw = height // patch_size, width // patch_size
    if patches.shape[1] != nh * nw:
        raise ValueError(
            f"patches must hold {nh} × {nw} = {nh * nw} patches for image_size=({height}, {width}) and "
            f"patch_size={patch_size}, received {patches.shape[1]}"
        )
    if patches.shape[2] % patch_size**2:
        raise ValueError(
            f"patches must have vectors of length patch_size² × channels, a multiple of {patch_size**2}, "
            f"received {patches.shape[2]}"
        )
    return rearrange(patches, "b (nh nw) (ph pw c) -> b c (nh ph) (nw pw)", nh=nh, ph=patch_size, pw=patch_size)


class PatchEmbed(nn.Module):
    """Embed every patch with one shared linear map.

    This is a convolution whose stride equals its kernel: reorder ``proj.weight`` with
    ``"d (ph pw c) -> d c ph pw"`` and ``F.conv2d(images, weight, bias, stride=patch_size)`` gives the same numbers.

    Shapes:
        images ``(b, c, h, w)`` → tokens ``(b, n, embed_dim)``; one module serves any height and width that
        ``patch_size`` divides.

    Raises:
        ValueError: a size below one; images with other channels than ``in_channels`` or that do not divide.
        TypeError: images that are not floating point.

    Source:
        Dosovitskiy et al. 2021, equation 1 (arXiv 2010.11929); slides S22 and S24.

    >>> import torch
    >>> PatchEmbed(patch_size=4, in_channels=3, embed_dim=5)(torch.rand(2, 3, 8, 12)).shape
    torch.Size([2, 6, 5])
    """

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        check_positive_int("patch_size", patch_size)
        check_positive_int("in_channels", in_channels)
        check_positive_int("embed_dim", embed_dim)
        self.patch_size, self.in_channels = patch_size, in_channels
        self.proj = nn.Linear(patch_size * patch_size * in_channels, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return the patches' embeddings, ``(b, n, embed_dim)``."""
        check_rank("images", images, "b c h w")
        check_floating("images", images)
        if images.shape[1] != self.in_channels:
            raise ValueError(f"images must have in_channels={self.in_channels} channels, received {images.shape[1]}")
        check_same_kind(weights=self.proj.weight, images=images)
        return self.proj(patchify(images, patch_size=self.patch_size))
