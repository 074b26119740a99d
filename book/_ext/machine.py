"""What this machine made of the book: the page "This build", and the page of all claims.

Both read what the build left beside the executed chapters; without it they say that nothing was executed here.
"""

import os
import platform
import re
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from filled import Filled, as_it_is
from markupsafe import Markup
from sphinx.application import Sphinx

from vlmcourse.course.chapter import Claim, show_number
from vlmcourse.course.doctor import processor

SLIDE = re.compile(r"\bS\d\d\b")


class Machine(Filled):
    """A directive about the chapters of this book as they ran on this machine."""

    def chapters(self) -> dict[str, dict[str, Any]]:
        """Return the record of each chapter that is in this book and was executed."""
        lectures, records = Path(self.env.srcdir) / "lectures", self.files("../executed")
        return {name: record for name, record in records.items() if (lectures / f"{name}.ipynb").is_file()}


class ThisBuild(Machine):
    """The machine, its versions, and how each chapter went."""

    template = "this_build.md"

    def words(self) -> dict[str, Any]:
        """Return what the machine is, and the chapters."""
        chapters = self.chapters()
        system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical CPU cores"
        machines = [chapter["machine"] for chapter in chapters.values()]
        return {"chapters": chapters, "machine": {**(machines or [{}])[0], "CPU": processor(), "system": system}}


class Claims(Machine):
    """All claims, a table for each chapter: what was measured here, and what is recorded."""

    template = "claims.md"

    def words(self) -> dict[str, Any]:
        """Return the claims of each chapter that makes any."""
        made = {name: chapter["claims"] for name, chapter in self.chapters().items() if chapter["claims"]}
        chapters = {name: sorted(claims, key=lambda claim: claim["slide"] or "~") for name, claims in made.items()}
        made_all = [claim for claims in chapters.values() for claim in claims]
        judged = [claim for claim in made_all if claim["value"] is not None]
        return {"chapters": chapters, "judged": judged, "all": len(made_all), "row": row}


def row(entry: dict[str, Any]) -> dict[str, str]:
    """Return what the table says of one claim."""
    claim = Claim(**{key: value for key, value in entry.items() if key != "held"})
    slides = SLIDE.sub(lambda slide: f"{{ref}}`{slide[0]} <{slide[0].lower()}>`", as_it_is(claim.slide or ""))
    recorded = "nothing"
    if claim.recorded:
        ends = dict.fromkeys(show_number(end(claim.recorded), claim.unit) for end in (min, max))
        recorded = f"{' to '.join(ends)}, {len(claim.recorded)} runs"
    clears = f"{claim.clearance:.1f} spreads" if isfinite(claim.clearance) else "no spread"
    return {
        "slides": Markup(slides),
        "here": "not run here" if claim.value is None else show_number(claim.value, claim.unit),
        "recorded": recorded,
        "expected": claim.asked,
        "clears": "" if isnan(claim.clearance) else clears,
    }


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("this-build", ThisBuild)
    app.add_directive("claims", Claims)
