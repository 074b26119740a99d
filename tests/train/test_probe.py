"""Probes: the encoder stands still, the optimum is scikit-learn's, and only training data standardises."""

import warnings

import numpy as np
import pytest
import scipy
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn
from torchvision.models import resnet18
from torchvision.ops import StochasticDepth
from torchvision.transforms import v2

from vlmcourse import LinearProbe, extract_features, knn_accuracy
from vlmcourse.train.probe import SegmentationProbe, labels_per_class, mean_iou


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Dropout(0.5), nn.ReLU(), nn.Flatten())


def clouds(n=150, d=5, classes=3, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    return centres[labels] + spread * torch.randn(n, d, generator=generator), labels


def test_extracting_features_moves_nothing_and_is_repeatable():
    model, images = encoder(), torch.rand(11, 3, 8, 8)
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (extract_features(model, images, batch_size=size, device="cpu") for size in (4, 11))
    torch.testing.assert_close(first, second)  # neither dropout nor batch statistics take part
    assert not first.requires_grad
    assert [part.training for part in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bound_method_is_held_still_too():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def feature_map(self, images):
            return self.norm(images)

    model = Encoder()
    maps = extract_features(model.feature_map, torch.rand(6, 3, 5, 7), device="cpu")
    assert maps.shape == (6, 3, 5, 7)
    assert torch.equal(model.norm.running_mean, torch.zeros(3))
    assert model.training


IMAGES = torch.rand(11, 3, 2, 2, generator=torch.Generator().manual_seed(0))


class OwnDropout(nn.Module):
    def forward(self, images):
        return nn.functional.dropout(images, training=self.training)


class Layered(OwnDropout):
    """Asks for its mode in a method that it inherits."""


class Helped(nn.Module):
    def forward(self, images):
        return self.dropped(images)

    def dropped(self, images):
        return nn.functional.dropout(images, 0.5, self.training)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, dropout=0.5, batch_first=True)

    def forward(self, images):
        tokens = images.flatten(1, 2)
        return self.attention(tokens, tokens, tokens)[0]


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(3), nn.Dropout(0.5), StochasticDepth(0.5, "row"), OwnDropout(), Layered(), Helped(), Attending()],
)
def test_a_function_that_calls_a_network_in_training_mode_is_refused(layer):
    network = nn.Sequential(layer, nn.Flatten()).train()
    network.training = False  # only a part of it trains
    with pytest.raises(
        ValueError, match=rf"a (\w+Attention|{type(layer).__name__}) that it calls is in training .*call its .eval\(\)"
    ):
        extract_features(lambda images: network(images), IMAGES, device="cpu")
    network.train()(IMAGES)  # nothing watches any longer
    network.eval()
    assert torch.equal(extract_features(lambda images: network(images), IMAGES, device="cpu"), network(IMAGES))


def test_a_function_may_call_modules_to_which_training_makes_no_difference():
    prepare = v2.Normalize([0.5] * 3, [0.5] * 3)
    seen = extract_features(lambda images: nn.Sequential(nn.Flatten())(prepare(images)), IMAGES, device="cpu")
    assert torch.equal(seen, prepare(IMAGES).flatten(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_encoder_reads_images_in_the_dtype_of_its_weights(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).to(dtype)
    for images in (IMAGES, IMAGES.to(dtype), (255 * IMAGES).round().to(torch.uint8)):
        features = extract_features(model, images, device="cpu")
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, model(IMAGES.to(dtype)).float(), atol=0.02, rtol=0)


def test_a_probe_on_features_with_a_graph_sends_no_gradient_into_the_encoder():
    model = nn.Linear(5, 7)
    features, labels = clouds()
    plain, with_graph = model(features).detach(), model(features)
    probe = LinearProbe().fit(with_graph, labels, with_graph, labels)
    assert model.weight.grad is None
    assert torch.equal(probe.weight, LinearProbe().fit(plain, labels, plain, labels).weight)
    assert probe.score(with_graph, labels) == probe.score(plain, labels)


def test_torchvisions_resnet18_is_an_encoder_once_its_classifier_is_gone():
    torch.manual_seed(0)
    network = resnet18()
    network.fc = nn.Identity()
    images, labels = torch.rand(24, 3, 32, 32), torch.arange(24) % 2
    images[labels == 1] = images[labels == 1].mean((2, 3), keepdim=True)  # noise, and plain colours
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features = extract_features(network, images, batch_size=7, device="cpu")
    assert features.shape == (24, 512)
    probe = LinearProbe().fit(features[:12], labels[:12], features[12:18], labels[12:18])
    assert probe.score(features[18:], labels[18:]) == 1.0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


def test_uint8_images_are_read_from_zero_to_one():
    images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(extract_features(nn.Flatten(), images, device="cpu"), torch.ones(2, 48))


@pytest.mark.parametrize("penalty", [0.01, 0.1])
@pytest.mark.parametrize("d", [7, 80])  # fewer dimensions than examples, and more
def test_probe_finds_the_optimum_that_scikit_learn_finds(d, penalty):
    features, labels = clouds(d=d)
    features = features @ torch.randn(d, d, generator=torch.Generator().manual_seed(2))  # entries that correlate
    probe = LinearProbe(penalties=[penalty]).fit(features, labels, features, labels)
    inputs = ((features - features.mean(0)) / features.std(0, unbiased=False)).double().numpy()
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=10_000).fit(inputs, labels.numpy())
    # Adding one vector to every class's row changes nothing but the penalty, which the optimum has at its least.
    np.testing.assert_allclose(probe.weight.numpy(), theirs.coef_, atol=1e-4)
    shift = probe.bias.numpy() - theirs.intercept_
    np.testing.assert_allclose(shift, shift.mean(), atol=1e-4)


def test_no_thread_of_scipys_blas_waits_beside_those_of_pytorch(monkeypatch):
    """With two cores and two threads each, a fit on thirty examples took twenty seconds instead of one."""

    def own_threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool.get("threading_layer") == "pthreads"]

    def minimize(*arguments, **options):
        meanwhile.append(own_threads())
        return found(*arguments, **options)

    meanwhile, found = [], scipy.optimize.minimize
    monkeypatch.setattr(scipy.optimize, "minimize", minimize)
    features, labels = clouds()
    with threadpool_limits(2, user_api="blas"):  # as on a machine with two cores, whatever this one is told to use
        before = own_threads()
        if not before:
            pytest.skip("SciPy's BLAS has no threads of its own here")
        LinearProbe(penalties=[0.1]).fit(features, labels, features, labels)
        assert own_threads() == before == [2] * len(before)
    assert meanwhile == [[1] * len(before)]


def test_standardisation_comes_from_training_data_alone():
    features, labels = clouds()
    far, far_labels = clouds(seed=1)
    probe = LinearProbe(penalties=[0.1]).fit(features, labels, far * 100 + 50, far_labels)
    torch.testing.assert_close(probe.mean, features.double().mean(0))
    torch.testing.assert_close(probe.scale, features.double().std(0, unbiased=False))


def test_penalty_is_chosen_on_validation_and_not_on_training_data():
    # Five examples a class in 40 dimensions: the training data is separable, so it cannot tell the penalties apart.
    features, labels = clouds(n=15, d=40, spread=3)
    validation = clouds(n=600, d=40, spread=3, seed=1)
    probe = LinearProbe(penalties=[1e-4, 1.0]).fit(features, labels, *validation)
    assert probe.validation_scores[probe.penalty] == max(probe.validation_scores.values())
    assert len(set(probe.validation_scores.values())) == 2
    mixed_up = LinearProbe(penalties=[1e-4, 1.0]).fit(features, labels, validation[0], validation[1].roll(1))
    assert mixed_up.validation_scores != probe.validation_scores


@pytest.mark.parametrize(
    ("penalties", "said"),
    [
        ((0.1, 1.0, 10.0), ["the best penalty, 0.1, is the weakest offered; add a weaker one"]),
        ((1e-4, 1e-3, 0.1), ["the best penalty, 0.1, is the strongest offered; add a stronger one"]),
        ((1e-3, 0.1, 10.0), []),
        ((10.0,), []),  # no choice, nothing to say
    ],
)
def test_the_probe_warns_where_the_best_penalty_is_at_an_end_of_the_list(penalties, said):
    def rare_and_common(n, *, seed):  # an endless penalty always says "common", none at all learns noise by heart
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(n, generator=generator) < 0.25).long()
        features = torch.randn(n, 40, generator=generator)
        features[:, 0] += 2 * labels
        return features, labels

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LinearProbe(penalties=penalties).fit(*rare_and_common(80, seed=0), *rare_and_common(2000, seed=1))
    assert [str(warning.message) for warning in caught] == said


def test_among_equally_good_penalties_the_strongest_is_taken():
    features, labels = clouds(n=60, d=4, spread=0.01)
    probe = LinearProbe(penalties=[1e-3, 1e-2, 1e-1, 10.0]).fit(features, labels, features, labels)
    best = [penalty for penalty, score in probe.validation_scores.items() if score == 1.0]
    assert len(best) > 1
    assert probe.penalty == max(best)


def test_constant_and_tiny_features_do_no_harm():
    features, labels = clouds()
    widened = torch.cat([features, torch.full((len(features), 2), 3.7), torch.zeros(len(features), 1)], dim=1)
    probe = LinearProbe().fit(widened, labels, widened, labels)
    assert probe.weight.isfinite().all()
    assert probe.score(widened, labels) == LinearProbe().fit(features, labels, features, labels).score(features, labels)
    small = LinearProbe().fit(features * 1e-4, labels, features * 1e-4, labels)
    assert small.score(features * 1e-4, labels) == probe.score(widened, labels)


def test_probe_of_noise_is_at_chance():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(3000, 4, generator=generator), torch.randint(5, (3000,), generator=generator)
    probe = LinearProbe().fit(features[:1000], labels[:1000], features[1000:2000], labels[1000:2000])
    assert abs(probe.score(features[2000:], labels[2000:]) - 0.2) < 0.04  # three standard errors of 1000 guesses


@pytest.mark.parametrize("k", [1, 5])
def test_knn_equals_scikit_learns_weighted_neighbours(k):
    (features, labels), (test, test_labels) = clouds(), clouds(seed=1)
    temperature = 0.07
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    expected = theirs.fit(features.numpy(), labels.numpy()).score(test.numpy(), test_labels.numpy())
    mine = knn_accuracy(features, labels, test, test_labels, k=k, temperature=temperature)
    assert mine == pytest.approx(expected)
    assert 0.4 < mine < 1


def test_knn_votes_stay_finite_at_a_tiny_temperature():
    features, labels = clouds()
    assert knn_accuracy(features, labels, features, labels, k=5, temperature=1e-4) == 1.0


def test_autocast_does_not_touch_the_scores():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(400, 64, generator=generator) + 3, torch.randint(10, (400,), generator=generator)
    known, asked = (features[:300], labels[:300]), (features[300:], labels[300:])
    neighbours, probe = knn_accuracy(*known, *asked, k=1), LinearProbe(penalties=[0.1]).fit(*known, *asked)
    with torch.autocast("cpu", torch.bfloat16):
        assert knn_accuracy(*known, *asked, k=1) == neighbours
        again = LinearProbe(penalties=[0.1]).fit(*known, *asked)
    assert torch.equal(again.weight, probe.weight)


def test_mean_iou_equals_counting_pixels_in_a_loop():
    generator = torch.Generator().manual_seed(0)
    predicted, masks = torch.randint(4, (2, 3, 5, 7), generator=generator)
    ratios = []
    for label in range(6):  # the classes 4 and 5 are in neither
        intersection = union = 0
        for guess, truth in zip(predicted.flatten().tolist(), masks.flatten().tolist(), strict=True):
            intersection += guess == label and truth == label
            union += guess == label or truth == label
        if union:
            ratios.append(intersection / union)
    assert len(ratios) == 4
    assert mean_iou(predicted, masks, num_classes=6) == pytest.approx(sum(ratios) / 4)


def test_segmentation_probe_reads_what_is_there_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(3, (30, 4, 5), generator=generator)
    masks = coarse.repeat_interleave(6, 1).repeat_interleave(6, 2)
    maps = torch.eye(3)[coarse].permute(0, 3, 1, 2) + 0.1 * torch.randn(30, 3, 4, 5, generator=generator)
    parts = [slice(0, 10), slice(10, 20), slice(20, 30)]
    fit = [tensor[part] for part in parts[:2] for tensor in (maps, masks)]
    informed = SegmentationProbe().fit(*fit).score(maps[parts[2]], masks[parts[2]])
    noise = torch.randn(30, 3, 4, 5, generator=generator)
    blind = SegmentationProbe().fit(noise[parts[0]], fit[1], noise[parts[1]], fit[3])
    assert informed > 0.75
    assert blind.score(noise[parts[2]], masks[parts[2]]) < 0.35


@pytest.mark.parametrize("ignored", [255, -1])
def test_a_border_that_is_ignored_changes_no_segmentation(ignored):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(3, (30, 4, 5), generator=generator)
    masks = coarse.repeat_interleave(6, 1).repeat_interleave(6, 2)
    maps = torch.eye(3)[coarse].permute(0, 3, 1, 2) + 0.1 * torch.randn(30, 3, 4, 5, generator=generator)
    bordered = masks.clone()
    bordered[:, ::6] = bordered[:, :, :6] = ignored  # a line of each location, and the whole first column of them
    plain, careful = SegmentationProbe(), SegmentationProbe(ignore_index=ignored)
    plain.fit(maps[:10, ..., 1:], masks[:10, :, 6:], maps[10:20, ..., 1:], masks[10:20, :, 6:])
    careful.fit(maps[:10], bordered[:10], maps[10:20], bordered[10:20])
    assert careful.num_classes == 3
    assert torch.equal(plain.probe.weight, careful.probe.weight)
    predicted = careful.predict(maps[20:], size=(24, 30))
    counted = bordered[20:] != ignored
    assert careful.score(maps[20:], bordered[20:]) == mean_iou(predicted[counted], masks[20:][counted], num_classes=3)
    assert careful.score(maps[20:], bordered[20:]) > 0.75


def test_examples_without_a_label_are_never_drawn():
    labels = torch.tensor([-1, 0, -1, 1, 0, 1, -1])
    assert labels_per_class(labels, 2, seed=0).tolist() == [1, 3, 4, 5]


def test_few_labels_are_drawn_alike_for_a_seed_and_evenly():
    labels = torch.arange(100) % 7
    chosen = labels_per_class(labels, 5, seed=3)
    assert labels[chosen].bincount().tolist() == [5] * 7
    assert len(chosen.unique()) == 35
    assert torch.equal(chosen, labels_per_class(labels, 5, seed=3))
    assert not torch.equal(chosen, labels_per_class(labels, 5, seed=4))


X, Y = clouds(n=12)
MAPS = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: extract_features(nn.Flatten(), torch.rand(3, 4, 4)),
            ValueError,
            r"images must have shape \(n c h w\)",
        ),
        (lambda: extract_features(nn.Flatten(), torch.zeros(1, 1, 2, 2).int()), TypeError, "images must be floating"),
        (lambda: extract_features(lambda x: x[:1], torch.rand(3, 1, 2, 2)), ValueError, "one row for each of 3"),
        (lambda: LinearProbe(penalties=[]), ValueError, "penalties must hold at least one"),
        (lambda: LinearProbe(penalties=[0.0]), ValueError, "penalties must be a finite number above zero"),
        (lambda: LinearProbe().predict(X), ValueError, "must be fitted"),
        (lambda: LinearProbe().fit(X, Y[:5], X, Y), ValueError, "train labels must be one for each of 12"),
        (lambda: LinearProbe().fit(X, Y.float(), X, Y), TypeError, "train labels must be int64"),
        (lambda: LinearProbe().fit(X, Y - 1, X, Y), ValueError, "class numbers from 0, received -1"),
        (lambda: LinearProbe().fit(X / 0, Y, X, Y), ValueError, "train features must be finite"),
        (lambda: LinearProbe().fit(X, Y, X, Y).predict(X[:, :2]), ValueError, "width 5 as in training, received 2"),
        (
            lambda: LinearProbe().fit(X, Y, X, Y + 1),
            ValueError,
            r"validation labels .* seen in training, received \[3\]",
        ),
        (lambda: LinearProbe().fit(X, 2 * (Y // 2), X, Y), ValueError, r"received \[1\], which were not"),
        (lambda: LinearProbe().fit(X, Y, X, Y).score(X, Y + 4), ValueError, r"test labels .* received \[4, 5, 6\]"),
        (lambda: knn_accuracy(X, Y, X, Y + 1, k=2), ValueError, r"test labels .* received \[3\]"),
        (lambda: knn_accuracy(X, Y, X, Y, k=13), ValueError, "k must be at most .* 12, received 13"),
        (lambda: mean_iou(Y, Y[:3], num_classes=3), ValueError, "predicted must have the masks' shape"),
        (lambda: mean_iou(Y, Y, num_classes=2), ValueError, "predicted must hold classes from 0 to 1"),
        (lambda: mean_iou(Y, Y.int(), num_classes=3), TypeError, "masks must be int64 class numbers, received .*int32"),
        (lambda: mean_iou(Y, Y * 0 + 255, num_classes=3), ValueError, "masks must have a pixel that counts"),
        (lambda: labels_per_class(Y, 5, seed=0), ValueError, "k=5 labels per class .* has 4"),
        *(
            (lambda kind=kind: SegmentationProbe().fit(*[MAPS, torch.zeros(2, 8, 8, dtype=kind)] * 2), TypeError, named)
            for kind, named in (
                (torch.uint8, "train masks must be int64 .*uint8"),
                (torch.int32, "received torch.int32"),
            )
        ),
        (
            lambda: SegmentationProbe().fit(*[MAPS, torch.full((2, 8, 8), -1)] * 2),
            ValueError,
            "from 0, received -1; pixels that should not count have ignore_index=255",
        ),
        (
            lambda: SegmentationProbe().fit(*[MAPS, torch.full((2, 8, 8), 255)] * 2),
            ValueError,
            "train masks must have a pixel that counts, received ignore_index=255 everywhere",
        ),
        (
            lambda: SegmentationProbe().fit(*[MAPS, torch.zeros(2, 6, 6).long()] * 2),
            ValueError,
            r"multiples of the maps' 4 × 4, received \(2, 6, 6\)",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
