"""What the pictures in the page share: templates in files of their own, names made from content, images inside HTML."""

import base64
import hashlib
import io
import re
from importlib.resources import files
from typing import Any

from torch import Tensor


def filled(template: str, **values: Any) -> str:
    """Return a template of this package, with each ``{{word}}`` replaced by the value of that name.

    ``{{controls.css}}`` stands for the text of the file of that name, which lies beside the template.

    >>> filled("path.html", steps="<li>1</li>").endswith("</style><li>1</li></ol>")
    True
    """

    def read(name: str) -> str:
        return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")

    def value(found: re.Match[str]) -> str:
        return read(found[1]) if "." in found[1] else str(values[found[1]])

    return re.sub(r"\{\{([\w.]+)\}\}", value, read(template))


def name_of(kind: str, content: str) -> str:
    """Return an identifier made from the content: the same data give the same HTML.

    >>> name_of("clip", "eight frames")
    'clip-...'
    """
    return f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def base64_of(image: Tensor, form: str, **options: Any) -> str:
    """Return an image ``(c, h, w)`` from 0 to 1 as the text of a PNG or JPEG file."""
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image.detach().float().cpu().clamp(0, 1)).save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def check_label(label: str, what: str) -> None:
    """Raise unless there are words for those who do not see what is shown."""
    if not label.strip():
        raise ValueError(f"label must describe the {what} for readers who do not see it, received none")
