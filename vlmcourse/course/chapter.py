"""What a chapter measures: one run here, beside many recorded ones, and whether its claims hold.

A chapter trains once; ``make results`` records what the same cells measure with other seeds, threads and processors.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from vlmcourse._files import write_whole
from vlmcourse.course.results import glue, load_result, machine
from vlmcourse.course.runtime import profile
from vlmcourse.train.runtime import limit_threads

SLACK = 3.0  # recorded spreads by which a single run may miss a bound that all recorded runs keep


class ClaimError(AssertionError):
    """A claim did not hold, where that counts as a failure."""


def _spread(runs: Sequence[float]) -> float:
    return stdev(runs) if len(runs) > 1 else 0.0


def show_number(value: float, unit: str = "", *, digits: int | None = None) -> str:
    """Return a number as the page shows it; fractions become percentages, and their differences percentage points.

    >>> show_number(0.978, "fraction"), show_number(0.31, "points"), show_number(4.17), show_number(12.3, "s", digits=0)
    ('97.8 %', '31.0 points', '4.17', '12 s')
    """
    if unit in ("fraction", "points"):
        return f"{100 * value:.{1 if digits is None else digits}f} {'%' if unit == 'fraction' else unit}"
    return f"{value:.{2 if digits is None else digits}f} {unit}".rstrip()


@dataclass(frozen=True)
class Measurement:
    """One quantity: the value of the run here (None where this run did not measure it), and of all recorded runs.

    ``unit`` is ``"fraction"`` for shares, ``"points"`` for the difference of two, else what is printed after a number.

    >>> accuracy = Measurement("probe", 0.97, (0.95, 0.99), unit="fraction")
    >>> str(accuracy), round(accuracy.mean, 2)
    ('97.0 ± 2.8 %', 0.97)
    """

    name: str
    live: Any
    recorded: tuple[Any, ...]
    unit: str = ""
    digits: int | None = None

    @property
    def mean(self) -> float:
        """The mean of the recorded runs, or the value here where nothing is recorded."""
        return mean(self.recorded) if self.recorded else self.live

    @property
    def spread(self) -> float:
        """The sample standard deviation of the recorded runs, zero where there are fewer than two."""
        return _spread(self.recorded)

    def __str__(self) -> str:
        if len(self.recorded) < 2:
            return show_number(self.mean, self.unit, digits=self.digits)
        center, spread = (show_number(x, self.unit, digits=self.digits) for x in (self.mean, self.spread))
        return f"{center.partition(' ')[0]} ± {spread}"


@dataclass(frozen=True)
class Claim:
    """A sentence with a number in it, the bounds it promises, and what was measured here and elsewhere.

    All recorded runs must keep the bounds. If they do, a single run may miss them by three recorded spreads.

    >>> claim = Claim("a probe beats pixels", slide="S09", value=0.9, recorded=(0.88, 0.92), above=0.5)
    >>> claim.held, round(claim.clearance)
    (True, 14)
    >>> print(Claim("a probe beats pixels", slide="S09", value=0.68, recorded=(0.8, 0.9), above=0.7))
    Holds in the recorded runs, and is missed here by less than three of their spreads: a probe ...
    """

    text: str
    slide: str | None
    value: float | None
    recorded: tuple[float, ...]
    above: float | None = None
    below: float | None = None
    unit: str = ""

    def keeps(self, value: float, *, slack: float = 0.0) -> bool:
        """Whether a value lies within the bounds, which are exclusive, or at most ``slack`` outside them."""
        low, high = self._bounds
        return low - slack < value < high + slack

    @property
    def _bounds(self) -> tuple[float, float]:
        return -math.inf if self.above is None else self.above, math.inf if self.below is None else self.below

    @property
    def held_in_all_recorded(self) -> bool:
        """Whether every recorded run keeps the bounds."""
        return all(map(self.keeps, self.recorded))

    @property
    def measured(self) -> bool:
        """Whether any run, here or recorded, says something about it."""
        return self.value is not None or bool(self.recorded)

    @property
    def held(self) -> bool:
        """Whether the run here keeps the bounds, or all recorded ones if none is made here; not without measurement."""
        if self.value is None:
            return self.measured and self.held_in_all_recorded
        slack = SLACK * _spread(self.recorded) if self.held_in_all_recorded else 0.0
        return self.keeps(self.value, slack=slack)

    @property
    def clearance(self) -> float:
        """By how many recorded spreads the recorded mean clears the nearer bound."""
        if not self.recorded:
            return math.nan
        (low, high), center, spread = self._bounds, mean(self.recorded), _spread(self.recorded)
        distance = min(high - center, center - low)
        return distance / spread if spread else math.copysign(math.inf, distance)

    @property
    def asked(self) -> str:
        """The bounds in words."""
        low, high = ("" if x is None else show_number(x, self.unit) for x in (self.above, self.below))
        return f"between {low} and {high}" if low and high else f"above {low}" if low else f"below {high}"

    def __str__(self) -> str:
        if not self.measured:
            return f"Not measured yet: {self.text} (expected {self.asked})"
        here = "" if self.value is None else f"measured {show_number(self.value, self.unit)}, "
        runs = "no recorded runs"
        if self.recorded:
            low, high = (show_number(x, self.unit) for x in (min(self.recorded), max(self.recorded)))
            runs = f"recorded {low} to {high} in {len(self.recorded)} runs"
        outcome = "Holds" if self.held else "Did not hold here"
        if self.value is None:
            outcome = "Holds in the recorded runs" if self.held else "Did not hold in the recorded runs"
        elif self.held and not self.keeps(self.value):
            outcome = "Holds in the recorded runs, and is missed here by less than three of their spreads"
        return f"{outcome}: {self.text} ({here}expected {self.asked}, {runs})"


class Chapter:
    """A chapter's own seed, what it measures, and the recorded runs of the same cells.

    ``VLMCOURSE_SEED`` sets the seed (0 without it). With ``VLMCOURSE_CLAIMS=strict`` a claim that does not hold raises
    :class:`ClaimError`; without it the page says so and goes on. Figures that come after are drawn in the book's style,
    and PyTorch has no more threads than a container leaves cores.

    >>> Chapter("00_no_such_chapter").claim("two is more than one", 2.0, above=1)
    Holds: two is more than one (measured 2.00, expected above 1.00, no recorded runs)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        wanted = os.environ.get("VLMCOURSE_SEED", "").strip() or "0"
        if not wanted.isdecimal():
            raise ValueError(f"VLMCOURSE_SEED must be a whole number of at least 0, received {wanted!r}")
        self.seed = int(wanted)
        self.recording = bool(os.environ.get("VLMCOURSE_RECORDING"))
        self._values: dict[str, list[Any]] = (load_result(f"{name}_{profile()}") or {"values": {}})["values"]
        self._measured: dict[str, Any] = {}
        self._units: dict[str, str] = {}
        self._claims: list[Claim] = []
        from vlmcourse.course.figures.style import use_style  # here: a Measurement needs no matplotlib

        use_style()
        limit_threads()

    def recorded(self, name: str) -> list[Any]:
        """Return what the recorded runs measured under this name, one value or curve per run."""
        return list(self._values.get(name, []))

    def measure(
        self, name: str, value: float | Sequence[float] | None, *, unit: str = "", digits: int | None = None
    ) -> Measurement:
        """Note a number or a curve of this run, or None for what only recorded runs measure; return it beside theirs.

        The prose quotes a number by its name (the recorded mean and spread) or by the name and "here" (this run).
        """
        live = self._note(name, value, unit)
        measurement = Measurement(name, live, tuple(self.recorded(name)), unit, digits)
        if not isinstance(live, list):
            glue(name, "not measured yet" if live is None and not measurement.recorded else str(measurement))
            glue(f"{name} here", "not run here" if live is None else show_number(live, unit, digits=digits))
        self._log()
        return measurement

    def claim(
        self,
        text: str,
        value: float | None,
        *,
        above: float | None = None,
        below: float | None = None,
        slide: str | None = None,
        unit: str = "",
    ) -> None:
        """Say in one line whether a sentence holds, here and in the recorded runs; bounds are exclusive."""
        if above is None and below is None:
            raise ValueError(f"claim {text!r} must have a bound, above or below")
        live = self._note(text, value, unit)
        claim = Claim(text, slide, live, tuple(self.recorded(text)), above, below, unit)
        self._claims.append(claim)
        self._log()
        if claim.measured and not claim.held and os.environ.get("VLMCOURSE_CLAIMS") == "strict":
            raise ClaimError(str(claim))
        print(claim)

    def _note(self, name: str, value: Any, unit: str) -> Any:
        """Keep what this run measured, and return it as it is recorded."""
        if name in self._units:
            raise ValueError(f"{name!r} is measured twice in chapter {self.name}; give one of them another name")
        if value is not None:
            self._measured[name] = [_round(x) for x in value] if isinstance(value, Sequence) else _round(value)
        self._units[name] = unit  # last: a value that cannot be kept may be measured again
        return self._measured.get(name)

    def _log(self) -> None:
        """Leave what was measured where the build, or ``make results``, asked for it."""
        if path := os.environ.get("VLMCOURSE_MEASURED"):
            claims = [{**asdict(claim), "held": claim.held} for claim in self._claims if claim.measured]
            log = {"chapter": self.name, "seed": self.seed, "values": self._measured, "units": self._units, **machine()}
            write_whole(path, json.dumps({**log, "claims": claims}, ensure_ascii=False).encode())


def _round(value: Any) -> float:
    """Keep six digits of a number: more than anybody reads, and few enough for a file that people look into."""
    return float(f"{float(value):.6g}")
