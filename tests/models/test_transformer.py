"""The transformer's layer: against PyTorch's own encoder layer, and what its switches take away."""

import pytest
import torch
from torch import nn

from vlmcourse import MLP, TransformerBlock, attention_weights
from vlmcourse.models.transformer import record_attention


def test_block_equals_pytorchs_pre_norm_encoder_layer():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(
        12, 3, dim_feedforward=48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases are zero by default, which would hide a lost one
    ours = TransformerBlock(12, 3).double()
    renamed = {
        "self_attn.in_proj_": "attention.qkv_proj.",
        "self_attn.out_proj.": "attention.out_proj.",
        "norm1.": "attention_norm.",
        "norm2.": "mlp_norm.",
        "linear1.": "mlp.in_proj.",
        "linear2.": "mlp.out_proj.",
    }
    state = {}
    for name, value in theirs.state_dict().items():
        old = next(prefix for prefix in renamed if name.startswith(prefix))
        state[name.replace(old, renamed[old])] = value
    ours.load_state_dict(state)
    tokens = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


@pytest.mark.parametrize("seed", range(3))
def test_block_without_positions_is_permutation_equivariant(seed):
    torch.manual_seed(seed)
    block, tokens, order = TransformerBlock(12, 3).double(), torch.randn(2, 11, 12).double(), torch.randperm(11)
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def test_without_residuals_a_silenced_layer_returns_nothing_and_with_them_its_input():
    tokens = torch.randn(2, 5, 12)
    for residual, expected in ((True, tokens), (False, torch.zeros_like(tokens))):
        block = TransformerBlock(12, 3, residual=residual)
        for layer in (block.attention.out_proj, block.mlp.out_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        torch.testing.assert_close(block(tokens), expected)


def test_norm_can_be_left_out():
    assert not [part for part in TransformerBlock(12, 3, norm=False).modules() if isinstance(part, nn.LayerNorm)]


def test_causal_mask_hides_the_future():
    block, tokens = TransformerBlock(12, 3).eval(), torch.randn(1, 5, 12)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    changed = tokens.clone()
    changed[:, 3:] = torch.randn(1, 2, 12)
    torch.testing.assert_close(block(changed, mask=mask)[:, :3], block(tokens, mask=mask)[:, :3])
    assert not torch.allclose(block(changed)[:, :3], block(tokens)[:, :3])


def test_a_record_of_attention_holds_what_mixed_the_values_in_the_order_of_the_layers_and_changes_nothing():
    model, tokens = nn.Sequential(*[TransformerBlock(12, 3) for _ in range(2)]), torch.randn(2, 7, 12)
    model[1].attention.backend = "einops"
    inputs = [model[0].attention_norm(tokens), model[1].attention_norm(model[0](tokens))]
    before = model(tokens)
    with record_attention(model) as maps:
        during = model(tokens)
        model(tokens[:1])
    assert [weights.shape for weights in maps] == [(2, 3, 7, 7)] * 2 + [(1, 3, 7, 7)] * 2
    for block, normed, weights in zip(model, inputs, maps[:2], strict=True):
        queries, keys = (
            x.unflatten(-1, (3, 4)).transpose(1, 2) for x in block.attention.qkv_proj(normed).chunk(3, -1)[:2]
        )
        torch.testing.assert_close(weights, attention_weights(queries, keys))
    torch.testing.assert_close(during, before)
    assert [block.attention.backend for block in model] == ["fused", "einops"]
    assert torch.equal(model(tokens), before)
    assert len(maps) == 4


def test_a_record_of_attention_ends_with_an_error_too_and_needs_something_to_record():
    block = TransformerBlock(12, 3)
    with pytest.raises(RuntimeError), record_attention(block):
        block(torch.rand(2, 5, 7))
    assert block.attention.backend == "fused"
    assert isinstance(block(torch.rand(2, 5, 12)), torch.Tensor)
    with pytest.raises(ValueError, match="model must hold MultiHeadSelfAttention to be recorded, received MLP"):
        record_attention(MLP(3, 3)).__enter__()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MLP(0, 3), ValueError, "in_features must be at least 1"),
        (lambda: MLP(3, 0), ValueError, "hidden_features must be at least 1"),
        (lambda: TransformerBlock(12, 3)(torch.rand(2, 5, 7)), RuntimeError, "normalized_shape"),
        (lambda: TransformerBlock(10, 3), ValueError, "num_heads=3 does not divide embed_dim 10"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_record_inside_of_another_gives_it_back():
    block, tokens = TransformerBlock(6, 2), torch.rand(1, 3, 6)
    with record_attention(block) as outer:
        block(tokens)
        with record_attention(block) as inner:
            block(tokens)
        block(tokens)
    assert (len(outer), len(inner)) == (2, 1)
    assert block.attention.record is None
