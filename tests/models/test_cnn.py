"""The encoders of chapters 2 to 4, held to torchvision's ResNet and to hand-made cases."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from vlmcourse.models.cnn import ConvEncoder, ResidualBlock


def _torchvision_resnet18_for_small_images() -> nn.Module:
    network = resnet18()
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network


def test_resnet18_has_the_known_number_of_parameters():
    classifier = 512 * 10 + 10
    ours = sum(p.numel() for p in ConvEncoder.resnet18().parameters())
    assert ours == 11_173_962 - classifier  # 11.17 million, the size known for CIFAR-10 with its classifier


def test_resnet18_computes_what_torchvisions_computes_with_the_same_weights():
    torch.manual_seed(0)
    theirs, ours = _torchvision_resnet18_for_small_images().train(), ConvEncoder.resnet18().train()
    # Both list their layers from input to output, so that weights pair up by position.
    names, values = list(ours.state_dict()), list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(names, values, strict=True)))
    images = torch.randn(3, 3, 26, 22)
    torch.testing.assert_close(ours(images), theirs(images))  # batch statistics
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))  # running statistics, just updated


@pytest.mark.parametrize(("depths", "pool_size"), [((1, 1, 1), 2), ((1, 2), 3), ((3,), 1)])
def test_vector_and_feature_map_have_the_promised_shapes(depths: tuple[int, ...], pool_size: int):
    encoder = ConvEncoder(in_channels=5, width=7, depths=depths, pool_size=pool_size)
    images = torch.rand(2, 5, 19, 13)
    halvings = 2 ** (len(depths) - 1)
    channels = 7 * halvings
    assert encoder.feature_map(images).shape == (2, channels, -(-19 // halvings), -(-13 // halvings))
    assert encoder(images).shape == (2, encoder.embed_dim) == (2, channels * pool_size**2)


def test_strides_shrink_the_map_at_the_stem_and_at_each_stage():
    encoder = ConvEncoder(width=3, depths=(2, 1), strides=(2, 3, 1))
    assert encoder.stem(torch.rand(2, 3, 24, 18)).shape == (2, 3, 12, 9)
    assert encoder.stages[:2](encoder.stem(torch.rand(2, 3, 24, 18))).shape == (2, 3, 4, 3)  # once a stage, not a block
    assert encoder.feature_map(torch.rand(2, 3, 24, 18)).shape == (2, 6, 4, 3)


def test_strides_that_do_not_match_the_stages_are_refused():
    with pytest.raises(TypeError, match=r"4 integers \(stem, stage 1, stage 2, stage 3\), received \(1, 2, 2\)"):
        ConvEncoder(strides=(1, 2, 2))
    with pytest.raises(ValueError, match="strides"):
        ConvEncoder(strides=(1, 2, 0, 2))


def test_the_vector_is_the_feature_map_averaged_over_quarters():
    encoder = ConvEncoder(width=3).eval()
    images = torch.rand(2, 3, 24, 16)  # feature map 6 × 4: quarters of 3 × 2
    vector = encoder(images).reshape(2, 12, 2, 2)
    torch.testing.assert_close(vector[:, :, 1, 0], encoder.feature_map(images)[:, :, 3:, :2].mean((2, 3)))


def test_a_residual_block_whose_change_is_zero_is_the_identity_on_positive_images():
    block = ResidualBlock(3, 3).eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(block(x), x)


def test_the_encoder_does_not_change_its_input():
    encoder, images = ConvEncoder(width=3), torch.rand(2, 3, 8, 8)
    before = images.clone()
    encoder(images)
    assert torch.equal(images, before)


def test_gradients_reach_every_parameter():
    encoder = ConvEncoder(width=3, depths=(2, 1))
    encoder(torch.rand(5, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_encoder_computes_in_the_type_of_its_weights(dtype: torch.dtype):
    encoder = ConvEncoder(width=3).to(dtype).eval()
    assert encoder(torch.rand(2, 3, 8, 8, dtype=dtype)).dtype == dtype


def test_channels_last_gives_the_same_vectors():
    encoder, images = ConvEncoder(width=3).eval(), torch.rand(2, 3, 10, 14)
    expected = encoder(images)
    fast = encoder.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.cuda
def test_cuda_gives_the_same_vectors():
    encoder, images = ConvEncoder(width=5).double().eval(), torch.rand(2, 3, 10, 14).double()
    expected = encoder(images)
    torch.testing.assert_close(encoder.cuda()(images.cuda()).cpu(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, received 0"),
        ({"depths": (1, 0)}, r"depths must be at least 1 on every axis .*, received \(1, 0\)"),
        ({"pool_size": 0}, "pool_size must be at least 1"),
        ({"in_channels": -1}, "in_channels must be at least 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ConvEncoder(**options)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(2, 1, 8, 8), ValueError, "in_channels=3 channels, received 1"),
        (torch.rand(3, 8, 8), ValueError, r"shape \(b c h w\), received \(3, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), ValueError, "no empty axis"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, r"images.float\(\) / 255"),
        (torch.rand(2, 3, 8, 8).double(), ValueError, r"try .to\(torch.float32\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: torch.Tensor, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        ConvEncoder(width=3)(images)
