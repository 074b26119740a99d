"""Datasets as one thing: all images decoded, uint8, in memory, ready to live on the device that trains on them."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from filelock import FileLock
from torch import Generator, Tensor

from vlmcourse._checks import check_int
from vlmcourse._devices import on_cpu
from vlmcourse.data import scenes
from vlmcourse.data._folders import SPLITS, data_root, decode_once, list_classes
from vlmcourse.data.download import Archive, download, explained
from vlmcourse.data.pictures import EXTENSIONS, UNREADABLE, as_unit_range, middle_square, read_picture

ARCHIVE_BYTES = {"CIFAR10": 170_498_071, "STL10": 2_640_397_119}


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not one truth value
class ImageDataset:
    """Images and labels in memory; ``data[index]``, as of a tensor, gives images as float32 in [0, 1], and labels.

    ``name`` is the label under which results from this data are reported.

    Shapes:
        images: ``(n, c, h, w)`` uint8. labels: ``(n,)`` int64, positions in ``class_names``.

    >>> data = ImageDataset(torch.full((5, 3, 2, 2), 255, dtype=torch.uint8), torch.arange(5), tuple("abcde"), "white")
    >>> data[torch.tensor([4, 2])][1], len(data)
    (tensor([4, 2]), 5)
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    name: str
    split: str = "train"

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            received = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images must be uint8 of shape (n, c, h, w), received {received}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            received = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64 of shape ({len(self.images)},), one per image, received {received}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return as_unit_range(self.images[index]), self.labels[index]

    def float(self) -> Tensor:
        """Return all images as float32 in [0, 1]."""
        return as_unit_range(self.images)

    def subset(self, index: Any) -> "ImageDataset":
        """Return the images at ``index`` (a slice, a tensor of positions or of booleans) as a dataset."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """Return the same dataset with its tensors on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def _scenes(root: str | Path | None, split: str) -> ImageDataset:
    """Draw shapes in random colours, 24 × 24; splits have different seeds."""
    count, seed = {"train": (10_000, 1), "validation": (2_000, 2), "test": (2_000, 3)}[split]
    drawn = scenes.images(count, seed=seed)
    return ImageDataset(_to_uint8(drawn.images), drawn.labels, drawn.class_names, "scenes", split)


def _digits(root: str | Path | None, split: str) -> ImageDataset:
    """Load handwritten digits, 8 × 8 grey (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0), in a split drawn with a seed."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _to_uint8(torch.from_numpy(bunch.images).float()[:, None] / 16)
    data = ImageDataset(images, torch.from_numpy(bunch.target).long(), tuple("0123456789"), "digits", split)
    return data.subset(_part_of_each_class(data.labels, split, (0.6, 0.8), Generator().manual_seed(0)))


def _part_of_each_class(
    labels: Tensor, split: str, bounds: tuple[float, ...], generator: Generator | None = None
) -> Tensor:
    """Return the positions of a split: of each class, in its order or a drawn one, what lies between two bounds."""
    chosen = []
    for k in range(int(labels.max()) + 1):
        members = (labels == k).nonzero().flatten()
        if generator is not None:
            members = members[torch.randperm(len(members), generator=generator)]
        cuts = [round(len(members) * bound) for bound in bounds]
        chosen.append(members.tensor_split(cuts)[SPLITS.index(split)])
    return torch.cat(chosen).sort().values


def _photos(root: str | Path | None, split: str) -> ImageDataset:
    """Load three photographs, the middle square of each at 224 × 224.

    * ``temple`` and ``flower``, from scikit-learn: "china.jpg" by danielbuechele (flickr.com, 6061409035) and
      "flower.jpg" by vultilion (flickr.com, 6056698931), both CC BY 2.0, here cropped and resized.
    * ``portrait``, from matplotlib's sample data: Rear Admiral Grace Hopper, United States Navy, public domain.
    """
    if split != "train":
        raise ValueError(f"split must be 'train' for 'photos', three pictures to look at, received {split!r}")
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    from sklearn.datasets import load_sample_image

    portrait, _ = read_picture(get_sample_data("grace_hopper.jpg", asfileobj=False))
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    images = torch.stack([middle_square(picture, 224) for picture in (*pictures, portrait)])
    return ImageDataset(images, torch.arange(3), ("temple", "flower", "portrait"), "photos", split)


# ---------------------------------------------------------------------------------------------------------
# Downloaded once
# ---------------------------------------------------------------------------------------------------------


def _extracted(dataset: Any, root: str | Path | None, **options: Any) -> Any:
    """Return what torchvision reads and checks below ``root``, where need be after fetching and extracting it."""
    folder = data_root(root)
    try:
        return dataset(folder, **options)
    except RuntimeError:  # not there, or not whole
        archive = download(Archive(dataset.url, ARCHIVE_BYTES[dataset.__name__], dataset.tgz_md5), folder)
        with explained(folder), FileLock(f"{archive}.lock"):
            shutil.unpack_archive(archive, folder, filter="data")
            return dataset(folder, **options)


def _cifar10(root: str | Path | None, split: str) -> ImageDataset:
    """Load CIFAR-10 (Krizhevsky 2009), 32 × 32 in ten classes. The last 5,000 training images are for validation."""
    from torchvision.datasets import CIFAR10

    cifar = _extracted(CIFAR10, root, train=split != "test")
    images = rearrange(torch.from_numpy(cifar.data), "n h w c -> n c h w").contiguous()
    data = ImageDataset(images, torch.tensor(cifar.targets), tuple(cifar.classes), "CIFAR-10", split)
    held_out = len(data) // 10
    return data.subset({"train": slice(-held_out), "validation": slice(-held_out, None), "test": slice(None)}[split])


def _stl10(root: str | Path | None, split: str) -> ImageDataset:
    """Load STL-10 (Coates, Ng and Lee 2011), 96 × 96, the labelled part, with a tenth of each class for validation."""
    from torchvision.datasets import STL10

    stl = _extracted(STL10, root, split="test" if split == "test" else "train")
    images = torch.from_numpy(stl.data.copy())  # height and width come transposed, as strides
    data = ImageDataset(images, torch.from_numpy(stl.labels).long(), tuple(stl.classes), "STL-10", split)
    return data if split == "test" else data.subset(_part_of_each_class(data.labels, split, (0.9,)))


_LOADERS = {"scenes": _scenes, "digits": _digits, "photos": _photos, "cifar10": _cifar10, "stl10": _stl10}


@on_cpu()
def load_dataset(name: str, *, root: str | Path | None = None, split: str = "train") -> ImageDataset:
    """Load a dataset whole; :func:`image_folder` reads your own pictures.

    ``scenes`` (generated shapes), ``digits`` and ``photos`` need no network. ``cifar10`` and ``stl10`` are fetched
    once, or a ``DownloadError`` says what remains to do by hand.

    Shapes:
        images ``(n, c, h, w)`` uint8, labels ``(n,)`` int64. ``scenes``: 10,000, 2,000 and 2,000 of ``(3, 24, 24)``;
        ``digits``: 1,078, 360 and 359 of ``(1, 8, 8)``; ``photos``: 3 of ``(3, 224, 224)``; ``cifar10``: 45,000, 5,000
        and 10,000 of ``(3, 32, 32)``; ``stl10``: 4,500, 500 and 8,000 of ``(3, 96, 96)``.

    Options:
        root: where downloads are kept; else the environment variable ``VLMCOURSE_DATA``, else ``~/.cache/vlmcourse``.
        split: ``train``, ``validation`` or ``test``, the same for everyone.

    >>> load_dataset("digits", split="test").images.shape
    torch.Size([359, 1, 8, 8])
    """
    if name not in _LOADERS:
        known = ", ".join(_LOADERS)
        raise ValueError(f"name must be one of {known} (or use image_folder for your own pictures), received {name!r}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, received {split!r}")
    return _LOADERS[name](root, split)


# ---------------------------------------------------------------------------------------------------------
# Pictures of your own
# ---------------------------------------------------------------------------------------------------------


@on_cpu()
def image_folder(
    path: str | Path,
    *,
    split: str | None = None,
    image_size: int | None = None,
    name: str | None = None,
    root: str | Path | None = None,
) -> ImageDataset:
    """Read pictures from a folder with one subfolder per class, ``path/class/picture.jpg``.

    With ``split``, the classes lie one level deeper, ``path/train/class/picture.jpg`` (or ``Train``, ``training_set``,
    ``val``, ``test`` …). Classes are numbered alphabetically, alike in all splits. Pictures are turned upright, made
    RGB of eight bits, on black where they are transparent, and kept decoded until a file changes. PNG, JPEG, GIF, WebP,
    BMP, TIFF and PPM can be read; what phones save as HEIC is a ValueError.

    Shapes:
        images ``(n, 3, h, w)`` uint8, labels ``(n,)`` int64.

    Options:
        image_size: cut the middle square of every picture and resize it; left out, all must have one size. name: the
        label for results, the folder's own if left out. root: as for :func:`load_dataset`.

    >>> image_folder("birds")
    Traceback (most recent call last):
    FileNotFoundError: path must be a folder of pictures, received ...birds, which is none
    """
    from torchvision.transforms.v2.functional import pil_to_tensor

    if image_size is not None:
        check_int("image_size", image_size)
    path = Path(path).expanduser().resolve()
    files, labels, names = list_classes(path, split, extensions=EXTENSIONS | UNREADABLE, example="picture.jpg")

    def read(file: Path) -> tuple[Tensor, list[str]]:
        picture, notes = read_picture(file)
        return middle_square(picture, image_size) if image_size else pil_to_tensor(picture), notes

    asked, label = [names, image_size], split or "all"
    images = decode_once(path, files, read, asked=asked, label=label, root=root)
    return ImageDataset(images, torch.tensor(labels), names, name or path.name, label)
