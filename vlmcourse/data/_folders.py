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
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vlmcourse._files import write_whole

_NAMES = {"train": "train(ing)?", "validation": "val(id(ation)?)?|dev", "test": "test(ing)?"}
SPLITS = tuple(_NAMES)
# Returns what a file shows, and notes; raises ValueError or OSError where it cannot be decoded.
Reader = Callable[[Path], tuple[Tensor, list[str]]]
_VERSION = 3  # of decoding: copies that an earlier one made are not read


def data_root(root: str | Path | None = None) -> Path:
    """Return where data is kept: ``root``, else the variable ``VLMCOURSE_DATA``, else ``~/.cache/vlmcourse``."""
    return Path(root or os.environ.get("VLMCOURSE_DATA") or "~/.cache/vlmcourse").expanduser()


def list_classes(
    path: Path, split: str | None, *, extensions: frozenset[str], example: str
) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Find the files below ``path/class`` or ``path/split/class``, the class of each, and the classes of all splits.

    All splits number alike: a class is one that has a file in any of them. Names are compared in Unicode's form NFC.
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
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent).resolve()
        inside = [name for name in folders if name[0] != "."]
        folders[:] = [name for name in inside if not here.is_relative_to((here / name).resolve())]  # no way back up
        found += [Path(parent, n) for n in names if n[0] != "." and os.path.splitext(n)[1].lower() in extensions]
    return sorted(found)


# ---------------------------------------------------------------------------------------------------------
# Decoded once
# ---------------------------------------------------------------------------------------------------------


def decode_once(
    path: Path, files: Sequence[Path], read: Reader, *, asked: list[Any], label: str, root: str | Path | None
) -> Tensor:
    """Return ``read`` of every file, from a kept copy unless a file, or what is ``asked`` for, has changed since."""
    # stacklevel=4: warnings point at the caller of image_folder or video_folder, past the wrapper of on_cpu.
    key = hashlib.sha256(repr([_VERSION, asked, list(map(_state, files))]).encode()).hexdigest()[:20]
    cache = data_root(root) / "decoded" / f"{path.name}-{label}-{key}.pt"
    decoded = None
    try:
        decoded = torch.load(cache, weights_only=True) if cache.is_file() else None
    except Exception as error:  # what PyTorch raises depends on the damage
        warnings.warn(f"decoding again: {cache} is broken ({error})", stacklevel=4)
    if decoded is None:
        decoded = _decode(path, files, read)
        content = io.BytesIO()
        torch.save(decoded, content)
        try:
            write_whole(cache, content.getvalue())
        except OSError as error:
            warnings.warn(f"what was decoded could not be kept, and is decoded again next time: {error}", stacklevel=4)
    tensors, notes = decoded
    for note, names in notes.items():
        warnings.warn(f"{note} ({len(names)} files: {_first_of(names, ', ')})", stacklevel=4)
    return tensors


def _state(file: Path) -> tuple[Any, ...]:
    """Return what changes with a file; a link that leads nowhere has no state, and is named when it is read."""
    if not file.exists():
        return str(file), None
    # The time of the last change of state also moves where a file is replaced and its modification time set back.
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _first_of(names: list[str], separator: str, few: int = 10) -> str:
    return separator.join(names[:few]) + (" …" if len(names) > few else "")


def _decode(path: Path, files: Sequence[Path], read: Reader) -> tuple[Tensor, dict[str, list[str]]]:
    def attempt(file: Path) -> tuple[Tensor, list[str]] | str:
        try:
            return read(file)
        except (OSError, ValueError) as error:
            return str(error).removeprefix(f"{file} ")

    tensors: list[Tensor] = []
    broken: list[str] = []
    notes: dict[str, list[str]] = defaultdict(list)
    few = min(4, os.cpu_count() or 1)  # with small pictures more threads only wait for each other
    with ThreadPoolExecutor(few) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decoders, about files that they can decode
        results = tqdm(pool.map(attempt, files), total=len(files), desc=f"decoding {path.name}", unit=" files")
        for file, result in zip(files, results, strict=True):
            name = str(file.relative_to(path))
            if isinstance(result, str):
                broken.append(f"{name} ({result})")
                continue
            tensor, said = result
            if tensors and tensor.shape != tensors[0].shape:
                before, now = (" × ".join(map(str, t.shape[-2:])) for t in (tensors[0], tensor))
                pool.shutdown(cancel_futures=True)  # or all the others would be read first, and kept in memory
                raise ValueError(
                    f"pictures must have one size, but others have {before} pixels and {name} has {now}; "
                    "set image_size to cut and resize them"
                )
            tensors.append(tensor)
            for note in said:
                notes[note].append(name)
    if broken:
        some = _first_of(broken, "; ")
        raise ValueError(f"{len(broken)} files cannot be decoded: {some}. Repair or remove them")
    return torch.stack(tensors), dict(notes)
