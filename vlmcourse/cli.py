"""The command line: ``vlmcourse ask`` answers about a picture (slide S02); ``doctor``, ``bench`` and ``homework``."""

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse import __version__

if TYPE_CHECKING:  # importing torch takes seconds, and --help should not
    from torch import Tensor

ANSWERED, BAD_INPUT, OUTSIDE, UNFINISHED = 0, 2, 3, 4  # exit codes; 2 is also what argparse uses

EXAMPLES = """\
  What is in this image?
  What color is the thing on the left?
  What shape is the thing?
  How many things are in this image?
  Is there a red star in this image?
  In this image, is the red star left or right of the blue cross?
"""

EPILOG = f"""questions that it knows:
{EXAMPLES}
exit codes:
  {ANSWERED}  an answer was given
  {BAD_INPUT}  the picture, the question or the model cannot be used
  {OUTSIDE}  the picture is unlike everything the model has seen, so its answer would mean nothing
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    >>> main(["ask", "nowhere.png"])
    2
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a pipe on Windows has no α, and a report is worth more
    try:
        code = {"ask": _ask, "doctor": _doctor, "bench": _bench, "homework": _homework}[options.command](options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ANSWERED
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the device asked for is not there
        print(f"vlmcourse: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse",
        description="The course from the terminal: ask its small model, look at this machine, do your homework.",
    )
    parser.add_argument("--version", action="version", version=f"vlmcourse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    ask = _command(
        commands,
        "ask",
        "ask the model about a picture",
        description="Ask about a picture. The model knows one small world: drawn shapes on dark grey.\n"
        "The answer goes to standard output, everything else to standard error.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ask.add_argument("image", type=Path, help="a picture: PNG, JPEG, GIF, WebP, BMP, TIFF or PPM")
    ask.add_argument("question", nargs="?", default="What is in this image?", help='default: "%(default)s"')
    ask.add_argument("--model", type=Path, help="a file that save_vlm wrote (default: the package's own model)")
    ask.add_argument("--anyway", action="store_true", help="answer even if the picture is outside the model's world")
    _command(commands, "doctor", "say what this machine has, where chapters will run, and what is missing")
    bench = _command(
        commands,
        "bench",
        "time the library beside others",
        description="Time parts of the library beside other packages that do the same, alternating in one process. "
        'Packages that are not installed are left out; in a clone of the repository: pip install ".[bench]".',
        epilog=f"exit codes: {ANSWERED}, all benches are timed; {UNFINISHED}, --slice left some for another call; "
        f"{BAD_INPUT}, an argument or the device cannot be used",
    )
    bench.add_argument("names", nargs="*", metavar="BENCH", help="some of the benches (default: all)")
    bench.add_argument("--device", help="cpu, cuda or cuda:N (default: as the chapters)")
    bench.add_argument("--repeats", type=int, default=20, help="how often each is timed (default: %(default)s)")
    bench.add_argument("--small", action="store_true", help="tiny sizes, to try the program; nothing to report")
    bench.add_argument("--output", type=Path, help="a JSON file; benches that it already holds are not run again")
    bench.add_argument("--slice", type=float, default=float("inf"), help="start no bench after so many seconds")
    homework = _command(commands, "homework", "get an assignment, check it, see what comes next")
    verbs = homework.add_subparsers(dest="verb", required=True)
    _command(verbs, "list", "name the assignments")
    start = _command(verbs, "start", "copy an assignment into a folder; never overwrites your work")
    start.add_argument("name", help="such as hw2")
    start.add_argument("folder", nargs="?", type=Path, default=Path(), help="default: this folder")
    for verb, what in (("check", "run all parts, and say what each has reached"), ("next", "name the next small step")):
        checked = _command(verbs, verb, what)
        checked.add_argument("notebook", type=Path, nargs="?", help="default: the only one in this folder")
        checked.add_argument("--seconds", type=float, default=600.0, help="time limit of one cell (default: 600)")
    return parser


def _command(commands: Any, name: str, what: str, **options: Any) -> argparse.ArgumentParser:
    """Add a command that says what it does in the list of commands and in its own help."""
    return commands.add_parser(name, help=what, **{"description": f"{what[0].upper()}{what[1:]}.", **options})


def _doctor(options: argparse.Namespace) -> int:
    from vlmcourse.course.doctor import report

    print(report())
    return ANSWERED


def _bench(options: argparse.Namespace) -> int:
    from vlmcourse.course import bench

    how = {"repeats": options.repeats, "small": options.small, "output": options.output, "stop_after": options.slice}
    left = bench.run(options.names, where=options.device, **how)
    if left:
        again = "the same command goes on" if options.output else "with --output FILE the next call would go on"
        print(f"{left} benches are left; {again}", file=sys.stderr)
    return UNFINISHED if left else ANSWERED


def _homework(options: argparse.Namespace) -> int:
    from vlmcourse.homework import notebook

    if options.verb == "list":
        for name, path in notebook.handouts().items():
            print(f"{name}  {notebook.title(path)}")
    elif options.verb == "start":
        try:
            path = notebook.start(options.name, options.folder)
            quoted = subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))
            print(f"{path}\nOpen it, write, save; then: {notebook.PROGRAM} next {quoted}")
        except FileExistsError as error:
            raise FileExistsError(f"{error.filename} is there already, and your work is never overwritten") from None
    else:
        report = notebook.summary if options.verb == "check" else notebook.next_step
        path = notebook.find(options.notebook)
        print(f"{path.name} runs from its first cell, and an experiment may take a minute ...", file=sys.stderr)
        print(report(path, seconds=options.seconds))
    return ANSWERED


def _ask(options: argparse.Namespace) -> int:
    """Answer on standard output; notes and refusals on standard error."""
    from vlmcourse.course.shipped import Familiarity, shipped_vlm
    from vlmcourse.models.vlm import load_vlm
    from vlmcourse.train.runtime import device

    where = device()
    model, provenance = shipped_vlm() if options.model is None else load_vlm(options.model)
    model.to(where)
    image, notes = read_picture(options.image, image_size=int(provenance.get("image_size", 32)))
    prompt, known = as_prompt(options.question)
    if not known:
        notes.append("questions of this form were not in its training, so the answer may mean nothing; see --help")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    images = image[None].to(where)
    (answer,) = model.generate(images, prompt=prompt)
    if "familiarity" in provenance:
        world = Familiarity.from_dict(provenance["familiarity"])
        distance = float(world.distance(model, images))
        if distance > world.threshold:
            how_far = f"distance {distance:.1f}, and {world.threshold:.1f} is as far as such pictures go"
            refusal = f"This picture is outside my world of drawn shapes: {how_far}. I cannot say what is in it."
            print(refusal, file=sys.stderr)
            if not options.anyway:
                return OUTSIDE
    print(answer)
    return ANSWERED


def read_picture(path: Path, *, image_size: int) -> "tuple[Tensor, list[str]]":
    """Return the picture as the model reads it, ``(3, image_size, image_size)`` in [0, 1], and what was done to it."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    from vlmcourse.data import pictures

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name one picture in it")
    with warnings.catch_warnings(action="ignore"):  # Pillow's, about pictures that it can read
        upright, notes = pictures.read_picture(path)
    if upright.size != (image_size, image_size):
        width, height = upright.size
        square = min(width, height)
        if width != height:
            notes.append(f"only its middle square of {square} × {square} pixels is looked at")
            left, top = (width - square) // 2, (height - square) // 2
            upright = upright.crop((left, top, left + square, top + square))
        notes.append(f"resized from {width} × {height} to {image_size} × {image_size} pixels")
        upright = upright.resize((image_size, image_size), Image.Resampling.LANCZOS)
    return pictures.as_unit_range(pil_to_tensor(upright)), notes


def as_prompt(question: str) -> tuple[str, bool]:
    """Put the placeholder where the question speaks of the image; say whether the model learned from such questions.

    >>> as_prompt("What is in this image?")
    ('What is in this image <image>? Answer:', True)
    >>> as_prompt("How many things are in this image?")
    ('How many things are in <image>? Answer:', True)
    >>> as_prompt("Who painted this?")
    ('Who painted this in <image>? Answer:', False)
    """
    from vlmcourse.data.questions import ENDING, TEMPLATES

    question = question.strip().removesuffix(ENDING.strip()).strip()
    body, mark = re.fullmatch(r"(.*?)\s*([.?]?)", question, re.DOTALL).groups()  # type: ignore[union-attr]
    ways = [question] if "<image>" in question else [
        re.sub(r"\bimage\b", "image <image>", question, count=1),
        re.sub(r"\b(this|the) image\b", "<image>", question, count=1),
        f"{body} in <image>{mark or '?'}",
    ]  # fmt: skip
    ways = [way for way in ways if "<image>" in way]
    templates = [re.escape(template) for kind in TEMPLATES.values() for template in kind]
    learned = re.compile("|".join(re.sub(r"\\\{\w+\\\}", ".+", template) for template in templates))
    known = [way for way in ways if learned.fullmatch(way)]
    return [*known, *ways][0] + ENDING, bool(known)


if __name__ == "__main__":
    sys.exit(main())
