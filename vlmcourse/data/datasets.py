"""Datasets as one thing: all images decoded, uint8, in memory, ready to live on the device that trains on them."""

import hashlib
import json
import os
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import scenes
from ._checks import check_int
from .download import Archive, download, explained

SPLITS = ("train", "validation", "test")

ARCHIVES = {  # as torchvision has them, and their sizes
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"
    ),
    "stl10": Archive(
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", 2_640_397_119, "91f7769df0f17e558f3565bffb0c7dfb"
    ),
}


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


# ---------------------------------------------------------------------------------------------------------
# Downloaded once, decoded once
# ---------------------------------------------------------------------------------------------------------


def data_root(root: str | Path | None = None) -> Path:
    """Where data is kept: ``root``, else the environment variable ``VLMCOURSE_DATA``, else ``~/.cache/vlmcourse``."""
    return Path(root or os.environ.get("VLMCOURSE_DATA") or "~/.cache/vlmcourse").expanduser()


def _checksum(tensors: dict[str, Tensor]) -> str:
    return "-".join(f"{zlib.crc32(tensors[name].numpy().data):08x}" for name in sorted(tensors))


def _load_decoded(path: Path) -> tuple[Tensor, Tensor, dict[str, Any]] | None:
    """What ``_save_decoded`` wrote, or nothing where no whole, unharmed file lies."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("images", "labels")}
            about = json.loads(file.metadata()["about"])
        if about["checksum"] != _checksum(tensors):
            raise ValueError("its checksum is wrong")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"decoding again: {path} is broken ({error})", stacklevel=3)
        return None
    return tensors["images"], tensors["labels"], about


def _save_decoded(path: Path, images: Tensor, labels: Tensor, **about: Any) -> None:
    """Keep decoded images in a format that runs no code when read; the file appears whole or not at all."""
    from safetensors.torch import save_file

    tensors = {"images": images.contiguous(), "labels": labels.contiguous()}
    about["checksum"] = _checksum(tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
        try:
            save_file(tensors, temporary, {"about": json.dumps(about)})
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except Exception as error:  # safetensors raises its own kind for a full disk
        warnings.warn(f"the decoded images could not be kept, and are decoded again next time: {error}", stacklevel=3)


def _from_archive(name: str, root: Path, part: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """One part of a dataset as torchvision reads it, from its decoded copy, its folder, or its archive."""
    cache = root / "decoded" / f"{name}-{part}.safetensors"
    if decoded := _load_decoded(cache):
        images, labels, about = decoded
        return images, labels, tuple(about["class_names"])
    try:
        images, labels, class_names = _read_with_torchvision(name, root, part)  # already extracted there
    except RuntimeError:
        archive = download(ARCHIVES[name], root)
        with explained(root), TemporaryDirectory(dir=root) as folder:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
            images, labels, class_names = _read_with_torchvision(name, Path(folder), part)
    _save_decoded(cache, images, labels, class_names=class_names)
    return images, labels, class_names


def _read_with_torchvision(name: str, folder: Path, part: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10, STL10

    if name == "cifar10":
        cifar = CIFAR10(str(folder), train=part == "train")
        images = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(cifar.targets), tuple(cifar.classes)
    stl = STL10(str(folder), split=part)
    images = torch.from_numpy(stl.data.copy())  # height and width come transposed, as strides
    labels = torch.full((len(images),), -1) if part == "unlabeled" else torch.from_numpy(stl.labels).long()
    return images, labels, tuple(stl.classes)


def _cifar10(root: Path, split: str) -> ImageDataset:
    """CIFAR-10 (Krizhevsky 2009): 32 × 32 in ten classes. The last 5,000 training images are the validation split."""
    images, labels, class_names = _from_archive("cifar10", root, "test" if split == "test" else "train")
    held_out = len(images) // 10
    rows = {"train": slice(None, -held_out), "validation": slice(-held_out, None), "test": slice(None)}[split]
    return ImageDataset(images[rows], labels[rows], class_names, "CIFAR-10", split)


def _stl10(root: Path, split: str) -> ImageDataset:
    """STL-10 (Coates, Ng and Lee 2011): 96 × 96 in ten classes, and 100,000 images without labels.

    The last tenth of each class of the training images is the validation split.
    """
    part = "train" if split == "validation" else split
    images, labels, class_names = _from_archive("stl10", root, part)
    if part == "train":
        held_out = torch.zeros(len(images), dtype=torch.bool)
        for k in range(len(class_names)):
            members = (labels == k).nonzero().flatten()
            held_out[members[len(members) - len(members) // 10 :]] = True
        rows = held_out if split == "validation" else ~held_out
        images, labels = images[rows], labels[rows]
    return ImageDataset(images, labels, class_names, "STL-10", split)


_LOADERS: dict[str, Callable[[Path, str], ImageDataset]] = {
    "scenes": _scenes,
    "digits": _digits,
    "photos": _photos,
    "cifar10": _cifar10,
    "stl10": _stl10,
}


def load_dataset(name: str, *, root: str | Path | None = None, split: str = "train") -> ImageDataset:
    """Load a dataset whole, as uint8.

    ``scenes`` (generated shapes), ``digits`` (scikit-learn's handwriting) and ``photos`` (three photographs that come
    with scikit-learn and matplotlib) need no network. ``cifar10`` and ``stl10`` are fetched once, with a message, and
    decoded once; from then on they load from the decoded copy. For pictures of your own see :func:`image_folder`.

    Shapes:
        images ``(n, c, h, w)`` uint8, labels ``(n,)`` int64. ``scenes``: 10,000, 2,000 and 2,000 of ``(3, 24, 24)``;
        ``digits``: 1,078, 360 and 359 of ``(1, 8, 8)``; ``photos``: 3 of ``(3, 224, 224)``; ``cifar10``: 45,000, 5,000
        and 10,000 of ``(3, 32, 32)``; ``stl10``: 4,500, 500, 8,000 and 100,000 unlabelled of ``(3, 96, 96)``.

    Options:
        root: where downloads and decoded copies are kept; the environment variable ``VLMCOURSE_DATA``, else
        ``~/.cache/vlmcourse``, if left out. split: ``train``, ``validation`` or ``test``, for ``stl10`` also
        ``unlabeled``; fixed once, so that every reader chooses and reports on the same.

    Raises:
        ValueError: for an unknown name or split; the message lists the known ones.
        DownloadError: where a download fails, with the step that remains to do by hand.

    >>> load_dataset("digits", split="test").images.shape
    torch.Size([359, 1, 8, 8])
    """
    if name not in _LOADERS:
        known = ", ".join(_LOADERS)
        raise ValueError(f"name must be one of {known} (or use image_folder for your own pictures), received {name!r}")
    splits = (*SPLITS, "unlabeled") if name == "stl10" else SPLITS
    if split not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)}, received {split!r}")
    return _LOADERS[name](data_root(root), split)


# ---------------------------------------------------------------------------------------------------------
# Pictures of your own
# ---------------------------------------------------------------------------------------------------------

_SUBFOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def image_folder(
    path: str | Path,
    *,
    split: str | None = None,
    image_size: int | None = None,
    on_error: str = "raise",
    name: str | None = None,
    root: str | Path | None = None,
) -> ImageDataset:
    """Read pictures from a folder with one subfolder a class, ``path/class/picture.jpg``.

    With ``split``, the classes lie one level deeper, ``path/train/class/picture.jpg`` (also ``test``, and
    ``validation``, ``valid`` or ``val``), and all splits share one numbering of the classes. Pictures are turned
    upright, made RGB and kept decoded; they are decoded again when a file is added, removed or changed.

    Shapes:
        images ``(n, 3, h, w)`` uint8, labels ``(n,)`` int64 in the alphabetical order of the classes.

    Options:
        image_size: cut the middle square of every picture and resize it; left out, all must have one size. on_error:
        ``"raise"`` refuses a file that cannot be decoded, ``"skip"`` leaves it out; both name it. name: the label for
        results, the folder's own if left out. root: where the decoded copy is kept, as for :func:`load_dataset`.

    Raises:
        FileNotFoundError: where no folder is.
        ValueError: for a folder laid out otherwise, pictures of several sizes, or files that cannot be decoded.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for label, color in (("leaf", "green"), ("sky", "blue")):
    ...     (folder / "mine" / label).mkdir(parents=True)
    ...     Image.new("RGB", (8, 6), color).save(folder / "mine" / label / "1.png")
    >>> mine = image_folder(folder / "mine", root=folder)
    >>> mine.images.shape, mine.class_names
    (torch.Size([2, 3, 6, 8]), ('leaf', 'sky'))
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', received {on_error!r}")
    if image_size is not None:
        check_int("image_size", image_size, minimum=1)
    path = Path(path).expanduser().resolve()
    files, labels, class_names = _list_pictures(path, split)

    # The time of the last change of state also moves where a file is replaced and its modification time set back.
    stats = [(f.path, f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ctime_ns) for f in files]
    key = hashlib.sha256(json.dumps([class_names, image_size, stats]).encode()).hexdigest()[:20]
    cache = data_root(root) / "decoded" / f"{path.name}-{split or 'all'}-{key}.safetensors"
    if decoded := _load_decoded(cache):
        images, kept_labels, about = decoded
        _report_broken(about["broken"], on_error)
    else:
        images, kept_labels, broken = _decode(path, files, labels, image_size, on_error)
        _save_decoded(cache, images, kept_labels, broken=broken)
    return ImageDataset(images, kept_labels, class_names, name or path.name, split or "all")


def _list_pictures(path: Path, split: str | None) -> tuple[list[os.DirEntry[str]], list[int], tuple[str, ...]]:
    """All picture files, their labels, and the classes of all splits."""
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of pictures, received {path}, which is none")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)} or None, received {split!r}")
    inside = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name[0] != "."}
    layers = {part: inside[name] for part, names in _SUBFOLDERS.items() for name in names if name in inside}
    if split is None:
        if inside and set(inside.values()) <= set(layers.values()):
            raise ValueError(f"path={path} holds {', '.join(inside)}; choose one with split={next(iter(layers))!r}")
        layers = {"all": path}
    elif split not in layers:
        raise ValueError(f"split={split!r} needs a folder {path / split}; {path} holds {', '.join(inside) or 'none'}")

    classes = {f.name for layer in layers.values() for f in layer.iterdir() if f.is_dir() and f.name[0] != "."}
    class_names = tuple(sorted(classes))
    files: list[os.DirEntry[str]] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        folder = layers[split or "all"] / class_name
        found = list(_pictures_below(folder)) if folder.is_dir() else []
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(f"no pictures found: expected files such as {layers[split or 'all']}/class/picture.jpg")
    return files, labels, class_names


def _pictures_below(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Picture files in a folder and the folders in it, by name; what is hidden is left out.

    ``os.scandir`` asks once for all that is known of a file: for 50,000 files, several times as fast as ``Path.rglob``.
    """
    from PIL import Image

    extensions = Image.registered_extensions()
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from _pictures_below(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
            yield entry


def _decode(
    path: Path, files: Sequence[os.DirEntry[str]], labels: Sequence[int], image_size: int | None, on_error: str
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Pixels of all files that can be decoded, their labels, and the names of the others with the reason."""
    from PIL import Image, ImageOps
    from torchvision.transforms.v2.functional import pil_to_tensor

    def read(file: os.DirEntry[str]) -> Tensor | str:
        try:
            with Image.open(file.path) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            return str(error)  # what Pillow raises for a damaged file depends on the format
        return _square(upright, image_size) if image_size else pil_to_tensor(upright)

    pixels: list[Tensor] = []
    kept: list[int] = []
    broken: dict[str, str] = {}
    first = ""
    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(read, files), total=len(files), desc=f"decoding {path.name}", unit=" pictures")
        for file, label, result in zip(files, labels, results, strict=True):
            name = str(Path(file.path).relative_to(path))
            if isinstance(result, str):
                broken[name] = result
                continue
            if pixels and result.shape != pixels[0].shape:
                (_, h1, w1), (_, h2, w2) = pixels[0].shape, result.shape
                raise ValueError(
                    f"pictures must have one size, but {first} has {h1} × {w1} pixels and {name} has {h2} × {w2}; "
                    "set image_size to cut and resize them"
                )
            first = first or name
            pixels.append(result)
            kept.append(label)
    if not pixels:
        on_error = "raise"
    _report_broken(broken, on_error)
    return torch.stack(pixels), torch.tensor(kept), broken


def _report_broken(broken: dict[str, str], on_error: str) -> None:
    if not broken:
        return
    some = "; ".join(f"{name} ({reason})" for name, reason in list(broken.items())[:10])
    message = f"{len(broken)} files cannot be decoded: {some}{' …' if len(broken) > 10 else ''}"
    if on_error == "raise":
        raise ValueError(f"{message}. Repair or remove them, or set on_error='skip'")
    warnings.warn(f"skipped: {message}", stacklevel=3)
