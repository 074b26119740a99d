"""One reader of pictures: what it makes of every kind of file, and that damage of any kind is one error with a name."""

import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from vlmcourse import plots
from vlmcourse.data import pictures
from vlmcourse.data.pictures import FIRST_FRAME, ON_BLACK, as_unit_range, read_picture

RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))  # every grey there is, in 8 bits


def read(path):
    picture, notes = read_picture(path)
    return np.asarray(picture), notes


def grey(path):
    pixels, _ = read(path)
    assert pixels.ndim == 3
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def sixteen_bit_pgm(path, values, white):
    path.write_bytes(b"P5 256 4 %d\n" % white + values.astype(">u2").tobytes())


SIXTEEN_BITS = {
    "a.png": lambda path: Image.fromarray(RAMP * np.uint16(257)).save(path),
    "a.tif": lambda path: Image.fromarray(RAMP * np.uint16(257)).save(path),
    "big endian.tif": lambda path: Image.fromarray((RAMP * np.uint16(257)).astype(">u2")).save(path),
    "zero is white.tif": lambda path: Image.fromarray(65535 - RAMP * np.uint16(257)).save(path, tiffinfo={262: 0}),
    "a.pgm": lambda path: sixteen_bit_pgm(path, RAMP * np.uint16(257), 65535),
    "ten bits.pgm": lambda path: sixteen_bit_pgm(path, np.round(RAMP * (1023 / 255)), 1023),
}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_more_than_eight_bits_become_eight_and_no_shade_is_lost(tmp_path, name):
    SIXTEEN_BITS[name](tmp_path / name)
    assert (grey(tmp_path / name) == RAMP).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_which_no_one_has_said_which_is_white_are_refused(tmp_path, kind):
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read: .*32-bit numbers.*save it with 8 or 16 bits"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_black_and_this_is_noted(tmp_path, mode):
    if mode == "P":
        Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=0)
    else:
        Image.new(mode, (4, 4), (255, 0, 0, 0) if mode == "RGBA" else (255, 0)).save(tmp_path / "a.png")
    pixels, notes = read(tmp_path / "a.png")
    assert (pixels == 0).all()
    assert notes == [ON_BLACK]


def test_half_transparent_is_half_as_bright_and_a_full_alpha_channel_changes_nothing(tmp_path):
    Image.new("RGBA", (4, 4), (200, 100, 0, 128)).save(tmp_path / "half.png")
    assert read(tmp_path / "half.png")[0][0, 0].tolist() == [100, 50, 0]
    Image.new("RGBA", (4, 4), (200, 100, 0, 255)).save(tmp_path / "full.png")
    pixels, notes = read(tmp_path / "full.png")
    assert pixels[0, 0].tolist() == [200, 100, 0]
    assert notes == []


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first_is_read_and_this_is_noted(tmp_path, name):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    pixels, notes = read(tmp_path / name)
    assert pixels[0, 0].tolist()[1:] in ([0, 0], [1, 0])
    assert notes == [FIRST_FRAME]


def test_a_phones_picture_with_a_preview_is_one_picture(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.jpg")[1] == []


@pytest.mark.parametrize("kind", ["AVIF", "ICO", "DDS", "TGA", "JPEG2000"])
def test_only_the_formats_named_are_opened_whatever_the_file_is_called(tmp_path, kind):
    if kind == "AVIF":
        pytest.importorskip("PIL._avif")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png", format=kind)
    with pytest.raises(ValueError, match=r"a.png is not a picture that can be read; save it as PNG or JPEG"):
        read_picture(tmp_path / "a.png")


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (8000, 8000)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "_as_rgb", None)
    with pytest.raises(ValueError, match=r"a.png has too many pixels \(8000 × 8000\); make it smaller, at most 50"):
        read_picture(tmp_path / "a.png")


def test_a_file_that_is_not_there_is_no_damaged_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_picture(tmp_path / "nowhere.png")


@pytest.mark.parametrize("error", [MemoryError, RecursionError, AssertionError, KeyError, RuntimeError("odd")])
def test_whatever_a_decoder_raises_becomes_the_one_error(tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "_as_rgb", fail)
    with pytest.raises(ValueError, match=r"a.png cannot be read: it is damaged"):
        read_picture(tmp_path / "a.png")


def test_bytes_are_divided_and_other_numbers_left_alone():
    assert torch.equal(as_unit_range(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([0.0, 1.0]))
    for pictures_ in (torch.rand(3), torch.rand(3, dtype=torch.float64), torch.arange(3)):
        assert as_unit_range(pictures_) is pictures_


def test_bytes_are_drawn_as_what_they_show():
    bytes_ = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    for draw in (plots.show_images, lambda images: plots.show_rows({"a": images})):
        drawn = [np.asarray(draw(images).get_images()[0].get_array()) for images in (bytes_, bytes_ / 255)]
        np.testing.assert_array_equal(*drawn)
        assert drawn[0].std() > 0.1


# --- damage -----------------------------------------------------------------------------------------------------------

WAYS = {
    "a.png": {}, "grey16.png": {}, "palette.png": {}, "alpha.png": {}, "moving.png": {"save_all": True},
    "a.jpg": {"quality": 80}, "progressive.jpg": {"progressive": True}, "cmyk.jpg": {}, "a.gif": {},
    "moving.gif": {"save_all": True}, "a.webp": {}, "lossless.webp": {"lossless": True},
    "moving.webp": {"save_all": True}, "a.bmp": {}, "a.tif": {}, "lzw.tif": {"compression": "tiff_lzw"},
    "jpeg.tif": {"compression": "jpeg"}, "g4.tif": {"compression": "group4"}, "grey16.tif": {}, "a.ppm": {},
    "grey16.pgm": {},
}  # fmt: skip
MEMORY = 1 << 30  # bytes that reading one damaged picture may take


def valid_files(folder):
    """A small file of every format in several ways of writing it, some with EXIF."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in WAYS.items():
        picture = Image.fromarray(noise[..., :3])
        if name.startswith("grey16"):
            picture = Image.fromarray(noise[..., 0] * np.uint16(257))
        for mode, word in (("P", "palette"), ("CMYK", "cmyk"), ("1", "g4"), ("I", "grey16.pgm")):
            picture = picture.convert(mode) if name.startswith(word) else picture
        picture = Image.fromarray(noise) if name.startswith("alpha") else picture
        if options.get("save_all"):
            options = {**options, "append_images": [picture.rotate(90), picture.rotate(180)]}
        if name[-3:] in ("jpg", "ebp", "png"):
            options = {**options, "exif": exif}
        picture.save(folder / name, **options)
        assert read_picture(folder / name)[0].mode == "RGB"


def mutate(content, rng):
    """Change a few bytes, cut, repeat or remove a part; numbers at the ends of their range hurt most."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        where = rng.randrange(min(len(content), rng.choice((64, 200, len(content)))))
        how = rng.randrange(6)
        if how < 3:
            content[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == 3:
            content[where : where + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\1\0\0")
            )
        elif how == 4 and len(content) > 8:
            del content[where : where + rng.randrange(1, 64)]
        else:
            content[where:where] = content[where : where + rng.randrange(1, 64)]
        if not content:
            return b""
    return bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)


def fuzz(folder, count, seed):
    """Read damaged files until ``count`` is reached; return what came out raw, and how many could still be read."""
    rng, raw, fine, victim = random.Random(seed), [], 0, folder / "victim"
    originals = {name: (folder / name).read_bytes() for name in WAYS}
    for k in range(count):
        name = list(WAYS)[k % len(WAYS)]
        victim.write_bytes(mutate(originals[name], rng))
        try:
            read_picture(victim)
            fine += 1
        except ValueError as error:
            if not str(error).startswith(f"{victim} "):
                raw.append(f"{name} {k}: names no file: {error}")
            if isinstance(error.__cause__, MemoryError):
                raw.append(f"{name} {k}: wants more memory than it may")
        except Exception as error:
            raw.append(f"{name} {k}: {type(error).__name__}: {error}")
    return raw, fine


def fuzz_with_little_memory(folder, count, seed):
    """In a process of its own: decoders may crash, and the limit holds for all that the process takes."""
    code = (
        "import resource, sys, warnings; sys.path.insert(0, sys.argv[1]); warnings.simplefilter('ignore');"
        "import test_pictures as t, torch, pathlib;"
        "t.read_picture(next(pathlib.Path(sys.argv[2]).glob('a.png')));"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + t.MEMORY,) * 2);"
        "raw, fine = t.fuzz(pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]));"
        "print(*raw[:20], sep='\\n'); print(f'{fine} of {sys.argv[3]} were still read'); sys.exit(len(raw) > 0)"
    )
    command = [sys.executable, "-c", code, os.path.dirname(__file__), str(folder), str(count), str(seed)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("count", "seed"), [(400, 0), *[pytest.param(2000, seed, marks=pytest.mark.slow) for seed in (1, 2)]]
)
@pytest.mark.timeout(600)
def test_a_damaged_picture_is_read_or_refused_by_name_and_takes_little_memory(tmp_path, count, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        valid_files(tmp_path)
    ended = fuzz_with_little_memory(tmp_path, count, seed)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert int(ended.stdout.split()[0]) > count / 50  # the mutations are not so wild that none gets past the header


def test_a_file_of_several_million_bytes_is_read_whole(tmp_path):
    pixels = torch.randint(256, (1100, 1000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 3 * 2**20
    assert (np.asarray(read_picture(tmp_path / "noise.png")[0]) == pixels).all()
