"""What the README and the page on running tell a reader to type works as it stands."""

import re
from pathlib import Path

import pytest

from vlmcourse.cli import main

ROOT = Path(__file__).parents[2]
TEXTS = ["README.md", "book/how_to_run.md"]


# As in "tokens = ...  # (8, 64, 64)", or "mixed, weights = ...  # weights: (8, 4, 64, 64)".
PROMISE = re.compile(r"^(\w+)[^\n#]*=[^\n#]*# (?:(\w+): )?\((\d[\d, ]*)\)", re.MULTILINE)


@pytest.mark.parametrize("name", TEXTS)
def test_the_examples_run_and_give_the_shapes_that_their_comments_promise(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(example, names)
    promises = PROMISE.findall(example)
    assert promises, "no comment says which shape a line gives"
    for first, named, shape in promises:
        assert names[named or first].shape == tuple(int(size) for size in shape.split(","))


@pytest.mark.parametrize("name", TEXTS)
def test_every_make_command_that_is_named_exists(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(re.findall(r"`+[^`]+`+", (ROOT / name).read_text()))))
    assert named
    assert named <= targets


def test_every_file_that_the_readme_links_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_picture_in_the_readme_is_small():
    assert (ROOT / "book/_static/book.png").stat().st_size < 300_000


def test_the_model_answers_what_the_readme_promises(tmp_path, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, question, promise = re.search(
        r'python -c "\n(.*?)"\n\S+vlmcourse ask scene\.png "([^"]+)" +# ([^\n]+)', readme, re.DOTALL
    ).groups()
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert main(["ask", "scene.png", question]) == 0
    assert capsys.readouterr().out.strip() == promise
