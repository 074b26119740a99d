"""The benches time fairly, count nobody who is absent, and keep what is done."""

import json
from collections import Counter

import pytest
import torch

from vlmcourse.cli import BAD_INPUT, UNFINISHED, main
from vlmcourse.course import bench
from vlmcourse.course.contestants import BENCHES, Bench, Setting, vits

CPU = torch.device("cpu")
SMALL = Setting(CPU, small=True)


def absent():
    raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")


@pytest.fixture
def two(monkeypatch):
    """Two benches of one contestant each, and how often each was prepared."""
    prepared = Counter()

    def tiny(name):
        def make(at):
            prepared[name] += 1
            return Bench(name, {"vlmcourse": lambda: lambda: torch.rand(3) @ torch.rand(3)})

        return make

    monkeypatch.setattr(bench, "BENCHES", {name: tiny(name) for name in ("one", "other")})
    monkeypatch.setattr(bench, "rates", lambda at: {"flops": 1.0, "bytes": 1.0})
    return prepared


def test_contestants_take_turns_and_each_is_first_as_often():
    said = []
    calls = {name: lambda name=name: said.append(name) for name in "abc"}
    seconds = bench.in_turn(calls, CPU, repeats=6)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 6)
    rounds = [said[i : i + 3] for i in range(0, len(said), 3)]
    assert len(rounds) == 6 + bench.WARM_UP
    assert all(sorted(once) == ["a", "b", "c"] for once in rounds)
    assert Counter(once[0] for once in rounds[bench.WARM_UP :]) == dict.fromkeys("abc", 2)


def test_the_median_does_not_see_the_first_calls(monkeypatch):
    clock, cost = iter(range(10**6)), iter([1000, 1000, 1, 2, 3, 4, 90])
    now = [0.0]

    def call():
        now[0] += next(cost)

    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock) * 0 + now[0])
    assert bench.in_turn({"a": call}, CPU, repeats=5) == {"a": [1, 2, 3, 4, 90]}


@pytest.mark.parametrize(("kind", "waits"), [("cpu", 0), ("cuda", 1), ("mps", 1)])
def test_the_clock_stops_when_a_graphics_processor_is_done(monkeypatch, kind, waits):
    """Without it, only the queueing would be timed."""
    asked = []
    monkeypatch.setattr(torch.accelerator, "synchronize", asked.append)
    bench.wait_for(torch.device(kind))
    assert asked == waits * [torch.device(kind)]


def test_a_package_that_is_missing_is_said_to_be_so_and_is_no_contestant():
    compared = Bench("sums", {"vlmcourse": lambda: lambda: torch.rand(3).sum(), "lightly": absent}, {"lightly": 0.6})
    found = bench.measure(compared, SMALL, repeats=3)
    assert list(found["contestants"]) == ["vlmcourse"]
    assert found["absent"] == {"lightly": "not installed: nowhere"}
    said = bench.as_text({**found, "rates": {"flops": 1.0, "bytes": 1.0}})
    assert "not installed: nowhere" in said


def test_memory_is_the_most_held_at_one_time():
    def call():
        for _ in range(3):
            torch.zeros(1000)
        both = torch.zeros(1000), torch.zeros(500)
        return sum(map(len, both))

    assert bench.peak_memory(call, CPU) == 6000


def test_operations_are_those_of_the_first_contestant():
    a = torch.rand(8, 8)
    compared = Bench("product", {"vlmcourse": lambda: lambda: a @ a, "other": lambda: lambda: a @ a @ a}, read=(a,))
    assert bench.measure(compared, SMALL, repeats=2)["need"] == {"flops": 2 * 8**3, "bytes": 4 * 64}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BENCHES) - {"importing"}))
def test_every_bench_runs_here(name, tmp_path):
    output = tmp_path / "bench.json"
    assert bench.run([name], where="cpu", repeats=2, small=True, output=output) == 0
    found = json.loads(output.read_text())["benches"][name]
    for one in found["contestants"].values():
        assert len(one["seconds"]) == 2
        low, high = one["quartiles"]
        assert 0 < low <= one["median"] <= high
    assert next(iter(found["contestants"])).startswith("vlmcourse")
    assert set(found["aims"]) <= set(found["contestants"]) | set(found["absent"])


def test_torchvisions_transformer_is_the_same_network():
    _, images, makers = vits(SMALL)
    ours, theirs = (makers[name]() for name in ("vlmcourse", "torchvision"))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours(images).shape == theirs(images).shape


def test_what_is_done_is_kept_until_the_circumstances_change(two, tmp_path, monkeypatch):
    output = tmp_path / "bench.json"
    options = {"where": "cpu", "repeats": 2, "small": True, "output": output}
    made = {"commit": "one", "date": "today"}
    monkeypatch.setattr(bench, "provenance", lambda apart_from: made)
    assert bench.run([], stop_after=-1, **options) == 2  # no time for any
    assert bench.run(["one"], **options) == 0
    assert bench.run([], **options) == 0
    assert two == {"one": 1, "other": 1}
    made["date"] = "tomorrow"
    bench.run([], **options)
    assert two == {"one": 1, "other": 1}
    made["commit"] = "another"
    bench.run([], **options)
    assert two == {"one": 2, "other": 2}


def test_the_command_says_when_something_is_left(two, tmp_path, capsys):
    command = ["bench", "--small", "--repeats", "2", "--device", "cpu", "--output", str(tmp_path / "b.json")]
    assert main([*command, "--slice", "-1"]) == UNFINISHED
    assert "2 benches are left" in capsys.readouterr().err
    assert main(command) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no bench is called nothing; there are: loss, loss-in-chunks, small-loss"),
        (["loss", "--repeats", "19"], "repeats must be at least 20, received 19"),
        (["loss", "--device", "cuda:99"], "cuda:99 is not available"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(arguments, said, capsys, monkeypatch):
    monkeypatch.setenv("VLMCOURSE_DEVICE", "cpu")  # what the command sets is taken back
    assert main(["bench", *arguments]) == BAD_INPUT
    assert said in capsys.readouterr().err


def test_a_report_is_no_other_json_file(tmp_path):
    path = tmp_path / "cpu.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="must be a report of vlmcourse bench or a new file"):
        bench.run(["loss"], where="cpu", repeats=2, small=True, output=path)


def test_the_file_of_a_report_is_no_change_of_the_code(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(bench, "provenance", lambda *, apart_from: asked.append(apart_from) or {"commit": "abc"})
    bench.run(["loss"], where="cpu", repeats=2, small=True, output=tmp_path / "cpu.json")
    assert asked == [tmp_path / "cpu.json"]
