"""What the pictures in the page share: templates in files of their own, names made from content, images inside HTML.

Colours come from the page's theme, or are plain outside the book. ``label`` is for those who cannot see a picture.
"""

import base64
import hashlib
import io
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined  # a requirement of torch
from torch import Tensor

MOST_PICTURES = 8  # to choose from: a phone shows them in two rows, and the HTML stays below 200 kB
_TEMPLATES = Environment(
    loader=PackageLoader(__package__), undefined=StrictUndefined, autoescape=True, trim_blocks=True
)


def filled(template: str, **values: Any) -> str:
    """Return a template filled with values, which must be JSON and are escaped, and a ``name`` made from them.

    >>> filled("player.html", label="a < b", film="", frames=5, frame=[8, 8], seconds=1, width=240)
    '<figure id="player-...aria-label="a &lt; b"...
    """
    if "label" in values and not values["label"].strip():
        raise ValueError("label must describe what is shown for readers who do not see it, received none")
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return _TEMPLATES.get_template(template).render(values, name=f"{template.partition('.')[0]}-{digest[:10]}")


def base64_of(image: Tensor, form: str, **options: Any) -> str:
    """Return an image ``(c, h, w)`` from 0 to 1 as the text of a PNG or JPEG file."""
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image.detach().float().cpu().clamp(0, 1)).save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def picture_to_choose(image: Tensor, alt: str) -> dict[str, str]:
    """Return an image ``(c, h, w)`` and its words as the macro ``picture`` of ``parts.html`` takes them."""
    return {"alt": alt, "pixels": base64_of(image, "PNG", optimize=True)}
