"""Notebooks and pages keep the book's form: rules a reader would feel, each with an example that breaks it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted([*(ROOT / "lectures").glob("*.ipynb"), *(ROOT / "book" / "homework").glob("*.ipynb")])
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "book").rglob("*.md")])

# ---------------------------------------------------------------------------------------------------------
# Rules for prose
# ---------------------------------------------------------------------------------------------------------

# What is not the author's running text: code, mathematics, roles such as {glue:text}`x`, addresses, image marks.
NOT_PROSE = re.compile(
    r"^(`{3,}|~{3,}).*?^\1|\$\$.*?\$\$|\{[a-z:]+\}`[^`]*`|`[^`]*`|(?<!\$)\$[^$\n]+\$|https?://\S+",
    re.DOTALL | re.MULTILINE,
)
DIRECTIVE_WITH_PROSE = re.compile(
    r"^(`{3,}|:{3,})\{(?:admonition|exercise|solution|glossary|dropdown|note|tip)[^\n]*$", re.MULTILINE
)
# Numbers that look like measurements: shares, durations, sizes in memory, ratios of speed.
MEASUREMENT = re.compile(
    r"""
      \d\s*(?:%|per\ ?cent\b|percent\b|percentage\ points?\b)
    | \d\s*(?:ms|s|min|h|seconds?|minutes?|hours?|milliseconds?)\b
    | \d\s*(?:kB|MB|GB|kiB|MiB|GiB)\b
    | \d\s*(?:×|x\b|times)\s*(?:as\ |the\ )?(?:fast|slow|time|memory|less|more|small|large)
    | \b(?:accuracy|accuracies|loss|mIoU)\s+(?:of|is|was|reaches|reached|at)\s+(?:about\ )?[\d.]+
    """,
    re.VERBOSE,
)
# A number that is no measurement of ours stands beside a citation, or beside the reason why it may be typed.
EXCUSE = re.compile(r"\{cite[a-z:]*\}`|<!-- not measured: \S.*?-->")
FORBIDDEN = {
    "a word that talks down": r"\b(?:simply|obviously|trivially|just|of course|needless to say)\b",
    "an exclamation mark": r"(?<=\w)!(?!\[)",
    "a place on somebody's machine": r"(?:/(?:home|root|Users|tmp|work|mnt)/|[A-Z]:\\)",
    "an unfinished thought": r"\b(?:TODO|FIXME|XXX|TBD)\b",
    "a percent sign without its space": r"\d%(?!\w)",
    "a rate with 'a' for 'per'": r"\b(?:one|labels?|numbers?|vectors?|values?|curves?|sizes?|rows?|shapes|seconds)"
    r" an? (?:class|image|word|place|step|run|axis|frame|video|pixel|layer|picture|period|cell|colour)\b",
}


def running_text(markdown: str) -> str:
    """Return the prose of a piece of Markdown, with code and formulas blanked out and line numbers kept."""
    inside_out = DIRECTIVE_WITH_PROSE.sub(lambda match: " " * len(match[0]), markdown)
    return NOT_PROSE.sub(lambda match: "\n" * match[0].count("\n") or " … ", inside_out)


def sentences(markdown: str) -> list[str]:
    """Return the sentences, rows of tables and items of lists, each with its roles and comments still in place."""
    blanked = DIRECTIVE_WITH_PROSE.sub("", markdown)
    return [s for line in blanked.splitlines() for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z*\[{(])", line) if s.strip()]


def hand_typed_measurements(markdown: str) -> list[str]:
    """Return the sentences with a number that looks measured and carries neither citation nor reason."""
    without_code = re.sub(
        r"^(`{3,}|~{3,})(?!\{(?:adm|exe|sol|glo|dro|not|tip)).*?^\1", "", markdown, flags=re.DOTALL | re.MULTILINE
    )
    return [s for s in sentences(without_code) if MEASUREMENT.search(running_text(s)) and not EXCUSE.search(s)]


def forbidden_in(markdown: str) -> list[str]:
    text = running_text(markdown)
    return [
        f"{what}: {text[max(0, match.start() - 30) : match.end() + 30]!r}"
        for what, pattern in FORBIDDEN.items()
        for match in re.finditer(pattern, text)
    ]


# ---------------------------------------------------------------------------------------------------------
# Rules for notebooks
# ---------------------------------------------------------------------------------------------------------


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code_cells(nb: dict) -> list[dict]:
    return [cell for cell in nb["cells"] if cell["cell_type"] == "code"]


def stored_errors(nb: dict) -> list[str]:
    return [
        f"{output['ename']}: {output['evalue']}"
        for cell in code_cells(nb)
        if "raises-exception" not in cell["metadata"].get("tags", [])
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]


def unexecuted_cells(nb: dict) -> list[str]:
    if any(cell["metadata"].get("nbgrader") for cell in nb["cells"]):
        return []  # an assignment: its solutions are missing
    return [source(cell)[:60] for cell in code_cells(nb) if source(cell).strip() and not cell["execution_count"]]


def figures_without_alt_text(nb: dict) -> list[str]:
    """Return the cells whose pictures a screen reader cannot describe: MyST-NB reads ``mystnb.image.alt``."""
    silent = []
    for cell in code_cells(nb):
        data = [output.get("data", {}) for output in cell["outputs"]]
        described = len(cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")) >= 20
        if any(mime.startswith("image/") for formats in data for mime in formats) and not described:
            silent.append(source(cell)[:60])
        html = "".join("".join(formats.get("text/html", "")) for formats in data)
        if re.search(r"<img\b(?![^>]*\balt=)", html):
            silent.append(source(cell)[:60])
    return silent


def long_cells(nb: dict, *, most: int = 25) -> list[str]:
    counted = [(len(source(cell).strip().splitlines()), source(cell)[:60]) for cell in code_cells(nb)]
    return [f"{lines} lines: {start}" for lines, start in counted if lines > most]


def code_without_prose(nb: dict, *, most: int = 2) -> list[str]:
    """Return the cells that are more than the ``most``-th code cell in a row; folded ones count too."""
    run, found = 0, []
    for cell in nb["cells"]:
        run = run + 1 if cell["cell_type"] == "code" else 0
        if run > most:
            found.append(source(cell)[:60])
    return found


def bad_start(nb: dict) -> list[str]:
    """Return what is wrong with the first cells: a title, then imports that say what to install."""
    complaints = []
    first = nb["cells"][0]
    if first["cell_type"] != "markdown" or not re.match(r"(?:\([\w-]+\)=\n)*# \S", source(first)):
        complaints.append("the first cell is no title")
    imports = source(code_cells(nb)[0])
    most = 20 if any(cell["metadata"].get("nbgrader") for cell in nb["cells"]) else 10  # an assignment names its checks
    if len(imports.strip().splitlines()) > most:
        complaints.append(f"the first code cell is longer than {most} lines")
    if "pip install" not in imports:
        complaints.append("the first code cell does not say what to install where vlmcourse is missing")
    return complaints


def traces_of_a_machine(nb: dict) -> list[str]:
    """Return outputs that name a folder of the machine that made them."""
    printed = [
        "".join(text) if isinstance(text, list) else str(text)
        for cell in code_cells(nb)
        for output in cell["outputs"]
        for text in [output.get("text", ""), *(v for m, v in output.get("data", {}).items() if m.startswith("text/"))]
    ]
    pattern = FORBIDDEN["a place on somebody's machine"]
    return [text[max(0, m.start() - 20) : m.end() + 40] for text in printed for m in re.finditer(pattern, text)]


def quoted_and_not_stored(nb: dict) -> list[str]:
    """Return the names that the prose quotes and no output holds: an output of an earlier version of its cell."""
    text = "\n".join(source(cell) for cell in nb["cells"] if cell["cell_type"] == "markdown")
    outputs = [output for cell in code_cells(nb) for output in cell["outputs"]]
    stored = {output.get("metadata", {}).get("scrapbook", {}).get("name") for output in outputs}
    return sorted(set(re.findall(r"\{glue:text\}`([^`]+)`", text)) - stored)


def printed_without_a_space(nb: dict) -> list[str]:
    """Return the lines of printed text with a percent sign that touches its number."""
    outputs = [output for cell in code_cells(nb) for output in cell["outputs"]]
    texts = [text for o in outputs for text in (o.get("text", ""), o.get("data", {}).get("text/plain", ""))]
    return [line for text in texts for line in "".join(text).splitlines() if re.search(r"\d%", line)]


def outside_addresses(nb: dict) -> list[str]:
    """Return what an output would fetch from another host when the page is read."""
    html = [
        "".join(output.get("data", {}).get("text/html", "")) for cell in code_cells(nb) for output in cell["outputs"]
    ]
    fetches = r"""(?:src|href)=["'](?:https?:)?//[^"']*\.(?:js|css|png|svg|woff2?)|@import|url\(["']?https?:"""
    return [match[0] for text in html for match in re.finditer(fetches, text)]


NOTEBOOK_RULES = [
    stored_errors,
    unexecuted_cells,
    figures_without_alt_text,
    long_cells,
    code_without_prose,
    bad_start,
    traces_of_a_machine,
    quoted_and_not_stored,
    printed_without_a_space,
    outside_addresses,
]
PROSE_RULES = [hand_typed_measurements, forbidden_in]


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(source(cell) for cell in load(path)["cells"] if cell["cell_type"] == "markdown")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
@pytest.mark.parametrize("rule", NOTEBOOK_RULES, ids=lambda rule: rule.__name__)
def test_a_notebook_keeps_the_rule(path, rule):
    assert rule(load(path)) == []


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=relative)
@pytest.mark.parametrize("rule", PROSE_RULES, ids=lambda rule: rule.__name__)
def test_prose_keeps_the_rule(path, rule):
    assert rule(prose(path)) == []


# ---------------------------------------------------------------------------------------------------------
# The rules themselves
# ---------------------------------------------------------------------------------------------------------

FIRST = "try:\n    import vlmcourse\nexcept ImportError:\n    raise ImportError('pip install vlmcourse') from None"


def code(text: str, *outputs: dict, **metadata: object) -> dict:
    return {"cell_type": "code", "source": text, "outputs": list(outputs), "metadata": metadata, "execution_count": 1}


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def notebook(*cells: dict) -> dict:
    return {"cells": [markdown("(ch07)=\n# Title"), code(FIRST), markdown("Text."), *cells]}


def displayed(**data: str) -> dict:
    return {"output_type": "display_data", "data": {mime.replace("_", "/"): value for mime, value in data.items()}}


PICTURE = displayed(image_png="...")
ALT = {"image": {"alt": "A photograph of a cat, cut into patches."}}


@pytest.mark.parametrize("rule", NOTEBOOK_RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_breaks_no_rule(rule):
    good = notebook(code("draw()", PICTURE, mystnb=ALT), code("x = 1"), markdown("More."), code("y = 2"))
    assert rule(good) == []


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        (stored_errors, notebook(code("1/0", {"output_type": "error", "ename": "ZeroDivisionError", "evalue": ""}))),
        (unexecuted_cells, notebook({**code("x"), "execution_count": None})),
        (figures_without_alt_text, notebook(code("draw()", PICTURE))),
        (figures_without_alt_text, notebook(code("draw()", PICTURE, mystnb={"image": {"alt": "plot"}}))),
        (figures_without_alt_text, notebook(code("draw()", displayed(text_html="<img src='data:...'>")))),
        (long_cells, notebook(code("\n".join("x" * 26)))),
        (code_without_prose, notebook(code("a"), code("b"), code("c"))),
        (bad_start, {"cells": [code(FIRST)]}),
        (bad_start, {"cells": [markdown("# Title"), code("import vlmcourse")]}),
        (bad_start, {"cells": [markdown("# Title"), code(FIRST + "\nimport torch" * 7)]}),
        (
            traces_of_a_machine,
            notebook(code("x", {"output_type": "stream", "name": "stdout", "text": "in /home/me/x"})),
        ),
        (traces_of_a_machine, notebook(code("x", displayed(text_plain="WindowsPath('C:\\\\course')")))),
        (quoted_and_not_stored, notebook(markdown("It is {glue:text}`accuracy`."))),
        (printed_without_a_space, notebook(code("x", {"output_type": "stream", "name": "stdout", "text": "88%"}))),
        (outside_addresses, notebook(code("x", displayed(text_html='<script src="https://cdn.example/a.js">')))),
        (outside_addresses, notebook(code("x", displayed(text_html='<link href="//cdn.example/font.css">')))),
    ],
)
def test_a_notebook_that_breaks_the_rule_is_found(rule, bad):
    assert rule(bad)


@pytest.mark.parametrize(
    "text",
    [
        "The probe reaches 88 % on the test set.",
        "The probe reaches 88.4% after training.",
        "Training takes 28 s on two cores.",
        "It needs about 3 minutes.",
        "The readable form needs 26 times the memory.",
        "It ends with an accuracy of 0.91 on held-out digits.",
        "The table takes 120 MB.",
        "```{admonition} Time\n40 s on two cores\n```",
        "| SimCLR | 88 % |",
        "Others reach more {cite}`x`. Ours reaches 88 %.",
    ],
)
def test_a_hand_typed_measurement_is_found(text):
    assert hand_typed_measurements(text)


@pytest.mark.parametrize(
    "text",
    [
        "The probe reaches {glue:text}`probe` on the test set.",
        "ResNet-50 reaches 69.1 % with a linear probe {cite}`chen2020simclr`.",
        "Chance is 10 % here. <!-- not measured: one of ten classes -->",
        "A 3 × 3 kernel has 9 weights, at most 25 lines, S07 and S08.",
        "The norm is $\\sqrt{64}$ and $0.9\\,\\%$ in a formula.",
        "```python\nprint('88 %')\n```",
        "Write `timeout=30 s` in the file.",
        "With 20 labels per class, and 300 steps.",
    ],
)
def test_a_number_that_is_no_measurement_of_ours_may_be_typed(text):
    assert hand_typed_measurements(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Simply call it. Now simply run.",
        "It works!",
        "See /home/me/notes.",
        "TODO: finish",
        "It is just a sum.",
        "Chance is 10%.",
        "With two labels a class.",
    ],
)
def test_a_forbidden_turn_is_found(text):
    assert forbidden_in(text)


@pytest.mark.parametrize(
    "text", ["![a picture](x.png)", "Call `!pip install` first.", "```python\n# just run it!\n```"]
)
def test_code_and_pictures_are_no_prose(text):
    assert forbidden_in(text) == []
