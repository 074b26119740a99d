"""Numbers on the pages, read where they were measured: tables of recorded results, and a chapter's running time."""

import json
import statistics
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from filled import Filled
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from vlmcourse.course.bench import limit
from vlmcourse.course.contestants import BENCHES


class Results(Filled):
    """A table of the files in ``book/results``, one row for each; ``:profile:`` keeps those of one profile."""

    template, option_spec = "results.md", {"profile": directives.unchanged}

    def words(self) -> dict[str, Any]:
        """Return the results; what chapters measure is on the page Claims."""
        wanted, found = self.options.get("profile"), self.files("book/results").values()
        results = [r for r in found if "runs" not in r and wanted in (None, r["provenance"]["profile"])]
        return {"results": results, "value": value}


class Measured(Filled):
    """All single numbers of one file in ``book/results``, which ``:name:`` names, as means over the seeds."""

    template, option_spec = "measured.md", {"name": directives.unchanged_required}

    def words(self) -> dict[str, Any]:
        """Return the file and its means; curves are left out, and so is the time it took."""
        result = self.files("book/results").get(self.options["name"])
        table = result["table"] if result else {}
        means = {
            what: f"{statistics.mean(values):,.{0 if max(values) > 100 else 4}f}"
            for what, values in table.items()
            if not isinstance(values[0], list) and not what.startswith("seconds ")
        }
        return {"result": result, "means": means}


class Runs(Filled):
    """A table of the chapters' recorded runs: how many, of how many numbers, and on what they were measured."""

    template = "runs.md"

    def words(self) -> dict[str, Any]:
        """Return the chapters' files."""
        found = self.files("book/results").values()
        return {"results": [result for result in found if "runs" in result], "each": each}


class Performance(Filled):
    """Tables of what ``vlmcourse bench`` measured on one kind of device; ``:device:`` is cpu or cuda."""

    template, option_spec = "performance.md", {"device": directives.unchanged_required}

    def words(self) -> dict[str, Any]:
        """Return the reports."""
        found = self.files("book/performance").values()
        reports = [r for r in found if r["device"] == self.options["device"] and not r["small"]]
        words = {"reports": reports, "benches": BENCHES, "limit": limit, "milliseconds": milliseconds}
        return words | {"reached": reached}


def each(runs: list[dict[str, Any]], key: str) -> str:
    """Return what runs say of one of their circumstances, each word once."""
    return ", ".join(sorted({str(run[key]) for run in runs}))


def value(result: dict[str, Any]) -> str:
    """Return mean, spread and number of seeds, fractions as percentages, and which of several quantities this is.

    >>> result = {"mean": 0.5, "spread": None, "values": [0.5], "seeds": [0], "unit": "accuracy, fraction"}
    >>> value(result | {"table": {"probe 10": [0.4], "probe 500": [0.5]}})
    '50 % accuracy (1 seed): probe 500'
    """
    mean, spread, seeds, unit = result["mean"], result["spread"], len(result["seeds"]), result["unit"]
    if unit.endswith("fraction"):
        mean, spread, unit = 100 * mean, None if spread is None else 100 * spread, f"% {unit.partition(',')[0]}"
    number = f"{mean:.4g}" if spread is None else f"{mean:.4g} ± {spread:.2g}"
    what = [name for name, values in result.get("table", {}).items() if values == result["values"]]
    which = ": " + what[0].removesuffix(f", {result['unit']}") if what else ""
    return f"{number} {unit} ({seeds} seed{'s' if seeds > 1 else ''}){which}"


def reached(report: dict[str, Any]) -> str:
    """Return how many of the ratios that have an aim are not above it.

    >>> times = {"ours": {"median": 1.0}, "theirs": {"median": 2.0}}
    >>> reached({"benches": {"a": {"contestants": times, "aims": {"theirs": 0.4}}}})
    '0 of 1'
    """
    ratios = []
    for bench in report["benches"].values():
        ours = next(iter(bench["contestants"].values()))["median"]
        ratios += [(ours / bench["contestants"][who]["median"], aim) for who, aim in bench["aims"].items()
                   if who in bench["contestants"]]  # fmt: skip
    return f"{sum(ratio <= aim for ratio, aim in ratios)} of {len(ratios)}"


def milliseconds(seconds: float) -> str:
    """Return a time to three digits: repeats differ by more than the fourth.

    >>> milliseconds(0.038231), milliseconds(1.2345), milliseconds(0.0001462)
    ('38.2', '1,230', '0.146')
    """
    return f"{float(f'{1e3 * seconds:.3g}'):,g}"


class Seconds(SphinxRole):
    """How long a chapter took in the build whose pages these are: ``{seconds}`07_self_attention` ``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the seconds that the build noted beside the executed chapter."""
        record = Path(self.env.srcdir, "..", "executed", f"{self.text}.json")
        if not record.is_file():
            return [nodes.Text("not measured yet")], []
        return [nodes.Text(f"{json.loads(record.read_text(encoding='utf-8'))['seconds']:.0f} s")], []


def setup(app: Sphinx) -> None:
    """Register the directives and the role."""
    app.add_directive("results", Results)
    app.add_directive("measured", Measured)
    app.add_directive("recorded", Runs)
    app.add_directive("performance", Performance)
    app.add_role("seconds", Seconds())
