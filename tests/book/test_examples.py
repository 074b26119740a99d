"""The examples in docstrings of the book's tools and extensions are true; pytest itself sees to those of vlmcourse."""

import doctest
import importlib
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[2] / "book"
SOURCES = [*BOOK.glob("tools/*.py"), *BOOK.glob("_ext/*.py")]
WITH_EXAMPLES = sorted(source for source in SOURCES if ">>> " in source.read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", WITH_EXAMPLES, ids=lambda source: source.stem)
def test_examples_are_true(source):
    if source.parent.name == "_ext":  # its modules are no package, and some need Sphinx
        module = pytest.importorskip(source.stem, reason="needs the extra [book]")
    else:
        module = importlib.import_module(f"book.tools.{source.stem}")
    outcome = doctest.testmod(module)
    assert outcome.attempted >= 1
    assert outcome.failed == 0
