"""Clips that play in the page: no script, no video codec, no other host, and a reader who can stop them.

All frames lie side by side in one PNG, and a CSS animation shows one after the other. Two boxes to tick stop the clip
and turn it round. Readers whose system asks for less motion get a clip that stands still until they start it.
"""

import base64
import hashlib
import html
import io
from string import Template

from einops import rearrange
from torch import Tensor

from vlmcourse.ops._checks import check_floating, check_positive, check_rank


def clip_player(clip: Tensor, *, label: str, frames_per_second: float = 5.0, width: int = 240) -> str:
    """Return HTML that plays a clip over and over, and lets a reader stop it and play it backwards.

    Shapes:
        clip ``(1 or 3, t, h, w)``.

    Units:
        clip from 0 to 1; other values are clipped. ``width`` counts pixels on the page, where there are so many.
        ``label`` describes the clip in words to those who do not see it.

    Raises:
        ValueError: a clip of another shape, a rate or width that is not above zero, or an empty ``label``.
        TypeError: a clip that is not floating point.

    Source:
        Slide S10.

    >>> import torch
    >>> player = clip_player(torch.rand(1, 5, 8, 8), label="five frames of noise")
    >>> player.count("data:image/png"), "<script" in player, "http" in player
    (1, False, False)
    """
    check_rank("clip", clip, "c t h w")
    check_floating("clip", clip)
    if clip.shape[0] not in (1, 3):
        raise ValueError(f"clip must have 1 or 3 channels, received {clip.shape[0]}")
    check_positive("frames_per_second", frames_per_second)
    check_positive("width", width)
    if not label.strip():
        raise ValueError("label must describe the clip for readers who do not see it, received none")
    frames, height, width_of_frame = clip.shape[1:]
    film = _png(rearrange(clip, "c t h w -> c h (t w)"))
    return _PLAYER.substitute(
        name="clip-" + hashlib.sha256(f"{film} {label} {frames_per_second} {width}".encode()).hexdigest()[:10],
        label=html.escape(label, quote=True),
        film=film,
        steps=max(frames, 2),  # fewer are not allowed; a single frame fills the strip and stays where it is
        strip=100 * frames,
        seconds=f"{frames / frames_per_second:.2f}",
        width=width,
        shape=f"{width_of_frame} / {height}",
    )


def _png(picture: Tensor) -> str:
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(picture.detach().float().cpu().clamp(0, 1)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# In percent, so that the film shrinks with a narrow page. steps(n, jump-none) stops at n places, both ends included.
_PLAYER = Template("""\
<figure id="$name" class="clip-player">
<style>
#$name { max-width: ${width}px; margin: 0 0 1rem; color: var(--pst-color-text-base, CanvasText); }
#$name .film { aspect-ratio: $shape; image-rendering: pixelated;
  background: url("data:image/png;base64,$film") 0 0 / ${strip}% 100%;
  animation: $name ${seconds}s steps($steps, jump-none) infinite; }
@keyframes $name { from { background-position-x: 0%; } to { background-position-x: 100%; } }
#$name label { font-size: .9rem; margin-right: 1rem; }
#$name:has(.stop:checked) .film { animation-play-state: paused; }
#$name:has(.back:checked) .film { animation-direction: reverse; }
@media (prefers-reduced-motion: reduce) {
  #$name .film { animation-play-state: paused; }
  #$name:has(.stop:checked) .film { animation-play-state: running; }
}
</style>
<div class="film" role="img" aria-label="$label"></div>
<label><input type="checkbox" class="stop"> Pause</label>
<label><input type="checkbox" class="back"> Backwards</label>
</figure>
""")
