"""Videos from files: encoded on the spot, in the layouts of UCF-101 and HMDB-51, whole and broken."""

import os
import struct
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from vlmcourse import extract_features
from vlmcourse.data.videos import VideoDataset, _read_clip, video_folder

av = pytest.importorskip("av", reason="PyAV, which the extra 'video' installs, is not here")


def write_video(file, frames, *, codec="ffv1", pixels="bgr0", fps=25):
    """Encode uint8 frames (t, h, w, 3); ffv1 loses nothing, mpeg4 is what the real sets use."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        container.mux(stream.encode())


def counting(n, *, h=24, w=40, start=0, step=5):
    """Frames of one grey each, so that the grey tells which frame it is."""
    grey = (start + step * torch.arange(n)).to(torch.uint8)
    return grey[:, None, None, None].expand(n, h, w, 3).contiguous()


def shown(clip, *, step=5):
    """Which frames of ``counting`` a clip holds."""
    assert (clip.amax(dim=(0, 2, 3)) == clip.amin(dim=(0, 2, 3))).all()
    return (clip[0, :, 0, 0].int() // step).tolist()


# --- one video --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "num_frames", "frames"),
    [
        (5, 5, [0, 1, 2, 3, 4]),
        (15, 5, [1, 4, 7, 10, 13]),
        (10, 5, [1, 3, 5, 7, 9]),
        (23, 3, [3, 11, 19]),
        (2, 5, [0, 0, 1, 1, 1]),
        (11, 1, [5]),
    ],
)
def test_frames_are_spread_evenly_over_the_video(tmp_path, length, num_frames, frames):
    write_video(tmp_path / "x.avi", counting(length))
    clip = _read_clip(tmp_path / "x.avi", num_frames=num_frames, image_size=8)
    assert clip.shape == (3, num_frames, 8, 8)
    assert clip.dtype == torch.uint8
    assert shown(clip) == frames


@pytest.mark.parametrize(("h", "w"), [(20, 36), (36, 20)])
def test_the_middle_square_is_kept_with_its_colours(tmp_path, h, w):
    frames = torch.zeros(3, h, w, 3, dtype=torch.uint8)
    frames[..., 2] = 255  # blue at the ends, which are cut off
    rows, columns = slice((h - 20) // 2, (h + 20) // 2), slice((w - 20) // 2, (w + 20) // 2)
    frames[:, rows, columns] = torch.tensor([200, 100, 0], dtype=torch.uint8)
    frames[:, rows, columns][:, :10, :4] = torch.tensor([0, 250, 50], dtype=torch.uint8)
    write_video(tmp_path / "x.avi", frames)
    clip = _read_clip(tmp_path / "x.avi", num_frames=2, image_size=20)
    torch.testing.assert_close(clip[:, 0], frames[0, rows, columns].permute(2, 0, 1), atol=3, rtol=0)
    small = _read_clip(tmp_path / "x.avi", num_frames=2, image_size=10)
    torch.testing.assert_close(small[:, 1], frames[1, rows, columns][::2, ::2].permute(2, 0, 1), atol=3, rtol=0)


def test_the_codec_of_the_real_sets_is_read(tmp_path):
    write_video(tmp_path / "x.avi", counting(30), codec="mpeg4", pixels="yuv420p")
    clip = _read_clip(tmp_path / "x.avi", num_frames=5, image_size=16).float().mean(dim=(0, 2, 3))
    assert (clip - torch.tensor([15.0, 45, 75, 105, 135])).abs().max() < 6


def turned(file, degrees):
    """Write into an MP4 that it is to be shown turned clockwise, as phones do."""
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    content = bytearray(file.read_bytes())
    begins = content.index(b"tkhd") + 44
    content[begins : begins + 36] = struct.pack(
        ">9i", matrix[0] << 16, matrix[1] << 16, 0, matrix[2] << 16, matrix[3] << 16, 0, 0, 0, 1 << 30
    )
    file.write_bytes(content)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_filmed_sideways_is_turned_upright(tmp_path, degrees):
    frames = torch.zeros(5, 32, 48, 3, dtype=torch.uint8)
    frames[:, :16, 8:24] = 255  # the upper left quarter of the middle square
    write_video(tmp_path / "x.mp4", frames, codec="mpeg4", pixels="yuv420p")
    flat = _read_clip(tmp_path / "x.mp4", num_frames=2, image_size=16)
    turned(tmp_path / "x.mp4", degrees)
    clip = _read_clip(tmp_path / "x.mp4", num_frames=2, image_size=16)
    assert torch.equal(clip, flat.rot90(-degrees // 90, dims=(2, 3)))
    corner = {90: (slice(0, 6), slice(10, 16)), 180: (slice(10, 16),) * 2, 270: (slice(10, 16), slice(0, 6))}[degrees]
    assert clip[:, :, *corner].float().mean() > 200 > 50 > clip.float().mean() - 64


def test_frames_are_chosen_by_time_and_not_by_number(tmp_path):
    """Twenty dark frames in one second, then five bright ones in seven: most of what is seen is bright."""
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        times = [50 * k for k in range(20)] + [1000 + 1400 * k for k in range(5)]
        for k, time_ in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 10 if k < 20 else 200, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = _read_clip(tmp_path / "x.mkv", num_frames=10, image_size=8)
    assert (clip[0, :, 0, 0] < 100).sum() in (1, 2)


@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_video_cut_in_the_middle_of_its_file_is_refused(tmp_path, kept):
    noise = torch.randint(256, (60, 24, 40, 3), dtype=torch.uint8)
    write_video(tmp_path / "x.mkv", noise, codec="mpeg4", pixels="yuv420p", fps=10)
    whole = (tmp_path / "x.mkv").read_bytes()
    assert _read_clip(tmp_path / "x.mkv", num_frames=4, image_size=8).shape == (3, 4, 8, 8)
    (tmp_path / "x.mkv").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"it ends after \d\.\d of 6\.0 seconds"):
        _read_clip(tmp_path / "x.mkv", num_frames=4, image_size=8)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_video_shortened_without_being_encoded_anew_is_whole(tmp_path, codec):
    write_video(tmp_path / "long.mp4", counting(50), codec=codec, pixels="yuv420p", fps=10)
    with av.open(str(tmp_path / "long.mp4")) as source, av.open(str(tmp_path / "short.mp4"), "w") as target:
        stream = source.streams.video[0]
        like = getattr(target, "add_stream_from_template", lambda stream: target.add_stream(template=stream))  # PyAV 13
        copy, two_seconds = like(stream), int(2 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - two_seconds, packet.dts - two_seconds, copy
                target.mux(packet)
    clip = _read_clip(tmp_path / "short.mp4", num_frames=3, image_size=8)
    assert all(abs(int(grey) - 5 * frame) <= 5 for grey, frame in zip(clip[0, :, 0, 0], [25, 35, 45], strict=True))


# --- folders ----------------------------------------------------------------------------------------------------------


def ucf(folder, *, groups=range(1, 9), classes=("Swing", "Dive")):
    """Two classes, a video a group and shot; groups 1 and 2 are the test list. The grey tells group and class."""
    train, test = [], []
    for k, label in enumerate(classes):
        for group in groups:
            for shot in (1, 2):
                name = f"{label}/v_{label}_g{group:02}_c{shot:02}.avi"
                write_video(folder / "videos" / name, counting(4, start=100 * k + 10 * group, step=1))
                (test if group < 3 else train).append(f"{name} {k + 1}" if group >= 3 else name)
    lists = folder / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("\n".join(train) + "\n")
    (lists / "testlist01.txt").write_text("\r\n".join(test) + "\r\n\r\n")
    return {"path": folder / "videos", "annotations": lists, "num_frames": 2, "image_size": 8, "root": folder}


def groups_of(data):
    return sorted({(label, (grey - 100 * (data.class_names[label] == "Swing")) // 10) for label, grey in zip(
        data.labels.tolist(), data.clips[:, 0, 0, 0, 0].tolist(), strict=True)})  # fmt: skip


def test_ucf_101s_lists_decide_who_trains_and_who_tests(tmp_path):
    layout = ucf(tmp_path, classes=("Dive", "Swing"))
    train, validation, test = (video_folder(**layout, split=split) for split in ("train", "validation", "test"))
    assert train.class_names == test.class_names == ("Dive", "Swing")
    assert groups_of(test) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert groups_of(validation) == [(0, 8), (1, 8)]  # the last of six scenes
    assert groups_of(train) == [(k, group) for k in (0, 1) for group in range(3, 8)]
    assert (len(train), len(validation), len(test)) == (20, 4, 8)
    assert train.clips.shape == (20, 3, 2, 8, 8)
    assert (train.name, train.split) == ("videos", "train")


def test_hmdb_51s_marks_decide_who_trains_and_who_tests(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for label, start in (("shoot_ball", 0), ("wave", 100)):
        rows = []
        for k, mark in enumerate([1, 1, 2, 0, 1]):
            name = f"Film{k // 2}_{label}_u_cm_np1_fr_goo_{k}.avi"
            write_video(tmp_path / "videos" / label / name, counting(3, start=start + 10 * k, step=1))
            rows.append(f"{name} {mark}")
        (lists / f"{label}_test_split1.txt").write_text(" \n".join(rows) + " \n")

    def greys(split):
        data = video_folder(
            tmp_path / "videos",
            annotations=lists,
            split=split,
            num_frames=1,
            image_size=8,
            root=tmp_path,
            name="films",
        )
        assert data.class_names == ("shoot_ball", "wave")
        assert data.name == "films"
        return sorted(zip(data.labels.tolist(), (data.clips[:, 0, 0, 0, 0] - 1).tolist(), strict=True))

    assert greys("test") == [(0, 20), (1, 120)]
    assert greys("validation") == [(0, 40), (1, 140)]  # the second of the two films that are left to train
    assert greys("train") == [(0, 0), (0, 10), (1, 100), (1, 110)]


def test_no_scene_lies_on_both_sides_of_the_validation_cut(tmp_path):
    layout = ucf(tmp_path, groups=range(1, 22), classes=("Dive",))
    train, validation = (video_folder(**layout, split=split) for split in ("train", "validation"))
    assert not set(groups_of(train)) & set(groups_of(validation))
    assert len(groups_of(validation)) == 3  # of 19 scenes
    assert len(train) + len(validation) == 2 * 19


def of_one_size(file):
    """Fill a video up with zeros, which decoders pass over: how long encoders make one differs between versions."""
    file.write_bytes(file.read_bytes().ljust(50_000, b"\0"))
    return file


def test_decoded_clips_are_kept_until_a_video_changes(tmp_path, monkeypatch):
    layout = ucf(tmp_path, classes=("Dive",))
    victim = of_one_size(layout["path"] / "Dive/v_Dive_g03_c01.avi")
    first = video_folder(**layout)
    monkeypatch.setattr("vlmcourse.data.videos._read_clip", None)  # nothing may be decoded
    again = video_folder(**layout)
    assert torch.equal(again.clips, first.clips)
    assert torch.equal(again.labels, first.labels)
    monkeypatch.undo()
    size = victim.stat().st_size
    time.sleep(0.01)
    write_video(victim, counting(4, start=250, step=0))
    assert of_one_size(victim).stat().st_size == size
    assert (video_folder(**layout).clips[0] == 250).all()
    assert video_folder(**{**layout, "num_frames": 5}).clips.shape[2] == 5


def test_class_folders_need_no_lists(tmp_path):
    for k, name in enumerate(("jump", "run")):
        for shot in range(2):
            write_video(tmp_path / "mine" / name / f"{shot}.mp4", counting(4, start=100 * k + 20 * shot), codec="mpeg4",
                        pixels="yuv420p")  # fmt: skip
            write_video(tmp_path / "split" / "Train" / name / f"{shot}.avi", counting(4))
    write_video(tmp_path / "split" / "test_set" / "run" / "0.mov", counting(4), codec="mpeg4", pixels="yuv420p")
    options = {"num_frames": 2, "image_size": 8, "root": tmp_path}
    mine = video_folder(tmp_path / "mine", **options)
    assert (mine.class_names, mine.labels.tolist(), mine.split) == (("jump", "run"), [0, 0, 1, 1], "all")
    greys = mine.clips.float().mean((1, 2, 3, 4))
    assert greys.sort().indices.tolist() == [0, 1, 2, 3]
    train, test = (video_folder(tmp_path / "split", split=split, **options) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("jump", "run")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 1], [1])
    with pytest.raises(ValueError, match=r"holds Train, test_set; choose one with split='train'"):
        video_folder(tmp_path / "split", **options)
    with pytest.raises(ValueError, match=r"no videos found: expected files such as .*class.video\.mp4"):
        video_folder(make_folder(tmp_path / "none" / "run").parent, **options)


def make_folder(path):
    path.mkdir(parents=True)
    return path


@pytest.mark.skipif(os.name == "nt", reason="Windows does not say when a file was rewritten if its time is put back")
def test_a_video_replaced_by_one_of_the_same_size_and_time_is_decoded_again(tmp_path):
    layout = ucf(tmp_path, classes=("Dive",))
    victim = of_one_size(layout["path"] / "Dive/v_Dive_g03_c01.avi")
    video_folder(**layout)
    stat = victim.stat()
    time.sleep(0.05)
    write_video(victim, counting(4, start=250, step=0))
    of_one_size(victim)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert victim.stat().st_size == stat.st_size
    assert (video_folder(**layout).clips[0] == 250).all()


# --- what can go wrong ------------------------------------------------------------------------------------------------


def cut(file):
    """End the file between two frames, as a copy that was interrupted may: what is left decodes without complaint."""
    with av.open(str(file)) as container:
        begins = [packet.pos for packet in container.demux(video=0) if packet.pos]
    file.write_bytes(file.read_bytes()[: begins[50] - 8])


def without_frames(file):
    with av.open(str(file), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame(format="s16", layout="mono", samples=800)
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())


BROKEN = {
    "empty": (lambda file: file.write_bytes(b""), ""),
    "no video": (lambda file: file.write_text("404 Not Found\n" * 100), ""),
    "cut short": (cut, r"it ends after \d+ of 100 frames"),
    "sound alone": (without_frames, "it holds no video"),
}


@pytest.mark.parametrize("harm", BROKEN)
def test_a_broken_video_is_named_and_refused(tmp_path, harm):
    layout = ucf(tmp_path, classes=("Dive",))
    victim = layout["path"] / "Dive/v_Dive_g04_c02.avi"
    noise = torch.randint(256, (100, 24, 40, 3), dtype=torch.uint8)
    write_video(victim, noise, codec="mpeg4", pixels="yuv420p")
    break_it, reason = BROKEN[harm]
    break_it(victim)
    with pytest.raises(ValueError, match=rf"1 files cannot be decoded: Dive/v_Dive_g04_c02.avi \(.*{reason}"):
        video_folder(**layout)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"path": "nowhere"},
            FileNotFoundError,
            r"path=.*nowhere lacks 2 of the 2 videos of split='train'.*\n.*https://www.crcv.ucf",
        ),
        ({"annotations": "nowhere"}, FileNotFoundError, r"(?s)trainlist01.txt.*received nowhere.*https://serre-lab"),
        ({"split": "all"}, ValueError, "split must be one of train, validation, test, received 'all'"),
        ({"num_frames": 0}, ValueError, "num_frames must be at least 1"),
        ({"image_size": 8.0}, TypeError, "image_size must be an integer"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        video_folder(**{**ucf(tmp_path, classes=("Dive",), groups=[1, 3]), **changes})


def test_a_listed_video_that_is_not_there_is_named_before_anything_is_decoded(tmp_path):
    layout = ucf(tmp_path, classes=("Dive",))
    (layout["path"] / "Dive/v_Dive_g05_c01.avi").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of the 10 videos of split='train', such as Dive/v_Dive_g05"):
        video_folder(**layout)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("trainlist01.txt", "v_Dive_g01_c01.avi 1\n", "trainlist01.txt must hold lines such as Class/video.avi"),
        ("Dive_test_split1.txt", "a.avi\n", "Dive_test_split1.txt must hold lines such as video.avi 1"),
        ("Dive_test_split1.txt", "a.avi 3\n", "received 'a.avi 3'"),
        ("Dive_test_split1.txt", "a.avi 0\n", "hold no video for split='train'"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, name, text, message):
    (tmp_path / "testlist01.txt").write_text("")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        video_folder(tmp_path, annotations=tmp_path)


def test_without_pyav_the_message_says_what_to_install(tmp_path, monkeypatch):
    layout = ucf(tmp_path, classes=("Dive",), groups=[1, 3])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match="pip install av"):
        video_folder(**layout)


def test_an_encoder_of_clips_gives_features_of_a_video_dataset():
    clips = torch.randint(256, (5, 3, 2, 4, 4), dtype=torch.uint8)
    data = VideoDataset(clips, torch.arange(5), tuple("abcde"), "noise")
    features = extract_features(torch.nn.Flatten(), data, device="cpu")
    torch.testing.assert_close(features, clips.flatten(1).float() / 255)


def test_a_video_dataset_feeds_the_training_loop():
    from vlmcourse import CNN3D, fit

    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (12, 3, 2, 8, 8), dtype=torch.uint8, generator=generator)
    data = VideoDataset(clips, torch.arange(12) % 3, ("a", "b", "c"), "noise")
    seen = []

    def loss(model, batch):
        seen.append((batch[0].dtype, batch[0].max().item()))
        return torch.nn.functional.cross_entropy(model(batch[0]).float(), batch[1])

    model = CNN3D(num_classes=3, width=3)
    fit(model, loss, (data.clips, data.labels), lr=1e-3, steps=2, batch_size=12, device="cpu", progress=False)
    assert seen == [(torch.float32, 1.0)] * 2
