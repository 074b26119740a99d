"""Clips that play in the page: no script, no video codec, no other host, and a reader who can stop them.

All frames lie side by side in one PNG, and a CSS animation shows one after the other. Readers whose system asks for
less motion get a clip that stands still until they choose Play.
"""

from einops import rearrange
from torch import Tensor

from vlmcourse._checks import check_floating, check_positive
from vlmcourse.course.figures.page import base64_of, filled


def clip_player(clip: Tensor, *, label: str, frames_per_second: float = 5.0, width: int = 240) -> str:
    """Return HTML that plays a clip over and over, and lets a reader stop it and play it backwards.

    Shapes:
        clip ``(1 or 3, t, h, w)``, from 0 to 1; other values are clipped. ``width`` counts pixels on the page.

    Source:
        Slide S10.

    >>> import torch
    >>> player = clip_player(torch.rand(1, 5, 8, 8), label="five frames of noise")
    >>> player.count("data:image/png"), "<script" in player, "http" in player
    (1, False, False)
    """
    check_floating("clip", clip, "c t h w")
    if clip.shape[0] not in (1, 3):
        raise ValueError(f"clip must have 1 or 3 channels, received {clip.shape[0]}")
    check_positive("frames_per_second", frames_per_second)
    check_positive("width", width)
    frames, height, width_of_frame = clip.shape[1:]
    return filled(
        "player.html",
        label=label,
        film=base64_of(rearrange(clip, "c t h w -> c h (t w)"), "PNG", optimize=True),
        frames=frames,
        frame=[width_of_frame, height],
        seconds=f"{frames / frames_per_second:.2f}",
        width=width,
    )
