"""How a check works: draw cases, run the student's function on them, and say in a sentence what is wrong.

A check is declared with :func:`check`: a generator of cases, the right function, and the *mistakes* people make. A
mistake is the right formula with one knob turned, ``variant(..., **knobs)``, and the sentence that tells it. A function
that computes what a variant computes, on random inputs of prime sizes, has made that mistake (or two of them at once).
To teach a check a new diagnosis, add one line to its ``mistakes``.
"""

import contextlib
import ctypes
import functools
import inspect
import itertools
import re
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vlmcourse.train import runtime

PACKAGE, HERE, TORCH = (str(path.parent) for path in (Path(__file__).parent, Path(__file__), Path(torch.__file__)))
LIBRARIES = (str(Path(TORCH).parent), sysconfig.get_path("stdlib"))
OPERATORS = str(Path(TORCH, "_ops.py"))  # where torch.ops.aten.name(...) passes
SEEDING = [(torch.random.__file__, name) for name in ("manual_seed", "seed", "set_rng_state")]
HARMLESS = (str(Path(PACKAGE, "__init__.py")), runtime.__file__)  # to ask for a name or a device solves nothing
PRIMES = (2, 3, 5, 7, 11, 13)
ONES = "an axis of length one is an axis still; does `.squeeze()` drop it?"
LAST_BITS = 20  # so many times what one last bit changes may come of rounding, since a sum rounds at each step
PATIENCE = 6  # how often the time limit may pass while a function does not compute

# What PyTorch says, and what it means to somebody who writes this function for the first time.
EXPLANATIONS = {
    "view size is not compatible": "`.view` needs contiguous memory, and the input may be a transposed view: use "
    "`.reshape` or einops' `rearrange`",
    "same device": "a tensor that you made, or kept from an earlier call, lies on another device than the input: make it "
    "in this call, with `device=input.device`",
    "same dtype": "a tensor that you made has another dtype than the input: make it with `dtype=input.dtype`",
    "expected scalar type": "a tensor that you made has another dtype than the input: make it with `dtype=input.dtype`",
    "leaf variable that requires grad": "it changes its input in place",
    "modified by an inplace operation": "the gradient needs the numbers that you write over: make a new tensor instead, with "
    "`torch.where`, `masked_fill` or `nan_to_num`",
    "can't call numpy() on tensor that requires grad": "stay in PyTorch: NumPy knows no gradients",
    "maximum recursion depth": "the function calls itself without end",
    "cannot be multiplied": "in `a @ b` the last axis of a and the last but one of b must agree; a weight as `nn.Linear` has "
    "it is (out, in), so the layer is `x @ weight.T`",
    "batch2 tensor": "in `a @ b` the last axis of a and the last but one of b must agree: is one of them transposed, "
    "or is it `b @ a`?",
    "does not broadcast with previously seen": "one letter of the pattern has two lengths: are two axes swapped?",
    "cannot be converted to Scalar": "`.item()` and `int(...)` take one number: is a batch of one assumed?",
    "must match the size of tensor": "shapes are matched from the last axis backwards: what belongs to another axis needs "
    "new axes behind it, as in `bias[:, None, None]`; `keepdim=True` keeps an axis over which you sum; `.T` turns all axes "
    "round, where `.mT` swaps the last two; end every slice; and a product of matrices is `@`",
    "Index tensor must have": "`gather` wants an index with as many axes as the input: give it the others, as in "
    "`order[:, None, :, None, None]`, and expand them",
    "zero-dimensional tensor": "`torch.cat` joins tensors with axes, and this is one number: keep the axes, as in "
    "`argmax(-1, keepdim=True)`",
    "same number of dimensions": "`torch.cat` joins tensors with equally many axes: keep an axis, as in `x[:, -1:]`, or make "
    "one, as in `x[:, None]`",
    "is invalid for input of size": "the numbers do not fit into this shape: is the image taken to be square, or the number "
    "of channels to be fixed?",
    "can't divide axis": "a length in the pattern does not fit: is the image taken to be square, or a number to be fixed?",
    "mismatch": "a length in the pattern does not fit: is the image taken to be square, or a number to be fixed?",
    "NoneType": "something is None: an option that was not given, or a function without `return`",
    "is not defined": "a name that has no value: is it misspelt, is an `import` missing, or was the cell that defines it not run?",
    "xpected target size": "`F.cross_entropy` wants the classes on axis 1: flatten all axes before the classes, or move them",
    "out of bounds": "an index is beyond the end: the last of n is n - 1",
    "out of range": "an index is beyond the end: the last of n is n - 1",
    "truth value": "`if` and `and` want one truth value: for a tensor use `torch.where`, `&`, or a mask",
    "Boolean value of Tensor": "`if` and `and` want one truth value: for a tensor use `torch.where`, `&`, or a mask",
    "Sizes of tensors must match": "`torch.cat` joins along one axis, and all others must agree: which axis is it?",
}


class Draw:
    """Random inputs: distinct primes as sizes, so that no axis passes for another, or small ones to print.

    >>> draw = Draw(seed=0)
    >>> len(set(draw.primes(4)))
    4
    """

    def __init__(self, seed: int, *, device: torch.device | str = "cpu", small: bool = False) -> None:
        self.generator, self.device, self.small = torch.Generator().manual_seed(seed), torch.device(device), small

    def primes(self, count: int) -> list[int]:
        """Return distinct small primes, in random order; for an example to print, numbers from 1 to 3."""
        if self.small:
            return [self.integer(1, 4) for _ in range(count)]
        pool = PRIMES[: max(count, 3)]
        return [pool[i] for i in torch.randperm(len(pool), generator=self.generator, device="cpu")[:count].tolist()]

    def integer(self, low: int, high: int) -> int:
        """Return a number from ``low`` to ``high - 1``."""
        return int(torch.randint(low, high, (), generator=self.generator, device="cpu"))

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers; for an example to print, small whole ones."""
        numbers = torch.randn(shape, generator=self.generator, device="cpu")
        return ((2 * numbers).round() if self.small else numbers).to(self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return whole numbers from 0 to ``high - 1``."""
        return torch.randint(0, high, shape, generator=self.generator, device="cpu").to(self.device)

    def order(self, n: int) -> Tensor:
        """Return the numbers from 0 to n - 1 in random order."""
        return torch.randperm(n, generator=self.generator, device="cpu").to(self.device)


@dataclass(frozen=True)
class Case:
    """One call of the function: what is special about it, its arguments, and a hint if only such calls fail."""

    what: str
    args: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""
    nan: str = ""  # what to say where the result is right and its gradient is not a number
    overflow: str = ""  # a hint only where the result holds infinity or NaN
    slack: float = 0.0  # how far rounding may move a number of the result, measured by the check

    @property
    def extreme(self) -> bool:
        """Whether this is a call that a function may get wrong alone."""
        return bool(self.hint or self.overflow)


@dataclass(frozen=True)
class Report:
    """What a check found; true where the function is right, and printed as sentences.

    >>> print(Report("patchify", passed=False, hint="nothing came back: is a `return` missing?"))
    patchify is not right yet: nothing came back: is a `return` missing?
    """

    task: str
    passed: bool
    hint: str = ""
    evidence: str = ""
    done: bool = True  # False: it raises NotImplementedError, so nobody has begun

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        verdict = "is right" if self.passed else "is not right yet" if self.done else "is not written yet"
        return f"{self.task} {verdict}" + (f": {self.hint}" if self.hint else ".") + self.evidence

    __repr__ = __str__


Symptom = Callable[[Case, Any, Any], str | None]


@dataclass(frozen=True)
class Task:
    """Everything that a check knows about one function."""

    call: str
    right: Callable[..., Any]
    cases: Callable[[Draw], Iterable[Case]]
    variant: Callable[..., Any] | None = None
    mistakes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    symptoms: Sequence[Symptom] = ()
    # Words of a mistake, and what says the same in a case's own numbers.
    numbers: Mapping[str, Symptom] = field(default_factory=dict)
    # Says which word noticed that a later one changed.
    future: Callable[[Case, Callable[[Case], Any]], str] | None = None
    layout: str = ""
    forbidden: frozenset[str] = frozenset()
    adapt: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None  # for functions that return nothing
    gradients: bool = True
    property_only: bool = False  # many answers are right; the symptoms alone decide

    @property
    def name(self) -> str:
        """The function's name."""
        return self.call.partition("(")[0]


class Check(Protocol):
    """A check: hand it your function."""

    task: Task
    __name__: str

    def __call__(
        self, function: Callable[..., Any], *, device: Any = None, seed: int = 0, seconds: float = 10.0
    ) -> Report:
        """Return what is wrong with ``function``, if anything."""


def check(call: str, right: Callable[..., Any], **declared: Any) -> Callable[[Callable[[Draw], Iterable[Case]]], Check]:
    """Turn a generator of cases into a check of the function that is called as ``call``.

    Options:
        those of :class:`Task`: ``variant`` and ``mistakes``, ``symptoms``, ``layout`` (the axes of the result),
        ``forbidden`` (functions of PyTorch that would be the whole answer).
    """

    def decorate(cases: Callable[[Draw], Iterable[Case]]) -> Check:
        task = Task(call, right, cases, **declared)

        @functools.wraps(cases)
        def run(function: Callable[..., Any], *, device: Any = None, seed: int = 0, seconds: float = 10.0) -> Report:
            return examine(task, function, device=device, seed=seed, seconds=seconds)

        del run.__wrapped__  # help() shows how to call the check, not how it draws
        run.task = task  # type: ignore[attr-defined]
        run.__annotations__ = Check.__call__.__annotations__
        return run  # type: ignore[return-value]

    return decorate


# ---------------------------------------------------------------------------------------------------------
# Run a function that nobody trusts
# ---------------------------------------------------------------------------------------------------------


class TimeUp(BaseException):
    """Thrown into a function that does not end; no ``except Exception`` catches it."""


@dataclass
class Outcome:
    """What came of one call."""

    value: Any = None
    gradients: list[Tensor | None] | None = None
    error: BaseException | None = None
    backward: BaseException | None = None  # the result came, and its gradient did not
    changed: str = ""
    called: Sequence[str] = ()
    seconds: float = 0.0


def within(seconds: float, work: Callable[[], Any]) -> None:
    """Run ``work`` in a thread of its own, and end it when the time is up; works on Windows and in notebooks too.

    On Linux the time is what the thread has computed: on a busy machine a right function may wait for long, when PyTorch
    loads a library say, and to end it there would leave that library half loaded. Waiting alone ends after ``PATIENCE``
    times the seconds.

    Raises:
        TimeUp: it has not ended. A call into C cannot be interrupted; such a thread is left behind.
    """
    clock = list[int]()

    def timed() -> None:
        if hasattr(time, "pthread_getcpuclockid"):  # asked in the thread itself: one that has ended has no clock
            clock.append(time.pthread_getcpuclockid(threading.get_ident()))
        work()

    thread, start = threading.Thread(target=timed, daemon=True), time.monotonic()
    thread.start()
    spent = waited = 0.0
    while thread.is_alive() and spent < seconds and waited < PATIENCE * seconds:
        thread.join(0.05)
        spent = waited = time.monotonic() - start
        with contextlib.suppress(OSError):  # it has just ended
            spent = time.clock_gettime(clock[0]) if clock else waited
    if not thread.is_alive():
        return
    for _ in range(3):  # a bare `except:` may swallow the first
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeUp))
        thread.join(0.2)
    raise TimeUp


def attempt(
    function: Callable[..., Any], case: Case, *, seconds: float, forbidden: frozenset[str], gradients: bool = True
) -> Outcome:
    """Call the function on copies of the case's arguments, and watch what it does to them."""
    outcome, called = Outcome(), list[str]()
    args = [_mapped(_leaf if gradients else torch.clone, value) for value in case.args]
    before = [_mapped(lambda tensor: tensor.detach().clone(), value) for value in args]

    def spy(frame: Any, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if file.startswith(HERE):
            return
        name = frame.f_code.co_name if event == "call" else getattr(argument, "__name__", "")
        if event == "call" and file == OPERATORS and name == "__call__":  # torch.ops.aten.name
            name = str(next(iter(frame.f_locals.values()), ""))
        if event == "call" and file.startswith(PACKAGE) and file not in HARMLESS and name != "<module>":
            called.append(f"vlmcourse's `{name}`, which is the solution: write the formula yourself")
        elif (event == "call" and file.startswith(TORCH)) or event == "c_call":
            if any(part in name for part in forbidden):
                called.append(f"PyTorch's `{name}`, which is the solution: write the formula yourself")
            if event == "c_call" and name == "setprofile":
                called.append("`sys.setprofile`, which blinds the check")
            if event == "call" and (file, name) in SEEDING:
                called.append(f"`torch.{name}`, which changes chance for all that comes after: leave it out")

    profiler, default = threading.getprofile(), torch.get_default_device()
    # A thread does not take over the default device that its caller has set.
    named = contextlib.nullcontext() if default.type == "cpu" else default

    def work() -> None:
        try:
            threading.setprofile(spy)  # for threads that the function may start
            sys.setprofile(spy)
            try:
                with named, torch.enable_grad():
                    outcome.value = function(*args, **case.options)
            finally:
                sys.setprofile(None)
                threading.setprofile(profiler)
            try:
                outcome.gradients = _gradients(outcome.value, args) if gradients else None
            except RuntimeError as error:  # the values may be right or wrong all the same: they are judged first
                outcome.backward = error
        except BaseException as error:  # SystemExit and KeyboardInterrupt of the student's too
            outcome.error = error

    start = time.perf_counter()
    try:
        within(seconds, work)
    except TimeUp as error:
        outcome = Outcome(error=error)  # the thread may still write into the old one
    outcome.seconds, outcome.called = time.perf_counter() - start, called
    for name, old, new in zip(_names(function), before, args, strict=False):
        if not all(map(torch.equal, _tensors(old), _tensors(new))):
            outcome.changed = name
    return outcome


def _leaf(tensor: Tensor) -> Tensor:
    """Return a copy that is laid out alike and, if it can, asks for a gradient; it may be changed in place."""
    copy = tensor.detach().clone()
    return copy.requires_grad_() * 1 if copy.is_floating_point() else copy


def _gradients(value: Any, args: Sequence[Any]) -> list[Tensor | None] | None:
    """Return the gradient of a fixed mixture of all results, or None where nothing can be derived."""
    results = [tensor for tensor in _tensors(value) if tensor.is_floating_point()]
    inputs = [tensor for tensor in _tensors(args) if tensor.requires_grad]
    if not inputs or not results:
        return None
    if not any(tensor.requires_grad for tensor in results):
        return [None] * len(inputs)
    mixture = sum(
        # Where the result is infinite, a masked score, nobody will use its gradient.
        (tensor * torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape).cos())
        .masked_fill(~tensor.isfinite(), 0.0)
        .sum()
        for tensor in results
    )
    return list(torch.autograd.grad(mixture, inputs, allow_unused=True))  # type: ignore[arg-type]


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(_mapped(function, part) for part in value) if isinstance(value, tuple | list) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in _tensors(part)] if isinstance(value, tuple | list) else []


def _names(function: Callable[..., Any]) -> list[str]:
    try:
        return [f"`{name}`" for name in inspect.signature(function).parameters]
    except (TypeError, ValueError):
        return ["its first argument"]


# ---------------------------------------------------------------------------------------------------------
# Judge
# ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 as float32: a GPU may keep ten bits of it, and right results of two kernels then differ."""
    before = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    try:
        torch.set_float32_matmul_precision("highest")
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@full_float32()
def examine(
    task: Task, function: Callable[..., Any], *, device: Any = None, seed: int = 0, seconds: float = 10.0
) -> Report:
    """Run every case, and report the first fault in the words of the likeliest mistake.

    Options:
        device: where the inputs lie once all is right on the CPU, by default that of :func:`vlmcourse.device`. seed: of
        the cases; one seed gives the same cases each time. seconds: the time limit of one call.
    """
    if not callable(function):
        received = type(function).__name__
        return Report(task.name, False, f"hand in the function itself, `{task.name}`, without brackets, not {received}")
    where = torch.device(runtime.device() if device is None else device)
    with torch.device("cpu"):  # for what names no device, whatever torch.set_default_device said
        report = _examine(task, function, torch.device("cpu"), seed, seconds)
    if not report.passed or where.type == "cpu":
        return report
    there = _examine(task, function, where, seed, seconds)
    return there if there.passed else replace(there, hint=f"right on the CPU, but on {where}: {there.hint}")


def _examine(task: Task, function: Callable[..., Any], where: torch.device, seed: int, seconds: float) -> Report:
    """Run every case on one device; what is wrong is found on the CPU.

    There a wrong index is an error like others. On a GPU it ends all further work of the process, the student's too.
    """
    function = task.adapt(function) if task.adapt else function
    draw = functools.partial(Draw, device=where)
    cases = [_with_slack(task, case) for case in _with_generic(list(task.cases(draw(seed))), task)]
    outcomes, faults, times = list[Outcome](), list[str](), list[tuple[float, float]]()
    for case in cases:
        outcome = attempt(function, case, seconds=seconds, forbidden=task.forbidden, gradients=task.gradients)
        if (fatal := _fatal(task, outcome, seconds)) is not None:
            return replace(fatal, evidence=_tried(task, case) if fatal.done else "")
        expected = attempt(task.right, case, seconds=3600, forbidden=frozenset(), gradients=task.gradients)
        faults.append(_fault(task, case, outcome, expected))
        outcomes.append(outcome)
        times.append((outcome.seconds, expected.seconds))
    failed = next((i for i, fault in enumerate(faults) if fault), None)
    if failed is None:
        theirs, ours = (sum(seconds) - max(seconds) for seconds in zip(*times, strict=True))  # one may load a library
        remark = f"but slow, {theirs:.1f} s where {ours:.2f} s are enough: try whole tensors instead of loops"
        return Report(task.name, True, remark if theirs > 0.5 + 20 * ours else "")
    case, values_differ = cases[failed], faults[failed] == DIFFERENT
    if values_differ:
        again = attempt(function, case, seconds=seconds, forbidden=frozenset(), gradients=False)
        if not _same(again.value, outcomes[failed].value, nan=True, slack=case.slack):
            return Report(task.name, False, "the same input gives another result the second time: leave chance out")
    evidence = _tried(task, case)
    telling = where.type == "cpu" and case.hint != ONES  # of so few numbers many mistakes make the same
    mistake = _mistake(task, cases, outcomes) if telling else None
    if mistake:
        differ = [c for c, fault in zip(cases, faults, strict=True) if fault == DIFFERENT]
        future = next(filter(None, (_future(task, function, c, seconds) for c in differ)), "")
        return Report(task.name, False, _in_numbers(task, mistake, case, outcomes[failed], future), evidence)
    hint = faults[failed]
    right = [c.what for c, fault in zip(cases, faults, strict=True) if not fault and not c.extreme]
    contrast = f"right for {right[0]}, but " if right else ""
    if values_differ:
        relation = _relation(task, cases, outcomes, failed)
        if future := _future(task, function, case, seconds):
            relation = f"{future}: {LEAK}"
        finite = all(tensor.isfinite().all() for tensor in _tensors(outcomes[failed].value))
        special = case.hint or ("" if finite else case.overflow)
        seen = special if contrast and special else _symptom(task, case, outcomes[failed]) or relation
        hint = f"{contrast}wrong for {case.what}" + f": {seen}" * bool(seen) if contrast else seen or DIFFERENT
        evidence = _smallest(task, function, failed, draw, seconds) or evidence
    elif "the result has shape" in hint and contrast and case.hint:
        hint = f"{contrast}{hint}: {case.hint}"
    elif "the result has shape" in hint:
        hint = _symptom(task, case, outcomes[failed]) or _relation(task, cases, outcomes, failed) or hint
    elif outcomes[failed].error is not None:
        hint = contrast + hint
    return Report(task.name, False, hint, evidence)


DIFFERENT = "the values differ"
LEAK = "the mask lets the future in"


def _future(task: Task, function: Callable[..., Any], case: Case, seconds: float) -> str:
    """Change one word after another, and say where an earlier one noticed; nothing if none did, or none may be late."""

    def run(changed: Case) -> Any:
        return attempt(function, changed, seconds=seconds, forbidden=frozenset(), gradients=False).value

    try:
        with torch.no_grad():
            return task.future(case, run) if task.future else ""
    except Exception:  # a result of an unexpected kind
        return ""


def _in_numbers(task: Task, mistake: str, case: Case, outcome: Outcome, future: str) -> str:
    """Return a mistake's sentence with what this case shows of it: a row's sum, or a word that saw a later one."""
    for words, symptom in task.numbers.items():
        if words in mistake and outcome.error is None:
            mistake = mistake.replace(words, symptom(case, _mapped(torch.detach, outcome.value), None) or words)
    if not future or not re.search("mask|future|look", mistake):
        return mistake
    return f"{future}: {mistake}" if mistake.startswith(LEAK) else f"{future}: {LEAK}; {mistake}"


def _with_generic(cases: list[Case], task: Task) -> list[Case]:
    """Add what every function must stand: memory that is not contiguous, and float64."""
    first = cases[0]
    strided = _mapped(lambda tensor: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor, first.args)
    cases.append(Case("an input that is not contiguous in memory", strided, first.options))
    if any(tensor.is_floating_point() for tensor in _tensors(first.args)):
        with contextlib.suppress(TypeError):  # Apple's GPU has no float64, and says so with this
            wide = _mapped(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, first.args)
            cases.append(Case("float64", wide, first.options))
    return cases


def _with_slack(task: Task, case: Case) -> Case:
    """Measure how far the right result moves where each input moves by its last bit: rounding alone may move it as far.

    Nearly always that is nothing. It is much where large numbers nearly cancel, or a small one divides.
    """

    chance = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        up = torch.rand(tensor.shape, generator=chance, device="cpu") < 0.5  # by turns, a whole column would move alike
        return tensor.cpu().nextafter(torch.where(up, torch.inf, -torch.inf).to(tensor.dtype)).to(tensor.device)

    if task.property_only:
        return case
    inputs = [case.args, *(_mapped(moved, case.args) for _ in range(3))]  # once, few numbers may move alike
    with torch.no_grad():
        right, *others = [_tensors(task.right(*args, **case.options)) for args in inputs]
    pairs = [(a.cpu().double(), b.cpu().double()) for other in others for a, b in zip(right, other, strict=True)]
    moves = [float((a - b).nan_to_num(0, 0, 0).abs().max()) for a, b in pairs if a.numel()]
    return replace(case, slack=LAST_BITS * max(moves, default=0.0))


def _fatal(task: Task, outcome: Outcome, seconds: float) -> Report | None:
    """Report what needs no comparison: not begun, no end, or not one's own work."""
    if isinstance(outcome.error, NotImplementedError) and not outcome.error.args:  # PyTorch's own come with a text
        return Report(task.name, False, f"write {task.call}", done=False)
    if isinstance(outcome.error, TimeUp):
        return Report(task.name, False, f"it has not ended after {seconds:g} seconds: is there a loop without end?")
    if outcome.called:
        return Report(task.name, False, f"it calls {outcome.called[0]}")
    return None


def _fault(task: Task, case: Case, outcome: Outcome, expected: Outcome) -> str:
    """Return what is wrong with one outcome, or nothing."""
    if outcome.error is not None:
        lines = str(outcome.error).strip().split("\n")
        kind, text = type(outcome.error).__name__, lines[-1 if "Einops" in type(outcome.error).__name__ else 0].strip()
        said = next((f"; {meaning}" for phrase, meaning in EXPLANATIONS.items() if phrase in text), "")
        line = _line(outcome.error)
        if isinstance(outcome.error, TypeError) and "argument" in text:
            inside = "; what stands behind `*` in a function's head is given by its name, as in `mask=mask`"
            outside = f"; the arguments and their names are part of the task: it is called as {task.call}"
            said += (inside if "positional" in text else "") if line else outside
        said += f"; {case.hint}" if case.hint else ""
        said += f"\n  in the line `{line}`" if line else ""
        return f"it stops with {kind} for {case.what}: {text}{said}"
    if task.property_only:  # the input that was changed first: what is compared with it looks wrong, too
        return _side_effect(outcome) or _symptom(task, case, outcome)
    if complaint := _other_kind(expected.value, outcome.value, task.layout):
        return complaint
    if not _same(expected.value, outcome.value, slack=case.slack):
        return _rounded(expected.value, outcome.value) or DIFFERENT
    for right, received in zip(_tensors(expected.value), _tensors(outcome.value), strict=True):
        if received.dtype != right.dtype:
            advice = "follow the dtype of the input (`torch.zeros(...)` is float32 unless told)"
            advice = "these are whole numbers: `.long()`" if not right.dtype.is_floating_point else advice
            advice = "a comparison gives it, or `.bool()`" if right.dtype == torch.bool else advice
            return f"the values are right, but of {received.dtype} where {right.dtype} was expected: {advice}"
        if received.device != right.device:
            return f"the result is on {received.device}, the input on {right.device}: stay on the input's device"
    smooth = task.gradients and not case.extreme  # at an extreme, such as a length of zero, right answers may differ
    spoiled = any(gradient is not None and gradient.isnan().any() for gradient in outcome.gradients or [])
    return _side_effect(outcome) or (_wrong_gradient(expected, outcome) if smooth else case.nan if spoiled else "")


def _rounded(expected: Any, received: Any) -> str:
    """Say that the values are right but for the few digits of half precision."""
    if not isinstance(received, Tensor) or received.dtype not in (torch.float16, torch.bfloat16):
        return ""
    if not torch.allclose(expected.detach().double(), received.detach().double(), rtol=0.02, atol=0.02):
        return ""
    return f"the values have only the few digits of {received.dtype} where {expected.dtype} was expected: follow the input's dtype"


def _line(error: BaseException) -> str:
    """Return the student's line that an error comes from, or nothing if the call itself was the error."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if not frame.filename.startswith((PACKAGE, *LIBRARIES))]
    return (mine[-1].line or "") if mine else ""


def _side_effect(outcome: Outcome) -> str:
    changed = outcome.changed
    return f"it changes its input {changed} in place: work on a new tensor (`a = a - b`, not `a -= b`)" * bool(changed)


def _wrong_gradient(expected: Outcome, outcome: Outcome) -> str:
    if outcome.backward is not None:
        said = f": {outcome.backward}".split("\n", maxsplit=1)[0]
        if "inplace" in said:
            said = (
                ": a step changes a tensor in place that the gradient needs still (`x[...] = `, `fill_diagonal_`, `*=`): "
                "make a new one, with `masked_fill` or `torch.where`"
            )
        return f"the values are right, but no gradient can be computed{said}"
    for right, received in zip(expected.gradients or [], outcome.gradients or [], strict=False):
        if right is not None and right.any() and received is None:
            return (
                "the values are right, but no gradient comes back to an input: `.detach()`, `.item()`, `.data`, "
                "`torch.no_grad()`, `torch.tensor(...)`, `nn.Parameter(...)` or NumPy cut it off"
            )
        if right is not None and received is not None and not _same(right, received):
            return (
                "the values are right, but their gradient is not: a part of the formula is cut off by `.detach()`, or a step too "
                "much changes no value here, such as dividing vectors of length 1 by their length"
            )
    return ""


def _other_kind(expected: Any, received: Any, layout: str) -> str:
    """Say how the kind of a result differs: its type, how many there are, or its shape."""
    if received is None and expected is not None:
        return "nothing came back: is a `return` missing?"
    if isinstance(expected, tuple) and isinstance(received, tuple | list):
        if len(expected) != len(received):
            return f"{len(expected)} results are expected, {len(received)} came"
        return next(filter(None, (_other_kind(e, r, "") for e, r in zip(expected, received, strict=True))), "")
    if isinstance(expected, Tensor) and not isinstance(received, Tensor):
        return f"a torch.Tensor is expected, a {type(received).__module__}.{type(received).__name__} came"
    if isinstance(expected, int | tuple) and not isinstance(received, Integral if type(expected) is int else tuple):
        kind = "a whole number" if isinstance(expected, int) else f"a tuple of {len(expected)}"
        return f"{kind} is expected, a {type(received).__name__} came"
    if not isinstance(expected, Tensor) or expected.shape == received.shape:
        return ""
    wanted, came = tuple(expected.shape), tuple(received.shape)
    axes = f"({', '.join(layout.split())}) = " if layout else ""
    swapped = "; the axes are in another order" if sorted(wanted) == sorted(came) else ""
    return f"the result has shape {came}, expected {axes}{wanted}{swapped}"


def _same(one: Any, other: Any, *, nan: bool = False, slack: float = 0.0) -> bool:
    """Return whether two results agree up to rounding; NaN agrees with NaN only if asked."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(
            _same(a, b, nan=nan, slack=slack) for a, b in zip(one, other, strict=True)
        )
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        same_kind = type(one) is type(other) or (isinstance(one, Integral) and isinstance(other, Integral))
        return bool(same_kind and one == other)
    if one.shape != other.shape:
        return False
    a, b = (tensor.detach().cpu().double() for tensor in (one, other))  # not every device has float64
    return bool(_close(a, b, nan=nan, slack=slack).all())


def _close(a: Tensor, b: Tensor, *, nan: bool = False, slack: float = 0.0) -> Tensor:
    """Return which numbers agree up to rounding.

    A sum of many terms is off by as much as its terms are, even where it comes out small. So what counts is the largest
    number of the result, which is a sum of as many.
    """
    size = max(1.0, float(a.where(a.isfinite(), 0.0).abs().max())) if a.numel() else 1.0
    return torch.isclose(a, b, rtol=1e-4, atol=1e-5 * size + slack, equal_nan=nan)


def _mistake(task: Task, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> str | None:
    """Return the hint of the mistake, or of the two together, that gives the student's results in every case.

    Where no mistake explains all ordinary cases, it may explain the plainest, or all of these that fail, or, said with
    care, the first of them: who forgets a step need not get the mask, or infinity, wrong in our way.
    """
    known: list[tuple[str, Mapping[str, Any]]] = list(task.mistakes.items()) if task.variant else []
    pairs: list[tuple[str, Mapping[str, Any]]]
    pairs = [(f"{h1}; and also: {h2}", {**k1, **k2}) for (h1, k1), (h2, k2) in itertools.combinations(known, 2)
             if not k1.keys() & k2.keys()]  # fmt: skip
    came = [(case, outcome.value) for case, outcome in zip(cases, outcomes, strict=True) if outcome.error is None]
    ordinary = [pair for pair in came if not pair[0].extreme]
    with torch.no_grad():
        right = [task.right(*case.args, **case.options) for case, _ in came]
    wrong = [pair for pair, r in zip(came, right, strict=True) if not _same(r, pair[1], slack=pair[0].slack)]
    plainest = [pair for pair in ordinary if wrong and pair[0].options.keys() == wrong[0][0].options.keys()]
    failing = [pair for pair in plainest if any(pair is other for other in wrong)] or wrong[:1]
    first = [(hint, knobs) for hint, knobs in known + pairs if _explains(task, knobs, wrong[:1])] if wrong else []
    for compared in (ordinary, plainest, failing, wrong[:1]):
        # One whole number may agree by chance.
        numbers = [tensor for _, value in compared for tensor in _tensors(value)]
        telling = (
            any(tensor.is_floating_point() for tensor in numbers)
            or sum(t.numel() for t in numbers) > 3
            or len(compared) > 3
        )
        if telling and any(pair is other for pair in compared for other in wrong):
            for hint, knobs in first if any(pair is wrong[0] for pair in compared) else known + pairs:
                if _explains(task, knobs, compared):
                    more = len(failing) > len(compared)  # others of the kind fail in another way: this may be chance
                    return f"at least for {compared[0][0].what}: {hint}" if more else hint
    return None


def _explains(task: Task, knobs: Mapping[str, Any], compared: Sequence[tuple[Case, Any]]) -> bool:
    """Return whether the variant with these knobs gives all the results.

    Where most of a result is NaN, it tells nothing: all that overflows looks alike.
    """
    if any(tensor.isnan().double().mean() > 0.5 for _, value in compared for tensor in _tensors(value)):
        return False
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a student would take it for theirs
            return all(
                _same(task.variant(*c.args, **c.options, **knobs), value, nan=True, slack=c.slack)  # type: ignore[misc]
                for c, value in compared
            )
    except Exception:  # the variant cannot do such a case, and the student's function could
        return False


def _symptom(task: Task, case: Case, outcome: Outcome) -> str:
    """Return what the first symptom says that the result shows; infinity and NaN are everybody's symptom."""
    if outcome.error is not None:
        return ""
    expected = None if task.property_only else task.right(*case.args, **case.options)
    value = _mapped(torch.detach, outcome.value)
    for symptom in task.symptoms:
        try:
            if said := symptom(case, value, expected):
                return said
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):  # a result of an unexpected kind
            continue
    values, right = _tensors(value), _tensors(expected)
    if any(value.isnan().any() for value in values) and not any(value.isnan().any() for value in right):
        return f"NaN for {case.what}: an exp overflows, or 0 / 0, or 0 times infinity"
    return ""


def _relation(task: Task, cases: Sequence[Case], outcomes: Sequence[Outcome], failed: int) -> str:
    """Say how a result of unknown origin comes from the right one, or from the right function on other inputs."""
    if task.property_only:
        return ""
    options = cases[failed].options.keys()
    compared = [
        (case, task.right(*case.args, **case.options), outcome.value)
        for case, outcome in zip(cases, outcomes, strict=True)
        if outcome.error is None and (case is cases[failed] or (case.options.keys() == options and not case.extreme))
    ]
    case, right, got = next(found for found in compared if found[0] is cases[failed])
    if isinstance(right, int) and isinstance(got, Integral):  # one number a call: look at all calls together
        wanted, came = zip(*((int(one), int(other)) for _, one, other in compared), strict=True)
        said = _scaled(torch.tensor(wanted).double(), torch.tensor(came).double())
        return said or _explaining(task, _all_changes(task, case), compared)
    results, received = _tensors(right), _tensors(got)
    if len(results) != len(received) or not results:
        return ""
    place = next((k for k, pair in enumerate(zip(results, received, strict=True)) if not _same(*pair)), 0)
    which = f"result {place + 1} of {len(results)}: " if len(results) > 1 else ""
    letters = task.layout.split() if len(task.layout.split()) == results[place].ndim else []
    names = [f"axis {k} ({letters[k]})" if letters else f"axis {k}" for k in range(results[place].ndim)]
    right, got = (tensors[place].detach().cpu().double() for tensors in (results, received))
    if right.ndim and (said := _same_numbers(right, got, names)):
        return which + said
    for argument, value in zip(_arguments(task), case.args, strict=False):
        if isinstance(value, Tensor) and value.is_floating_point():
            value = value.detach().cpu().double()
            if _same(value, got):
                return f"{which}this is `{argument}` as it came"
            if right.shape == got.shape == value.shape and _same(right + value, got):
                return f"{which}`{argument}` is added to the result"
            if got.ndim > 1 and got.shape == value.shape and all(any(_same(v, g) for v in value) for g in got):
                return f"{which}these are entries of `{argument}` along axis 0 as they came, moved or repeated"
    if said := _explaining(task, _all_changes(task, case), compared):
        return said
    where = _where(right, got, names) if right.ndim and right.shape == got.shape else ""
    return which + where if where else ""


def _same_numbers(right: Tensor, got: Tensor, names: Sequence[str]) -> str:
    """Say how one tensor is another one, moved, cut, reshaped or reduced, or after a step more."""
    for order in itertools.permutations(range(right.ndim)):
        if order != tuple(range(right.ndim)):
            if _same(right.permute(order), got):
                axes = ", ".join(names[k] for k in order)
                return f"the numbers are right, but the axes are in the order ({axes})"
            if _same(right.permute(order).reshape(right.shape), got):
                return "the numbers are right, but a reshape has mixed the axes: move them first (permute, rearrange)"
    if got.shape != right.shape and got.numel() == right.numel() and _same(right.flatten(), got.flatten()):
        gone = f": {ONES}" * (right.squeeze().shape == got.squeeze().shape)
        return (
            f"the numbers are right, but the result has shape {tuple(got.shape)}, expected {tuple(right.shape)}{gone}"
        )
    if got.ndim == right.ndim and got.numel() and all(g <= r for g, r in zip(got.shape, right.shape, strict=True)):
        cut = " and ".join(name for k, name in enumerate(names) if got.shape[k] < right.shape[k])
        fits = {"end": [slice(0, n) for n in got.shape], "beginning": [slice(-n, None) for n in got.shape]}
        for what, fit in fits.items():
            if cut and _same(right[tuple(fit)], got):
                return (
                    f"the numbers are right, but of {tuple(right.shape)} only {tuple(got.shape)} came: the {what} is missing "
                    f"along {cut}"
                )
    for axis, name in enumerate(names):
        n, came = right.shape[axis], got.shape[axis] if got.ndim == right.ndim else 0
        if came > n and (_same(right, got.narrow(axis, 0, n)) or _same(right, got.narrow(axis, came - n, n))):
            return f"the numbers are right, but {came - n} too many come along {name}"
        for reduced, what in (
            (right.mean(axis), "averaged"),
            (right.sum(axis), "added up"),
            (right.amax(axis), "cut to its largest"),
        ):
            if n > 1 and (_same(reduced, got) or _same(reduced.unsqueeze(axis), got)):
                return f"the right result is {what} over {name}"
        if n > 1 and (_same(right.select(axis, 0), got) or _same(right.select(axis, -1), got)):
            return f"only one entry of {name} came back"
    return _same_after_a_step(right, got, names) if right.shape == got.shape else ""


def _same_after_a_step(right: Tensor, got: Tensor, names: Sequence[str]) -> str:
    """Say how one tensor is another one of the same shape, moved along an axis, scaled, or after a step more."""
    for axis, name in enumerate(names):
        if _same(right.flip(axis), got):
            return f"the numbers are right, but {name} runs backwards"
        for shift in range(1, right.shape[axis]):
            if _same(right.roll(shift, axis), got):
                return f"the numbers are right, but shifted by {shift} along {name}"
        steps = {"a softmax": right.softmax(axis), "a division by the length": torch.nn.functional.normalize(right, dim=axis),
                 "a running sum": right.cumsum(axis)}  # fmt: skip
        for step, result in steps.items():
            if _same(result, got):
                return f"the right result goes through {step} along {name} once more"
    steps = {"ReLU": right.relu(), "GELU": torch.nn.functional.gelu(right), "a sigmoid": right.sigmoid(), "tanh": right.tanh(),
             "exp": right.exp(), "a logarithm": right.log(), "abs": right.abs(), "a square": right.square(),
             "rounding": right.round(), "a layer norm": torch.nn.functional.layer_norm(right, right.shape[-1:])}  # fmt: skip
    for step, result in steps.items():
        if len(right.unique()) > 2 and _same(result, got):  # yes and no are numbers that many steps give
            return f"the right result goes through {step} once more: nothing follows"
    return _scaled(right, got)


def _scaled(right: Tensor, got: Tensor) -> str:
    """Say by what one number, the same everywhere, a result is off."""
    if not torch.equal(right.isfinite(), got.isfinite()):
        return ""
    usable = right.isfinite() & (right.abs() > 1e-6)
    ratios, differences = got[usable] / right[usable], (got - right)[right.isfinite()]
    if len(ratios) > 1 and _same(ratios, ratios[:1].expand(ratios.shape)) and not _same(ratios[0], torch.tensor(1.0)):
        return f"every number is {float(ratios[0]):.4g} times what it should be"
    if len(differences) > 1 and _same(differences, differences[:1].expand(differences.shape)):
        return f"every number is {float(differences[0]):.4g} more than it should be"
    return ""


def _where(right: Tensor, got: Tensor, names: Sequence[str]) -> str:
    """Say where the wrong numbers are, and along which axes they are wrong by the same amount."""
    wrong = ~_close(right, got)
    along = [wrong.movedim(axis, 0).flatten(1).any(1) if right.ndim > 1 else wrong for axis in range(right.ndim)]
    axis = min(range(right.ndim), key=lambda k: float(along[k].double().mean()))  # where the fewest places are wrong
    places = along[axis].nonzero().flatten().tolist()
    if len(places) < right.shape[axis]:
        more = f" and {len(places) - 5} more of {right.shape[axis]}" if len(places) > 5 else ""
        return f"the numbers are wrong only where {names[axis]} is {', '.join(map(str, places[:5]))}{more}"
    if ((got == 0) & (right != 0)).sum() * 3 > wrong.sum():
        return "many numbers are 0: were these places never written?"
    for axis, name in enumerate(names):
        if 1 < right.shape[axis] < right.numel():
            for difference, what in ((got - right, "off by the same amount"), (got / right, "off by the same factor")):
                if _same(difference, difference.narrow(axis, 0, 1).expand(right.shape)):
                    return f"all along {name} the numbers are {what}: a term that does not depend on it is wrong"
    return ""


def _arguments(task: Task) -> list[str]:
    inside = task.call.partition("(")[2].rpartition(")")[0].split(", ")
    return [name.partition("=")[0] for name in inside if name != "*"]


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a function that are numbers, as they are when nobody gives them."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and type(p.default) in (int, float)}


Change = Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def _changes(names: Sequence[str], case: Case) -> Iterator[tuple[str, Change]]:
    """Yield ways to change the inputs of a function, each with the words for it."""

    def at(place: int, function: Callable[[Any], Any]) -> Change:
        def change(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (*args[:place], function(args[place]), *args[place + 1 :]), options

        return change

    def option(name: str, function: Callable[[Any], Any]) -> Change:
        return lambda args, options: (args, {**options, name: function(options[name])})

    def exchanged(one: int, other: int, *, both: bool) -> Change:
        def change(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            new = list(args)
            new[one], new[other] = args[other], args[one] if both else args[other]
            return tuple(new), options

        return change

    values = [(name, functools.partial(at, k), case.args[k]) for k, name in enumerate(names[: len(case.args)])]
    values += [(name, functools.partial(option, name), value) for name, value in case.options.items()]
    for name, changed, value in values:
        if isinstance(value, Tensor):
            yield from ((words.format(f"`{name}`"), changed(function)) for words, function in _tensor_changes(value))
        elif type(value) in (int, float):
            numbers = {1: "1", 2 * value: "twice as large", 0: "0", value + 1: "one more", value - 1: "one less",
                       value // 2 if type(value) is int else value / 2: "half as large"}  # fmt: skip
            for number, words in numbers.items():
                if number != value:
                    function = {"twice as large": lambda v: 2 * v, "one more": lambda v: v + 1, "one less": lambda v: v - 1,
                                "half as large": lambda v: v // 2 if type(v) is int else v / 2}  # fmt: skip
                    yield f"if `{name}` is {words}", changed(function.get(words, functools.partial(_instead, number)))
        elif callable(value):
            yield f"if `{name}` is left out", changed(lambda _: lambda x: x)
            yield f"if nothing comes from `{name}`", changed(lambda _: torch.zeros_like)
            yield f"if what `{name}` gives is taken away, not added", changed(lambda f: lambda x: -f(x))
            yield f"if what `{name}` gives comes twice", changed(lambda f: lambda x: 2 * f(x))
    for one, other in itertools.combinations(range(len(case.args)), 2):
        pair = case.args[one], case.args[other]
        if all(isinstance(part, Tensor) for part in pair) and pair[0].shape[:1] == pair[1].shape[:1]:
            yield f"if `{names[one]}` and `{names[other]}` are exchanged", exchanged(one, other, both=True)
            yield f"if `{names[other]}` stands for `{names[one]}` too", exchanged(one, other, both=False)
            yield f"if `{names[one]}` stands for `{names[other]}` too", exchanged(other, one, both=False)
    counts = [name for name, value in case.options.items() if type(value) in (int, float)]
    for first, second in itertools.combinations(counts, 2):
        yield f"if `{first}` and `{second}` are exchanged", functools.partial(_exchanged_options, first, second)


def _exchanged_options(one: str, other: str, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**options, one: options[other], other: options[one]}


def _instead(number: float, _: Any) -> float:
    return number


def _tensor_changes(tensor: Tensor) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield what may happen to a tensor before it is used, in words and as a function."""
    if tensor.dtype == torch.bool:
        yield "if {} is inverted", torch.logical_not
        yield "if {} is True everywhere", torch.ones_like
        if tensor.ndim > 1:
            yield "if {} is transposed", lambda x: x.mT
        return
    for k in range(tensor.ndim):
        yield f"if {{}} runs backwards along axis {k}", functools.partial(torch.flip, dims=(k,))
        for shift in (1, -1):
            yield f"if {{}} is shifted by one along axis {k}", functools.partial(torch.roll, shifts=shift, dims=k)
    if not tensor.is_floating_point():
        yield "if {} is sorted", lambda x: x.sort(-1).values
        return
    yield "if {} is cut to whole numbers", lambda x: x.long().to(x)
    yield (
        "if {} goes through bytes (uint8), which know no fractions and nothing below 0",
        lambda x: (255 * x).to(torch.uint8) / 255,
    )
    yield "if {} has the other sign", torch.neg
    yield "if {} is not used, or 0", torch.zeros_like
    yield "if {} is twice as large", lambda x: 2 * x
    yield "if {} is half as large", lambda x: x / 2
    for k in range(tensor.ndim):
        yield (
            f"if {{}} is averaged along axis {k}",
            functools.partial(lambda k, x: x.mean(k, keepdim=True).expand(x.shape), k),
        )
        yield (
            f"if {{}} is added up along axis {k}",
            functools.partial(lambda k, x: x.sum(k, keepdim=True).expand(x.shape), k),
        )
        yield f"if {{}} is multiplied by the length of axis {k}", functools.partial(lambda k, x: x * x.shape[k], k)
        yield (
            f"if {{}} is centred along axis {k}, its mean taken away",
            functools.partial(lambda k, x: x - x.mean(k, keepdim=True), k),
        )
        yield (
            f"if {{}} is normalised along axis {k}, to length 1",
            functools.partial(torch.nn.functional.normalize, dim=k),
        )
        yield f"if the last of {{}} along axis {k} is left out, or 0", functools.partial(_without_the_last, axis=k)
        yield f"if only the first of {{}} along axis {k} is used", functools.partial(_only_the_first, axis=k)
        yield (
            f"if the first of {{}} along axis {k} is used for all",
            functools.partial(lambda k, x: x.narrow(k, 0, 1).expand(x.shape), k),
        )
    if tensor.ndim > 1:
        yield "if {} is cut up by a reshape where its axes should be moved", lambda x: x.mT.reshape(x.shape)
        yield "if {} is reshaped where it should be transposed", lambda x: x.reshape(x.mT.shape).mT


def _without_the_last(x: Tensor, *, axis: int) -> Tensor:
    """Put zeros in place of what comes last along an axis."""
    return torch.cat([x.narrow(axis, 0, x.shape[axis] - 1), torch.zeros_like(x.narrow(axis, 0, 1))], dim=axis)


def _only_the_first(x: Tensor, *, axis: int) -> Tensor:
    """Keep what comes first along an axis, and put zeros in place of the rest."""
    first = torch.arange(x.shape[axis], device=x.device) == 0
    return x * first.view(-1, *[1] * (x.ndim - 1 - axis))


def _all_changes(task: Task, case: Case) -> Iterator[tuple[str, Change]]:
    """Yield the changes of what a case hands over, options that it leaves out included."""
    return _changes(_arguments(task), replace(case, options={**_defaults(task.right), **case.options}))


def _explaining(task: Task, changes: Iterable[tuple[str, Change]], compared: Sequence[tuple[Case, Any, Any]]) -> str:
    """Name the change of the inputs that gives all the results, if there is one."""
    for sentence, change in changes:
        if all(_explained(task, change, case, got) for case, _, got in compared):
            return f"this is what comes out {sentence}"
    return ""


def _explained(task: Task, change: Change, case: Case, got: Any) -> bool:
    """Return whether the right function gives on changed inputs what came."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about inputs that are wrong on purpose; students would take it for theirs
            args, options = change(case.args, {**_defaults(task.right), **case.options})
            changed = task.right(*args, **options)
    except Exception:  # the right function cannot take such inputs
        return False
    return _same(changed, got)


# ---------------------------------------------------------------------------------------------------------
# Show
# ---------------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"({', '.join(map(_shown, value))})" if isinstance(value, tuple) else getattr(value, "__name__", repr(value))


def _tried(task: Task, case: Case) -> str:
    given = ", ".join(f"{name}={_shown(value)}" for name, value in _given(task, case))
    return f"\n  tried with {case.what}" + f": {given}" * (not task.adapt)  # an adapted one is handed something else


def _given(task: Task, case: Case) -> list[tuple[str, Any]]:
    """Return what a case hands to the function, with the names of the task."""
    return [*zip(_arguments(task), case.args, strict=False), *case.options.items()]


def _smallest(task: Task, function: Any, index: int, draw: Callable[..., Draw], seconds: float) -> str:
    """Return the smallest of many little cases of the same kind that fails, expected and received side by side."""
    failing = []
    for seed in range(40):
        cases = task.cases(draw(seed, small=True))
        case = next(itertools.islice(cases, index, None), None) or next(iter(task.cases(draw(seed, small=True))))
        case = _with_slack(task, case)
        outcome = attempt(function, case, seconds=min(seconds, 2), forbidden=frozenset(), gradients=False)
        expected = None if task.property_only else task.right(*case.args, **case.options)
        if outcome.error is None and not task.property_only and not _same(expected, outcome.value, slack=case.slack):
            lines = [len(_printed(value)) for value in (*case.args, expected)]
            size = sum(lines), sum(t.numel() for t in _tensors(case.args))
            failing.append((size, seed, case, expected, outcome.value))
        elif isinstance(outcome.error, TimeUp):
            return ""
    if not failing:
        return ""
    _, _, case, expected, received = min(failing, key=lambda found: found[:2])
    given = "\n".join(
        f"    {f'{name} = ' if k == 0 else ' ' * len(f'{name} = ')}{line}"
        for name, value in _given(task, case)
        for k, line in enumerate(_printed(value))
    )
    left, right = ["expected", *_printed(expected)], ["received", *_printed(received)]
    width = max(map(len, left)) + 4
    table = "\n".join(f"    {e:<{width}}{r}".rstrip() for e, r in itertools.zip_longest(left, right, fillvalue=""))
    return f"\n  the smallest example that fails ({case.what}):\n{given}\n{table}"


def _printed(value: Any) -> list[str]:
    """Return a value's lines, numbers with few digits."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        rounded = (value.double() * 1e4).round() / 1e4 + 0.0 if value.is_floating_point() else value  # + 0.0: no -0.0
        lines = str(rounded.tolist()).replace("]], [[", "]],|[[").replace("], [", "],|[").split("|")
        depth = [len(line) - len(line.lstrip("[")) for line in lines]
        return [" " * (depth[0] - depth[k]) + line for k, line in enumerate(lines)]
    return [part for item in value for part in _printed(item)] if isinstance(value, tuple) else [_shown(value)]


def checks_of(*modules: Any) -> Iterator[tuple[str, Check]]:
    """Return the checks that modules define, in the order in which they stand there."""
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(getattr(value, "task", None), Task):
                yield name.removeprefix("check_"), value
