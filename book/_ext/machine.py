"""What this machine made of the book: the page "This build", and the page of all claims.

Both read what the build left beside the executed chapters; without it they say that nothing was executed here.
"""

import json
import os
import platform
import re
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from docutils import nodes
from provenance import table
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vlmcourse.course.chapter import Claim, show_number
from vlmcourse.course.doctor import processor

SLIDE = re.compile(r"(S\d\d)")
OVERLAP = (
    "On a CPU some chapters run at once, each with its share of the cores: one alone is faster, and their sum is more "
    "than the build took."
)


class Machine(SphinxDirective):
    """A directive about the chapters of this book as they ran on this machine."""

    def chapters(self) -> dict[str, dict[str, Any]]:
        """Return the record of each executed chapter."""
        executed = Path(self.env.srcdir).parent / "executed"
        names = sorted(path.stem for path in (Path(self.env.srcdir) / "lectures").glob("*.ipynb"))
        records = {name: executed / f"{name}.json" for name in names}
        return {name: json.loads(f.read_text(encoding="utf-8")) for name, f in records.items() if f.is_file()}

    def link(self, kind: str, target: str, text: str = "") -> nodes.Node:
        """Return a link to a chapter (``doc``, by its title) or to a slide's section (``ref``)."""
        domain = {"refdomain": "std", "reftype": kind, "refexplicit": bool(text), "refwarn": True}
        return pending_xref("", nodes.inline("", text), reftarget=target, refdoc=self.env.docname, **domain)


class ThisBuild(Machine):
    """The machine, its versions, and how each chapter went."""

    def run(self) -> list[nodes.Node]:
        """Return two tables."""
        chapters = self.chapters()
        if not chapters:
            return [nodes.paragraph("", "No chapter was executed.")]
        system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical CPU cores"
        machine = {**next(iter(chapters.values()))["machine"], "CPU": processor(), "system": system}
        rows = [[self.link("doc", f"/lectures/{name}"), *row(chapter)] for name, chapter in chapters.items()]
        seconds = f"{sum(chapter['seconds'] for chapter in chapters.values()):.1f}"
        rows.append([nodes.Text(text) for text in ("all chapters", seconds, "", "", "")])
        return [
            table(("", ""), [[nodes.Text(key), nodes.Text(value)] for key, value in machine.items()]),
            nodes.paragraph("", OVERLAP),
            table(("chapter", "seconds", "outcome", "executed", "commit"), rows),
        ]


def row(chapter: dict[str, Any]) -> list[nodes.Text]:
    """Return how a chapter went as the cells of a table."""
    held = sum(claim["held"] for claim in chapter["claims"])
    outcome = f"{held} of {len(chapter['claims'])} claims held" if chapter["claims"] else "executed"
    if chapter["failed"]:
        outcome = f"{len(chapter['failed'])} cell(s) failed; {outcome}"
    return list(map(nodes.Text, (f"{chapter['seconds']:.1f}", outcome, chapter["date"], chapter["commit"])))


class Claims(Machine):
    """All claims, a table for each chapter: what was measured here, and what is recorded."""

    def run(self) -> list[nodes.Node]:
        """Return the count, then a section's worth of table for each chapter."""
        chapters = {name: chapter for name, chapter in self.chapters().items() if chapter["claims"]}
        claims = [claim for chapter in chapters.values() for claim in chapter["claims"]]
        if not claims:
            return [nodes.paragraph("", "No claim was judged: no chapter was executed.")]
        held = sum(claim["held"] for claim in claims)
        found: list[nodes.Node] = [nodes.paragraph("", f"{held} of {len(claims)} claims held on this machine.")]
        columns = ("slide", "claim", "measured here", "recorded", "expected", "clears it by", "held")
        for name, chapter in chapters.items():
            ordered = sorted(chapter["claims"], key=lambda claim: claim["slide"] or "~")
            tabled = table(columns, [self.row(claim) for claim in ordered])
            tabled["classes"].append("claims")
            found += [nodes.rubric("", "", self.link("doc", f"/lectures/{name}")), tabled]
        return found

    def row(self, entry: dict[str, Any]) -> list[nodes.Node]:
        """Return one claim as the cells of a table."""
        held = entry["held"]
        claim = Claim(**{key: value for key, value in entry.items() if key != "held"})
        parts = [part for part in SLIDE.split(claim.slide or "") if part]
        slides = [self.link("ref", part.lower(), part) if SLIDE.fullmatch(part) else nodes.Text(part) for part in parts]
        recorded = "nothing"
        if claim.recorded:
            ends = dict.fromkeys(show_number(end(claim.recorded), claim.unit) for end in (min, max))
            recorded = f"{' to '.join(ends)}, {len(claim.recorded)} runs"
        clears = f"{claim.clearance:.1f} spreads" if isfinite(claim.clearance) else "no spread"
        here = "not run here" if claim.value is None else show_number(claim.value, claim.unit)
        texts = here, recorded, claim.asked, "" if isnan(claim.clearance) else clears
        outcome = nodes.Text("yes") if held else nodes.strong("", "no")
        return [nodes.inline("", "", *slides), nodes.Text(claim.text), *map(nodes.Text, texts), outcome]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("this-build", ThisBuild)
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True}
