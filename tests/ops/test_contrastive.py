"""Contrastive losses: against literal double loops, closed forms, and the bugs that others shipped."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    assert_equal_in_value_and_gradient,
    info_nce_by_double_loop,
    nt_xent_by_double_loop,
    randn,
    slide_loss_by_double_loop,
    uniformity_by_double_loop,
)

from vlmcourse import alignment, info_nce_loss, nt_xent_loss, slide_contrastive_loss, uniformity
from vlmcourse.course.bench import peak_memory

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NAMES = ["nt_xent", "nt_xent in chunks", "info_nce", "slide"]
temperatures = st.floats(0.05, 10)
dtypes = st.sampled_from([torch.float64, torch.float32])
counts, widths, seeds = st.integers(1, 5), st.integers(2, 5), st.integers(0, 999)


def pair(n, d, *, dtype=torch.float64, device="cpu", seed=0):
    return [randn(n, d, dtype=dtype, device=device, seed=seed + k) for k in (0, 1)]


@given(n=st.integers(2, 5), d=widths, temperature=temperatures, dtype=dtypes, seed=seeds)
def test_nt_xent_equals_the_papers_algorithm_as_a_double_loop(n, d, temperature, dtype, seed):
    assert_equal_in_value_and_gradient(
        lambda a, b: nt_xent_loss(a, b, temperature=temperature),
        lambda a, b: nt_xent_by_double_loop(a, b, temperature),
        pair(n, d, dtype=dtype, seed=seed),
        dtype=dtype,
    )


@given(n=counts, m=counts, d=widths, temperature=temperatures, dtype=dtypes, seed=seeds)
def test_slide_loss_equals_a_double_loop(n, m, d, temperature, dtype, seed):
    negatives = randn(n, m, d, dtype=dtype, device="cpu", seed=seed + 2)
    assert_equal_in_value_and_gradient(
        lambda *inputs: slide_contrastive_loss(*inputs, temperature=temperature),
        lambda *inputs: slide_loss_by_double_loop(*inputs, temperature),
        (*pair(n, d, dtype=dtype, seed=seed), negatives),
        dtype=dtype,
    )


@given(n=st.integers(2, 5), d=widths, temperature=temperatures, dtype=dtypes, seed=seeds)
def test_info_nce_equals_a_double_loop(n, d, temperature, dtype, seed):
    assert_equal_in_value_and_gradient(
        lambda a, b: info_nce_loss(a, b, temperature=temperature),
        lambda a, b: info_nce_by_double_loop(a, b, temperature),
        pair(n, d, dtype=dtype, seed=seed),
        dtype=dtype,
    )


@given(n=st.integers(2, 6), d=widths, dtype=dtypes, seed=seeds)
def test_uniformity_equals_a_double_loop(n, d, dtype, seed):
    inputs = (randn(n, d, dtype=dtype, device="cpu", seed=seed),)
    assert_equal_in_value_and_gradient(uniformity, uniformity_by_double_loop, inputs, dtype=dtype)


@given(n=st.integers(2, 9), d=widths, chunk_size=st.integers(1, 20), temperature=temperatures, dtype=dtypes, seed=seeds)
def test_nt_xent_in_chunks_equals_nt_xent_at_once(n, d, chunk_size, temperature, dtype, seed):
    views = pair(n, d, dtype=dtype, seed=seed)
    temperature = torch.tensor(temperature, dtype=dtype, requires_grad=True)
    at_once = nt_xent_loss(*views, temperature=temperature)
    in_chunks = nt_xent_loss(*views, temperature=temperature, chunk_size=chunk_size)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(in_chunks, at_once, **tolerance)
    inputs = (*views, temperature)
    gradients = zip(torch.autograd.grad(3 * in_chunks, inputs), torch.autograd.grad(3 * at_once, inputs), strict=True)
    # A gradient is a sum of terms up to this size, which may cancel: what rounding can do is in proportion to them.
    shortest, tau = min(view.norm(dim=1).min().item() for view in views), temperature.item()
    scales = (3 / (tau * shortest), 3 / (tau * shortest), 3 / tau**2)
    for (mine, theirs), scale in zip(gradients, scales, strict=True):
        torch.testing.assert_close(mine / scale, theirs / scale, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nt_xent_in_chunks_equals_nt_xent_at_once_on_every_device(device, dtype):
    views = pair(301, 64, dtype=dtype, device=device)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    at_once, in_chunks = (nt_xent_loss(*views, temperature=0.1, chunk_size=size) for size in (None, 77))
    torch.testing.assert_close(in_chunks, at_once, rtol=tolerance, atol=0)
    for mine, theirs in zip(torch.autograd.grad(in_chunks, views), torch.autograd.grad(at_once, views), strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_nt_xent_in_chunks_needs_a_quarter_of_the_memory_or_less():
    views = pair(512, 16, dtype=torch.float32)
    at_once, in_chunks = (
        peak_memory(
            lambda size=size: nt_xent_loss(*views, temperature=0.1, chunk_size=size).backward(), torch.device("cpu")
        )
        for size in (None, 64)
    )
    assert at_once > 3 * 1024 * 1024 * 4  # similarities, their masked copy, their softmax: it was measured
    assert in_chunks <= at_once / 4


@pytest.mark.parametrize("chunk_size", [None, 2, 100])
def test_nt_xent_of_some_anchors_is_the_mean_of_their_losses_among_all(chunk_size):
    a, b = pair(7, 5)
    parts = [(slice(0, 3), 3), (slice(3, 4), 1), (slice(4, None), 3)]
    weighted = [count * nt_xent_loss(a, b, temperature=0.2, chunk_size=chunk_size, anchors=own) for own, count in parts]
    whole = nt_xent_loss(a, b, temperature=0.2)
    torch.testing.assert_close(sum(weighted) / 7, whole)
    gradients = zip(torch.autograd.grad(sum(weighted) / 7, (a, b)), torch.autograd.grad(whole, (a, b)), strict=True)
    for mine, theirs in gradients:
        torch.testing.assert_close(mine, theirs)
    assert not torch.isclose(weighted[0] / 3, whole)  # a part is no whole


def losses(a, b, temperature):
    """All losses on one pair of views; the slide's takes the other images' views as its negatives."""
    others = torch.stack([torch.cat([b[:i], b[i + 1 :]]) for i in range(len(b))])
    return {
        "nt_xent": nt_xent_loss(a, b, temperature=temperature),
        "nt_xent in chunks": nt_xent_loss(a, b, temperature=temperature, chunk_size=3),
        "info_nce": info_nce_loss(a, b, temperature=temperature),
        "slide": slide_contrastive_loss(a, b, others, temperature=temperature),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_embeddings_cost_only_their_own_rounding(device, name, dtype):
    inputs = [x.detach().to(device, dtype).requires_grad_() for x in pair(7, 5)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    one, other = losses(*inputs, 0.1)[name], losses(*exact, 0.1)[name]
    assert one.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
    # The gradient comes back in the embeddings' dtype: one rounding, no more.
    (mine,), (theirs,) = torch.autograd.grad(one, inputs[:1]), torch.autograd.grad(other, exact[:1])
    torch.testing.assert_close(mine, theirs.to(dtype), rtol=2 * torch.finfo(dtype).eps + 2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_touch_the_logits(device, name):
    a, b = (x.detach().float().to(device).requires_grad_() for x in pair(16, 8))
    plain = losses(a, b, 0.05)[name]
    with torch.autocast(device.type, torch.bfloat16):
        inside = losses(a, b, 0.05)[name]
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)
    assert torch.equal(torch.autograd.grad(inside, a)[0], torch.autograd.grad(plain, a)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.05, 0.5, 10.0])
def test_every_temperature_stays_finite_in_every_dtype(device, name, dtype, temperature):
    a, b = (x.detach().to(device, dtype).requires_grad_() for x in pair(11, 5))
    for views in ((a, b), (a, a), (a, -a)):  # unrelated, identical, opposite
        loss = losses(*views, temperature)[name]
        assert loss.isfinite()
        assert torch.autograd.grad(loss, a)[0].isfinite().all()


@pytest.mark.parametrize("n", [2, 5, 64])
def test_nt_xent_of_identical_embeddings_is_log_2n_minus_1(n):
    same = torch.ones(n, 3, dtype=torch.float64)
    assert nt_xent_loss(same, same, temperature=0.2).item() == pytest.approx(math.log(2 * n - 1))


def test_nt_xent_of_perfectly_separated_pairs_has_its_closed_form():
    n, temperature = 4, 0.5
    corners = torch.eye(n, dtype=torch.float64)  # positives at cosine 1, all others at 0
    expected = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert nt_xent_loss(corners, corners, temperature=temperature).item() == pytest.approx(expected)


def test_no_gradient_leaks_through_self_pairs():
    # With all embeddings equal every candidate is alike. Subtracting exp(1/τ) after the sum instead of masking before
    # the softmax loses the remaining terms to rounding at a small temperature; here the loss must stay log(2n - 1).
    same = torch.ones(3, 2, requires_grad=True)
    loss = nt_xent_loss(same, same, temperature=0.005)
    assert loss.item() == pytest.approx(math.log(5), rel=1e-5)
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-3


def test_losses_ignore_the_length_of_embeddings_and_the_order_of_pairs():
    a, b = (x.detach() for x in pair(7, 5))
    lengths, order = torch.rand(7, 1, dtype=torch.float64) + 0.5, torch.randperm(7)
    for name, loss in losses(a, b, 0.3).items():
        torch.testing.assert_close(losses(a * lengths, b / lengths, 0.3)[name], loss)
        torch.testing.assert_close(losses(a[order], b[order], 0.3)[name], loss)


def test_mixing_up_the_pairs_raises_the_loss():
    a = torch.eye(8)
    for name, loss in losses(a, a, 0.1).items():
        assert losses(a, a.roll(1, dims=0), 0.1)[name] > loss + 1


def test_temperature_may_be_learned():
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    a, b = (x.detach() for x in pair(5, 3))
    for function in (nt_xent_loss, partial(nt_xent_loss, chunk_size=3), info_nce_loss):
        assert torch.autograd.gradcheck(lambda t, f=function: f(a, b, temperature=t), temperature)


def test_losses_pass_gradcheck():
    a, b = pair(4, 3)
    negatives = randn(4, 5, 3, dtype=torch.float64, device="cpu", seed=9)
    for function in (nt_xent_loss, partial(nt_xent_loss, chunk_size=3), info_nce_loss):
        assert torch.autograd.gradcheck(lambda x, y, f=function: f(x, y, temperature=0.3), (a, b))
    assert torch.autograd.gradcheck(lambda *x: slide_contrastive_loss(*x, temperature=0.3), (a, b, negatives))
    assert torch.autograd.gradcheck(alignment, (a, b))
    assert torch.autograd.gradcheck(uniformity, a)


def test_a_gradient_of_the_gradient_is_right_or_refused():
    a, b = pair(4, 3)
    assert torch.autograd.gradgradcheck(lambda x, y: nt_xent_loss(x, y, temperature=0.3), (a, b))
    for once in (lambda loss: loss, torch.mean, lambda loss: 2 * loss):
        loss = once(nt_xent_loss(a, b, temperature=0.3, chunk_size=3))
        with pytest.raises(RuntimeError, match="leave chunk_size out"):
            torch.autograd.grad(loss, a, create_graph=True)


def test_losses_take_non_contiguous_embeddings():
    a, b = torch.rand(3, 7).T, torch.rand(3, 7).T
    for name, loss in losses(a, b, 0.3).items():
        torch.testing.assert_close(losses(a.contiguous(), b.contiguous(), 0.3)[name], loss)


def test_alignment_is_the_mean_squared_distance_on_the_sphere():
    a, b = (x.detach() for x in pair(7, 5))
    by_hand = torch.stack([(u / u.norm() - v / v.norm()).norm() ** 2 for u, v in zip(a, b, strict=True)]).mean()
    torch.testing.assert_close(alignment(a, b), by_hand)


def test_uniformity_falls_as_embeddings_spread():
    generator = torch.Generator().manual_seed(0)
    collapsed = torch.ones(64, 2) + 0.01 * torch.randn(64, 2, generator=generator)
    spread = torch.randn(64, 2, generator=generator)
    assert uniformity(spread) < uniformity(collapsed) - 1


BAD = [
    (
        {"view1": torch.rand(3, 4), "view2": torch.rand(5, 4)},
        ValueError,
        r"view2 .* view1: expected \(3, 4\), .* \(5, 4\)",
    ),
    ({"view1": torch.rand(3, 4), "view2": torch.rand(3, 5)}, ValueError, r"view2 must have the shape of view1"),
    ({"view1": torch.rand(3), "view2": torch.rand(3)}, ValueError, r"view1 must have shape \(n d\), received \(3,\)"),
    ({"view1": torch.rand(0, 4), "view2": torch.rand(0, 4)}, ValueError, "view1 must have no empty axis"),
    ({"view1": torch.ones(3, 4).long(), "view2": torch.rand(3, 4)}, TypeError, "view1 must be floating point"),
    ({"view1": torch.rand(3, 4), "view2": torch.rand(3, 4).double()}, ValueError, "view2 must have the dtype of view1"),
    ({"view1": [1.0], "view2": torch.rand(3, 4)}, TypeError, "view1 must be a torch.Tensor"),
]


@pytest.mark.parametrize(("views", "error", "message"), BAD)
def test_bad_views_are_named(views, error, message):
    with pytest.raises(error, match=message):
        nt_xent_loss(**views, temperature=0.1)
    with pytest.raises(error, match=message):
        alignment(**views)
    renamed = {"images": views["view1"], "texts": views["view2"]}
    with pytest.raises(error, match=message.replace("view1", "images").replace("view2", "texts")):
        info_nce_loss(**renamed, temperature=0.1)


@pytest.mark.parametrize(
    ("temperature", "error"),
    [
        (0, ValueError),
        (-0.1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("warm", TypeError),
        (True, TypeError),
    ],
)
def test_bad_temperatures_are_named(temperature, error):
    a = torch.rand(3, 4)
    for call in (
        lambda: nt_xent_loss(a, a, temperature=temperature),
        lambda: info_nce_loss(a, a, temperature=temperature),
        lambda: slide_contrastive_loss(a, a, torch.rand(3, 2, 4), temperature=temperature),
    ):
        with pytest.raises(error, match="temperature must be a"):
            call()


@pytest.mark.parametrize("negatives", [torch.rand(2, 5, 4), torch.rand(3, 5, 6), torch.rand(5, 4), torch.rand(3, 0, 4)])
def test_bad_negatives_are_named(negatives):
    with pytest.raises(ValueError, match=r"negatives must"):
        slide_contrastive_loss(torch.rand(3, 4), torch.rand(3, 4), negatives, temperature=0.1)


def test_a_single_pair_has_nothing_to_be_told_apart_from():
    with pytest.raises(ValueError, match=r"embeddings must hold at least two vectors .* received 1"):
        uniformity(torch.rand(1, 4))
    for loss, name in ((nt_xent_loss, "view1"), (info_nce_loss, "images")):
        with pytest.raises(ValueError, match=rf"{name} must hold at least two .* nothing to tell apart, received 1"):
            loss(torch.rand(1, 4), torch.rand(1, 4), temperature=0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, received 0"),
        ({"chunk_size": 2.0}, TypeError, "chunk_size must be an integer, received 2.0"),
        ({"anchors": slice(3, 5)}, ValueError, "the images that anchors chooses must have no empty axis"),
    ],
)
def test_bad_chunks_and_anchors_are_named(options, error, message):
    with pytest.raises(error, match=message):
        nt_xent_loss(torch.rand(3, 4), torch.rand(3, 4), temperature=0.1, **options)


def test_one_pair_has_an_alignment_and_one_anchor_its_own_negatives():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert alignment(one, other) == 2
    assert slide_contrastive_loss(one, one, other[None], temperature=1.0) == -1


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-14])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_without_length_counts_as_unlike_everything_and_gets_no_gradient(device, dtype, length):
    a, b = (x.detach() for x in pair(5, 3))
    a[1] *= length
    without = a.clone()
    without[1] = 0
    a, b, without = (x.to(device, dtype).requires_grad_() for x in (a, b, without))
    for name, loss in losses(a, b, 0.1).items():
        (gradient,) = torch.autograd.grad(loss, a)
        assert not gradient[1].any(), name
        assert gradient.isfinite().all(), name
        assert gradient[0].any(), name
        torch.testing.assert_close(loss, losses(without, b, 0.1)[name])
    for measure in (lambda x: alignment(x, b), uniformity):
        (gradient,) = torch.autograd.grad(measure(a), a)
        assert not gradient[1].any()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_gradient_fits_into_the_dtype_of_the_embeddings(device, dtype):
    for length in (1e-8, 1e-6, 1e-5, 1e-4, 2e-3, 1e-2, 1.0):
        a, b = ((length * x.detach()).to(device, dtype).requires_grad_() for x in pair(5, 3))
        for name, loss in losses(a, b, 0.1).items():
            assert torch.autograd.grad(loss, a)[0].isfinite().all(), (name, length)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_short_embeddings_have_the_direction_of_long_ones(dtype):
    a, b = (x.detach().to(dtype) for x in pair(5, 3))
    long, short = losses(a, b, 0.1), losses(1e-7 * a, 1e-9 * b, 0.1)
    for name, loss in long.items():
        torch.testing.assert_close(short[name], loss)
    torch.testing.assert_close(alignment(1e-7 * a, -1e-7 * a), torch.tensor(4.0, dtype=dtype))
