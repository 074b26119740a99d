"""Datasets that need no network: what they hold, that their splits never meet, and what they refuse."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vlmcourse.data.datasets import ImageDataset, load_dataset


@pytest.mark.parametrize("name", ["scenes", "digits"])
def test_splits_share_no_image_and_hold_every_class_alike(name):
    splits = {split: load_dataset(name, split=split) for split in ("train", "validation", "test")}
    pictures = {split: {bytes(image.numpy()) for image in data.images} for split, data in splits.items()}
    shared = (
        len(pictures["train"] & pictures["validation"])
        + len(pictures["train"] & pictures["test"])
        + len(pictures["validation"] & pictures["test"])
    )
    assert shared == 0
    for data in splits.values():
        counts = data.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.max()
        assert len(data.class_names) == 10
        assert data.name == name


def test_digits_are_all_of_scikit_learns_each_once():
    loaded = [load_dataset("digits", split=split) for split in ("train", "validation", "test")]
    ours = sorted(
        (bytes(image.numpy()), label.item())
        for data in loaded
        for image, label in zip(data.images, data.labels, strict=True)
    )
    theirs = load_digits()
    scaled = np.round(theirs.images * 255 / 16 + 1e-9).astype(np.uint8)
    assert ours == sorted((bytes(image), int(label)) for image, label in zip(scaled, theirs.target, strict=True))


def test_a_dataset_is_the_same_each_time():
    for name in ("scenes", "digits", "photos"):
        torch.manual_seed(0)
        first = load_dataset(name)
        torch.manual_seed(1)
        again = load_dataset(name)
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.labels, again.labels)


def test_photos_are_photographs():
    photos = load_dataset("photos")
    assert photos.images.shape == (3, 3, 224, 224)
    assert photos.class_names == ("temple", "flower", "portrait")
    assert (photos.images.flatten(1).float().std(1) > 30).all()
    assert photos.images[0, :, :20].float().mean() > 150  # the sky is at the top
    flower = photos.images[1, :, 90:130, 90:130].float().mean((1, 2))
    assert flower[0] > flower[1] > flower[2]  # orange, in the middle: channels are red, green, blue


def test_indexing_gives_floats_in_the_unit_interval_and_labels():
    images = torch.randint(256, (7, 3, 5, 2), dtype=torch.uint8)
    data = ImageDataset(images, torch.arange(7), tuple("abcdefg"), "noise")
    one, label = data[3]
    assert one.shape == (3, 5, 2)
    assert label == 3
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, images[3] / 255.0)
    for index in (slice(2, 6), torch.tensor([5, 1]), torch.arange(7) > 4):
        pictures, labels = data[index]
        torch.testing.assert_close(pictures, images[index] / 255.0)
        assert torch.equal(labels, torch.arange(7)[index])
        assert torch.equal(data.subset(index).images, images[index])
        assert len(data.subset(index)) == len(labels)
    torch.testing.assert_close(data.float(), images / 255.0)
    assert len(data) == len(list(data)) == 7
    assert data.to("cpu").images.device.type == "cpu"
    with pytest.raises(IndexError):
        data[7]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_dataset_can_live_on_the_gpu():
    data = load_dataset("digits").to("cuda")
    pictures, labels = data[torch.arange(5, device="cuda")]
    assert pictures.is_cuda
    assert labels.is_cuda


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels must be int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels must be int64"),
    ],
)
def test_a_dataset_refuses_tensors_that_do_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset(images, labels, ("a",), "bad")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnist"}, "name must be one of scenes, digits, photos.*received 'mnist'"),
        ({"name": "digits", "split": "val"}, "split must be one of train, validation, test, received 'val'"),
        ({"name": "photos", "split": "test"}, "split must be 'train' for 'photos'"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**options)
