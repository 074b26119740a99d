"""Every check passes right solutions in any style, and tells each wrong one what is wrong with it."""

import importlib
import inspect
import time
import warnings

import pytest
import torch

from vlmcourse.homework import CHECKS, Case, Draw, check, checking

MODULES = [
    importlib.import_module(name)
    for name in (*(f"hw{k}_solutions" for k in range(1, 7)), "more_solutions", "unseen_solutions")
]
RIGHT = [(check, f) for module in MODULES for check, found in module.RIGHT.items() for f in found]
WRONG = [(check, *pair) for module in MODULES for check, found in module.WRONG.items() for pair in found]
MORE = [
    pair for module in MODULES[-2:] for found in module.WRONG.values() for pair in found
]  # which the fast tests leave out
MARKED = [pytest.param(*w, marks=pytest.mark.slow) if w[1:] in MORE else w for w in WRONG]


def names(parameters):
    return [
        f"{p[0].__name__.removeprefix('check_')}-{p[-1] if isinstance(p[-1], str) else k}"
        for k, p in enumerate(parameters)
    ]


@pytest.mark.parametrize(("check", "function"), RIGHT, ids=names(RIGHT))
def test_a_right_solution_of_any_style_passes(check, function, device):
    report = check(function, device=device)
    assert report, report
    assert "slow" not in report.hint


@pytest.mark.parametrize(("check", "function", "hint"), MARKED, ids=names(WRONG))
def test_a_wrong_solution_gets_the_hint_that_names_its_fault(check, function, hint):
    report = check(function, device="cpu", seconds=1.0 if "end" in hint else 10.0)
    assert not report.passed
    assert hint in str(report)
    assert not str(report).splitlines()[0].rstrip().endswith(":")  # a sentence that was begun is ended


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_ten_wrong_solutions_and_four_right_ones(name):
    assert len({f for check, f, _ in WRONG if check is CHECKS[name]}) >= 10
    assert len({f for check, f in RIGHT if check is CHECKS[name]}) >= 4


@pytest.mark.parametrize("name", CHECKS)
def test_a_variant_without_a_mistake_is_the_right_function_and_with_one_it_is_not(name):
    task = CHECKS[name].task
    cases = list(task.cases(Draw(3)))
    for knobs in ({}, *task.mistakes.values()):
        differs = False
        for case in cases if task.variant else []:
            try:
                same = checking._same(
                    task.variant(*case.args, **case.options, **knobs), task.right(*case.args, **case.options)
                )
            except (RuntimeError, ValueError, IndexError):
                same = False
            differs = differs or not same
        assert differs == bool(knobs) or task.variant is None


LONG_SUMS = "patch_embed", "conv3d"  # of which rounding leaves more than of others


@pytest.mark.slow
@pytest.mark.parametrize(("check", "function"), RIGHT, ids=names(RIGHT))
def test_other_seeds_draw_other_cases_and_still_pass_what_is_right(check, function):
    seeds = range(1, 18) if check in [CHECKS[name] for name in LONG_SUMS] else range(1, 5)
    reports = {seed: check(function, device="cpu", seed=seed) for seed in seeds}
    assert [(seed, report) for seed, report in reports.items() if not report] == []


def test_the_same_tolerance_judges_results_gradients_and_a_second_call():
    """A sum of thousands of terms, in another order each time: rounding differs, and nothing else does."""

    def in_some_order(x):
        return x[torch.randperm(len(x))].cumsum(0)[-1]

    @check(
        "total(x)",
        lambda x: x.sum(0),
        variant=lambda x, scale=1.0: scale * x.sum(0),
        mistakes={"halved": {"scale": 0.5}},
    )
    def check_total(draw):
        """Check ``total``."""
        numbers = 100 * draw.normal(5000, 20)
        numbers[:, 0] -= numbers[:, 0].mean()  # whose sum is small, and rounded as the others are
        yield Case("many numbers", (numbers,))

    assert check_total(in_some_order, device="cpu")
    assert "halved" in str(check_total(lambda x: in_some_order(x) / 2, device="cpu"))
    assert not check_total(lambda x: x[1:].sum(0), device="cpu")


def test_what_the_last_bit_of_an_input_changes_is_no_mistake():
    @check("centred(x)", lambda x: x - x.mean())
    def check_centred(draw):
        """Check ``centred``."""
        yield Case("numbers near a million", (1e6 + draw.normal(101),))

    assert check_centred(lambda x: x - x.cumsum(0)[-1] / len(x), device="cpu")
    assert not check_centred(lambda x: x - x.median(), device="cpu")


def test_results_that_are_mostly_nan_are_called_so_and_name_their_case():
    def overflows(queries, keys, *, mask=None):
        chances = (queries @ keys.mT / queries.shape[-1] ** 0.5).exp()
        chances = chances if mask is None else chances * mask
        return chances / chances.sum(-1, keepdim=True).clamp(min=1e-30)

    assert "exp of a large score is infinite" in str(CHECKS["attention_weights"](overflows, device="cpu"))

    @check(
        "shares(x)",
        lambda x: x.softmax(0),
        variant=lambda x, root=False: (-x.abs()).sqrt() if root else x.softmax(0),
        mistakes={"you take a root": {"root": True}},
    )
    def check_shares(draw):
        """Check ``shares``."""
        yield Case("numbers", (1e3 * draw.normal(3),))

    assert "NaN for numbers" in str(check_shares(lambda x: x.exp() / x.exp().sum() * torch.inf * 0, device="cpu"))


def test_a_hint_about_infinity_is_given_to_no_finite_answer():
    def never_cold(view1, view2, *, temperature):
        units = torch.nn.functional.normalize(torch.cat([view1, view2]), dim=1)
        logits = (units @ units.T / max(temperature, 0.01)).fill_diagonal_(-torch.inf)
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(units), device=units.device).roll(len(view1)))

    said = str(CHECKS["nt_xent"](never_cold, device="cpu"))
    assert "wrong for a very cold temperature" in said
    assert "infinite" not in said


def test_a_function_that_seeds_all_chance_is_refused():
    def seeds(numbers):
        torch.manual_seed(0)
        return 2 * numbers

    assert "it calls `torch.manual_seed`" in str(check_double(seeds, device="cpu"))


@pytest.mark.parametrize(("added", "passes"), [(1e-6, False), (1e-8, True)])
def test_what_a_small_number_decides_is_decided_alike_for_every_seed(added, passes):
    def unit(embeddings):
        return embeddings / (embeddings.norm(dim=1, keepdim=True) + added)

    assert {CHECKS["unit"](unit, device="cpu", seed=seed).passed for seed in range(1000, 1040)} == {passes}


def double(numbers):
    return 2 * numbers


@check(
    "double(numbers)",
    double,
    layout="n",
    variant=lambda numbers, factor=2: factor * numbers,
    mistakes={"you tripled": {"factor": 3}},
)
def check_double(draw):
    """Check ``double(numbers)``."""
    yield Case("numbers", (draw.normal(*draw.primes(1)),))
    yield Case("large numbers", (1e6 * draw.normal(5),), hint="large numbers overflow")


def test_a_student_sees_no_warning_about_inputs_that_a_check_tries():
    def power(x, *, exponent):
        if exponent != 2:
            warnings.warn("inputs that the check has changed", stacklevel=1)
        return x**exponent

    cases = [Case("four numbers", (torch.tensor([1.5, 2.0, 3.0, 4.0]),), {"exponent": 2})]
    task = checking.Task("power(x, *, exponent)", power, lambda draw: cases)
    with warnings.catch_warnings(record=True) as shown:
        hint = checking.examine(task, lambda x, exponent: x ** (exponent + 1)).hint
    assert hint == "this is what comes out if `exponent` is one more"
    assert not shown


def test_a_slow_solution_passes_with_a_remark():
    def slow(numbers):
        time.sleep(0.3)
        return numbers + numbers

    report = check_double(slow, device="cpu")
    assert report
    assert "slow" in str(report)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="only Linux knows what a thread has computed")
def test_a_solution_that_waits_for_a_busy_machine_is_not_taken_for_an_endless_loop():
    def waits(numbers):
        time.sleep(0.5)
        return numbers + numbers

    assert check_double(waits, device="cpu", seconds=0.3)


def test_an_endless_loop_that_catches_everything_is_reported_in_time():
    def stubborn(numbers):
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    start = time.monotonic()
    assert "loop without end" in str(check_double(stubborn, device="cpu", seconds=0.5))
    assert time.monotonic() - start < 5


def test_a_special_case_has_its_own_hint():
    assert "large numbers overflow" in str(check_double(lambda x: (2 * x).clamp(-1e4, 1e4), device="cpu"))


def test_the_smallest_failing_example_shows_expected_and_received():
    text = str(check_double(lambda x: 2 * x + (x > 1), device="cpu"))
    assert "expected" in text
    assert "received" in text
    assert len(text.splitlines()) < 8


def test_exit_and_quitting_do_not_end_the_notebook():
    def leaves(numbers):
        raise SystemExit

    assert "SystemExit" in str(check_double(leaves, device="cpu"))


def test_a_result_instead_of_a_function_is_told():
    assert "without brackets" in str(check_double(torch.ones(3)))


def test_help_shows_how_to_call_a_check():
    assert list(inspect.signature(check_double).parameters) == ["function", "device", "seed", "seconds"]


def test_a_second_mistake_is_told_with_the_first():
    @check(
        "f(x)",
        lambda x: x,
        variant=lambda x, a=0, b=1: b * x + a,
        mistakes={"one added": {"a": 1}, "doubled": {"b": 2}},
    )
    def check_f(draw):
        """Check ``f``."""
        yield Case("numbers", (draw.normal(3),))

    assert "one added; and also: doubled" in str(check_f(lambda x: 2 * x + 1, device="cpu"))


@check("table(numbers)", lambda numbers: 3 * numbers, layout="row column depth")
def check_table(draw):
    """Check ``table(numbers)``, which no mistake is known of."""
    yield Case("a table", (draw.normal(3, 4, 5),))


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x: (3 * x).mT, "the axes are in the order (axis 0 (row), axis 2 (depth), axis 1 (column))"),
        (lambda x: (3 * x).flip(1), "axis 1 (column) runs backwards"),
        (lambda x: (3 * x).roll(1, 2), "shifted by 1 along axis 2 (depth)"),
        (lambda x: -6 * x, "every number is -2 times what it should be"),
        (lambda x: 3 * x + 0.5, "every number is 0.5 more than it should be"),
        (lambda x: torch.cat([3 * x[:1], x[1:]]), "wrong only where axis 0 (row) is 1"),
    ],
)
def test_an_unknown_mistake_is_described_by_how_the_result_relates_to_the_right_one(function, hint):
    assert hint in str(check_table(function, device="cpu"))


def test_the_smallest_example_names_its_inputs_shows_a_mask_and_aligns_rows():
    def finite(queries, keys, *, mask=None):
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        return (scores if mask is None else scores.masked_fill(~mask, -1e9)).softmax(-1)

    said = str(CHECKS["attention_weights"](finite, device="cpu"))
    assert "    queries = [[[" in said
    assert "    mask = [[[False" in said
    assert checking._printed(torch.tensor([[[5.0], [2.0]], [[1.0], [0.5]]])) == [
        "[[[5.0],",
        "  [2.0]],",
        " [[1.0],",
        "  [0.5]]]",
    ]


def test_a_call_with_wrong_arguments_is_told_apart_from_one_inside():
    said = str(check_double(lambda x, y: x, device="cpu"))
    assert "it is called as double(numbers)" in said
    assert "in the line" not in said
    said = str(check_double(lambda x: double(x, x), device="cpu"))
    assert "it is called as" not in said
    assert "in the line `" in said
