"""Patches: an image as a sequence of small rectangles, and the linear map that embeds them (slides S21 and S22)."""

from einops import rearrange
from torch import Tensor, nn

from vlmcourse._checks import Sizes, as_pair, check_input, check_positive_ints, check_rank, grid_of_patches


def patchify(images: Tensor, *, patch_size: Sizes) -> Tensor:
    """Cut images into disjoint patches, square or ``(height, width)``, and flatten each one.

    Patches are in row-major order; inside a patch the order is (row, column, channel), as in the lecture's p × p × C.

    Shapes:
        images ``(b, c, h, w)`` → ``(b, n, ph*pw*c)`` with ``n = (h / ph) * (w / pw)`` and ``(ph, pw) = patch_size``.

    Source:
        Dosovitskiy et al. 2021, section 3.1 (arXiv 2010.11929); slide S22, step 1.

    >>> import torch
    >>> patchify(torch.arange(8).reshape(1, 1, 2, 4), patch_size=2)
    tensor([[[0, 1, 4, 5],
             [2, 3, 6, 7]]])
    """
    check_rank("images", images, "b c h w")
    _, (ph, pw) = grid_of_patches(images.shape[2:], patch_size)
    return rearrange(images, "b c (nh ph) (nw pw) -> b (nh nw) (ph pw c)", ph=ph, pw=pw)


def unpatchify(patches: Tensor, *, patch_size: Sizes, image_size: Sizes) -> Tensor:
    """Put patches back together: the inverse of :func:`patchify`.

    Shapes:
        patches ``(b, n, ph*pw*c)`` → images ``(b, c, h, w)``, with ``image_size`` ``(h, w)`` or one number for both.

    Source:
        Slide S22, step 1, read backwards.

    >>> import torch
    >>> images = torch.rand(2, 3, 4, 6)
    >>> torch.equal(unpatchify(patchify(images, patch_size=2), patch_size=2, image_size=(4, 6)), images)
    True
    """
    check_rank("patches", patches, "b n d")
    (nh, nw), (ph, pw) = grid_of_patches(image_size, patch_size)
    if patches.shape[1] != nh * nw or patches.shape[2] % (ph * pw):
        expected = f"{nh} × {nw} = {nh * nw} vectors of {ph} × {pw} × channels, a multiple of {ph * pw}"
        sizes = f"{image_size=} and {patch_size=}"
        raise ValueError(f"patches must hold {expected}, for {sizes}, received {tuple(patches.shape)}")
    return rearrange(patches, "b (nh nw) (ph pw c) -> b c (nh ph) (nw pw)", nh=nh, ph=ph, pw=pw)


class PatchEmbed(nn.Module):
    """Embed every patch with one shared linear map.

    It equals ``F.conv2d`` with ``stride=patch_size`` and ``proj.weight`` as ``"d (ph pw c) -> d c ph pw"``.

    Shapes:
        images ``(b, c, h, w)``, of any size that ``patch_size`` divides → tokens ``(b, n, embed_dim)``.

    Source:
        Dosovitskiy et al. 2021, equation 1 (arXiv 2010.11929); slides S22 and S24.

    >>> import torch
    >>> PatchEmbed(patch_size=4, in_channels=3, embed_dim=5)(torch.rand(2, 3, 8, 12)).shape
    torch.Size([2, 6, 5])
    """

    def __init__(self, patch_size: Sizes, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        ph, pw = as_pair("patch_size", patch_size)
        check_positive_ints(in_channels=in_channels, embed_dim=embed_dim)
        self.patch_size, self.in_channels = patch_size, in_channels
        self.proj = nn.Linear(ph * pw * in_channels, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return the patches' embeddings, ``(b, n, embed_dim)``."""
        check_input("images", images, "b c h w", in_channels=self.in_channels, weights=self.proj.weight)
        return self.proj(patchify(images, patch_size=self.patch_size))
