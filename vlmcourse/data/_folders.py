"""Folders with one subfolder per class, as people lay them out, and decoded copies of what lies in them."""

import hashlib
import json
import os
import re
import unicodedata
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vlmcourse._files import write_whole

SPLITS = ("train", "validation", "test")

_SPLIT = re.compile(
    r"(?:(?P<train>train(?:ing)?)|(?P<validation>val(?:id(?:ation)?)?|dev)|(?P<test>test(?:ing)?))"
    r"(?:[ _-]?(?:set|data|images|videos))?",
    re.IGNORECASE,
)
_VERSION = 2  # of decoding: copies that an earlier one made are not read
_FEW = 10  # files that a message names


@dataclass(frozen=True)
class ClassFolders:
    """Files below folders that are classes: where they lie, the class of each, and the classes of all splits."""

    files: list[Path]
    labels: list[int]
    class_names: tuple[str, ...]


def data_root(root: str | Path | None = None) -> Path:
    """Return where data is kept: ``root``, else the variable ``VLMCOURSE_DATA``, else ``~/.cache/vlmcourse``."""
    return Path(root or os.environ.get("VLMCOURSE_DATA") or "~/.cache/vlmcourse").expanduser()


def list_classes(path: Path, split: str | None, *, extensions: frozenset[str], example: str) -> ClassFolders:
    """Find the files with some extensions below ``path/class``, or ``path/split/class``.

    A split's folder may be called ``Train``, ``training_set``, ``val`` and so on. A class is a folder that holds a file
    in some split, so that all splits number the classes alike; names that differ in how accents are stored are one.
    """
    kind = Path(example).stem
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of {kind}s, received {path}, which is none")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)} or None, received {split!r}")
    inside = _folders_in(path)
    layers: dict[str, list[Path]] = defaultdict(list)
    for folder in inside:
        if match := _SPLIT.fullmatch(folder.name):
            layers[str(match.lastgroup)].append(folder)
    held = ", ".join(folder.name for folder in inside) or "none"
    if split is None:
        # A class may be called train; a split's folder holds folders, and no files of its own.
        if any(not _holds_files(f, extensions) and _folders_in(f) for found in layers.values() for f in found):
            raise ValueError(f"path={path} holds {held}; choose one with split={min(layers, key=SPLITS.index)!r}")
        layers = {"all": [path]}
    elif not layers[split]:
        raise ValueError(f"split={split!r} needs a folder {path / split}; {path} holds {held}")
    elif len(layers[split]) > 1:
        raise ValueError(f"split={split!r} may be any of {', '.join(f.name for f in layers[split])}; rename the others")

    found: dict[str, dict[str, list[Path]]] = {part: defaultdict(list) for part in layers}
    for part, folders in layers.items():
        for folder in (inner for outer in folders for inner in _folders_in(outer)):
            below = _files_below(folder, extensions)
            one_is_enough = part != (split or "all")  # to make a class
            found[part][unicodedata.normalize("NFC", folder.name)] += islice(below, 1 if one_is_enough else None)
    class_names = tuple(sorted({name for classes in found.values() for name, files in classes.items() if files}))
    chosen = found[split or "all"]
    files = [file for name in class_names for file in chosen.get(name, [])]
    if not files:
        wanted = layers[split or "all"][0] / "class" / example
        raise ValueError(f"no {kind}s found: expected files such as {wanted}")
    return ClassFolders(files, [k for k, name in enumerate(class_names) for _ in chosen.get(name, [])], class_names)


def _folders_in(path: Path) -> list[Path]:
    """Return what may be a class or a split: hidden folders, and one that macOS adds to archives, are none."""
    return sorted(f for f in path.iterdir() if f.is_dir() and f.name[0] != "." and f.name != "__MACOSX")


def _holds_files(folder: Path, extensions: frozenset[str]) -> bool:
    visible = (file for file in folder.iterdir() if file.name[0] != ".")
    return any(file.suffix.lower() in extensions and file.is_file() for file in visible)


def _files_below(folder: str | Path, extensions: frozenset[str]) -> Iterator[Path]:
    """Yield the files in a folder and the folders in it, by name; what is hidden is left out.

    ``os.scandir`` asks once for all that is known of a file: for 50,000 files, several times as fast as ``Path.rglob``.
    """
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path, extensions)
        elif os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
            yield Path(entry.path)


# ---------------------------------------------------------------------------------------------------------
# Decoded once
# ---------------------------------------------------------------------------------------------------------


@dataclass
class Decoded:
    """What became of files: tensors of those that could be decoded, and their positions among all files.

    ``broken`` gives the reason for each of the others, and ``notes`` the files of which something is to be said.
    """

    tensors: Tensor
    rows: Tensor
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def report(self, on_error: str) -> None:
        """Say what could not be decoded, as an error or as a warning, and what was noted."""
        if self.broken:
            some = _first_of([f"{name} ({reason})" for name, reason in self.broken.items()], "; ")
            message = f"{len(self.broken)} files cannot be decoded: {some}"
            if on_error == "raise" or not len(self.rows):
                raise ValueError(f"{message}. Repair or remove them, or set on_error='skip'")
            warnings.warn(f"skipped: {message}", stacklevel=4)
        for note, names in self.notes.items():
            warnings.warn(f"{note} ({len(names)} files: {_first_of(names, ', ')})", stacklevel=4)


def _first_of(names: list[str], separator: str) -> str:
    return separator.join(names[:_FEW]) + (" …" if len(names) > _FEW else "")


def check_on_error(on_error: str) -> None:
    """Raise unless ``on_error`` is one of the two ways to meet a file that cannot be decoded."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', received {on_error!r}")


def decode_once(
    path: Path,
    files: Sequence[Path],
    read: Callable[[Path], tuple[Tensor, list[str]]],
    *,
    asked: list[Any],
    label: str,
    root: str | Path | None,
    on_error: str,
) -> Decoded:
    """Return ``read`` of every file, from a kept copy unless a file, or what is ``asked`` for, has changed since.

    ``read`` raises ValueError or OSError for a file that it cannot decode.
    """
    # The time of the last change of state also moves where a file is replaced and its modification time set back.
    stats = [(str(f), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in ((f, f.stat()) for f in files)]
    key = hashlib.sha256(json.dumps([_VERSION, asked, stats]).encode()).hexdigest()[:20]
    cache = data_root(root) / "decoded" / f"{path.name}-{label}-{key}.safetensors"
    if kept := load_decoded(cache):
        decoded = Decoded(*kept[:2], kept[2]["broken"], kept[2]["notes"])
    else:
        decoded = _decode(path, files, read)
        if len(decoded.rows):
            save_decoded(cache, decoded.tensors, decoded.rows, broken=decoded.broken, notes=decoded.notes)
    decoded.report(on_error)
    return decoded


def _decode(path: Path, files: Sequence[Path], read: Callable[[Path], tuple[Tensor, list[str]]]) -> Decoded:
    def attempt(file: Path) -> tuple[Tensor, list[str]] | str:
        try:
            return read(file)
        except (OSError, ValueError) as error:
            return str(error).removeprefix(f"{file} ")

    tensors, first = torch.empty(0), ""
    rows: list[int] = []
    broken: dict[str, str] = {}
    notes: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decoders, about files that they can decode
        results = tqdm(pool.map(attempt, files), total=len(files), desc=f"decoding {path.name}", unit=" files")
        for row, (file, result) in enumerate(zip(files, results, strict=True)):
            name = str(file.relative_to(path))
            if isinstance(result, str):
                broken[name] = result
                continue
            tensor, said = result
            if not rows:
                tensors, first = tensor.new_empty(len(files), *tensor.shape), name
            if tensor.shape != tensors.shape[1:]:
                ours, its = (" × ".join(map(str, sizes[-2:])) for sizes in (tensors.shape, tensor.shape))
                raise ValueError(
                    f"pictures must have one size, but {first} has {ours} pixels and {name} has {its}; "
                    "set image_size to cut and resize them"
                )
            tensors[len(rows)] = tensor
            rows.append(row)
            for note in said:
                notes[note].append(name)
    return Decoded(tensors[: len(rows)], torch.tensor(rows, dtype=torch.int64), broken, dict(notes))


def _checksum(tensors: dict[str, Tensor]) -> str:
    return "-".join(f"{zlib.crc32(tensors[name].numpy().data):08x}" for name in sorted(tensors))


def load_decoded(path: Path) -> tuple[Tensor, Tensor, dict[str, Any]] | None:
    """Return what ``save_decoded`` wrote, or None where no whole, unharmed file lies."""
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


def save_decoded(path: Path, images: Tensor, labels: Tensor, **about: Any) -> None:
    """Keep decoded tensors in a format that runs no code when read; what cannot be kept is only warned of."""
    from safetensors.torch import save

    tensors = {"images": images.contiguous(), "labels": labels.contiguous()}
    try:
        write_whole(path, save(tensors, {"about": json.dumps({**about, "checksum": _checksum(tensors)})}))
    except OSError as error:
        warnings.warn(f"the decoded images could not be kept, and are decoded again next time: {error}", stacklevel=3)
