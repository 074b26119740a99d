"""Datasets as one thing: all images decoded, uint8, in memory, ready to live on the device that trains on them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import scenes

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageDataset:
    """Images and labels in memory; 60,000 small images are a few hundred megabytes and need no loader processes.

    Shapes:
        images: ``(n, c, h, w)`` uint8. labels: ``(n,)`` int64, positions in ``class_names``; -1 where unlabelled.

    ``dataset[index]`` takes what a tensor takes (an integer, a slice, a tensor of positions) and returns the images
    as float32 in [0, 1] and the labels, on the device where the dataset lives. ``name`` is the label under which
    results from this data are reported.

    >>> data = ImageDataset(torch.full((5, 3, 2, 2), 255, dtype=torch.uint8), torch.arange(5), tuple("abcde"), "white")
    >>> images, labels = data[torch.tensor([4, 2])]
    >>> images.mean().item(), labels.tolist(), len(data)
    (1.0, [4, 2], 5)
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
            raise ValueError(f"labels must be int64 of shape ({len(self.images)},), one an image, received {received}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.images[index].float() / 255, self.labels[index]

    def float(self) -> Tensor:
        """All images as float32 in [0, 1], ``(n, c, h, w)``."""
        return self.images.float() / 255

    def subset(self, index: Any) -> "ImageDataset":
        """The images at ``index`` (a slice, a tensor of positions or of booleans) as a dataset."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same dataset with its tensors on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def _scenes(root: Path, split: str) -> ImageDataset:
    """Shapes in random colours, 24 × 24; splits are drawn from different seeds."""
    count, seed = {"train": (10_000, 1), "validation": (2_000, 2), "test": (2_000, 3)}[split]
    drawn = scenes.images(count, seed=seed)
    return ImageDataset(_to_uint8(drawn.images), drawn.labels, drawn.class_names, "scenes", split)


def _digits(root: Path, split: str) -> ImageDataset:
    """Handwritten digits, 8 × 8 grey (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0), as scikit-learn carries them.

    The split is fixed: 60, 20 and 20 % of every class, drawn once with a seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _to_uint8(torch.from_numpy(bunch.images).float()[:, None] / 16)
    labels = torch.from_numpy(bunch.target).long()
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for digit in range(10):
        members = (labels == digit).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        bounds = [round(len(members) * part) for part in (0.6, 0.8)]
        chosen.append(members.tensor_split(bounds)[SPLITS.index(split)])
    index = torch.cat(chosen).sort().values
    return ImageDataset(images[index], labels[index], tuple("0123456789"), "digits", split)


def _photos(root: Path, split: str) -> ImageDataset:
    """Three photographs, the middle square of each at 224 × 224.

    * ``temple`` and ``flower``, from scikit-learn: "china.jpg" by danielbuechele (flickr.com, 6061409035) and
      "flower.jpg" by vultilion (flickr.com, 6056698931), both CC BY 2.0, here cropped and resized.
    * ``portrait``, from matplotlib's sample data: Rear Admiral Grace Hopper, United States Navy, public domain.
    """
    if split != "train":
        raise ValueError(f"split must be 'train' for 'photos', three pictures to look at, received {split!r}")
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    from sklearn.datasets import load_sample_image

    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as picture:
        portrait = picture.convert("RGB")
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    images = torch.stack([_square(picture, 224) for picture in (*pictures, portrait)])
    return ImageDataset(images, torch.arange(3), ("temple", "flower", "portrait"), "photos", split)


def _square(picture: Any, image_size: int) -> Tensor:
    """The middle square of a PIL picture, resized: ``(3, image_size, image_size)`` uint8."""
    from PIL import Image, ImageOps
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(ImageOps.fit(picture, (image_size, image_size), Image.Resampling.LANCZOS))


_LOADERS: dict[str, Callable[[Path, str], ImageDataset]] = {"scenes": _scenes, "digits": _digits, "photos": _photos}


def load_dataset(name: str, *, root: str | Path | None = None, split: str = "train") -> ImageDataset:
    """Load a dataset whole, as uint8.

    ``scenes`` (generated shapes), ``digits`` (scikit-learn's handwriting) and ``photos`` (three photographs that come
    with scikit-learn and matplotlib) need no network.

    Shapes:
        images ``(n, c, h, w)`` uint8, labels ``(n,)`` int64: ``scenes`` ``(10000 or 2000, 3, 24, 24)``, ``digits``
        ``(about 1080 or 360, 1, 8, 8)``, ``photos`` ``(3, 3, 224, 224)``.

    Options:
        split: ``train``, ``validation`` or ``test``; fixed once, so that every reader chooses and reports on the same.

    Raises:
        ValueError: for an unknown name or split; the message lists the known ones.

    >>> load_dataset("digits", split="test").images.shape
    torch.Size([359, 1, 8, 8])
    """
    if name not in _LOADERS:
        raise ValueError(f"name must be one of {', '.join(_LOADERS)}, received {name!r}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, received {split!r}")
    return _LOADERS[name](Path(root or "."), split)
