"""Patches: against index arithmetic, their inverse, and a strided convolution."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from oracles import TOLERANCE, assert_equal_in_value_and_gradient, randn

from vlmcourse import PatchEmbed, patchify, unpatchify

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
sizes = st.integers(1, 5)


def strided_convolution(embed: PatchEmbed):
    """PyTorch's convolution with the module's weights, reordered from (row, column, channel)."""
    size = embed.patch_size
    ph, pw = (size, size) if isinstance(size, int) else size

    def convolve(images):
        weight = rearrange(embed.proj.weight, "d (ph pw c) -> d c ph pw", ph=ph, pw=pw)
        return rearrange(F.conv2d(images, weight, embed.proj.bias, stride=size), "b d nh nw -> b (nh nw) d")

    return convolve


@given(b=sizes, c=sizes, nh=sizes, nw=sizes, ph=st.integers(1, 4), pw=st.integers(1, 4), seed=st.integers(0, 999))
def test_patchify_places_every_pixel_where_index_arithmetic_says(b, c, nh, nw, ph, pw, seed):
    images = randn(b, c, nh * ph, nw * pw, dtype=torch.float32, device="cpu", seed=seed).detach()
    size = ph if ph == pw else (ph, pw)
    patches = patchify(images, patch_size=size)
    assert patches.shape == (b, nh * nw, ph * pw * c)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        row, column = (torch.randint(side, (), generator=generator).item() for side in images.shape[2:])
        channel = torch.randint(c, (), generator=generator).item()
        patch = (row // ph) * nw + column // pw
        entry = ((row % ph) * pw + column % pw) * c + channel
        assert torch.equal(patches[:, patch, entry], images[:, channel, row, column])
    assert torch.equal(unpatchify(patches, patch_size=size, image_size=(nh * ph, nw * pw)), images)
    assert torch.equal(patchify(images, patch_size=(ph, pw)), patches)  # one number or two


@given(
    b=st.integers(1, 3),
    c=st.integers(1, 3),
    nh=st.integers(1, 4),
    nw=st.integers(1, 4),
    ph=st.integers(1, 4),
    pw=st.integers(1, 4),
    d=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
)
def test_patch_embed_equals_a_strided_convolution(b, c, nh, nw, ph, pw, d, dtype, seed):
    torch.manual_seed(seed)
    embed = PatchEmbed((ph, pw), c, d).to(dtype)
    images = randn(b, c, nh * ph, nw * pw, dtype=dtype, device="cpu", seed=seed)
    inputs = (images, *embed.parameters())
    assert_equal_in_value_and_gradient(
        lambda x, *_: embed(x), lambda x, *_: strided_convolution(embed)(x), inputs, dtype=dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_patch_embed_equals_a_strided_convolution_on_every_device(device, dtype):
    embed = PatchEmbed(4, 3, 7).to(device, dtype)
    images = randn(2, 3, 12, 20, dtype=dtype, device=device, seed=0)
    torch.testing.assert_close(
        embed(images), strided_convolution(embed)(images), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


def test_patchify_and_its_inverse_pass_gradcheck():
    images = randn(2, 3, 4, 6, dtype=torch.float64, device="cpu", seed=0)
    assert torch.autograd.gradcheck(lambda x: patchify(x, patch_size=2), images)
    patches = randn(2, 6, 12, dtype=torch.float64, device="cpu", seed=0)
    assert torch.autograd.gradcheck(lambda x: unpatchify(x, patch_size=2, image_size=(4, 6)), patches)


def test_patch_embed_passes_gradcheck():
    embed = PatchEmbed(2, 3, 5).double()
    assert torch.autograd.gradcheck(embed, randn(1, 3, 4, 6, dtype=torch.float64, device="cpu", seed=0))


def test_patchify_takes_non_contiguous_images():
    images = torch.rand(2, 6, 10, 3).permute(0, 3, 1, 2)
    assert not images.is_contiguous()
    assert torch.equal(patchify(images, patch_size=2), patchify(images.contiguous(), patch_size=2))


def test_patchify_keeps_integer_images_as_they_are():
    images = torch.randint(0, 255, (1, 3, 4, 4), dtype=torch.uint8)
    assert patchify(images, patch_size=2).dtype == torch.uint8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: patchify(torch.rand(1, 3, 32, 32), patch_size=5),
            ValueError,
            r"patch_size=5 .* height 32; try 4 or 8",
        ),
        (lambda: patchify(torch.rand(1, 3, 32, 30), patch_size=4), ValueError, r"patch_size=4 .* width 30; try 1 or 2"),
        (
            lambda: patchify(torch.rand(3, 32, 32), patch_size=4),
            ValueError,
            r"images .*\(b c h w\), received \(3, 32, 32\)",
        ),
        (lambda: patchify(torch.rand(0, 3, 8, 8), patch_size=4), ValueError, r"images .* no empty axis"),
        (lambda: patchify(torch.rand(1, 3, 8, 8), patch_size=0), ValueError, "patch_size must be at least 1"),
        (lambda: patchify(torch.rand(1, 3, 8, 8), patch_size=2.0), TypeError, "patch_size must be one integer or 2"),
        (lambda: patchify(torch.rand(1, 3, 8, 8), patch_size=True), TypeError, "patch_size must be one integer or 2"),
        (lambda: patchify(torch.rand(1, 3, 8, 8), patch_size=(2, 2, 2)), TypeError, r"2 integers \(height, width\)"),
        (
            lambda: patchify(torch.rand(1, 3, 8, 6), patch_size=(2, 4)),
            ValueError,
            "patch_size=4 .* width 6; try 3 or 6",
        ),
        (
            lambda: patchify(torch.rand(1, 3, 8, 6), patch_size=(3, 2)),
            ValueError,
            "patch_size=3 .* height 8; try 2 or 4",
        ),
        (lambda: patchify([[1.0]], patch_size=1), TypeError, r"images must be a torch.Tensor .* received list"),
        (
            lambda: unpatchify(torch.rand(1, 5, 12), patch_size=2, image_size=4),
            ValueError,
            r"patches must hold 2 × 2 = 4",
        ),
        (
            lambda: unpatchify(torch.rand(1, 4, 13), patch_size=2, image_size=4),
            ValueError,
            r"multiple of 4, .* received \(1, 4, 13\)",
        ),
        (lambda: unpatchify(torch.rand(1, 4, 12), patch_size=2, image_size=(4,)), TypeError, "image_size .*2 integers"),
        (
            lambda: unpatchify(torch.rand(1, 4, 12), patch_size=3, image_size=4),
            ValueError,
            "patch_size=3 does not divide",
        ),
        (lambda: PatchEmbed(0, 3, 8), ValueError, "patch_size must be at least 1"),
        (lambda: PatchEmbed(4, 3, 8)(torch.rand(1, 1, 8, 8)), ValueError, "in_channels=3 channels, received 1"),
        (
            lambda: PatchEmbed(4, 3, 8)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
            TypeError,
            r"images must be floating point, received torch.uint8; try images.float\(\) / 255",
        ),
        (lambda: PatchEmbed(4, 3, 8)(torch.rand(1, 3, 8, 8).double()), ValueError, "images .* dtype of weights"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
