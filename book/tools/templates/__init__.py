"""What the tools write besides what they compute: pages, cells and configuration with blanks, which Jinja fills."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

FOLDER = Path(__file__).parent
JINJA = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(),  # in HTML and XML
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def filled(template: str, **words: Any) -> str:
    """Return one of the templates with its blanks filled."""
    return JINJA.get_template(template).render(words)
