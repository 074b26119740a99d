"""Pictures from files: one reader for all who read them, and one error that names the file."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".gif", ".webp", ".bmp", ".tif", ".tiff"})
EXTENSIONS |= {".apng", ".jpe", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"}
# Pictures too, which are named rather than passed over where they lie among the others.
UNREADABLE = frozenset({".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".ico", ".tga", ".dds"})
UNREADABLE |= {".exr", ".pfm", ".dng", ".cr2", ".nef", ".arw"}
LARGEST = 50_000_000  # pixels: more than most cameras give, less than what fills a small memory
HEAVIEST = 6 * LARGEST  # bytes: 16 bits a channel, not compressed

FIRST_FRAME = "it has several frames; only the first is read"
ON_BLACK = "its transparent parts are shown as black"


def read_picture(path: str | Path) -> tuple[Any, list[str]]:
    """Return a picture as an upright PIL image in RGB of eight bits, and notes on what was lost or added.

    Raises:
        ValueError: none of ``FORMATS``, damaged, over fifty million pixels, or of 32-bit numbers with no known white.
    """
    from PIL import Image

    path = Path(path)
    with path.open("rb") as file:
        content = file.read(2**20)  # asking for the most at once would fetch that much memory for every small file
        content += file.read(HEAVIEST + 1 - len(content)) if len(content) == 2**20 else b""
    try:
        if len(content) > HEAVIEST:
            raise Image.DecompressionBombError(f"more than {HEAVIEST // 10**6} million bytes")
        # From memory, where a damaged file that asks for gigabytes gets what there is.
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > LARGEST:
                raise Image.DecompressionBombError(f"{width} × {height}")
            moves = getattr(picture, "is_animated", False) and picture.format != "MPO"  # a phone's, with a preview
            notes = [FIRST_FRAME] if moves else []
            return _as_rgb(picture, notes), notes
    except Image.DecompressionBombError as error:  # Pillow's own limit comes first where it is lower
        most = f"at most {LARGEST // 10**6} million"
        raise ValueError(f"{path} has too many pixels ({error}); make it smaller, {most}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that can be read; save it as PNG or JPEG") from error
    except Exception as error:  # what Pillow raises for a damaged file depends on the format and on the damage
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read: it is damaged or of a rare kind ({reason})") from error


def middle_square(picture: Any, image_size: int) -> Tensor:
    """Return the middle square of a PIL picture, resized: ``(3, image_size, image_size)`` uint8."""
    from PIL import Image, ImageOps
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(ImageOps.fit(picture, (image_size, image_size), Image.Resampling.LANCZOS))


def as_unit_range(pictures: Tensor) -> Tensor:
    """Return uint8 pictures as float32 in [0, 1], and others as they are.

    >>> as_unit_range(torch.tensor([51], dtype=torch.uint8))
    tensor([0.2000])
    """
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures


def _as_rgb(picture: Any, notes: list[str]) -> Any:
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(upright, dtype=np.float32), picture)).convert("RGB")
    if "A" in upright.getbands() or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        if upright.getchannel("A").getextrema()[0] < 255:
            notes.append(ON_BLACK)
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright)
    return upright.convert("RGB")


def _eight_bits(gray: np.ndarray, picture: Any) -> np.ndarray:
    """Return the numbers of a grey picture with more bits, scaled so that its white is 255."""
    tags = picture.tag_v2 if picture.format == "TIFF" else {}
    if picture.mode.startswith("I;16"):
        white = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample: 12 or 16
    elif picture.mode == "I" and picture.format == "PPM":
        white = 65_535
    else:
        raise ValueError("it holds 32-bit numbers, and nothing says which is white; save it with 8 or 16 bits")
    scaled = (gray * (255 / white)).round().clip(0, 255).astype(np.uint8)
    return 255 - scaled if tags.get(262) == 0 else scaled  # PhotometricInterpretation: here zero is white
