"""What is recorded belongs to the code that is here, was made by a commit that exists, and keeps every claim by far."""

import json
from pathlib import Path

import pytest

from book.tools.fingerprint import made_from
from vlmcourse.course.chapter import Claim

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "book" / "results").glob("*.json"))
FAR = 3.0  # spreads by which the mean of the recorded runs clears a bound: less, and one run in a few hundred misses it


def faults(result: dict, hash_now: str) -> list[str]:
    """Return what is wrong with one chapter's recorded runs."""
    found = []
    if result["made_from"] != hash_now:
        found.append("stale: the code has changed; run: make results")
    if len(result["runs"]) < 10 or len({run["seed"] for run in result["runs"]}) < len(result["runs"]):
        found.append("fewer than ten runs, or a seed twice")
    if len({run["capability"] for run in result["runs"]}) < 2 or len({run["threads"] for run in result["runs"]}) < 2:
        found.append("all runs on the same kind of machine")
    found += [
        f"made from files that no commit holds: {run['commit']}" for run in result["runs"] if "-" in run["commit"]
    ]
    for name, values in result["values"].items():
        if len(values) != len(result["runs"]):
            found.append(f"{name!r}: {len(values)} values of {len(result['runs'])} runs")
    for promised in result["claims"]:
        claim = Claim(value=None, recorded=tuple(result["values"][promised["text"]]), **promised)
        if not claim.held_in_all_recorded:
            found.append(f"a recorded run does not keep: {claim}")
        elif not claim.clearance >= FAR:
            found.append(f"clears its bound by {claim.clearance:.1f} spreads only: {claim}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recorded_result_is_fresh_whole_and_clear_of_its_bounds(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    if "runs" not in result:
        pytest.skip("recorded by hand, one quantity to a file")
    notebook = ROOT / "lectures" / f"{result['chapter']}.ipynb"
    assert faults(result, made_from(notebook, result["profile"], root=ROOT)) == []


def good() -> dict:
    runs = [
        {"seed": i, "threads": 1 + i % 2, "capability": "AVX2" if i < 5 else "AVX", "commit": "abc"} for i in range(10)
    ]
    claims = [{"text": "high", "slide": "S07", "above": 0.5, "below": None, "unit": ""}]
    return {"made_from": "x", "runs": runs, "claims": claims, "values": {"high": [0.9 + i / 1000 for i in range(10)]}}


def test_a_good_result_has_no_faults():
    assert faults(good(), "x") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"made_from": "y"}, "stale"),
        ({"runs": good()["runs"][:9]}, "fewer than ten"),
        ({"runs": [{**run, "seed": 1} for run in good()["runs"]]}, "seed twice"),
        ({"runs": [{**run, "threads": 1} for run in good()["runs"]]}, "same kind of machine"),
        ({"runs": [{**run, "capability": "AVX2"} for run in good()["runs"]]}, "same kind of machine"),
        ({"runs": [{**run, "commit": "abc-dirty"} for run in good()["runs"]]}, "no commit holds"),
        ({"values": {"high": [0.9] * 9}}, "9 values of 10 runs"),
        ({"values": {"high": [0.9] * 9 + [0.4]}}, "does not keep"),
        ({"values": {"high": [0.51 + 0.1 * i for i in range(10)]}}, "spreads only"),
        ({"values": {"high": [float("nan")] * 10}}, "does not keep"),
    ],
)
def test_every_kind_of_fault_is_found(change, said):
    assert any(said in fault for fault in faults({**good(), **change}, "x"))
