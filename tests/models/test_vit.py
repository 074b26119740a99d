"""Vision Transformers: the lecture's against its own words, the standard one against torchvision's."""

import pytest
import torch
from einops import rearrange
from torch import nn
from torchvision.models import VisionTransformer as Torchvisions
from torchvision.models.vision_transformer import interpolate_embeddings

from vlmcourse import SlideViT, VisionTransformer, patchify, self_attention, unpatchify

SIZES = {"image_size": (10, 15), "patch_size": 5, "in_channels": 2, "embed_dim": 21, "depth": 2, "num_heads": 3}


def torchvisions(**changes):
    """Return torchvision's network with every weight random: zeros would hide a lost one.

    59 / 21 * 21 is a little less than 59 in floating point.
    """
    sizes = {"image_size": 15, "patch_size": 5, "num_layers": 2, "num_heads": 3, "hidden_dim": 21, "mlp_dim": 59}
    model = Torchvisions(**{**sizes, "num_classes": 7, **changes}).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


# --- the lecture's network -------------------------------------------------------------------------------------------


def test_slide_vit_computes_the_slides_lines_one_after_the_other():
    torch.manual_seed(0)
    model, images = SlideViT(**SIZES, num_classes=7).double(), torch.rand(3, 2, 10, 15, dtype=torch.float64)

    def one_hidden_layer(mlp, vectors):
        hidden = torch.nn.functional.gelu(vectors @ mlp.in_proj.weight.T + mlp.in_proj.bias)
        return hidden @ mlp.out_proj.weight.T + mlp.out_proj.bias

    vectors = patchify(images, patch_size=5) @ model.patch_embed.proj.weight.T + model.patch_embed.proj.bias
    for attention, mlp in zip(model.layers[0::2], model.layers[1::2], strict=True):
        queries, keys, values = attention.qkv_proj(vectors).chunk(3, dim=-1)
        heads = [
            self_attention(q, k, v)
            for q, k, v in zip(*(x.chunk(3, dim=-1) for x in (queries, keys, values)), strict=True)
        ]
        vectors = one_hidden_layer(mlp, attention.out_proj(torch.cat(heads, dim=-1)))
    assert vectors.shape == (3, 6, 21)
    torch.testing.assert_close(model(images), one_hidden_layer(model.head, vectors.flatten(1)))


def test_slide_vit_is_the_standard_one_with_everything_switched_off():
    torch.manual_seed(0)
    slide, images = SlideViT(**SIZES, num_classes=7), torch.rand(3, 2, 10, 15)
    bare = VisionTransformer(**SIZES, pool="flatten", positions=False, residual=False, norm=False)
    bare.patch_embed.load_state_dict(slide.patch_embed.state_dict())
    for block, attention, mlp in zip(bare.blocks, slide.layers[0::2], slide.layers[1::2], strict=True):
        block.attention.load_state_dict(attention.state_dict())
        block.mlp.load_state_dict(mlp.state_dict())
    torch.testing.assert_close(slide.head(bare(images)), slide(images))


def test_slide_vit_has_exactly_the_parameters_the_slide_names():
    attention, mlp = 21 * 3 * 21 + 3 * 21 + 21 * 21 + 21, 21 * 84 + 84 + 84 * 21 + 21
    expected = (5 * 5 * 2 * 21 + 21) + 2 * (attention + mlp) + (6 * 21 * 84 + 84 + 84 * 7 + 7)
    assert sum(p.numel() for p in SlideViT(**SIZES, num_classes=7).parameters()) == expected


# --- the standard network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_torchvisions_weights_give_torchvisions_output(seed):
    torch.manual_seed(seed)
    theirs, images = torchvisions(), torch.rand(3, 3, 15, 15, dtype=torch.float64)
    ours = VisionTransformer.from_torchvision(theirs)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)
    assert not ours.training


def test_every_size_of_torchvisions_network_and_its_own_epsilon_come_along():
    theirs = torchvisions(patch_size=3, num_heads=7, num_layers=1, norm_layer=lambda d: nn.LayerNorm(d, eps=0.1))
    images = torch.rand(2, 3, 15, 15, dtype=torch.float64)
    torch.testing.assert_close(VisionTransformer.from_torchvision(theirs)(images), theirs(images))


def test_without_its_classifier_torchvisions_network_becomes_an_encoder():
    theirs = torchvisions()
    theirs.heads = nn.Identity()
    images = torch.rand(2, 3, 15, 15, dtype=torch.float64)
    encoder = VisionTransformer.from_torchvision(theirs)
    assert encoder(images).shape == (2, 21)
    torch.testing.assert_close(encoder(images), theirs(images))


def shuffled(images, order):
    """Return the images with their patches in another order."""
    return unpatchify(patchify(images, patch_size=5)[:, order], patch_size=5, image_size=(10, 15))


@pytest.mark.parametrize("seed", range(3))
def test_without_positions_shuffled_patches_give_shuffled_tokens_and_the_same_vector(seed):
    torch.manual_seed(seed)
    images, order = torch.rand(3, 2, 10, 15, dtype=torch.float64), torch.tensor([3, 0, 4, 5, 1, 2])
    for pool in ("mean", "class"):
        model = VisionTransformer(**SIZES, pool=pool, positions=False).double()
        places = rearrange(model.feature_map(images), "b d nh nw -> b (nh nw) d")
        moved = rearrange(model.feature_map(shuffled(images, order)), "b d nh nw -> b (nh nw) d")
        torch.testing.assert_close(moved, places[:, order])
        torch.testing.assert_close(model(shuffled(images, order)), model(images))


@pytest.mark.parametrize("pool", ["class", "mean", "flatten"])
def test_with_positions_the_vector_notices_shuffled_patches(pool):
    torch.manual_seed(0)
    model, images = VisionTransformer(**SIZES, pool=pool), torch.rand(3, 2, 10, 15)
    nn.init.normal_(model.position_embedding)
    order = torch.tensor([3, 0, 4, 5, 1, 2])
    assert (model(shuffled(images, order)) - model(images)).abs().max() > 1e-2


def test_flattening_notices_shuffled_patches_even_without_positions():
    model, images = VisionTransformer(**SIZES, pool="flatten", positions=False), torch.rand(3, 2, 10, 15)
    assert (model(shuffled(images, torch.tensor([3, 0, 4, 5, 1, 2]))) - model(images)).abs().max() > 1e-2


@pytest.mark.parametrize(("pool", "width"), [("class", 21), ("mean", 21), ("flatten", 6 * 21)])
def test_vector_scores_tokens_and_feature_map_have_the_promised_shapes(pool, width):
    images = torch.rand(3, 2, 10, 15)
    encoder = VisionTransformer(**SIZES, pool=pool)
    assert encoder(images).shape == (3, width)
    assert encoder.tokens(images).shape == (3, 7 if pool == "class" else 6, 21)
    assert encoder.feature_map(images).shape == (3, 21, 2, 3)
    assert VisionTransformer(**SIZES, pool=pool, num_classes=11)(images).shape == (3, 11)


def test_each_pool_reads_the_tokens_it_says():
    images = torch.rand(3, 2, 10, 15)
    for pool, read in {
        "class": lambda tokens: tokens[:, 0],
        "mean": lambda tokens: sum(tokens.unbind(1)) / 6,
        "flatten": lambda tokens: torch.cat(tokens.unbind(1), dim=1),
    }.items():
        model = VisionTransformer(**SIZES, pool=pool)
        torch.testing.assert_close(model(images), read(model.tokens(images)))


def test_feature_map_keeps_each_patch_at_its_place():
    model = VisionTransformer(**SIZES, positions=False)
    for block in model.blocks:  # layers that add nothing: each token depends on its own patch alone
        for layer in (block.attention.out_proj, block.mlp.out_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    images = torch.rand(1, 2, 10, 15)
    changed = images.clone()
    changed[:, :, 5:, 10:] = 0
    moved = (model.feature_map(changed) - model.feature_map(images)).abs().sum(dim=1)[0] > 1e-6
    assert moved.tolist() == [[False, False, False], [False, False, True]]


# --- other sizes and shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [10, 15, 20, 35])
def test_interpolated_positions_are_torchvisions(side):
    torch.manual_seed(0)
    theirs = torchvisions()
    ours = VisionTransformer.from_torchvision(theirs).for_image_size(side)
    state = interpolate_embeddings(side, 5, theirs.state_dict())
    torch.testing.assert_close(ours.position_embedding.detach(), state["encoder.pos_embedding"])
    larger = torchvisions(image_size=side)
    larger.load_state_dict(state)
    images = torch.rand(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(ours(images), larger(images))


@pytest.mark.parametrize("pool", ["class", "mean", "flatten"])
def test_old_places_keep_their_positions_on_a_grid_of_another_shape_and_new_ones_lie_between(pool):
    model = VisionTransformer(**SIZES, pool=pool)
    old = model.position_embedding[0, -6:].detach().unflatten(0, (2, 3))
    old[..., 0], old[..., 1] = torch.tensor([[0.0], [3.0]]), torch.tensor([0.0, 4.0, 8.0])  # row and column, as numbers
    other = model.for_image_size((15, 25))  # 3 × 5 patches, of which every second is an old one
    assert other.grid_size == (3, 5)
    grid = other.position_embedding[0, -15:].detach().unflatten(0, (3, 5))
    torch.testing.assert_close(grid[::2, ::2], old)
    torch.testing.assert_close(grid[..., 0], torch.tensor([[0.0], [1.5], [3.0]]).expand(3, 5))
    assert (grid[..., 1].diff(dim=1) > 0).all()
    torch.testing.assert_close(grid[:1, :, 1].expand(3, 5), grid[..., 1])
    if pool == "class":
        assert torch.equal(other.position_embedding[:, 0], model.position_embedding[:, 0])
    assert other.tokens(torch.rand(2, 2, 15, 25)).shape == (2, other.position_embedding.shape[1], 21)


def test_a_copy_for_the_same_size_is_the_same_and_the_model_itself_never_changes():
    model, images = VisionTransformer(**SIZES, num_classes=7, norm_eps=0.1).eval(), torch.rand(3, 2, 10, 15)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same, other = model.for_image_size((10, 15)), model.for_image_size((5, 20)).requires_grad_()
    torch.testing.assert_close(same(images), model(images))
    nn.init.zeros_(other.position_embedding)
    nn.init.zeros_(other.head.weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.image_size, model.grid_size, model.config["image_size"]) == ((10, 15), (2, 3), (10, 15))
    assert VisionTransformer(**other.config).position_embedding.shape == other.position_embedding.shape
    assert other.position_embedding.requires_grad


def test_without_positions_a_copy_for_another_size_has_the_same_weights():
    model = VisionTransformer(**SIZES, positions=False, pool="mean")
    other = model.for_image_size(25)
    assert other(torch.rand(2, 2, 25, 25)).shape == (2, 21)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))


def test_a_flat_classifier_has_no_copy_for_another_size():
    with pytest.raises(ValueError, match="pool='flatten' has a head with weights for each patch; try pool='mean'"):
        VisionTransformer(**SIZES, pool="flatten", num_classes=7).for_image_size(25)


def test_rectangular_patches_are_embedded_by_the_convolution_they_are():
    sizes = {**SIZES, "patch_size": (5, 3)}
    model, images = VisionTransformer(**sizes, pool="mean", positions=False), torch.rand(3, 2, 10, 15)
    assert model.grid_size == (2, 5)
    weight = rearrange(model.patch_embed.proj.weight, "d (ph pw c) -> d c ph pw", ph=5, pw=3)
    tokens = nn.functional.conv2d(images, weight, model.patch_embed.proj.bias, stride=(5, 3))
    expected = model.norm(model.blocks(rearrange(tokens, "b d nh nw -> b (nh nw) d")))
    torch.testing.assert_close(model.tokens(images), expected)
    torch.testing.assert_close(model.feature_map(images)[:, :, 1, 3], expected[:, 8])
    assert model.for_image_size((20, 6)).feature_map(torch.rand(1, 2, 20, 6)).shape == (1, 21, 4, 2)
    assert SlideViT(**sizes, num_classes=7)(images).shape == (3, 7)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_attention_maps_are_those_the_forward_pass_uses(pool):
    torch.manual_seed(0)
    model, images = VisionTransformer(**SIZES, pool=pool).double(), torch.rand(3, 2, 10, 15).double()
    seen = []
    hooks = [
        block.attention.register_forward_hook(lambda m, inputs, _: seen.append((m, inputs[0])))
        for block in model.blocks
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    for block in model.blocks:
        block.attention.backend = "einops"
    expected = torch.stack([attention(tokens, return_weights=True)[1] for attention, tokens in seen], dim=1)
    for block in model.blocks:
        block.attention.backend = "fused"
    maps = model.attention_maps(images)
    n = 7 if pool == "class" else 6
    assert maps.shape == (3, 2, 3, n, n)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(3, 2, 3, n, dtype=torch.float64))
    assert not maps.requires_grad
    assert [block.attention.backend for block in model.blocks] == ["fused", "fused"]


def test_everything_learned_is_in_the_state_and_every_part_of_it_gets_a_gradient():
    model, images = VisionTransformer(**SIZES, num_classes=7), torch.rand(3, 2, 10, 15)
    assert {"class_token", "position_embedding"} <= model.state_dict().keys()
    model(images).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_switch_takes_its_ingredient_away_and_nothing_else():
    def parts(**switches):
        model = VisionTransformer(**SIZES, **switches)
        norms = sum(isinstance(part, nn.LayerNorm) for part in model.modules())
        return norms, model.position_embedding is not None, [block.residual for block in model.blocks]

    assert parts() == (5, True, [True, True])
    assert parts(norm=False) == (0, True, [True, True])
    assert parts(positions=False) == (5, False, [True, True])
    assert parts(residual=False) == (5, True, [False, False])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_work(dtype):
    images = torch.rand(3, 2, 10, 15, dtype=dtype)
    assert VisionTransformer(**SIZES).to(dtype)(images).dtype == dtype
    assert SlideViT(**SIZES, num_classes=7).to(dtype)(images).dtype == dtype


def test_autocast_agrees_with_float32_within_its_precision():
    torch.manual_seed(0)
    model, images = VisionTransformer(**SIZES), torch.rand(3, 2, 10, 15)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = model(images)
    torch.testing.assert_close(short.float(), model(images), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("network", [VisionTransformer, SlideViT])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"patch_size": 4}, ValueError, "patch_size=4 does not divide height 10"),
        ({"patch_size": (5, 4)}, ValueError, "patch_size=4 does not divide width 15; try 3 or 5"),
        ({"image_size": "10"}, TypeError, "image_size must be one integer or 2 integers"),
        ({"depth": 0}, ValueError, "depth must be at least 1, received 0"),
        ({"num_heads": 5}, ValueError, "num_heads=5 does not divide embed_dim 21"),
        ({"num_classes": 0}, ValueError, "at least 1, received 0"),
        ({"in_channels": 1.5}, TypeError, "in_channels must be an integer, received 1.5"),
    ],
)
def test_sizes_that_do_not_fit_are_named(network, changes, error, message):
    with pytest.raises(error, match=message):
        network(**{**SIZES, "num_classes": 7, **changes})


@pytest.mark.parametrize("network", [VisionTransformer, SlideViT])
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (
            torch.rand(3, 2, 15, 10),
            ValueError,
            "image_size, 10 × 15, received 15 × 10; .*for_image_size",
        ),
        (torch.rand(3, 1, 10, 15), ValueError, "in_channels=2 channels, received 1"),
        (torch.rand(2, 10, 15), ValueError, r"\(b c h w\), received \(2, 10, 15\)"),
        (torch.zeros(3, 2, 10, 15, dtype=torch.uint8), TypeError, "floating point, received torch.uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(network, images, error, message):
    with pytest.raises(error, match=message):
        network(**SIZES, num_classes=7)(images)


def test_an_unknown_pool_is_refused():
    with pytest.raises(ValueError, match="pool must be 'class', 'mean' or 'flatten', received 'max'"):
        VisionTransformer(**SIZES, pool="max")


def test_networks_that_cannot_be_translated_are_refused():
    with pytest.raises(TypeError, match="torchvision's VisionTransformer, received Linear"):
        VisionTransformer.from_torchvision(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="one linear layer with a bias"):  # a hidden layer before the classifier
        VisionTransformer.from_torchvision(torchvisions(representation_size=13))
    width = torchvisions().hidden_dim
    linear, without_bias = nn.Linear(width, 5), nn.Linear(width, 5, bias=False)
    for heads in ([linear, nn.Softmax(-1)], [nn.Dropout(), linear], [without_bias], linear):
        theirs = torchvisions()
        theirs.heads = nn.Sequential(*heads) if isinstance(heads, list) else heads
        with pytest.raises(ValueError, match="one linear layer with a bias"):
            VisionTransformer.from_torchvision(theirs)
    theirs.heads, theirs.conv_proj = nn.Identity(), nn.Sequential(theirs.conv_proj)
    with pytest.raises(ValueError, match="patches by one convolution"):
        VisionTransformer.from_torchvision(theirs)


def test_a_frozen_network_for_another_size_stays_frozen():
    frozen = VisionTransformer(image_size=8, patch_size=4, embed_dim=6, depth=1, num_heads=2).requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in frozen.for_image_size(16).parameters())
