"""Contrastive training: the encoder learns, labels are never seen, the recipe is the paper's."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from vlmcourse import ConvEncoder, nt_xent_loss, seed_everything
from vlmcourse.data.augment import SCENE_STEPS, SIMCLR_STEPS, two_views
from vlmcourse.train import simclr
from vlmcourse.train.loop import fit
from vlmcourse.train.simclr import train_simclr

IMAGES = torch.rand(29, 3, 5, 7, generator=torch.Generator().manual_seed(0))
QUICK = {"batch_size": 13, "lr": 1e-2, "seed": 3, "device": "cpu", "progress": False, "autocast": False}


def darker(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    return images * torch.rand(len(images), 1, 1, 1, generator=generator)


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(105, 11), nn.ReLU())


def test_it_is_two_views_a_projection_head_and_nt_xent():
    seed_everything(1)
    _, history = train_simclr(encoder(), IMAGES, views={"darker": darker}, temperature=0.3, steps=7, **QUICK)

    seed_everything(1)
    trained = encoder()
    head = nn.Sequential(
        nn.Linear(11, 11, bias=False), nn.BatchNorm1d(11), nn.ReLU(),
        nn.Linear(11, 64, bias=False), nn.BatchNorm1d(64, affine=False),
    )  # fmt: skip
    model = nn.Sequential(trained, head)

    def objective(model: nn.Module, images: Tensor) -> Tensor:
        views = torch.cat(two_views(images, steps={"darker": darker}))  # one pass: one BatchNorm statistic
        return nt_xent_loss(*model(views).chunk(2), temperature=0.3)

    expected = fit(model, objective, IMAGES, steps=7, warmup=0.3, **QUICK)
    assert history.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=1e-4)


def test_the_encoder_itself_is_trained_and_comes_first_in_the_model():
    trained = encoder()
    before = trained[1].weight.clone()
    model, _ = train_simclr(trained, IMAGES, views={"darker": darker}, embed_dim=17, steps=2, **QUICK)
    assert model[0] is trained
    assert not torch.equal(trained[1].weight, before)
    assert model(IMAGES).shape == (29, 17)


@pytest.mark.slow
def test_torchvisions_resnet18_can_be_trained():
    seed_everything(1)
    network = resnet18()
    network.fc = nn.Identity()
    first = network.conv1.weight.clone()
    images = torch.rand(16, 3, 32, 32)
    model, history = train_simclr(
        network, images, views={"darker": darker}, steps=12, **{**QUICK, "batch_size": 16, "lr": 1e-3}
    )
    assert model(images).shape == (16, 64)
    assert not torch.equal(network.conv1.weight, first)
    assert history.loss.iloc[-3:].mean() < history.loss.iloc[:3].mean()


def test_views_are_those_of_the_paper_unless_others_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(simclr, "two_views", lambda batch, *, steps: asked.append(steps) or (batch, batch))
    train_simclr(encoder(), IMAGES, steps=1, **QUICK)
    train_simclr(encoder(), IMAGES, views=SCENE_STEPS, steps=1, **QUICK)
    assert asked == [SIMCLR_STEPS, SCENE_STEPS]


def test_another_loss_takes_the_place_of_nt_xent():
    def constant(view1: Tensor, view2: Tensor, *, temperature: float) -> Tensor:
        return (view1 - view2).sum() * 0 + temperature

    _, history = train_simclr(
        encoder(), IMAGES, views={"darker": darker}, loss=constant, temperature=0.7, steps=2, **QUICK
    )
    assert history.loss.tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_the_training_steps_leaves_a_trace_in_the_encoder(training):
    trained = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten()).train(training)
    train_simclr(trained, IMAGES, views={"darker": darker}, steps=2, **QUICK)
    assert trained[1].num_batches_tracked == 2
    assert all(part.training is training for part in trained.modules())


def test_a_part_in_evaluation_mode_stays_in_it_also_when_the_encoder_fails():
    trained = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5).eval(), nn.Flatten(), nn.Linear(1, 1))
    with pytest.raises(RuntimeError):
        train_simclr(trained, IMAGES, steps=2, **QUICK)
    assert [part.training for part in trained] == [True, False, True, True]


@pytest.mark.parametrize(("images", "batch_size"), [(IMAGES, 1), (IMAGES[:1], 13)])
def test_one_image_a_batch_has_nothing_to_be_told_from(images, batch_size):
    with pytest.raises(ValueError, match="at least two embeddings"):
        train_simclr(encoder(), images, views={"darker": darker}, steps=2, **{**QUICK, "batch_size": batch_size})


def test_the_loss_sees_the_embeddings_of_all_processes(monkeypatch):
    monkeypatch.setattr(simclr, "gather_embeddings", lambda rows: torch.cat([2 * rows, rows]))  # a process before ours
    seen = []

    def loss(view1: Tensor, view2: Tensor, *, temperature: float) -> Tensor:
        seen.extend([view1, view2])
        return (view1 - view2).square().mean()

    train_simclr(encoder(), IMAGES, views={"darker": darker}, loss=loss, steps=1, **QUICK)
    for view in seen:
        theirs, ours = view.chunk(2)
        torch.testing.assert_close(theirs, 2 * ours)
        assert view.requires_grad
    assert not torch.equal(*seen)


def test_an_encoder_that_returns_maps_is_refused():
    with pytest.raises(ValueError, match=r"one vector per image, \(b, d\), received \(2, 3, 5, 7\)"):
        train_simclr(nn.Conv2d(3, 3, 1), IMAGES, steps=1, **QUICK)


def test_a_compiled_encoder_is_compiled_for_the_training_alone():
    shapes = []

    def backend(graph, inputs):
        shapes.extend(one.shape for one in inputs if isinstance(one, torch.Tensor) and one.shape[2:] == (8, 8))
        return graph

    torch._dynamo.reset()
    encoder = ConvEncoder(width=2)
    encoder.compile(backend=backend, dynamic=False)
    train_simclr(encoder, torch.rand(8, 3, 8, 8), steps=2, batch_size=4, device="cpu", progress=False)
    assert {tuple(shape) for shape in shapes} == {(8, 3, 8, 8)}  # two views of four


def test_an_encoder_in_double_precision_gets_a_head_in_double_precision():
    model, history = train_simclr(ConvEncoder(width=2).double(), IMAGES.double(), steps=2, **QUICK)
    assert model(IMAGES.double()).dtype == torch.float64
    assert history.loss.notna().all()


@pytest.mark.parametrize("images", [DataLoader(TensorDataset(IMAGES)), TensorDataset(IMAGES), [1, 2]])
def test_images_that_are_no_tensor_are_named(images):
    with pytest.raises(TypeError, match=r"images must be a torch.Tensor laid out as \(n c h w\), received"):
        train_simclr(encoder(), images, steps=2, **QUICK)
