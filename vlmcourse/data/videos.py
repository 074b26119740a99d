"""Videos from files: UCF-101, HMDB-51 and others laid out like them, with their own training and test lists."""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ._checks import check_int
from .datasets import SPLITS, _load_decoded, _report_broken, _save_decoded, data_root

WHERE = """
UCF-101 (7 GB): UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from https://www.crcv.ucf.edu/data/UCF101.php
HMDB-51 (2 GB): hmdb51_org.rar, an archive of archives, and test_train_splits.rar from
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/
Unpack both; path is the folder with one subfolder of videos a class, annotations the folder with the lists."""


@dataclass(frozen=True)
class VideoDataset:
    """Clips and labels in memory, one clip a video.

    Shapes:
        clips: ``(n, 3, t, h, w)`` uint8. labels: ``(n,)`` int64, positions in ``class_names``.

    ``(data.clips, data.labels)`` is what :func:`vlmcourse.fit` takes; it turns a batch into float32 in [0, 1].

    >>> data = VideoDataset(torch.zeros(5, 3, 2, 4, 4, dtype=torch.uint8), torch.arange(5), tuple("abcde"), "black")
    >>> len(data)
    5
    """

    clips: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    name: str
    split: str = "train"

    def __len__(self) -> int:
        return len(self.clips)


def video_folder(
    path: str | Path,
    *,
    annotations: str | Path,
    split: str = "train",
    fold: int = 1,
    num_frames: int = 16,
    image_size: int = 64,
    on_error: str = "raise",
    name: str | None = None,
    root: str | Path | None = None,
) -> VideoDataset:
    """Read UCF-101 or HMDB-51 from local files, split as their authors split them.

    The videos of one scene, filmed in one go, look alike. The official lists keep them on one side; a random split
    would not, and would report how well a network remembers rooms. The lists know no validation split, so it is cut
    from the training list in the same way: of each class, the last sixth of the scenes.

    From each video come ``num_frames`` frames, spread evenly over its length: the middle square, resized. A video with
    fewer frames repeats some. Decoded clips are kept, and decoded again when a file is added, removed or changed.
    Decoding needs PyAV: ``pip install 'vlmcourse[video]'``.

    Shapes:
        clips ``(n, 3, num_frames, image_size, image_size)`` uint8, labels ``(n,)`` int64 in the alphabetical order of
        the classes.

    Options:
        annotations: the folder with ``trainlist01.txt`` (UCF-101) or ``*_test_split1.txt`` (HMDB-51). split:
        ``train``, ``validation`` or ``test``. fold: which of the three official splits. on_error: ``"raise"`` refuses
        a video that cannot be decoded, or that ends early, ``"skip"`` leaves it out; both name it. name: the label
        for results, the folder's own if left out. root: as for :func:`~vlmcourse.load_dataset`.

    Raises:
        FileNotFoundError: where no folder, no list, or not every listed video is; the message says where to get them.
        ModuleNotFoundError: without PyAV.
        ValueError: an unknown split, a list that cannot be read, or videos that cannot be decoded.

    Source:
        Soomro, Zamir and Shah 2012 (arXiv 1212.0402); Kuehne et al. 2011. Slide S10.

    >>> video_folder("UCF-101", annotations="ucfTrainTestlist")
    Traceback (most recent call last):
    ...
    FileNotFoundError: path must be a folder with one subfolder of videos a class, received UCF-101, which is none...
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, received {split!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', received {on_error!r}")
    for option, value in (("fold", fold), ("num_frames", num_frames), ("image_size", image_size)):
        check_int(option, value, minimum=1)
    path, annotations = Path(path).expanduser(), Path(annotations).expanduser()
    videos, class_names = _listed(path, annotations, split, fold)

    stats = [(video.file, (path / video.file).stat()) for video in videos]
    files = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    asked = json.dumps([str(path.resolve()), class_names, num_frames, image_size, files])
    key = hashlib.sha256(asked.encode()).hexdigest()[:20]
    cache = data_root(root) / "decoded" / f"{path.resolve().name}-{split}{fold}-{key}.safetensors"
    if decoded := _load_decoded(cache):
        clips, labels, about = decoded
        _report_broken(about["broken"], on_error)
    else:
        clips, kept, broken = _decode(path, videos, num_frames, image_size, on_error)
        labels = torch.tensor([class_names.index(video.label) for video in kept])
        _save_decoded(cache, clips, labels, broken=broken)
    return VideoDataset(clips, labels, class_names, name or path.resolve().name, split)


# ---------------------------------------------------------------------------------------------------------
# The official lists
# ---------------------------------------------------------------------------------------------------------


class _Video(NamedTuple):
    file: str  # below the folder of videos
    label: str

    @property
    def scene(self) -> str:
        """What the name says before the number of the shot: v_Swing_g08_c01 and November_swing_u_cm_np1_fr_goo_0."""
        return re.sub(r"(_c|_)\d+$", "", Path(self.file).stem)


def _listed(path: Path, annotations: Path, split: str, fold: int) -> tuple[list[_Video], tuple[str, ...]]:
    """The videos of one split, and the classes of all."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"path must be a folder with one subfolder of videos a class, received {path}, which is none. {WHERE}"
        )
    if (annotations / f"trainlist{fold:02}.txt").is_file():
        lists = {part: _ucf_list(annotations / f"{part}list{fold:02}.txt") for part in ("train", "test")}
    elif found := sorted(annotations.glob(f"*_test_split{fold}.txt")):
        lists = {part: [v for file in found for v in _hmdb_list(file, mark)] for part, mark in _HMDB_MARKS.items()}
    else:
        raise FileNotFoundError(
            f"annotations must be a folder with trainlist{fold:02}.txt (UCF-101) or *_test_split{fold}.txt (HMDB-51), "
            f"received {annotations}, which has neither. {WHERE}"
        )
    class_names = tuple(sorted({video.label for videos in lists.values() for video in videos}))
    videos = lists["test"]
    if split != "test":
        held_out = _last_scenes(lists["train"])
        videos = [video for video in lists["train"] if (video.scene in held_out) == (split == "validation")]
    missing = [video.file for video in videos if not (path / video.file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"path={path} lacks {len(missing)} of the {len(videos)} videos of split={split!r}, such as {missing[0]}. "
            f"{WHERE}"
        )
    if not videos:
        raise ValueError(f"the lists in {annotations} hold no video for split={split!r}")
    return videos, class_names


def _ucf_list(file: Path) -> list[_Video]:
    """Lines such as ``Swing/v_Swing_g08_c01.avi 89``; the number is missing in test lists."""
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in names:
        if name.count("/") != 1:
            raise ValueError(f"{file.name} must hold lines such as Class/video.avi, received {name!r}")
    return [_Video(name, name.split("/")[0]) for name in names]


_HMDB_MARKS = {"train": "1", "test": "2"}  # a video marked 0 belongs to neither


def _hmdb_list(file: Path, mark: str) -> list[_Video]:
    """Lines such as ``November_swing_u_cm_np1_fr_goo_0.avi 1``, one file a class."""
    label = re.sub(r"_test_split\d+\.txt$", "", file.name)
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for row in rows:
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise ValueError(f"{file.name} must hold lines such as video.avi 1, received {' '.join(row)!r}")
    return [_Video(f"{label}/{name}", label) for name, marked in rows if marked == mark]


def _last_scenes(videos: Sequence[_Video]) -> set[str]:
    """Of each class the last sixth of the scenes in the order of their names, at least one where there are two."""
    held_out: set[str] = set()
    for label in {video.label for video in videos}:
        scenes = sorted({video.scene for video in videos if video.label == label})
        held_out.update(scenes[len(scenes) - (len(scenes) + 4) // 6 :] if len(scenes) > 1 else [])
    return held_out


# ---------------------------------------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------------------------------------


def _decode(
    path: Path, videos: Sequence[_Video], num_frames: int, image_size: int, on_error: str
) -> tuple[Tensor, list[_Video], dict[str, str]]:
    """Clips of all videos that can be decoded, those videos, and the names of the others with the reason."""
    av = _pyav()

    def read(video: _Video) -> Tensor | str:
        try:
            return _read_clip(path / video.file, num_frames=num_frames, image_size=image_size)
        except (av.FFmpegError, ValueError) as error:
            return str(error)

    clips = torch.empty(len(videos), 3, num_frames, image_size, image_size, dtype=torch.uint8)
    kept: list[_Video] = []
    broken: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(read, videos), total=len(videos), desc=f"decoding {path.name}", unit=" videos")
        for video, result in zip(videos, results, strict=True):
            if isinstance(result, str):
                broken[video.file] = result
            else:
                clips[len(kept)] = result
                kept.append(video)
    _report_broken(broken, on_error if kept else "raise")
    return clips[: len(kept)], kept, broken


def _read_clip(file: Path, *, num_frames: int, image_size: int) -> Tensor:
    """Frames spread evenly over one video, ``(3, num_frames, image_size, image_size)`` uint8."""
    av = _pyav()
    with av.open(str(file)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        promised = stream.frames  # 0 where the header does not say
        frames = [_square(frame, image_size) for frame in container.decode(stream)]
    if not frames:
        raise ValueError("it holds no frame")
    if len(frames) < 0.9 * promised:
        raise ValueError(f"it ends after {len(frames)} of {promised} frames")
    # The middles of num_frames parts of equal length.
    chosen = [(2 * k + 1) * len(frames) // (2 * num_frames) for k in range(num_frames)]
    return torch.stack([frames[k] for k in chosen], dim=1)


def _square(frame: Any, image_size: int) -> Tensor:
    """The middle square of a PyAV frame, resized: ``(3, image_size, image_size)``."""
    scale = image_size / min(frame.width, frame.height)
    width, height = (max(round(scale * side), image_size) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    top, left = (height - image_size) // 2, (width - image_size) // 2
    return torch.from_numpy(small[top : top + image_size, left : left + image_size].copy()).permute(2, 0, 1)


def _pyav() -> Any:
    try:
        import av
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "videos are decoded with PyAV, which is not installed here: pip install 'vlmcourse[video]'"
        ) from missing
    return av
