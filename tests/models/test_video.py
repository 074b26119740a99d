"""Networks for clips: what each can and cannot know about time, held to exact statements and to a short training."""

import math

import pytest
import torch
from torch import nn

from vlmcourse import CNN3D, CNNLSTM, CNNTransformer, FrameAverage, fit, load_dataset, scenes
from vlmcourse.models.video import sinusoids

NETWORKS = [FrameAverage, CNNLSTM, CNNTransformer, CNN3D]
BY_FRAMES = NETWORKS[:3]


def clips(b=3, c=2, t=5, h=11, w=13, **options):
    return torch.rand(b, c, t, h, w, **options)


def make(network, *, seed=0, **options):
    """A network with random batch statistics and norms, as after training: fresh ones would hide a forgotten eval()."""
    torch.manual_seed(seed)
    model = network(num_classes=7, in_channels=2, **options)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(part.weight, 1, 0.2)
            nn.init.normal_(part.bias, 0, 0.2)
            nn.init.normal_(part.running_mean, 0, 0.2)
    return model.eval()


def difference(one, other):
    return (one - other).abs().max().item()


# --- what each network is ---------------------------------------------------------------------------------------------


def encoded(model, clips):
    """Frames through the image encoder one at a time, then batch normalisation written out."""
    norm = model.frames.norm
    raw = torch.stack([model.frames.encoder(clips[:, :, t]) for t in range(clips.shape[2])], dim=1)
    return (raw - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def test_the_frame_encoder_sees_one_frame_at_a_time_and_keeps_clips_and_frames_apart():
    model, x = make(FrameAverage), clips()
    vectors = model.frames(x)
    assert vectors.shape == (3, 5, 128)
    torch.testing.assert_close(vectors, encoded(model, x))


def test_frame_average_is_the_mean_over_frames_of_one_mlp():
    model, x = make(FrameAverage), clips()
    torch.testing.assert_close(model(x), model.head(sum(model.mlp(v) for v in encoded(model, x).unbind(1)) / 5))


def test_cnn_lstm_reads_the_frames_in_order_and_classifies_the_last_state():
    model, x = make(CNNLSTM), clips()
    weights = dict(model.lstm.named_parameters())
    hidden = memory = torch.zeros(3, 64)
    for v in encoded(model, x).unbind(1):
        gates = v @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        enter, forget, candidate, leave = gates.chunk(4, dim=1)
        memory = forget.sigmoid() * memory + enter.sigmoid() * candidate.tanh()
        hidden = leave.sigmoid() * memory.tanh()
    torch.testing.assert_close(model(x), model.head(hidden))


def test_cnn_transformer_adds_the_time_before_the_layers_and_averages_after_them():
    model, x = make(CNNTransformer), clips()
    tokens = model.frame_proj(encoded(model, x)) + sinusoids(torch.zeros(1, 5, 64))
    for block in model.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(model(x), model.head(sum(model.norm(tokens).unbind(1)) / 5))


def test_the_times_of_the_transformer_are_those_of_the_paper():
    times = sinusoids(torch.zeros(2, 11, 6, dtype=torch.float64))
    for t in range(11):
        for k in range(3):
            angle = t / 10_000 ** (2 * k / 6)
            assert times[t, 2 * k].item() == pytest.approx(math.sin(angle))
            assert times[t, 2 * k + 1].item() == pytest.approx(math.cos(angle))


def test_cnn_3d_convolves_normalises_and_averages_over_places_and_times():
    model, x = make(CNN3D, width=3, kernel_size=(5, 3, 1)), clips()
    maps = x
    for k in range(0, 9, 3):
        convolution, norm = model.layers[k], model.layers[k + 1]
        stride = (1, 1, 1) if k == 0 else (1, 2, 2)
        maps = nn.functional.conv3d(maps, convolution.weight, stride=stride, padding=(2, 1, 0))
        maps = nn.functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
    assert model.feature_map(x).shape == maps.shape == (3, 12, 5, 3, 4)
    torch.testing.assert_close(model(x), model.head(maps.flatten(2).sum(dim=2) / (5 * 3 * 4)))


def test_both_backends_of_cnn_3d_agree_in_value_and_gradient():
    fused, readable, x = make(CNN3D).double(), make(CNN3D, backend="einops").double(), clips(dtype=torch.float64)
    torch.testing.assert_close(readable(x), fused(x))
    for model in (fused, readable):
        model(x).square().sum().backward()
    for one, other in zip(fused.parameters(), readable.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_four_have_about_the_same_number_of_parameters():
    for channels in (1, 3):
        counts = [sum(p.numel() for p in n(num_classes=2, in_channels=channels).parameters()) for n in NETWORKS]
        assert max(counts) < 1.2 * min(counts)


def test_a_flat_kernel_can_have_exactly_the_parameters_of_a_deep_one():
    deep, flat = (CNN3D(num_classes=2, kernel_size=k) for k in (3, (1, 9, 3)))
    assert sum(p.numel() for p in deep.parameters()) == sum(p.numel() for p in flat.parameters())


# --- what each can know about time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_frame_average_gives_the_same_scores_for_the_frames_in_any_order(seed):
    model, x = make(FrameAverage, seed=seed).double(), clips(dtype=torch.float64)
    for order in (torch.randperm(5), torch.tensor([4, 3, 2, 1, 0])):
        torch.testing.assert_close(model(x[:, :, order]), model(x), rtol=1e-12, atol=1e-12)


def test_a_kernel_of_one_frame_makes_cnn_3d_blind_to_order_too():
    model, x = make(CNN3D, kernel_size=(1, 9, 3)).double(), clips(dtype=torch.float64)
    torch.testing.assert_close(model(x.flip(2)), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS[1:])
def test_the_others_notice_frames_in_another_order(network):
    model, x = make(network), clips()
    assert difference(model(x.flip(2)), model(x)) > 1e-4


def test_without_its_sinusoids_the_transformer_would_not_notice(monkeypatch):
    """So it is they, and nothing else, that tell it the order."""
    monkeypatch.setattr("vlmcourse.models.video.sinusoids", torch.zeros_like)
    model, x = make(CNNTransformer).double(), clips(dtype=torch.float64)
    torch.testing.assert_close(model(x.flip(2)), model(x))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("t", [1, 2, 19])
def test_clips_of_any_length_are_taken(network, t):
    scores = make(network)(clips(t=t))
    assert scores.shape == (3, 7)
    assert scores.isfinite().all()


@pytest.mark.parametrize("network", NETWORKS)
def test_each_clip_is_scored_alone(network):
    model, x = make(network), clips()
    torch.testing.assert_close(model(x)[1], model(x[1:2])[0])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_every_parameter_and_every_frame(network):
    model, x = make(network).train(), clips().requires_grad_()
    model(x).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert (x.grad.abs().amax(dim=(1, 3, 4)) > 0).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_float64_and_bfloat16_work(network):
    for dtype in (torch.float64, torch.bfloat16):
        assert make(network).to(dtype)(clips(dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("network", NETWORKS)
def test_every_device_gives_the_scores_of_the_cpu(device, network):
    model, x = make(network).double(), clips(dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(model.to(device)(x.to(device)).cpu(), expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("train", [False, True])
def test_autocast_agrees_with_float32_within_its_precision(network, train):
    """The strides keep clear of a geometry in which PyTorch's bfloat16 kernel is wrong: width stride 2, no padding."""
    model, x = make(network).train(train), clips(h=20, w=20)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = model(x)
    torch.testing.assert_close(short.float(), expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("network", BY_FRAMES)
def test_width_and_embed_dim_set_the_sizes_they_name(network):
    model = make(network, width=5, embed_dim=12)
    assert model.frames.embed_dim == 5 * 4 * 2 * 2
    assert model.head.in_features == 12


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (torch.rand(3, 2, 11, 13), ValueError, r"\(b c t h w\), received \(3, 2, 11, 13\).*images\[:, :, None\]"),
        (torch.rand(3, 2), ValueError, r"clips must have shape \(b c t h w\), received \(3, 2\)"),
        (torch.rand(3, 5, 5, 11, 13), ValueError, "in_channels=2 channels, received 5"),
        (torch.rand(3, 2, 0, 11, 13), ValueError, "clips must have no empty axis"),
        (torch.zeros(3, 2, 5, 11, 13, dtype=torch.uint8), TypeError, "received torch.uint8; try clips.float"),
        ([1.0], TypeError, "clips must be a torch.Tensor"),
    ],
)
def test_clips_that_do_not_fit_are_refused(network, wrong, error, message):
    with pytest.raises(error, match=message):
        make(network)(wrong)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, received 0"),
        ({"in_channels": 1.5}, TypeError, "in_channels must be an integer, received 1.5"),
        ({"width": 0}, ValueError, "width must be at least 1, received 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(network, changes, error, message):
    with pytest.raises(error, match=message):
        network(**{"num_classes": 7, **changes})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: CNNTransformer(num_classes=2, embed_dim=9), ValueError, "num_heads=4 does not divide embed_dim 9"),
        (lambda: sinusoids(torch.zeros(1, 2, 9)), ValueError, "embed_dim must be even"),
        (lambda: CNNLSTM(num_classes=2, embed_dim=0), ValueError, "embed_dim must be at least 1, received 0"),
        (lambda: CNN3D(num_classes=2, kernel_size=(3, 4, 3)), ValueError, r"odd.*received \(3, 4, 3\)"),
        (lambda: CNN3D(num_classes=2, kernel_size="3"), TypeError, "kernel_size must be one integer or 3 integers"),
        (lambda: CNN3D(num_classes=2, backend="numpy"), ValueError, "backend must be 'fused' or 'einops'"),
    ],
)
def test_an_option_that_cannot_work_is_refused_when_the_network_is_built(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


# --- the tasks on which chapter 5 compares them -----------------------------------------------------------------------

TASKS = {
    "direction": {"classes": ("up", "down")},
    "all directions": {"task": "direction"},
    "speed": {"task": "speed"},
    "order": {"task": "order"},
}


def film(n, *, seed, digits, task, num_frames=5):
    sprites = load_dataset("digits", split="test" if seed else "train").float()[:, 0] if digits else None
    made = scenes.clips(n, seed=seed, sprites=sprites, num_frames=num_frames, image_size=16, **TASKS[task])
    return made.clips, made.labels, len(made.class_names)


def accuracy_after(model, train, test, *, steps):
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])

    fit(model, loss, train, lr=3e-3, steps=steps, batch_size=64, device="cpu", autocast=False, progress=False)
    with torch.no_grad():
        return (model.eval()(test[0]).argmax(dim=1) == test[1]).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("digits", [False, True], ids=["shapes", "digits"])
@pytest.mark.parametrize("task", TASKS)
def test_a_classifier_of_single_frames_stays_at_chance(task, digits):
    """It sees the middle frame of each clip, and its accuracy lies within four standard errors of guessing."""
    (x, y, classes), (x_test, y_test, _) = (film(n, seed=s, digits=digits, task=task) for s, n in ((0, 600), (1, 2000)))
    torch.manual_seed(0)
    model = FrameAverage(num_classes=classes, in_channels=1, width=4)
    right = accuracy_after(model, (x[:, :, 2:3], y), (x_test[:, :, 2:3], y_test), steps=40)
    error = math.sqrt((1 / classes) * (1 - 1 / classes) / 2000)
    assert abs(right - 1 / classes) < 4 * error


def test_the_very_same_training_finds_a_label_that_is_in_the_frame():
    """The control: did a frame tell the label, the test above would see it. Here the label is the sprite's place."""
    sprites = load_dataset("digits").float()[:, 0]
    made = [
        scenes.clips(n, seed=seed, sprites=sprites, num_frames=1, image_size=16) for seed, n in ((0, 600), (1, 500))
    ]
    train, test = ((m.clips, (m.positions[:, 0, 0] < 8).long()) for m in made)
    torch.manual_seed(0)
    assert accuracy_after(FrameAverage(num_classes=2, in_channels=1, width=4), train, test, steps=40) > 0.8


@pytest.mark.slow
def test_a_few_steps_teach_cnn_3d_the_direction_which_shuffled_frames_no_longer_show():
    (x, y, _), (x_test, y_test, _) = (film(n, seed=s, digits=True, task="direction") for s, n in ((0, 600), (1, 2000)))
    torch.manual_seed(0)
    model = CNN3D(num_classes=2, in_channels=1, width=8)
    assert accuracy_after(model, (x, y), (x_test, y_test), steps=40) > 0.9
    order = torch.rand(len(x_test), 5, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    shuffled = torch.stack([clip[:, frames] for clip, frames in zip(x_test, order, strict=True)])
    with torch.no_grad():
        right = (model(shuffled).argmax(dim=1) == y_test).double().mean().item()
    assert abs(right - 0.5) < 4 * math.sqrt(0.25 / 2000)


def test_the_set_of_frames_of_a_pair_of_opposites_tells_nothing_and_of_all_directions_the_axis():
    """Steps of two pixels on a torus: the places visited going up are those visited going down from the other end."""
    pair = scenes.clips(400, seed=0, classes=["up", "down"], num_frames=5, image_size=16)
    everyone = scenes.clips(400, seed=0, num_frames=5, image_size=16)

    def shape(visited):
        """Where a clip was, wherever it started: of all translations the first in the dictionary."""
        return min(tuple(sorted(((r - r0) % 16, (c - c0) % 16) for r, c in visited)) for r0, c0 in visited)

    for made, kinds in ((pair, 1), (everyone, 4)):
        shown = [shape(places) for places in made.positions.tolist()]
        assert len(set(shown)) == kinds
        labels = {pattern: {k for s, k in zip(shown, made.labels.tolist(), strict=True) if s == pattern}
                  for pattern in set(shown)}  # fmt: skip
        assert all(len(found) == 2 for found in labels.values())  # two directions for each axis, never one
