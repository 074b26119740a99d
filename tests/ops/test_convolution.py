"""3D convolution: against PyTorch's kernel and a literal loop; receptive fields against arithmetic."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_equal_in_value_and_gradient, randn
from torch import nn

from vlmcourse import Conv3d, conv3d, receptive_field
from vlmcourse.course.bench import peak_memory

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
small = st.integers(1, 3)


def wide_conv3d(*inputs, **options):
    """PyTorch's kernel, in float32 where the inputs are narrower.

    Its bfloat16 kernel on the CPU is no oracle: with one thread, PyTorch 2.14 returns wrong numbers for some strides.
    """
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    return F.conv3d(*(tensor.to(wide) for tensor in inputs), **options).to(inputs[0].dtype)


triple = st.tuples(small, small, small)


@given(
    b=small,
    c_in=small,
    c_out=small,
    kernel=triple,
    extra=st.tuples(*[st.integers(0, 4)] * 3),
    stride=triple,
    padding=st.tuples(*[st.integers(0, 2)] * 3),
    with_bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
)
def test_conv3d_equals_pytorch(b, c_in, c_out, kernel, extra, stride, padding, with_bias, dtype, seed):
    size = [k + e for k, e in zip(kernel, extra, strict=True)]
    clips = randn(b, c_in, *size, dtype=dtype, device="cpu", seed=seed)
    weight = randn(c_out, c_in, *kernel, dtype=dtype, device="cpu", seed=seed + 1, scale=0.3)
    bias = (randn(c_out, dtype=dtype, device="cpu", seed=seed + 2),) if with_bias else ()
    assert_equal_in_value_and_gradient(
        lambda *inputs: conv3d(*inputs, stride=stride, padding=padding),
        lambda *inputs: wide_conv3d(*inputs, stride=stride, padding=padding),
        (clips, weight, *bias),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_conv3d_equals_pytorch_on_every_device(device, dtype):
    clips = randn(2, 3, 7, 11, 13, dtype=dtype, device=device, seed=0)
    weight = randn(5, 3, 2, 3, 4, dtype=dtype, device=device, seed=1, scale=0.1)
    bias = randn(5, dtype=dtype, device=device, seed=2)
    options = {"stride": (1, 2, 3), "padding": (1, 0, 2)}
    # Without this, CUDA's fused kernel rounds float32 to TF32 and is itself the one that is off.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert_equal_in_value_and_gradient(
            lambda *inputs: conv3d(*inputs, **options),
            lambda *inputs: wide_conv3d(*inputs, **options),
            (clips, weight, bias),
            dtype=dtype,
        )


def test_conv3d_equals_the_repaired_sum_of_the_slide():
    clip = randn(1, 2, 5, 6, 7, dtype=torch.float64, device="cpu", seed=0)
    weight = randn(3, 2, 2, 3, 2, dtype=torch.float64, device="cpu", seed=1)
    bias = randn(3, dtype=torch.float64, device="cpu", seed=2)
    stride = (2, 1, 3)
    out = conv3d(clip, weight, bias, stride=stride)
    for time, row, column in product(*map(range, out.shape[2:])):
        for k in range(3):
            total = bias[k].clone()
            for c, dt, dh, dw in product(range(2), range(2), range(3), range(2)):
                at = (time * stride[0] + dt, row * stride[1] + dh, column * stride[2] + dw)
                total += weight[k, c, dt, dh, dw] * clip[0, c, *at]
            torch.testing.assert_close(out[0, k, time, row, column], total)


def test_conv3d_passes_gradcheck():
    clips = randn(1, 2, 3, 4, 3, dtype=torch.float64, device="cpu", seed=0)
    weight = randn(2, 2, 2, 3, 2, dtype=torch.float64, device="cpu", seed=1)
    bias = randn(2, dtype=torch.float64, device="cpu", seed=2)
    assert torch.autograd.gradcheck(
        lambda *inputs: conv3d(*inputs, stride=(1, 2, 1), padding=(0, 1, 1)), (clips, weight, bias)
    )


def test_conv3d_takes_non_contiguous_clips():
    clips = torch.rand(2, 5, 7, 6, 3).permute(0, 4, 1, 2, 3)
    weight = torch.rand(2, 3, 2, 2, 2)
    torch.testing.assert_close(conv3d(clips, weight), F.conv3d(clips.contiguous(), weight))


def test_both_backends_of_the_layer_agree_and_share_pytorchs_weights(device):
    theirs = nn.Conv3d(3, 5, (2, 3, 4), stride=(1, 2, 3), padding=(1, 0, 2)).to(device, torch.float64)
    ours = Conv3d(3, 5, (2, 3, 4), stride=(1, 2, 3), padding=(1, 0, 2)).to(device, torch.float64)
    ours.load_state_dict(theirs.state_dict())
    clips = torch.rand(2, 3, 7, 11, 13, dtype=torch.float64, device=device)
    for ours.backend in ("fused", "einops"):
        torch.testing.assert_close(ours(clips), theirs(clips))


def test_both_backends_of_the_layer_agree_under_autocast(device):
    layer = Conv3d(3, 5, 3).to(device)
    clips, outputs = torch.rand(2, 3, 5, 7, 6, device=device), {}
    for layer.backend in ("fused", "einops"):
        with torch.autocast(device.type, torch.bfloat16):
            outputs[layer.backend] = layer(clips)
    assert outputs["fused"].dtype == outputs["einops"].dtype == torch.bfloat16
    torch.testing.assert_close(outputs["einops"], outputs["fused"], rtol=4e-2, atol=4e-2)


def test_both_backends_have_the_same_gradient_under_autocast(device):
    layer = Conv3d(3, 5, 3).to(device)
    clips, gradients = torch.rand(2, 3, 5, 7, 6, device=device), {}
    for layer.backend in ("fused", "einops"):
        with torch.autocast(device.type, torch.bfloat16):
            loss = layer(clips).float().square().sum()
        gradients[layer.backend] = torch.autograd.grad(loss, layer.weight)[0]
    scale = gradients["fused"].abs().max()
    torch.testing.assert_close(gradients["einops"] / scale, gradients["fused"] / scale, rtol=4e-2, atol=2e-2)


def test_conv3d_keeps_hardly_more_for_the_backward_pass_than_pytorch():
    clips, weight = torch.rand(2, 16, 5, 20, 20, requires_grad=True), torch.rand(8, 16, 3, 3, 3, requires_grad=True)
    kept = []
    for function in (conv3d, F.conv3d):
        storages = {}

        def keep(tensor, storages=storages):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            function(clips, weight, padding=1)
        kept.append(sum(storages.values()))
    assert kept[0] <= 2 * kept[1]
    most = [
        peak_memory(lambda f=f: f(clips, weight, padding=1).sum().backward(), torch.device("cpu"))
        for f in (conv3d, F.conv3d)
    ]
    assert most[0] <= 4 * most[1]  # not the 27 copies of a clip that its windows would fill


def test_conv3d_in_half_precision_rounds_its_sum_only_once():
    clips, weight = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    narrow = conv3d(clips.bfloat16(), weight.bfloat16())
    exact = (clips.bfloat16().double() * weight.bfloat16().double()).sum()
    assert abs(narrow.item() / exact - 1) < 2**-8


def test_parameter_count_does_not_depend_on_the_clip():
    layer = Conv3d(3, 5, (2, 3, 7))
    assert sum(p.numel() for p in layer.parameters()) == 5 * 3 * 2 * 3 * 7 + 5


@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (2, 3), (3, 3), (2, 5)])
def test_receptive_field_of_stacked_convolutions_is_what_arithmetic_says(depth, kernel):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if i == 0 else 4, 4, kernel, padding=kernel // 2) for i in range(depth)]
    seen = receptive_field(nn.Sequential(*layers), torch.randn(2, 3, 17, 23)) > 0
    reach = depth * (kernel - 1) // 2
    expected = torch.zeros(17, 23, dtype=torch.bool)
    expected[8 - reach : 8 + reach + 1, 11 - reach : 11 + reach + 1] = True
    assert torch.equal(seen, expected)


def test_receptive_field_of_a_clip_has_a_time_axis_and_follows_position():
    layer = nn.Conv3d(2, 3, (3, 1, 5), padding=(1, 0, 2))
    seen = receptive_field(layer, torch.randn(2, 2, 7, 5, 11), position=(6, 2, 0)) > 0
    assert {tuple(index) for index in seen.nonzero().tolist()} == set(product((5, 6), (2,), (0, 1, 2)))


def test_receptive_field_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    module[2].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        receptive_field(module, torch.randn(2, 1, 7, 7))
    assert [part.training for part in module] == [True, True, False]
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: conv3d(torch.rand(2, 5, 6, 7), torch.rand(1, 2, 1, 1, 1)), ValueError, r"clips .* \(b c t h w\)"),
        (
            lambda: conv3d(torch.rand(1, 2, 5, 6, 7), torch.rand(2, 1, 1, 1)),
            ValueError,
            "weight .* .c_out c_in kt kh kw",
        ),
        (
            lambda: conv3d(torch.rand(1, 2, 5, 6, 7), torch.rand(1, 3, 1, 1, 1)),
            ValueError,
            "clips must have c_in=3 channels, received 2",
        ),
        (
            lambda: conv3d(torch.rand(1, 2, 2, 6, 7), torch.rand(1, 2, 3, 1, 1)),
            ValueError,
            "at most 2 along time, received 3; try",
        ),
        (
            lambda: conv3d(torch.rand(1, 2, 5, 6, 7), torch.rand(3, 2, 1, 1, 1), torch.rand(2)),
            ValueError,
            r"bias .* 3 outputs, received \(2,\)",
        ),
        (
            lambda: conv3d(torch.rand(1, 1, 1, 1, 1), torch.rand(1, 1, 1, 1, 1), stride=0),
            ValueError,
            "stride .* at least 1",
        ),
        (
            lambda: conv3d(torch.rand(1, 1, 1, 1, 1), torch.rand(1, 1, 1, 1, 1), stride=(1, 2)),
            TypeError,
            r"stride must be one integer or 3 integers \(time, height, width\), received \(1, 2\)",
        ),
        (
            lambda: conv3d(torch.rand(1, 1, 1, 1, 1), torch.rand(1, 1, 1, 1, 1), padding=-1),
            ValueError,
            "padding .* at least 0",
        ),
        (
            lambda: conv3d(torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8), torch.rand(1, 1, 1, 1, 1)),
            TypeError,
            "clips must be floating point",
        ),
        (
            lambda: conv3d(torch.rand(1, 1, 2, 2, 2).double(), torch.rand(1, 1, 1, 1, 1)),
            ValueError,
            "weight must have the dtype of clips",
        ),
        (lambda: Conv3d(3, 5, 3)(torch.rand(1, 1, 5, 5, 5)), ValueError, "in_channels=3 channels, received 1"),
        (
            lambda: Conv3d(3, 5, 3, backend="einops")(torch.rand(1, 1, 5, 5, 5)),
            ValueError,
            "in_channels=3 channels, received 1",
        ),
        (lambda: Conv3d(1, 5, 3)(torch.rand(1, 1, 2, 5, 5)), ValueError, "kernel_size must fit .* time, received 3"),
        (lambda: Conv3d(3, 5, 3)(torch.rand(3, 5, 5, 5)), ValueError, r"clips must have shape"),
        (lambda: Conv3d(3, 5, 3, padding="same"), TypeError, "padding must be one integer or 3 integers"),
        (lambda: Conv3d(3, 5, 0), ValueError, "kernel_size must be at least 1"),
        (lambda: receptive_field(nn.Conv2d(1, 1, 3), torch.rand(5, 5)), ValueError, "inputs must have shape"),
        (
            lambda: receptive_field(nn.Conv2d(1, 1, 3), torch.rand(1, 1, 5, 5), position=(3, 0)),
            ValueError,
            r"position must be an index into \(3, 3\), received \(3, 0\)",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
