"""A chapter's claims: judged on all recorded runs and, with more room, on the run here; never passed over."""

import json

import pytest

from vlmcourse import Chapter
from vlmcourse.course import chapter as chapters
from vlmcourse.course.chapter import Claim, ClaimError, Measurement

RECORDED = {"values": {"probe": [0.90, 0.92, 0.94], "the probe beats pixels": [0.90, 0.92, 0.94]}}


@pytest.fixture
def page(monkeypatch):
    """A chapter with three recorded runs."""
    monkeypatch.setattr(chapters, "load_result", lambda name: RECORDED)
    for name in ("VLMCOURSE_SEED", "VLMCOURSE_CLAIMS", "VLMCOURSE_MEASURED", "VLMCOURSE_RECORDING"):
        monkeypatch.delenv(name, raising=False)
    return Chapter("04_linear_probe")


@pytest.mark.parametrize(
    ("value", "held"),
    [(0.99, True), (0.85, True), (0.80, True), (0.78, False), (float("nan"), False)],  # three spreads are 0.06
)
def test_one_run_may_miss_the_bound_by_three_recorded_spreads_and_no_more(value, held):
    claim = Claim("probe", slide="S09", value=value, recorded=(0.90, 0.92, 0.94), above=0.85)
    assert claim.held is held


def test_a_recorded_run_gets_no_slack():
    claim = Claim("probe", slide="S09", value=0.9, recorded=(0.90, 0.92, 0.94), above=0.905)
    assert not claim.held  # nor does the run here, where the recorded ones do not all hold
    assert not claim.held_in_all_recorded


def test_without_recorded_runs_the_bound_is_the_bound():
    assert not Claim("probe", slide=None, value=0.49, recorded=(), above=0.5).held


def test_what_was_never_measured_is_not_called_held(page, monkeypatch, capsys):
    unmeasured = Claim("probe", slide=None, value=None, recorded=(), above=0.5)
    assert not unmeasured.held
    assert not unmeasured.measured
    monkeypatch.setenv("VLMCOURSE_CLAIMS", "strict")
    page.claim("a probe on a GPU", None, above=0.5)  # waits for a machine, and is no failure
    assert capsys.readouterr().out == "Not measured yet: a probe on a GPU (expected above 0.50)\n"


@pytest.mark.parametrize(
    ("bounds", "clearance"), [({"above": 0.86}, 3.0), ({"below": 0.96}, 2.0), ({"above": 0.86, "below": 0.96}, 2.0)]
)
def test_clearance_counts_spreads_to_the_nearer_bound(bounds, clearance):
    claim = Claim("probe", slide=None, value=None, recorded=(0.90, 0.92, 0.94), **bounds)
    assert claim.clearance == pytest.approx(clearance)


def test_clearance_of_runs_that_all_agree_is_endless_and_keeps_its_sign():
    assert Claim("p", slide=None, value=None, recorded=(1.0, 1.0), above=0.9).clearance == float("inf")
    assert Claim("p", slide=None, value=None, recorded=(0.5, 0.5), above=0.9).clearance == float("-inf")


def test_a_claim_that_holds_says_so_with_the_numbers(page, capsys):
    page.claim("the probe beats pixels", 0.91, above=0.5, slide="S09", unit="fraction")
    assert capsys.readouterr().out == (
        "Holds: the probe beats pixels (measured 91.0 %, expected above 50.0 %, recorded 90.0 % to 94.0 % in 3 runs)\n"
    )


def test_a_claim_that_does_not_hold_is_said_and_the_page_goes_on(page, capsys):
    page.claim("the probe beats pixels", 0.2, above=0.5)
    assert capsys.readouterr().out.startswith("Did not hold here: the probe beats pixels (measured 0.20, expected")


def test_a_claim_that_does_not_hold_fails_where_claims_are_strict(page, monkeypatch):
    monkeypatch.setenv("VLMCOURSE_CLAIMS", "strict")
    page.claim("a", 0.6, above=0.5)
    with pytest.raises(ClaimError, match="Did not hold here: the probe beats pixels"):
        page.claim("the probe beats pixels", 0.2, above=0.5)


def test_what_is_measured_is_left_for_the_build_even_when_a_claim_fails(page, monkeypatch, tmp_path):
    log = tmp_path / "log.json"
    monkeypatch.setenv("VLMCOURSE_MEASURED", str(log))
    monkeypatch.setenv("VLMCOURSE_CLAIMS", "strict")
    page.measure("loss", [1.0, 0.123456789])
    with pytest.raises(ClaimError):
        page.claim("the probe beats pixels", 0.2, above=0.5, slide="S09")
    written = json.loads(log.read_text())
    assert written["chapter"] == "04_linear_probe"
    assert written["values"] == {"loss": [1.0, 0.123457], "the probe beats pixels": 0.2}
    assert [(c["held"], c["above"], c["below"], c["slide"]) for c in written["claims"]] == [(False, 0.5, None, "S09")]


def test_the_prose_can_quote_recorded_runs_and_the_run_here(page, monkeypatch):
    glued = {}
    monkeypatch.setattr(chapters, "glue", glued.__setitem__)
    page.measure("probe", 0.91, unit="fraction")
    page.measure("new", 2.5, unit="s", digits=0)
    assert glued == {"probe": "92.0 ± 2.0 %", "probe here": "91.0 %", "new": "2 s", "new here": "2 s"}


def test_what_only_recorded_runs_measure_is_quoted_from_them(page, monkeypatch):
    glued = {}
    monkeypatch.setattr(chapters, "glue", glued.__setitem__)
    page.measure("probe", None, unit="fraction")
    assert glued == {"probe": "92.0 ± 2.0 %", "probe here": "not run here"}


def test_a_name_is_measured_once(page):
    page.measure("x", 1.0)
    with pytest.raises(ValueError, match="'x' is measured twice in chapter 04_linear_probe"):
        page.claim("x", 1.0, above=0)


def test_a_value_that_cannot_be_kept_may_be_measured_again(page):
    with pytest.raises((TypeError, ValueError)):
        page.measure("x", "not a number")
    assert page.measure("x", 1.0).live == 1.0


def test_a_claim_without_a_bound_is_refused(page):
    with pytest.raises(ValueError, match="must have a bound"):
        page.claim("something", 1.0)


@pytest.mark.parametrize(("wanted", "seed"), [("", 0), ("7", 7), (" 12 ", 12)])
def test_the_environment_sets_the_seed(monkeypatch, wanted, seed):
    monkeypatch.setenv("VLMCOURSE_SEED", wanted)
    assert Chapter("x").seed == seed


@pytest.mark.parametrize("wanted", ["-1", "1.5", "one"])
def test_a_seed_that_is_no_whole_number_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("VLMCOURSE_SEED", wanted)
    with pytest.raises(ValueError, match="VLMCOURSE_SEED must be a whole number"):
        Chapter("x")


def test_a_measurement_without_recorded_runs_shows_this_run():
    assert str(Measurement("x", 0.5, (), unit="fraction")) == "50.0 %"


def test_what_nobody_measured_yet_is_neither_held_nor_counted(page, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("VLMCOURSE_MEASURED", str(tmp_path / "log.json"))
    page.claim("a long training helps", None, above=0.5)
    assert capsys.readouterr().out == "Not measured yet: a long training helps (expected above 0.50)\n"
    assert json.loads((tmp_path / "log.json").read_text())["claims"] == []
    glued = {}
    monkeypatch.setattr(chapters, "glue", glued.__setitem__)
    page.measure("long training", None, unit="fraction")
    assert glued == {"long training": "not measured yet", "long training here": "not run here"}


@pytest.mark.parametrize(("recorded", "outcome"), [((0.8, 0.9), "Holds in"), ((0.1, 0.9), "Did not hold in")])
def test_a_claim_that_is_not_measured_here_speaks_of_recorded_runs(recorded, outcome):
    claim = Claim("a probe beats pixels", slide="S09", value=None, recorded=recorded, above=0.7)
    assert str(claim).startswith(f"{outcome} the recorded runs: a probe")
    assert claim.held is (outcome == "Holds in")


def test_no_spread_is_wide_enough_where_recorded_runs_do_not_hold():
    assert not Claim("a probe beats pixels", slide="S09", value=0.3, recorded=(0.1, 0.5), above=0.7).held
