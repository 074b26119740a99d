"""Numbers on the pages, read where they were measured: a table of recorded results, and a chapter's running time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from vlmcourse.course.bench import limit
from vlmcourse.course.contestants import BENCHES

NOT_MEASURED = "not measured yet"
BENCH_COLUMNS = ("", "median", "middle half", "ours / it", "aim", "memory")
COLUMNS = ("result", "value", "data", "where and when")
RUN_COLUMNS = ("file", "holds", "seeds", "threads", "CPU", "seconds per run", "PyTorch", "when")


class Recorded(SphinxDirective):
    """A directive about files of JSON in a folder of ``book/``, which the page depends on."""

    def files(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the name and the content of each file."""
        paths = sorted((Path(self.env.srcdir) / "book" / folder).glob("*.json"))
        for path in paths:
            self.env.note_dependency(str(path))
        return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


class Results(Recorded):
    """A table of the files in ``book/results``, one row for each; ``:profile:`` keeps those of one profile."""

    option_spec = {"profile": directives.unchanged}  # noqa: RUF012  docutils reads it from the class

    def run(self) -> list[nodes.Node]:
        """Return the table; what chapters measure is on the page Claims."""
        wanted, results = self.options.get("profile"), [result for _, result in self.files("results")]
        found = [result for result in results if "runs" not in result]
        rows = [row(result) for result in found if wanted in (None, result["provenance"]["profile"])]
        return [table(COLUMNS, rows)] if rows else nothing()


class Runs(Recorded):
    """A table of the chapters' recorded runs: how many, of how many numbers, and on what they were measured."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        found = [(name, about_runs(result)) for name, result in self.files("results") if "runs" in result]
        rows = [[nodes.literal("", name), *map(nodes.Text, about)] for name, about in found]
        return [table(RUN_COLUMNS, rows)] if rows else nothing()


def about_runs(result: dict[str, Any]) -> list[str]:
    """Return the circumstances of recorded runs in words, each once."""
    runs = result["runs"]

    def each(key: str) -> str:
        return ", ".join(dict.fromkeys(str(run[key]) for run in sorted(runs, key=lambda run: str(run[key]))))

    seconds = sorted(run["seconds"] for run in runs)
    return [
        f"{len(result['values'])} numbers, {len(result['claims'])} of them claims",
        f"{min(run['seed'] for run in runs)} to {max(run['seed'] for run in runs)}",
        each("threads"),
        f"{each('cpu')}; instructions {each('capability')}",
        f"{seconds[0]:.0f} to {seconds[-1]:.0f}",
        each("torch"),
        f"{each('date')}; {each('commit')}",
    ]


def row(result: dict[str, Any]) -> list[nodes.Node]:
    """Return one result as the cells of a table."""
    made = result["provenance"]
    where = f"{made['device']}, PyTorch {made['torch']}, {result['seconds']:g} s; {made['date']}, {made['commit']}"
    return [nodes.literal("", result["name"]), nodes.Text(value(result)), nodes.Text(result["data"]), nodes.Text(where)]


def value(result: dict[str, Any]) -> str:
    """Return mean, spread and number of seeds, fractions as percentages."""
    mean, spread, seeds, unit = result["mean"], result["spread"], len(result["seeds"]), result["unit"]
    if unit.endswith("fraction"):
        mean, spread, unit = 100 * mean, None if spread is None else 100 * spread, f"% {unit.partition(',')[0]}"
    number = f"{mean:.4g}" if spread is None else f"{mean:.4g} ± {spread:.2g}"
    return f"{number} {unit} ({seeds} seed{'s' if seeds > 1 else ''})"


class Performance(Recorded):
    """Tables of what ``vlmcourse bench`` measured on one kind of device; ``:device:`` is cpu or cuda."""

    option_spec = {"device": directives.unchanged_required}  # noqa: RUF012  docutils reads it from the class

    def run(self) -> list[nodes.Node]:
        """Return a table for each bench, or the words that nothing has been measured yet."""
        reports = [report for _, report in self.files("performance") if not report["small"]]
        return [node for r in reports if r["device"] == self.options["device"] for node in benches(r)] or nothing()


def nothing() -> list[nodes.Node]:
    """Return the words that nothing has been measured yet."""
    return [nodes.paragraph("", "", nodes.emphasis("", f"{NOT_MEASURED.capitalize()}."))]


def benches(report: dict[str, Any]) -> list[nodes.Node]:
    """Return where and when a report was made, then a title and a table for each of its benches."""
    made = report["provenance"]
    threads = f", {made['cpu']}, threads: {made['threads']}" if report["device"] == "cpu" else ""
    where = f"Measured on {made['device']}{threads}, PyTorch {made['torch']}, {report['repeats']} repeats; "
    found: list[nodes.Node] = [nodes.paragraph("", f"{where}{made['date']}, {made['commit']}.")]
    for bench in report["benches"].values():
        rows = [list(map(nodes.Text, cells)) for cells in bench_rows(bench)]
        title = bench["what"] + (
            "; load of the machine {:.1f} on {} cores".format(*bench["load"]) if bench["load"] else ""
        )
        found += [nodes.rubric("", title), table(BENCH_COLUMNS, rows)]
    if missing := [name for name in BENCHES if name not in report["benches"]]:
        found.append(nodes.paragraph("", f"{NOT_MEASURED.capitalize()}: {', '.join(missing)}."))
    return found


def bench_rows(bench: dict[str, Any]) -> list[list[str]]:
    """Return a line for each contestant, for each that was absent, and for what the machine cannot go below."""
    ours = next(iter(bench["contestants"].values()))["median"]
    rows = []
    for name, one in bench["contestants"].items():
        low, high = one["quartiles"]
        times = f"{milliseconds(one['median'])} ms", f"{milliseconds(low)}–{milliseconds(high)} ms"
        ratio, aim = f"{ours / one['median']:.2f}", f"{bench['aims'][name]:g}" if name in bench["aims"] else ""
        memory = f"{one['memory'] / 1e6:.1f} MB" if one["memory"] else ""
        rows.append([f"{name} {one['version'] or ''}".strip(), *times, ratio, aim, memory])
    rows += [[f"{name}: {why}", "", "", "", "", ""] for name, why in bench["absent"].items()]
    if (least := limit(bench["need"], bench["rates"])) is not None:
        rows.append(["limit of the machine", f"{milliseconds(least)} ms", "", "", "", ""])
    return rows


def milliseconds(seconds: float) -> str:
    """Return a time to three digits: repeats differ by more than the fourth.

    >>> milliseconds(0.038231), milliseconds(1.2345), milliseconds(0.0001462)
    ('38.2', '1,230', '0.146')
    """
    return f"{float(f'{1e3 * seconds:.3g}'):,g}"


def table(columns: Sequence[str], rows: list[list[nodes.Node]]) -> nodes.table:
    """Return a docutils table; columns without names have no head."""

    def line(cells: list[nodes.Node]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))

    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=1) for _ in columns]
    if any(columns):
        group += nodes.thead("", line([nodes.Text(name) for name in columns]))
    group += nodes.tbody("", *map(line, rows))
    return nodes.table("", group, classes=["colwidths-auto"])


class Seconds(SphinxRole):
    """How long a chapter took in the build whose pages these are: ``{seconds}`07_self_attention` ``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the seconds that the build noted beside the executed chapter."""
        record = Path(self.env.srcdir).parent / "executed" / f"{self.text}.json"
        if not record.is_file():
            return [nodes.Text(NOT_MEASURED)], []
        return [nodes.Text(f"{json.loads(record.read_text(encoding='utf-8'))['seconds']:.0f} s")], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the role."""
    app.add_directive("results", Results)
    app.add_directive("recorded", Runs)
    app.add_directive("performance", Performance)
    app.add_role("seconds", Seconds())
    return {"parallel_read_safe": True}
