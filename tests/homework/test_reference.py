"""Is mine normal? The recorded experiments are those of the sources, and a run is compared with them as it should be."""

import re

import pytest

from book.experiments import homework_reference
from book.tools import homework
from vlmcourse.homework import band, is_mine_normal, recorded, reference, stretches

NAMES = [path.stem for path in sorted(homework.SOURCES.glob("hw*.md"))]


@pytest.fixture(autouse=True)
def only_what_is_recorded(request):
    """An experiment that nobody has recorded yet is reported as skipped, and its page says so."""
    name = request.node.callspec.params.get("name", "hw5") if hasattr(request.node, "callspec") else "hw5"
    if name not in reference._known():
        assert reference.NOTHING in reference.table(name)
        assert reference.NOTHING in is_mine_normal(name, {})
        pytest.skip(f"not recorded yet: python -m book.experiments.homework_reference {name}")


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_recorded_as_its_source_has_it(name):
    assert recorded(name)["experiment"] == homework_reference.experiment(name), (
        f"run python -m book.experiments.homework_reference {name}, and then python -m book.tools.homework"
    )
    assert len(recorded(name)["runs"]) == len(recorded(name)["seeds"]) >= homework_reference.FEWEST


def test_fewer_runs_than_make_a_band_are_refused_before_they_run(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["homework_reference", "hw1", "--seeds", "2"])
    monkeypatch.setattr(homework_reference, "record", None)
    with pytest.raises(SystemExit, match="2"):
        homework_reference.main()
    assert "--seeds must be 3 or more, received 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_takes_at_most_two_minutes_on_two_cores(name):
    """A student runs two seeds; the recorded seconds are of one core, and for one of them."""
    assert 2 * recorded(name)["seconds"] / 2 <= 120


@pytest.mark.parametrize("name", NAMES)
def test_the_students_notebook_shows_the_band_and_compares(name):
    cells = homework.student((homework.SOURCES / f"{name}.md").read_text(encoding="utf-8")).cells
    text = "\n".join(cell.source for cell in cells)
    assert reference.table(name) in text
    assert f'is_mine_normal("{name}", mine)' in text


@pytest.mark.parametrize("name", NAMES)
def test_recorded_runs_are_normal_and_others_are_not(name):
    about = recorded(name)
    runs = dict(zip(about["seeds"], about["runs"], strict=True))
    assert "look again" not in is_mine_normal(name, runs)
    for wrong in (10.0, float("nan")):
        strange = {
            0: {measure: [wrong] * 20 if isinstance(v, list) else wrong for measure, v in about["runs"][0].items()}
        }
        said = is_mine_normal(name, strange).splitlines()[1:]
        assert len(said) == len(about["runs"][0])
        assert all("look again" in line for line in said)


def test_a_curve_that_does_not_fall_is_too_high_where_it_should_have_fallen():
    low, high = band("hw5", "loss")
    flat = [high[0]] * 200
    assert "loss: " in (said := is_mine_normal("hw5", {0: {"loss": flat}}))
    assert "too high in stretch" in said
    assert low[-1] < high[0] / 2
    assert "of 10" in said


def test_a_share_whose_recorded_runs_agree_is_allowed_a_little(monkeypatch):
    about = {**recorded("hw5"), "runs": [{"share": 0.0, "loss": [0.0] * 10}] * 3}
    monkeypatch.setattr(reference, "_known", lambda: {"hw5": about})
    assert "share: yours 0.0167, recorded 0.00 to 0.00: normal" in is_mine_normal("hw5", {0: {"share": 1 / 60}})
    assert "too high" in is_mine_normal("hw5", {0: {"share": 0.1}})
    assert "too high" in is_mine_normal("hw5", {0: {"loss": [0.01] * 10}})  # a curve is no share


def test_stretches_of_a_curve_of_any_length_are_its_means():
    assert stretches([2.0] * 7 + [4.0] * 7)[::9] == [2.0, 4.0]
    assert stretches([1.0, 3.0]) == [1.0, 3.0]


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="there are hw1, hw2"):
        recorded("hw9")
    with pytest.raises(ValueError, match="there are loss"):
        band("hw5", "lost")
    assert "nothing was recorded" in is_mine_normal("hw5", {0: {"mine alone": 1.0}})


@pytest.mark.parametrize(
    ("runs", "error", "said"),
    [
        ({0: 0.5}, TypeError, "runs[0] must hold numbers by name, received float: hand over mine = "),
        (0.5, TypeError, "runs must hold the results of `run` for each seed, received float: hand over mine = "),
        ({}, ValueError, "runs must hold the results of `run` for each seed, received none: hand over mine = "),
        (
            {0: {"loss": [1.0]}, 1: {}},
            ValueError,
            "runs[1] must have the measures of the other runs, and lacks ['loss']",
        ),
    ],
)
def test_what_are_no_runs_is_told_with_what_to_hand_over(runs, error, said):
    with pytest.raises(error, match=re.escape(said)):
        is_mine_normal("hw5", runs)


def test_three_digits_are_three_and_the_band_is_folded_until_one_has_predicted(monkeypatch):
    about = {**recorded("hw5"), "runs": [{"loss": 1.0}, {"loss": 0.5}, {"loss": 300.0}]}
    monkeypatch.setattr(reference, "recorded", lambda name: about)
    text = reference.table("hw5")
    assert "0.500 to 300 |" in text
    assert text.startswith("<details><summary>")
    assert text.endswith("</details>")


def test_what_is_no_number_is_called_so():
    answer = is_mine_normal("hw2", {0: {"accuracy with positions": float("nan")}})
    assert answer.endswith("look again, yours is no number")
