"""Claims as sentences: what a chapter printed about them becomes a list that fits the column.

``Chapter.claim`` prints one line for each claim, and a line of a terminal is longer than a page is wide. Here the lines
become a list: the sentence, and below it, smaller, what was measured, expected and recorded. All else that a cell
printed stays as it was; where one of its lines is longer than a line of code, it wraps.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

LINE = 88  # characters, as many as fit the column beside a chapter's contents
OUTCOMES = {"Holds": "holds", "Did not hold here": "fails", "Not measured yet": "open"}
OUTCOMES |= {"Holds in the recorded runs": "holds", "Did not hold in the recorded runs": "fails"}
OUTCOMES["Holds in the recorded runs, and is missed here by less than three of their spreads"] = "holds"
CLAIM = re.compile(rf"({'|'.join(OUTCOMES)}): (.+) \(((?:measured|expected) .+)\)")


def parts(printed: str) -> Iterator[str | list[tuple[str, str, str]]]:
    """Yield what was printed, in order: text as it is, and claims that follow one another as outcome, claim, evidence.

    >>> list(parts("two lines\\nof text\\nHolds: it is (measured 2.0, expected above 1.0, no recorded runs)"))
    ['two lines\\nof text', [('Holds', 'it is', 'measured 2.0, expected above 1.0, no recorded runs')]]
    """
    for is_claim, group in groupby(printed.splitlines(), key=lambda line: bool(CLAIM.fullmatch(line))):
        lines = list(group)
        if is_claim:
            yield [match.groups() for line in lines if (match := CLAIM.fullmatch(line))]  # type: ignore[misc]
        elif any(map(str.strip, lines)):
            yield "\n".join(lines)


def verdicts(claims: list[tuple[str, str, str]]) -> nodes.bullet_list:
    """Return claims as a list."""
    found = nodes.bullet_list(classes=["output", "verdicts"])
    for outcome, sentence, evidence in claims:
        said = nodes.paragraph("", "", nodes.strong("", f"{outcome}:"), nodes.Text(f" {sentence}"))
        seen = nodes.paragraph("", "", nodes.Text(evidence), classes=["evidence"])
        found += nodes.list_item("", said, seen, classes=[OUTCOMES[outcome]])
    return found


class Verdicts(SphinxPostTransform):
    """Puts claims into lists, and lets long lines of other outputs wrap."""

    default_priority = 350  # after MyST-NB has chosen among the forms of an output, before code gets its colours
    formats = ("html",)

    def run(self) -> None:
        """Go through the text outputs of this page."""
        for block in list(self.document.findall(nodes.literal_block)):
            if "output" not in block["classes"] or "traceback" in block["classes"]:
                continue
            new: list[nodes.Node] = []
            for part in parts(block.astext()):
                if isinstance(part, str):
                    kept = block.deepcopy()
                    kept.children, kept.rawsource = [nodes.Text(part)], part
                    if max(map(len, part.splitlines())) > LINE:
                        kept["classes"].append("wraps")
                    new.append(kept)
                else:
                    new.append(verdicts(part))
            if new:
                block.parent.replace(block, new)  # replace_self would give a list the looks of what it replaces


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_post_transform(Verdicts)
