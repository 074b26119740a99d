"""Attention: against PyTorch's kernels, a double loop, and what it must not depend on."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import TOLERANCE, assert_equal_in_value_and_gradient, randn

from vlmcourse import MultiHeadSelfAttention, attention_weights, self_attention
from vlmcourse.ops.attention import KeyValueCache

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
    i=st.integers(1, 7),
    j=st.integers(1, 7),
    d=st.integers(1, 6),
    dv=st.integers(1, 5),
    masked=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
)
def test_self_attention_equals_pytorch(batch, i, j, d, dv, masked, dtype, seed):
    queries = randn(*batch, i, d, dtype=dtype, device="cpu", seed=seed)
    keys = randn(*batch, j, d, dtype=dtype, device="cpu", seed=seed + 1)
    values = randn(*batch, j, dv, dtype=dtype, device="cpu", seed=seed + 2)
    mask = torch.rand(*batch, i, j, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    assert_equal_in_value_and_gradient(
        lambda q, k, v: self_attention(q, k, v, mask=mask),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        (queries, keys, values),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_self_attention_equals_pytorch_on_every_device(device, dtype):
    tensors = [randn(2, 3, 11, 8, dtype=dtype, device=device, seed=seed) for seed in range(3)]
    assert_equal_in_value_and_gradient(self_attention, F.scaled_dot_product_attention, tensors, dtype=dtype)


def test_self_attention_equals_a_double_loop():
    queries, keys, values = (randn(5, 3, dtype=torch.float64, device="cpu", seed=seed) for seed in range(3))
    rows = []
    for query in queries:
        weights = torch.stack([(query @ key / math.sqrt(3)).exp() for key in keys])
        rows.append(sum(weight * value for weight, value in zip(weights / weights.sum(), values, strict=True)))
    torch.testing.assert_close(self_attention(queries, keys, values), torch.stack(rows))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_every_row_of_weights_sums_to_one(dtype, scale):
    queries = randn(2, 7, 5, dtype=dtype, device="cpu", seed=0, scale=scale)
    rows = attention_weights(queries, queries).double().sum(dim=-1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=max(TOLERANCE.get(dtype, 1e-2), 1e-6))


@pytest.mark.parametrize("given", [torch.float16, torch.float32])
def test_float16_scores_do_not_overflow(device, given):
    queries = torch.full((1, 2, 64), 60.0, dtype=given, device=device)  # q·k = 230400, float16 ends at 65504
    with torch.autocast(device.type, torch.float16, enabled=given == torch.float32):
        weights = attention_weights(queries, queries)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_scores(device, narrow):
    queries, keys = (randn(2, 7, 64, dtype=torch.float32, device=device, seed=seed, scale=3) for seed in range(2))
    exact = attention_weights(queries, keys)
    with torch.autocast(device.type, narrow):
        inside = attention_weights(queries, keys)
        mixed = attention_weights(queries, keys.to(narrow))  # autocast allows two dtypes
    assert inside.dtype == torch.float32
    assert torch.equal(inside, exact)
    assert torch.equal(mixed, attention_weights(queries, keys.to(narrow).float()))


def test_a_row_masked_entirely_attends_to_nothing_and_passes_no_nan():
    tokens = randn(1, 3, 4, dtype=torch.float32, device="cpu", seed=0)
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, True]])
    mixed = self_attention(tokens, tokens, tokens, mask=mask)
    assert torch.equal(mixed[0, 1], torch.zeros(4))
    (gradient,) = torch.autograd.grad(mixed.sum(), tokens)
    assert gradient.isfinite().all()


def test_a_masked_token_changes_nothing():
    tokens = randn(1, 4, 3, dtype=torch.float64, device="cpu", seed=0).detach()
    mask = torch.tensor([True, True, False, True])
    other = tokens.clone()
    other[:, 2] = 1e3
    keep = [0, 1, 3]
    one = self_attention(tokens[:, keep], tokens, tokens, mask=mask)
    torch.testing.assert_close(self_attention(tokens[:, keep], other, other, mask=mask), one)


def test_attention_passes_gradcheck():
    tensors = [randn(2, 4, 3, dtype=torch.float64, device="cpu", seed=seed) for seed in range(3)]
    mask = torch.tril(torch.ones(4, 4, dtype=torch.bool))
    assert torch.autograd.gradcheck(lambda q, k, v: self_attention(q, k, v, mask=mask), tensors)


def test_attention_takes_non_contiguous_tokens():
    tokens = torch.rand(2, 5, 7).transpose(1, 2)
    dense = tokens.contiguous()
    torch.testing.assert_close(self_attention(tokens, tokens, tokens), self_attention(dense, dense, dense))


@given(
    b=st.integers(1, 3),
    n=st.integers(1, 7),
    heads=st.integers(1, 4),
    width=st.integers(1, 4),
    causal=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
)
def test_both_backends_equal_torchs_multihead_attention(b, n, heads, width, causal, dtype, seed):
    torch.manual_seed(seed)
    d = heads * width
    theirs = torch.nn.MultiheadAttention(d, heads, batch_first=True).to(dtype)
    ours = MultiHeadSelfAttention(d, heads).to(dtype)
    torch.nn.init.normal_(theirs.in_proj_bias)  # zero by default, which would hide a lost bias
    torch.nn.init.normal_(theirs.out_proj.bias)
    ours.load_state_dict(
        {
            "qkv_proj.weight": theirs.in_proj_weight,
            "qkv_proj.bias": theirs.in_proj_bias,
            "out_proj.weight": theirs.out_proj.weight,
            "out_proj.bias": theirs.out_proj.bias,
        }
    )
    mask = torch.tril(torch.ones(n, n, dtype=torch.bool)) if causal else None
    tokens = randn(b, n, d, dtype=dtype, device="cpu", seed=seed)

    def reference(x):
        return theirs(x, x, x, attn_mask=None if mask is None else ~mask, need_weights=False)[0]

    for backend in ("fused", "einops"):
        ours.backend = backend
        assert_equal_in_value_and_gradient(lambda x: ours(x, mask=mask), reference, (tokens,), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_backends_agree_on_every_device(device, dtype):
    attention = MultiHeadSelfAttention(12, 3).to(device, dtype)
    tokens = randn(2, 7, 12, dtype=dtype, device=device, seed=0)
    fused = attention(tokens)
    attention.backend = "einops"
    torch.testing.assert_close(attention(tokens), fused, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_both_backends_agree_under_autocast(device):
    attention = MultiHeadSelfAttention(12, 3).to(device)
    tokens = randn(2, 7, 12, dtype=torch.float32, device=device, seed=0)
    outputs = {}
    for attention.backend in ("fused", "einops"):
        with torch.autocast(device.type, torch.bfloat16):
            outputs[attention.backend] = attention(tokens)
    assert outputs["fused"].dtype == outputs["einops"].dtype == torch.bfloat16
    torch.testing.assert_close(outputs["einops"], outputs["fused"], rtol=4e-2, atol=4e-2)


def test_returned_weights_are_those_that_mixed_the_values():
    attention = MultiHeadSelfAttention(6, 2, backend="einops").double()
    tokens = randn(2, 5, 6, dtype=torch.float64, device="cpu", seed=0)
    mixed, weights = attention(tokens, return_weights=True)
    values = attention.qkv_proj(tokens)[..., 12:].unflatten(-1, (2, 3)).transpose(1, 2)
    by_hand = attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, by_hand)


@pytest.mark.parametrize("backend", ["fused", "einops"])
@pytest.mark.parametrize("seed", range(3))
def test_attention_without_positions_is_permutation_equivariant(backend, seed):
    torch.manual_seed(seed)
    attention = MultiHeadSelfAttention(12, 3, backend=backend).double()
    tokens, order = torch.randn(2, 11, 12, dtype=torch.float64), torch.randperm(11)
    torch.testing.assert_close(attention(tokens[:, order]), attention(tokens)[:, order])


def tokens(*shape):
    return torch.rand(*shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: attention_weights(tokens(2, 3, 4), tokens(2, 3, 5)),
            ValueError,
            r"keys .* \(2, 3, 4\), .* \(2, 3, 5\)",
        ),
        (lambda: attention_weights(tokens(2, 3, 4), tokens(5, 3, 4)), ValueError, "keys must agree with queries"),
        (lambda: attention_weights(tokens(4), tokens(4)), ValueError, r"queries must have shape \(\.\.\. n d\)"),
        (lambda: attention_weights(tokens(2, 0, 4), tokens(2, 3, 4)), ValueError, "queries .* no empty axis"),
        (lambda: attention_weights(tokens(3, 4).int(), tokens(3, 4)), TypeError, "queries must be floating point"),
        (
            lambda: attention_weights(tokens(3, 4), tokens(3, 4).double()),
            ValueError,
            "keys must have the dtype of queries",
        ),
        (lambda: attention_weights("q", tokens(3, 4)), TypeError, "queries must be a torch.Tensor .* received str"),
        (
            lambda: self_attention(tokens(3, 4), tokens(3, 4), tokens(5, 4)),
            ValueError,
            r"values .* \(3, dv\), .* \(5, 4\)",
        ),
        (
            lambda: attention_weights(tokens(3, 4), tokens(3, 4), mask=torch.zeros(3, 3)),
            TypeError,
            "mask must be a boolean tensor, .* received torch.float32",
        ),
        (
            lambda: attention_weights(tokens(3, 4), tokens(5, 4), mask=torch.ones(5, 3, dtype=torch.bool)),
            ValueError,
            r"mask must be broadcastable to \(3, 5\), received \(5, 3\)",
        ),
        (
            lambda: MultiHeadSelfAttention(4, 2)(tokens(2, 3, 4), mask=torch.ones(5, dtype=torch.bool)),
            ValueError,
            r"mask must be broadcastable to \(2, 2, 3, 3\), received \(5,\)",
        ),
        (lambda: MultiHeadSelfAttention(10, 3), ValueError, "num_heads=3 does not divide embed_dim 10; try 2 or 5"),
        (lambda: MultiHeadSelfAttention(10, 0), ValueError, "num_heads must be at least 1"),
        (lambda: MultiHeadSelfAttention(10, 2, backend="flash"), ValueError, "backend must be 'fused' or 'einops'"),
        (lambda: MultiHeadSelfAttention(4, 2)(tokens(2, 3, 5)), ValueError, r"embed_dim=4\), received \(2, 3, 5\)"),
        (lambda: MultiHeadSelfAttention(4, 2)(tokens(3, 4)), ValueError, r"tokens must have shape \(b, n, embed_dim"),
        (lambda: MultiHeadSelfAttention(4, 2)(tokens(2, 3, 4), return_weights=True), ValueError, "backend='einops'"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("backend", ["fused", "einops"])
@pytest.mark.parametrize("chunk", [1, 2, 5, 7])
def test_tokens_read_in_pieces_with_a_cache_give_what_they_give_at_once(device, backend, chunk):
    attention = MultiHeadSelfAttention(12, 3, backend=backend).to(device)
    tokens, causal = torch.randn(2, 7, 12, device=device), torch.ones(7, 7, dtype=torch.bool, device=device).tril()
    cache, pieces, start = KeyValueCache(), [], 0
    for piece in tokens.split(chunk, dim=1):
        end = start + piece.shape[1]
        pieces.append(attention(piece, mask=causal[start:end, :end], cache=cache))
        start = end
    torch.testing.assert_close(torch.cat(pieces, 1), attention(tokens, mask=causal), rtol=1e-5, atol=1e-6)


def test_a_cache_of_another_batch_is_refused_and_left_as_it_was():
    attention, cache = MultiHeadSelfAttention(4, 2), KeyValueCache()
    attention(torch.rand(2, 3, 4), cache=cache)
    with pytest.raises(ValueError, match=r"cache holds keys .* of shape \(2, 2, 3, 2\), received \(5, 2, 1, 2\)"):
        attention(torch.rand(5, 1, 4), cache=cache)
    assert cache.keys.shape == (2, 2, 3, 2)


@pytest.mark.parametrize("backend", ["fused", "einops"])
def test_attention_has_shapes_on_the_meta_device_where_nothing_is_computed(backend):
    with torch.device("meta"):
        assert MultiHeadSelfAttention(6, 2, backend=backend)(torch.empty(1, 5, 6)).shape == (1, 5, 6)


def test_an_error_leaves_the_cache_as_it_was():
    attention, cache, x = MultiHeadSelfAttention(6, 2), KeyValueCache(), torch.rand(1, 4, 6)
    attention(x[:, :2], cache=cache)
    with pytest.raises(ValueError, match=r"mask must be broadcastable to \(1, 2, 2, 4\)"):
        attention(x[:, 2:], cache=cache, mask=torch.ones(2, 5, dtype=torch.bool))
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    rest = attention(x[:, 2:], cache=cache, mask=causal[2:])
    torch.testing.assert_close(rest, attention(x, mask=causal)[:, 2:])
