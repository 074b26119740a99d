"""Folders with one subfolder per class, as people lay them out, and decoded copies of what lies in them."""

import hashlib
import io
import os
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vlmcourse._files import write_whole

_NAMES = {"train": "train(ing)?", "validation": "val(id(ation)?)?|dev", "test": "test(ing)?"}
SPLITS = tuple(_NAMES)
_VERSION = 3  # of decoding: copies that an earlier one made are not read


def data_root(root: str | Path | None = None) -> Path:
    """Return where data is kept: ``root``, else the variable ``VLMCOURSE_DATA``, else ``~/.cache/vlmcourse``."""
    return Path(root or os.environ.get("VLMCOURSE_DATA") or "~/.cache/vlmcourse").expanduser()


def list_classes(
    path: Path, split: str | None, *, extensions: frozenset[str], example: str
) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Find the files below ``path/class`` or ``path/split/class``, the class of each, and the classes of all splits.

    A split's folder may be called ``Train``, ``training_set``, ``val`` and so on. A class is a folder that holds a file
    in some split, so that all splits number the classes alike; names that differ in how accents are stored are one.
    """
    kind = Path(example).stem
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of {kind}s, received {path}, which is none")
    if split not in (None, *SPLITS):
        raise ValueError(f"split must be one of {', '.join(SPLITS)} or None, received {split!r}")
    inside = _folders_in(path)
    held = ", ".join(folder.name for folder in inside) or "none"
    layers: dict[str | None, list[Path]] = {
        part: [f for f in inside if re.fullmatch(rf"({names})([ _-]?(set|data|images|videos))?", f.name, re.IGNORECASE)]
        for part, names in _NAMES.items()
    }
    if split is None:
        for part, folders in layers.items():  # a class may be called train, but a split's folder holds only folders
            if any(_folders_in(f) and all(file.parent != f for file in _files_below(f, extensions)) for f in folders):
                raise ValueError(f"path={path} holds {held}; choose one with split={part!r}")
        layers = {None: [path]}
    elif len(layers[split]) != 1:
        raise ValueError(f"split={split!r} needs one folder such as {path / split}; {path} holds {held}")

    files: dict[tuple[str | None, str], list[Path]] = defaultdict(list)
    for part, folders in layers.items():
        for folder in (inner for outer in folders for inner in _folders_in(outer)):
            files[part, unicodedata.normalize("NFC", folder.name)] += _files_below(folder, extensions)
    class_names = tuple(sorted({name for (_, name), found in files.items() if found}))
    chosen = [(file, k) for k, name in enumerate(class_names) for file in files[split, name]]
    if not chosen:
        raise ValueError(f"no {kind}s found: expected files such as {layers[split][0] / 'class' / example}")
    return [file for file, _ in chosen], [label for _, label in chosen], class_names


def _folders_in(path: Path) -> list[Path]:
    """Return what may be a class or a split: hidden folders, and one that macOS adds to archives, are none."""
    return sorted(f for f in path.iterdir() if f.is_dir() and f.name[0] != "." and f.name != "__MACOSX")


def _files_below(folder: Path, extensions: frozenset[str]) -> list[Path]:
    """Return the files in a folder and the folders in it, in order; what is hidden is left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(parent, n) for n in names if n[0] != "." and os.path.splitext(n)[1].lower() in extensions]
    return sorted(found)


# ---------------------------------------------------------------------------------------------------------
# Decoded once
# ---------------------------------------------------------------------------------------------------------


class _Decoded(NamedTuple):
    tensors: Tensor  # of those files that could be decoded
    rows: Tensor  # their positions among all files
    broken: list[str]  # the others, with the reason
    notes: dict[str, list[str]]  # what is to be said, and of which files


def decode_once(
    path: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    read: Callable[[Path], tuple[Tensor, list[str]]],
    *,
    asked: list[Any],
    label: str,
    root: str | Path | None,
    on_error: str,
) -> tuple[Tensor, Tensor]:
    """Return ``read`` of every file, and the labels, from a kept copy unless a file, or what is ``asked``, has changed.

    ``read`` returns a tensor and notes, and raises ValueError or OSError for a file that it cannot decode.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', received {on_error!r}")
    # The time of the last change of state also moves where a file is replaced and its modification time set back.
    stats = [(str(f), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in ((f, f.stat()) for f in files)]
    key = hashlib.sha256(repr([_VERSION, asked, stats]).encode()).hexdigest()[:20]
    cache = data_root(root) / "decoded" / f"{path.name}-{label}-{key}.pt"
    decoded = _kept(cache)
    if decoded is None:
        decoded = _decode(path, files, read)
        _keep(cache, decoded)
    if decoded.broken:
        message = f"{len(decoded.broken)} files cannot be decoded: {_first_of(decoded.broken, '; ')}"
        if on_error == "raise" or not len(decoded.rows):
            raise ValueError(f"{message}. Repair or remove them, or set on_error='skip'")
        warnings.warn(f"skipped: {message}", stacklevel=3)
    for note, names in decoded.notes.items():
        warnings.warn(f"{note} ({len(names)} files: {_first_of(names, ', ')})", stacklevel=3)
    return decoded.tensors, torch.tensor(labels)[decoded.rows]


def _first_of(names: list[str], separator: str, few: int = 10) -> str:
    return separator.join(names[:few]) + (" …" if len(names) > few else "")


def _decode(path: Path, files: Sequence[Path], read: Callable[[Path], tuple[Tensor, list[str]]]) -> _Decoded:
    def attempt(file: Path) -> tuple[Tensor, list[str]] | str:
        try:
            return read(file)
        except (OSError, ValueError) as error:
            return str(error).removeprefix(f"{file} ")

    tensors: list[Tensor] = []
    rows: list[int] = []
    broken: list[str] = []
    notes: dict[str, list[str]] = defaultdict(list)
    names = [str(file.relative_to(path)) for file in files]
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decoders, about files that they can decode
        results = tqdm(pool.map(attempt, files), total=len(files), desc=f"decoding {path.name}", unit=" files")
        for row, (name, result) in enumerate(zip(names, results, strict=True)):
            if isinstance(result, str):
                broken.append(f"{name} ({result})")
                continue
            tensors.append(result[0])
            rows.append(row)
            for note in result[1]:
                notes[note].append(name)
            if tensors[-1].shape != tensors[0].shape:
                ours, its = (" × ".join(map(str, tensor.shape[-2:])) for tensor in (tensors[0], tensors[-1]))
                raise ValueError(
                    f"pictures must have one size, but {names[rows[0]]} has {ours} pixels and {name} has {its}; "
                    "set image_size to cut and resize them"
                )
    pixels = torch.stack(tensors) if tensors else torch.empty(0)
    return _Decoded(pixels, torch.tensor(rows, dtype=torch.int64), broken, dict(notes))


def _kept(path: Path) -> _Decoded | None:
    """Return what ``_keep`` wrote, or None where no whole file lies."""
    try:
        return _Decoded(*torch.load(path, weights_only=True)) if path.is_file() else None
    except Exception as error:  # what PyTorch raises depends on the damage
        warnings.warn(f"decoding again: {path} is broken ({error})", stacklevel=4)
        return None


def _keep(path: Path, decoded: _Decoded) -> None:
    """Write a file that runs no code when read; what cannot be kept is only warned of."""
    content = io.BytesIO()
    torch.save(tuple(decoded), content)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        warnings.warn(f"what was decoded could not be kept, and is decoded again next time: {error}", stacklevel=4)
