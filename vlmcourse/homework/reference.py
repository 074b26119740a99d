"""Is mine normal? What the experiments of the assignments gave with the instructor's solutions, and how yours compares.

The numbers are in ``reference.json``, written by ``python -m book.experiments.homework_reference``, and never typed by hand.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

Value = float | Sequence[float]
NOTHING = "no runs are recorded yet"
STRETCHES = 10  # a curve is compared in so many stretches, each by its mean, since single steps jump


def recorded(name: str) -> dict[str, Any]:
    """Return what is recorded about an assignment's experiment: runs and seeds, versions, date.

    Raises:
        ValueError: nothing is recorded under this name.

    >>> sorted(recorded("hw2"))
    ['date', 'device', 'experiment', 'runs', 'seconds', 'seeds', 'torch']
    """
    known = _known()
    if name not in known:
        raise ValueError(f"name={name!r} is no recorded experiment; there are {', '.join(known)}")
    return known[name]


def _known() -> dict[str, Any]:
    return json.loads(files("vlmcourse.homework").joinpath("reference.json").read_text(encoding="utf-8"))


def stretches(value: Value) -> list[float]:
    """Return a number as a list of one, and a curve as the means of ten stretches of it.

    >>> stretches(0.5), stretches([float(step // 10) for step in range(100)])[:3]
    ([0.5], [0.0, 1.0, 2.0])
    """
    if isinstance(value, int | float):
        return [float(value)]
    cuts = [round(k * len(value) / STRETCHES) for k in range(STRETCHES + 1)]
    return [sum(value[a:b]) / (b - a) for a, b in itertools.pairwise(cuts) if b > a]


def band(name: str, measure: str) -> tuple[list[float], list[float]]:
    """Return between what a measure lay in the recorded runs: lowest and highest, of a curve in ten stretches.

    To see your curve on it: ``plt.fill_between(range(10), *band("hw5", "loss"), alpha=0.3)`` and
    ``plt.plot(stretches(mine))``.

    Raises:
        ValueError: there is no such assignment or measure.

    >>> low, high = band("hw2", "accuracy with positions")
    >>> 0 < low[0] <= high[0] <= 1
    True
    """
    runs = recorded(name)["runs"]
    if measure not in runs[0]:
        raise ValueError(f"measure={measure!r} was not recorded; there are {', '.join(runs[0])}")
    values = [stretches(run[measure]) for run in runs]
    return [min(column) for column in zip(*values, strict=True)], [max(column) for column in zip(*values, strict=True)]


def is_mine_normal(name: str, runs: Mapping[int, Mapping[str, Value]]) -> str:
    """Compare your runs, one for each seed, with the recorded ones; return a line for each measure.

    A few runs do not show how far others may stray. So what lies outside, by no more than the recorded runs differ among
    themselves, a twentieth of their value or, for a share, 0.05, is called normal too.

    Raises:
        TypeError, ValueError: ``runs`` does not hold, for each seed, numbers and curves by name.

    >>> print(is_mine_normal("hw2", {0: {"accuracy with positions": 0.1}}).splitlines()[1])  # doctest: +ELLIPSIS
    accuracy with positions: yours 0.100, recorded ... to ...: look again, yours is too low
    """
    if name not in _known():
        return f"{name}: {NOTHING}"
    _check_runs(runs)
    about = recorded(name)
    lines = [
        f"{name}: {len(about['runs'])} runs recorded on {about['device']}, torch {about['torch']}, {about['date']}"
    ]
    for measure in next(iter(runs.values())):
        if measure not in about["runs"][0]:
            lines.append(f"{measure}: nothing was recorded to compare with")
            continue
        low, high = band(name, measure)
        yours = [stretches(run[measure]) for run in runs.values()]
        lines.append(f"{measure}: yours {_said(yours)}, recorded {_range(low, high)}: {_verdict(yours, low, high)}")
    return "\n".join(lines)


def _check_runs(runs: Any) -> None:
    """Say what is expected where something else came."""
    wanted, advice = "the results of `run` for each seed", "hand over mine = {seed: run(seed) for seed in (0, 1)}"
    if not isinstance(runs, Mapping):
        raise TypeError(f"runs must hold {wanted}, received {type(runs).__name__}: {advice}")
    if not runs:
        raise ValueError(f"runs must hold {wanted}, received none: {advice}")
    for seed, run in runs.items():
        if not isinstance(run, Mapping):
            raise TypeError(f"runs[{seed!r}] must hold numbers by name, received {type(run).__name__}: {advice}")
        if missing := next(iter(runs.values())).keys() - run.keys():
            raise ValueError(
                f"runs[{seed!r}] must have the measures of the other runs, and lacks {sorted(missing)}: {advice}"
            )


def _verdict(yours: Sequence[Sequence[float]], low: Sequence[float], high: Sequence[float]) -> str:
    outside = set()
    for run in yours:
        for place, (value, a, b) in enumerate(zip(run, low, high, strict=False)):
            least = 0.05 if len(low) == 1 and 0 <= a <= b <= 1 else 0.0  # three shares of zero have no width
            slack = max(b - a, 0.05 * abs(a + b) / 2, least)
            if value < a - slack or value > b + slack or value != value:  # NaN is not itself
                outside.add((place, "too low" if value < a else "too high" if value > b else "no number"))
    if not outside:
        return "normal"
    words = " and ".join(sorted({word for _, word in outside}))
    where = f" in stretch {', '.join(str(place + 1) for place in sorted({p for p, _ in outside}))} of {len(low)}" * (
        len(low) > 1
    )
    return f"look again, yours is {words}{where}"


def _said(yours: Sequence[Sequence[float]]) -> str:
    return ", ".join(
        _digits(run[0]) if len(run) == 1 else f"{_digits(run[0])} falling to {_digits(run[-1])}" for run in yours
    )


def _range(low: Sequence[float], high: Sequence[float]) -> str:
    places = [0] if len(low) == 1 else [0, len(low) // 2, len(low) - 1]
    return ", then ".join(f"{_digits(low[k])} to {_digits(high[k])}" for k in places)


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")  # 1.00, not 1: three digits are known


def table(name: str) -> str:
    """Return the recorded bands as a table in Markdown, for the page and the handout."""
    if name not in _known():
        return f"**Is mine normal?** For this experiment {NOTHING}."
    about = recorded(name)
    lines = [
        "<details><summary><b>Is mine normal?</b> Unfold it when you have predicted and measured.</summary>",
        "",
        f"The table shows the lowest and the highest value of each measure in {len(about['runs'])} runs with the "
        f"instructor's solutions (seeds {', '.join(map(str, about['seeds']))}; {about['device']}, torch {about['torch']}, "
        f"{about['date']}). A curve is cut into ten equal parts, and the means of the first, the sixth and the last are shown. "
        "`is_mine_normal` also accepts what lies a little outside.",
        "",
        "| measure | recorded |",
        "|---|---|",
        f"| a run, in seconds of one core | {about['seconds']:.2g} |",
    ]
    lines += [f"| {measure} | {_range(*band(name, measure))} |" for measure in about["runs"][0]]
    lines += ["", "</details>"]
    return "\n".join(lines)
