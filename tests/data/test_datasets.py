"""Datasets: what they hold, that their splits never meet, what they refuse, and that only whole ones are believed."""

import hashlib
import io
import os
import pickle
import shutil
import tarfile
import time
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, STL10

from vlmcourse.data import _folders, datasets
from vlmcourse.data._folders import SPLITS, data_root
from vlmcourse.data.datasets import ImageDataset, image_folder, load_dataset
from vlmcourse.data.download import DownloadError


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
        ({"name": "mnist"}, "name must be one of scenes, digits, photos, cifar10, stl10.*received 'mnist'"),
        ({"name": "digits", "split": "val"}, "split must be one of train, validation, test, received 'val'"),
        ({"name": "photos", "split": "test"}, "split must be 'train' for 'photos'"),
        ({"name": "cifar10", "split": "unlabeled"}, "split must be one of train, validation, test, received"),
        ({"name": "stl10", "split": "extra"}, "split must be one of train, validation, test, received"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**options)


# --- downloaded sets, in miniature -------------------------------------------------------------------------


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
    return hashlib.md5(content).hexdigest()


def publish(monkeypatch, archives, root, dataset):
    """Make the archive what is expected, as a browser would have put it there."""
    content = archives.getvalue()
    monkeypatch.setitem(datasets.ARCHIVE_BYTES, dataset.__name__, len(content))
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(content).hexdigest())
    root.mkdir(exist_ok=True)
    (root / dataset.filename).write_bytes(content)


@pytest.fixture
def small_cifar(monkeypatch, tmp_path):
    """The archive of CIFAR-10 with 20 images a batch, laid out and checksummed as the real one."""
    rng, packed, pixels, labels = np.random.default_rng(0), io.BytesIO(), {}, {}
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        lists = {"train_list": [], "test_list": []}
        for batch in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
            pixels[batch] = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
            labels[batch] = rng.integers(0, 10, 20).tolist()
            content = pickle.dumps({"data": pixels[batch], "labels": labels[batch]})
            kind = "test_list" if batch == "test_batch" else "train_list"
            lists[kind].append([batch, add(tar, f"cifar-10-batches-py/{batch}", content)])
        names = pickle.dumps({"label_names": [f"class {k}" for k in range(10)]})
        checksum = add(tar, "cifar-10-batches-py/batches.meta", names)
    for kind, entries in lists.items():
        monkeypatch.setattr(CIFAR10, kind, entries)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": checksum})
    publish(monkeypatch, packed, tmp_path / "root", CIFAR10)
    train = np.concatenate([pixels[f"data_batch_{k}"] for k in range(1, 6)]).reshape(-1, 3, 32, 32)
    targets = [label for k in range(1, 6) for label in labels[f"data_batch_{k}"]]
    return tmp_path / "root", torch.from_numpy(train), torch.tensor(targets), torch.from_numpy(pixels["test_batch"])


def test_cifar10_goes_from_archive_to_splits(small_cifar):
    root, pixels, labels, test_pixels = small_cifar
    archive = "cifar-10-python.tar.gz"
    train, validation, test = (load_dataset("cifar10", root=root, split=s) for s in ("train", "validation", "test"))
    assert torch.equal(train.images, pixels[:90])
    assert torch.equal(train.labels, labels[:90])
    assert torch.equal(validation.images, pixels[90:])
    assert torch.equal(validation.labels, labels[90:])
    assert torch.equal(test.images, test_pixels.view(-1, 3, 32, 32))
    assert train.name == "CIFAR-10"
    assert train.class_names == tuple(f"class {k}" for k in range(10))
    assert sorted(p.name for p in root.iterdir() if p.suffix != ".lock") == ["cifar-10-batches-py", archive]


def test_extracted_files_are_used_again_without_the_archive_unless_one_is_damaged(small_cifar):
    root, pixels, _, _ = small_cifar
    load_dataset("cifar10", root=root)
    archive = root / "cifar-10-python.tar.gz"
    archive.rename(root / "aside")
    assert torch.equal(load_dataset("cifar10", root=root, split="validation").images, pixels[90:])
    (root / "aside").rename(archive)
    batch = root / "cifar-10-batches-py" / "data_batch_3"
    for content in (batch.read_bytes()[:-100], b""):  # as a killed extraction leaves it
        batch.write_bytes(content)
        assert torch.equal(load_dataset("cifar10", root=root).images, pixels[:90])


def test_a_set_that_torchvision_extracted_is_used_as_it_is(small_cifar):
    root, pixels, _, _ = small_cifar
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    archive.unlink()
    assert torch.equal(load_dataset("cifar10", root=root).images, pixels[:90])


def test_a_damaged_archive_is_fetched_again_and_never_decoded(small_cifar, monkeypatch):
    root, *_ = small_cifar
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])

    def no_network(*args, **kwargs):
        raise URLError("no network here")

    monkeypatch.setattr("vlmcourse.data.download.urlopen", no_network)
    monkeypatch.setattr("vlmcourse.data.download.time.sleep", lambda seconds: None)
    with pytest.raises(DownloadError, match=r"no network here.*with a browser and put it at"):
        load_dataset("cifar10", root=root)
    assert not (root / "cifar-10-batches-py").exists()


def test_stl10_goes_from_archive_to_splits(monkeypatch, tmp_path):
    rng, packed = np.random.default_rng(0), io.BytesIO()
    counts = {"train": 40, "test": 7, "unlabeled": 5}  # of which the last are not asked for
    pixels = {part: rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for part, n in counts.items()}
    labels = {part: rng.permutation(np.arange(n) % 2).astype(np.uint8) for part, n in counts.items()}
    sums = {}
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for part in counts:  # columns before rows, classes from one
            sums[f"{part}_X.bin"] = add(tar, f"stl10_binary/{part}_X.bin", pixels[part].transpose(0, 1, 3, 2).tobytes())
            sums[f"{part}_y.bin"] = add(tar, f"stl10_binary/{part}_y.bin", (labels[part] + 1).tobytes())
        sums["class_names.txt"] = add(tar, "stl10_binary/class_names.txt", b"airplane\nbird\n")
    monkeypatch.setattr(STL10, "train_list", [[f, sums[f]] for f in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")])
    monkeypatch.setattr(STL10, "test_list", [[f, sums[f]] for f in ("test_X.bin", "test_y.bin")])
    publish(monkeypatch, packed, tmp_path / "root", STL10)

    loaded = {s: load_dataset("stl10", root=tmp_path / "root", split=s) for s in SPLITS}
    assert {split: len(data) for split, data in loaded.items()} == {
        "train": 36, "validation": 4, "test": 7,
    }  # fmt: skip
    assert torch.equal(loaded["test"].images, torch.from_numpy(pixels["test"]))
    assert loaded["test"].labels.tolist() == labels["test"].tolist()
    assert loaded["validation"].labels.bincount().tolist() == [2, 2]
    for k in (0, 1):  # the last of each class are held out, the others are trained on
        members = torch.from_numpy(pixels["train"][labels["train"] == k])
        assert torch.equal(loaded["validation"].images[loaded["validation"].labels == k], members[-2:])
        assert torch.equal(loaded["train"].images[loaded["train"].labels == k], members[:-2])
    assert loaded["train"].class_names == ("airplane", "bird")


def test_the_root_is_the_argument_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLMCOURSE_DATA", str(tmp_path / "environment"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "environment"
    monkeypatch.delenv("VLMCOURSE_DATA")
    assert data_root().parts[-2:] == (".cache", "vlmcourse")


# --- pictures of one's own -------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    """Two splits of small pictures, whose red channel tells the class; only training has a cow."""
    path = tmp_path / "pets"
    red = {"cat": 40, "cow": 80, "dog": 120}
    for split, classes in (("train", ["cat", "cow", "dog"]), ("test", ["cat", "dog"])):
        for name in classes:
            (path / split / name).mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (7, 5), (red[name], k, 0)).save(path / split / name / f"{k}.png")
    return path


@pytest.fixture
def kept(tmp_path):
    return {"root": tmp_path / "kept"}


def test_folders_are_classes_and_all_splits_number_them_alike(pets, kept):
    train, test = image_folder(pets, split="train", **kept), image_folder(pets, split="test", **kept)
    assert train.class_names == test.class_names == ("cat", "cow", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert train.images.shape == (9, 3, 5, 7)
    for data in (train, test):
        assert torch.equal(data.images[:, 0, 0, 0].long(), 40 * (1 + data.labels))
    assert train.images[:, 1, 0, 0].tolist() == [0, 1, 2] * 3
    assert (train.name, train.split, test.split) == ("pets", "train", "test")
    flat = image_folder(pets / "train", name="my pets", **kept)
    assert torch.equal(flat.images, train.images)
    assert (flat.name, flat.split) == ("my pets", "all")


def test_pictures_are_decoded_once_and_again_when_a_file_changes(pets, kept, monkeypatch):
    real, calls = _folders._decode, []
    monkeypatch.setattr(_folders, "_decode", lambda *args: calls.append(1) or real(*args))
    first = image_folder(pets, split="train", **kept)
    again = image_folder(pets, split="train", **kept)
    assert len(calls) == 1
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)

    image_folder(pets, split="train", image_size=4, **kept)
    assert len(calls) == 2
    picture = pets / "train" / "cat" / "0.png"
    Image.new("RGB", (7, 5), (9, 9, 9)).save(picture)
    os.utime(picture, ns=(0, time.time_ns() + 10**9))
    assert image_folder(pets, split="train", **kept).images[0, 0, 0, 0] == 9
    shutil.copy(picture, pets / "train" / "cat" / "new.PNG")
    assert len(image_folder(pets, split="train", **kept)) == 10
    picture.unlink()
    assert len(image_folder(pets, split="train", **kept)) == 9
    assert len(calls) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_decoded_copy_is_not_believed(pets, kept, damage):
    first = image_folder(pets, split="train", **kept)
    (copy,) = (kept["root"] / "decoded").iterdir()
    copy.write_bytes({"cut": copy.read_bytes()[:-100], "empty": b"", "text": b"hello" * 100}[damage])
    with pytest.warns(UserWarning, match="decoding again: .* is broken") as warned:
        again = image_folder(pets, split="train", **kept)
    assert warned[0].filename == __file__
    assert torch.equal(again.images, first.images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_folder(pets, split="train", **kept)  # repaired


def test_where_nothing_can_be_kept_the_pictures_are_still_returned(pets, kept):
    kept["root"].mkdir()
    (kept["root"] / "decoded").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept") as warned:
        assert len(image_folder(pets, split="train", **kept)) == 9
    assert warned[0].filename == __file__


def test_an_interrupted_save_leaves_nothing_behind(pets, kept, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        image_folder(pets, split="train", **kept)
    assert list((kept["root"] / "decoded").iterdir()) == []


def rewrite(picture: Path) -> None:
    """Other pixels of the same number of bytes, and the modification time put back."""
    before = picture.stat()
    Image.new("RGB", (7, 5), (200, 200, 200)).save(picture, format="bmp")
    assert picture.stat().st_size == before.st_size
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "added": lambda folder: shutil.copy2(folder / "cat" / "0.bmp", folder / "cat" / "new.bmp"),
    "removed": lambda folder: (folder / "cat" / "0.bmp").unlink(),
    "renamed": lambda folder: (folder / "cat" / "0.bmp").rename(folder / "cat" / "9.bmp"),
    "given to another class": lambda folder: (folder / "cat" / "0.bmp").rename(folder / "cow" / "7.bmp"),
    "touched": lambda folder: os.utime(folder / "cat" / "0.bmp", ns=(0, time.time_ns() + 10**9)),
    "rewritten": lambda folder: rewrite(folder / "cat" / "0.bmp"),
    "swapped": lambda folder: os.replace(folder / "cat" / "0.bmp", folder / "cow" / "0.bmp"),
    "in a new folder": lambda folder: shutil.copytree(folder / "cat", folder / "cow" / "more"),
    "with a class renamed": lambda folder: (folder / "cow").rename(folder / "ox"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_decoded_copy_is_never_older_than_the_pictures(tmp_path, kept, change, monkeypatch):
    if change == "rewritten" and os.name == "nt":
        pytest.skip("Windows does not say when a file was rewritten if its time is put back")
    for name, red in (("cat", 40), ("cow", 80)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (7, 5), (red, k, 0)).save(tmp_path / "set" / name / f"{k}.bmp")
    image_folder(tmp_path / "set", **kept)
    time.sleep(0.05)  # more than the tick of a file system's clock
    CHANGES[change](tmp_path / "set")

    fresh = image_folder(tmp_path / "set", root=tmp_path / "elsewhere")
    again = image_folder(tmp_path / "set", **kept)
    assert torch.equal(again.images, fresh.images)
    assert torch.equal(again.labels, fresh.labels)
    assert again.class_names == fresh.class_names
    monkeypatch.setattr(_folders, "_decode", None)
    assert torch.equal(image_folder(tmp_path / "set", **kept).images, fresh.images)  # now from the copy


def test_pictures_in_folders_of_a_class_are_found_in_order_and_hidden_ones_are_not(tmp_path, kept):
    names = ["a.png", "b/c.png", "b/d/e.PNG", "f.png", ".hidden.png", ".thumbnails/a.png", "b/.checkpoints/c.png"]
    for k, name in enumerate(names):
        file = tmp_path / "set" / "class" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (7, 5), (k, 0, 0)).save(file)
    assert image_folder(tmp_path / "set", **kept).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_image_size_cuts_the_middle_square(tmp_path, kept):
    (tmp_path / "set" / "stripe").mkdir(parents=True)
    picture = Image.new("RGB", (90, 30), "red")
    picture.paste("blue", (30, 0, 60, 30))
    picture.save(tmp_path / "set" / "stripe" / "wide.png")
    Image.new("L", (8, 20), 77).save(tmp_path / "set" / "stripe" / "tall grey.png")
    data = image_folder(tmp_path / "set", image_size=6, **kept)
    assert data.images.shape == (2, 3, 6, 6)
    assert (data.images[0] == 77).all()
    blue = torch.tensor([0, 0, 255])[:, None, None]
    assert (data.images[1, :, :, 1:-1] - blue).abs().max() <= 1  # the resampling looks a little beyond the cut


def test_pictures_are_turned_upright(tmp_path, kept):
    (tmp_path / "set" / "a").mkdir(parents=True)
    picture = Image.new("RGB", (6, 4))
    picture.putpixel((5, 0), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # taken with the camera turned by a quarter
    picture.save(tmp_path / "set" / "a" / "b.png", exif=exif)
    (image,) = image_folder(tmp_path / "set", **kept).images
    assert image.shape == (3, 6, 4)
    assert image[0].nonzero().tolist() == [[5, 3]]


def damage(pets):
    whole = (pets / "train" / "dog" / "1.png").read_bytes()
    (pets / "train" / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    (pets / "train" / "cat" / "text.jpg").write_text("no picture at all")
    (pets / "train" / "cat" / "empty.jpg").write_bytes(b"")
    (pets / "train" / "cat" / "notes.txt").write_text("not meant to be a picture")
    (pets / "train" / "cat" / ".hidden.jpg").write_text("left by an operating system")


def test_damaged_pictures_are_refused_by_name(pets, kept):
    damage(pets)
    with pytest.raises(ValueError, match=r"3 files cannot be decoded") as caught:
        image_folder(pets, split="train", **kept)
    for name in ("dog/1.png", "cat/text.jpg", "cat/empty.jpg"):
        assert name in str(caught.value)
    assert "notes" not in str(caught.value)


def test_pictures_of_several_sizes_are_named(pets, kept):
    Image.new("RGB", (7, 6)).save(pets / "train" / "cow" / "odd.png")
    with pytest.raises(ValueError, match=r"others have 5 × 7 pixels and .*odd.png has 6 × 7; set image_size"):
        image_folder(pets, split="train", **kept)
    assert len(image_folder(pets, split="train", image_size=5, **kept)) == 10


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "holds test, train; choose one with split='train'"),
        ({"split": "validation"}, ValueError, "split='validation' needs one folder such as .*holds test, train"),
        ({"split": "val"}, ValueError, "split must be one of train, validation, test or None"),
        ({"split": "train", "image_size": 0}, ValueError, "image_size must be at least 1"),
    ],
)
def test_a_folder_read_wrongly_is_explained(pets, kept, options, error, message):
    with pytest.raises(error, match=message):
        image_folder(pets, **options, **kept)


def test_a_folder_without_pictures_is_explained(tmp_path, kept):
    with pytest.raises(FileNotFoundError, match="path must be a folder of pictures"):
        image_folder(tmp_path / "nowhere", **kept)
    with pytest.raises(ValueError, match=r"no pictures found: expected files such as .*/class/picture.jpg"):
        image_folder(tmp_path, **kept)
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "broken.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="1 files cannot be decoded"):
        image_folder(tmp_path / "set", **kept)


@pytest.mark.parametrize(
    ("layout", "split"),
    [
        ("train test", "train"), ("Train Test", "train"), ("TRAIN TEST extra", "test"),
        ("training_set test_set", "train"), ("Training Validation", "validation"), ("train val docs", "validation"),
        ("train valid", "validation"), ("train dev", "validation"), ("train-images test-images", "test"),
    ],
)  # fmt: skip
def test_splits_are_known_by_the_names_that_people_give_them(tmp_path, kept, layout, split):
    for name in layout.split():
        Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / name / "cat" / f"{name}.png"))
    with pytest.raises(ValueError, match=r"holds .*; choose one with split='train'"):
        image_folder(tmp_path / "set", **kept)
    data = image_folder(tmp_path / "set", split=split, **kept)
    assert (data.class_names, data.labels.tolist(), data.split) == (("cat",), [0], split)


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_class_may_be_called_train(tmp_path, kept):
    for name in ("bus", "train", "test"):
        Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / name / "1.png"))
    assert image_folder(tmp_path / "set", **kept).class_names == ("bus", "test", "train")


def test_two_folders_that_may_be_the_same_split_are_named(tmp_path, kept):
    for name in ("train", "Training"):
        Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / name / "cat" / "1.png"))
    with pytest.raises(ValueError, match=r"split='train' needs one folder such as .*holds Training, train"):
        image_folder(tmp_path / "set", split="train", **kept)


def test_folders_without_pictures_are_no_classes(tmp_path, kept):
    Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / "dog" / "1.png"))
    for name in ("__MACOSX/._cat/x.png", ".thumbnails/1.png", "empty/.keep", "notes/readme.txt", "__MACOSX/1.png"):
        make(tmp_path / "set" / name).write_bytes(b"\0\5")
    data = image_folder(tmp_path / "set", **kept)
    assert (data.class_names, data.labels.tolist()) == (("dog",), [0])


def test_one_name_stored_in_two_ways_is_one_class(tmp_path, kept):
    Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / "train" / "caf\u00e9" / "1.png"))
    Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / "test" / "cafe\u0301" / "1.png"))
    if len({folder.name for folder in (tmp_path / "set").glob("*/*")}) == 1:
        pytest.skip("this file system stores names in one way")
    train, test = (image_folder(tmp_path / "set", split=split, **kept) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("caf\u00e9",)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0], [0])


def test_what_phones_save_as_heic_is_named_and_not_passed_over(tmp_path, kept):
    Image.new("RGB", (2, 2)).save(make(tmp_path / "set" / "dog" / "1.png"))
    (tmp_path / "set" / "dog" / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x24ftypheic" + bytes(100))
    with pytest.raises(
        ValueError, match=r"1 files cannot be decoded: dog.IMG_0001.HEIC \(is not a picture that can be"
    ):
        image_folder(tmp_path / "set", **kept)


def test_pixels_are_those_of_the_reader_and_its_notes_are_passed_on_each_time(tmp_path, kept):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(make(tmp_path / "set" / "a" / "clear.png"))
    ramp = np.array([[0, 257 * 128], [257, 65535]], dtype=np.uint16)
    Image.fromarray(ramp).save(tmp_path / "set" / "a" / "deep.png")
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "set" / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    for _ in range(2):  # decoded, then from the kept copy
        with pytest.warns(UserWarning, match="transparent") as warned:
            images = image_folder(tmp_path / "set", **kept).images
        assert images[0].max() == 0
        assert images[1, 0].tolist() == [[0, 128], [1, 255]]
        assert images[2].amax((1, 2)).tolist() == [255, 0, 0]
        assert {warning.filename for warning in warned} == {__file__}  # where the call is that a reader may change
        said = [str(warning.message).replace("\\", "/") for warning in warned]
        assert said == [
            "its transparent parts are shown as black (1 files: a/clear.png)",
            "it has several frames; only the first is read (1 files: a/moving.gif)",
        ]


def test_copies_that_an_earlier_version_decoded_are_not_read(pets, kept, monkeypatch):
    image_folder(pets, split="train", **kept)
    real, calls = _folders._decode, []
    monkeypatch.setattr(_folders, "_decode", lambda *args: calls.append(1) or real(*args))
    monkeypatch.setattr(_folders, "_VERSION", _folders._VERSION + 1)
    image_folder(pets, split="train", **kept)
    assert calls == [1]


def test_val_is_short_for_validation(pets, kept):
    (pets / "test").rename(pets / "val")
    assert len(image_folder(pets, split="validation", **kept)) == 6


def test_links_in_a_folder_of_pictures_are_followed_and_a_broken_one_is_named(tmp_path):
    for name, folder in (("one", "set/a"), ("two", "elsewhere")):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "round").symlink_to(tmp_path / "set")  # which would have no end
    kept = {"image_size": 8, "root": tmp_path / "kept"}
    assert len(image_folder(tmp_path / "set", **kept).images) == 2
    (tmp_path / "set" / "a" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"lost\.png"):
        image_folder(tmp_path / "set", **kept)


def test_data_sets_are_compared_without_an_error():
    one = load_dataset("digits", split="test")
    assert one == one
    assert one != load_dataset("digits", split="test")


def test_what_is_not_downloaded_needs_no_home_folder(monkeypatch):
    monkeypatch.setattr(Path, "expanduser", lambda path: 1 / 0)
    assert len(load_dataset("digits", split="test").images) == 359


def test_a_folder_of_pictures_of_several_sizes_is_refused_before_all_are_read(tmp_path):
    read = []

    def slowly(file):
        read.append(file)
        time.sleep(0.005)
        return torch.zeros(3, 8, 8 + len(read) % 3), []

    files = [tmp_path / f"{k}.png" for k in range(400)]
    with pytest.raises(ValueError, match="must have one size"):
        _folders._decode(tmp_path, files, slowly)
    assert len(read) < 40
