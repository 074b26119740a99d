"""Videos from files: from class folders, and UCF-101 and HMDB-51 with their own training and test lists."""

import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vlmcourse._checks import check_positive_ints
from vlmcourse._devices import on_cpu
from vlmcourse.data._folders import SPLITS, decode_once, list_classes

EXTENSIONS = frozenset(
    [".3gp", ".asf", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".ogv",
     ".ts", ".vob", ".webm", ".wmv"]
)  # fmt: skip
WHOLE = 0.9  # the part of a video's promised length, in frames and in seconds, that must be there

SOURCES = """
UCF-101 (7 GB): UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from https://www.crcv.ucf.edu/data/UCF101.php
HMDB-51 (2 GB): hmdb51_org.rar, an archive of archives, and test_train_splits.rar from
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/
Unpack both; path is the folder with one subfolder of videos per class, annotations the folder with the lists."""


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not one truth value
class VideoDataset:
    """Clips and labels in memory, one clip per video.

    Shapes:
        clips: ``(n, 3, t, h, w)`` uint8. labels: ``(n,)`` int64, positions in ``class_names``.

    >>> len(VideoDataset(torch.zeros(5, 3, 2, 4, 4, dtype=torch.uint8), torch.arange(5), tuple("abcde"), "black"))
    5
    """

    clips: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    name: str
    split: str = "train"

    def __len__(self) -> int:
        return len(self.clips)


@on_cpu()
def video_folder(
    path: str | Path,
    *,
    annotations: str | Path | None = None,
    split: str | None = None,
    num_frames: int = 16,
    image_size: int = 64,
    name: str | None = None,
    root: str | Path | None = None,
) -> VideoDataset:
    """Read videos from a folder with one subfolder per class, split by folders or by the lists of UCF-101 or HMDB-51.

    ``num_frames`` frames are spread evenly over a video's seconds, with repeats where it has fewer: upright, the middle
    square, resized, kept decoded until a file changes. Classes are numbered alphabetically. Needs ``pip install av``.

    Shapes:
        clips ``(n, 3, num_frames, image_size, image_size)`` uint8, labels ``(n,)`` int64.

    Options:
        annotations: the folder with ``trainlist01.txt`` (UCF-101) or ``*_test_split1.txt`` (HMDB-51), the first of the
        three official splits, for videos in ``path/class/video.avi``; the last sixth of each class's groups (one filmed
        scene each) is for validation. Left out, the folders are as for :func:`~vlmcourse.image_folder`. split:
        ``train``, ``validation`` or ``test``; left out, ``train`` or, without lists, all. name, root: as there.

    Raises:
        FileNotFoundError: not every listed video is there; the message says where to get them.
        ValueError: videos that cannot be decoded or end early.

    Source:
        Soomro, Zamir and Shah 2012 (arXiv 1212.0402); Kuehne et al. 2011. Slide S10.

    >>> video_folder("UCF-101", annotations="ucfTrainTestlist")
    Traceback (most recent call last):
    FileNotFoundError: annotations must be a folder with trainlist01.txt (UCF-101) or *_test_split1.txt ...
    """
    check_positive_ints(num_frames=num_frames, image_size=image_size)
    path = Path(path).expanduser().resolve()
    if annotations is None:
        files, labels, class_names = list_classes(path, split, extensions=EXTENSIONS, example="video.mp4")
        split = split or "all"
    else:
        split = split or "train"
        files, class_names = _listed(path, Path(annotations).expanduser(), split)
        labels = [class_names.index(file.parent.name) for file in files]

    def read(file: Path) -> tuple[Tensor, list[str]]:
        return _read_clip(file, num_frames=num_frames, image_size=image_size), []

    asked = [class_names, num_frames, image_size]
    clips = decode_once(path, files, read, asked=asked, label=split, root=root)
    return VideoDataset(clips, torch.tensor(labels), class_names, name or path.name, split)


# ---------------------------------------------------------------------------------------------------------
# The official lists
# ---------------------------------------------------------------------------------------------------------


# A line of a list, and an example: class and file (with a number in training lists), or file and mark, where a video
# marked 1 is for training, 2 for testing, 0 for neither.
_UCF = (r"([^/\s]+/[^/\s]+)(?:\s+\d+)?", "Class/video.avi")
_HMDB = (r"(\S+)\s+([012])", "video.avi 1")


def _listed(path: Path, annotations: Path, split: str) -> tuple[list[Path], tuple[str, ...]]:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, received {split!r}")
    if (annotations / "trainlist01.txt").is_file():
        lists = {part: _rows_of(annotations / f"{part}list01.txt", *_UCF) for part in ("train", "test")}
        listed = [(name, part) for part, rows in lists.items() for (name,) in rows]
    elif found := sorted(annotations.glob("*_test_split1.txt")):
        marked = [(f.name.removesuffix("_test_split1.txt"), *row) for f in found for row in _rows_of(f, *_HMDB)]
        parts = {"1": "train", "2": "test"}
        listed = [(f"{label}/{name}", parts[mark]) for label, name, mark in marked if mark in parts]
    else:
        raise FileNotFoundError(
            "annotations must be a folder with trainlist01.txt (UCF-101) or *_test_split1.txt (HMDB-51), "
            f"received {annotations}, which has neither. {SOURCES}"
        )
    files = [path / name for name, part in listed if (part == "test") == (split == "test")]
    if split != "test":
        held_out = _last_scenes(files)
        files = [file for file in files if (_scene(file) in held_out) == (split == "validation")]
    missing = [str(file.relative_to(path)) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"path={path} lacks {len(missing)} of the {len(files)} videos of split={split!r}, such as {missing[0]}. "
            f"{SOURCES}"
        )
    if not files:
        raise ValueError(f"the lists in {annotations} hold no video for split={split!r}")
    return files, tuple(sorted({Path(name).parent.name for name, _ in listed}))


def _rows_of(file: Path, line: str, example: str) -> list[tuple[str, ...]]:
    rows = []
    for text in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
        if not (match := re.fullmatch(line, text)):
            raise ValueError(f"{file.name} must hold lines such as {example}, received {text!r}")
        rows.append(match.groups())
    return rows


def _scene(file: Path) -> str:
    """Return the group: the name up to the clip's number, as in v_Swing_g08_c01 or November_swing_u_cm_np1_fr_goo_0."""
    return re.sub(r"(_c|_)\d+$", "", file.stem)


def _last_scenes(files: list[Path]) -> set[str]:
    """Return of each class the last sixth of the scenes by name, at least one where there are two."""
    held_out: set[str] = set()
    for label in {file.parent.name for file in files}:
        scenes = sorted({_scene(file) for file in files if file.parent.name == label})
        held_out.update(scenes[len(scenes) - (len(scenes) + 4) // 6 :])
    return held_out


# ---------------------------------------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------------------------------------


def _read_clip(file: Path, *, num_frames: int, image_size: int) -> Tensor:
    """Return frames spread evenly over the seconds of a video, ``(3, num_frames, image_size, image_size)`` uint8."""
    try:
        import av
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("videos are decoded with PyAV, which is not installed: pip install av") from missing
    frames: list[Tensor] = []
    times: list[float] = []
    reached = 0.0  # the end of the last packet of any stream, in seconds
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ValueError("it holds no video")
            stream = container.streams.video[0]
            promised, seconds = stream.frames, (container.duration or 0) / av.time_base  # 0 where the header is silent
            rate = stream.average_rate or 25
            spacing = float(1 / rate)
            if stream.duration and "mp4" in container.format.name:
                # The header of one shortened without being encoded anew still counts the frames that it leaves out.
                promised = min(promised, math.ceil(stream.duration * stream.time_base * rate))
            for packet in container.demux():
                if packet.pts is not None:
                    reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    continue
                for frame in packet.decode():
                    times.append(times[-1] + spacing if frame.time is None and times else frame.time or 0.0)
                    frames.append(_upright_square(frame, image_size))
            reached -= (container.start_time or 0) / av.time_base
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error
    if not frames:
        raise ValueError("it holds no frame")
    if len(frames) < WHOLE * promised:
        raise ValueError(f"it ends after {len(frames)} of {promised} frames")
    if reached < WHOLE * seconds - spacing:
        raise ValueError(f"it ends after {reached:.1f} of {seconds:.1f} seconds")
    # A frame is shown until the next one. Cut the time into num_frames equal parts: wanted is what each middle shows.
    shown = torch.tensor(times, dtype=torch.float64)
    length = shown[-1] + spacing - shown[0]
    middles = shown[0] + length * (2 * torch.arange(num_frames, dtype=torch.float64) + 1) / (2 * num_frames)
    chosen = torch.searchsorted(shown, middles + 1e-6 * spacing, right=True) - 1
    return torch.stack([frames[k] for k in chosen.tolist()], dim=1)


def _upright_square(frame: Any, image_size: int) -> Tensor:
    """Return the middle square of a frame, resized, turned as its file says: ``(3, image_size, image_size)``."""
    scale = image_size / min(frame.width, frame.height)
    width, height = (max(round(scale * side), image_size) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    top, left = (height - image_size) // 2, (width - image_size) // 2
    square = torch.from_numpy(small[top : top + image_size, left : left + image_size].copy())
    matrix = frame.side_data.get("DISPLAYMATRIX")  # its first two numbers say where the right of the picture goes
    right, down = struct.unpack("=2i", bytes(matrix)[:8]) if matrix else (1, 0)
    return rearrange(square, "h w c -> c h w").rot90(-round(2 * math.atan2(down, right) / math.pi), dims=(1, 2))
