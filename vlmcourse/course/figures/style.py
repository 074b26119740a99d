"""The look of every figure: two widths, one ink, and colours that mean the same in the whole book.

What a colour says is also said by a marker, a frame or a label, for readers who cannot tell colours apart.
"""

import os
import re
import sys
from collections.abc import Iterable
from importlib.resources import files
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap, to_rgba

WIDE, NARROW = 7.5, 5.0  # inches: the width of 88 characters of code, and two thirds of it
INK = "#222832"  # of words, axes and arrows; the pages replace it by the colour of their text
QUIET = to_rgba(INK, 0.25)  # of lines that only guide the eye

# After Okabe and Ito 2008, "Color Universal Design", each as bright as it takes to stand out by three to one from
# white paper and from the dark theme alike.
HUES = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#12A57C",
    "pink": "#C46A9C",
    "sky": "#2E9BD6",
    "ochre": "#BF8A00",
    "grey": "#6B6B6B",
}
COLORS = tuple(HUES.values())  # in the order in which lines take them whose names mean nothing

# What each hue means. No figure mixes groups, so that one hue may return in another; within a group, only names of the
# same thing share a hue.
GROUPS = {
    "how an encoder came about": {
        "supervised": "blue",
        "contrastive": "green",
        "label-free": "green",  # the same encoder, before chapter 3 names its loss
        "all views": "green",  # and beside those whose views lack a step
        "random": "ochre",
        "pixels": "grey",
    },
    "what a network is made of": {
        "convolution": "blue",
        "attention": "vermillion",
        "Transformer": "vermillion",
        "ViT": "vermillion",
        "LSTM": "green",
        "MLP": "pink",
        "average": "grey",
        "one frame": "sky",
    },
    "the three roles in attention": {"query": "vermillion", "key": "sky", "value": "pink"},
    "what a vector stands for": {"image": "blue", "text": "ochre"},
    "an answer": {"right answer": "green", "wrong answer": "vermillion", "another answer": "grey"},
    "what a model is shown": {"real image": "blue", "blank": "grey", "shuffled": "pink", "text only": "ochre"},
    "pairs of words in training": {"seen": "sky", "new": "vermillion", "held out": "vermillion"},
}
CONCEPTS = {name: HUES[hue] for group in GROUPS.values() for name, hue in group.items()}


# Scales from nothing at all, which shows the paper, to a full colour: one way, or both ways.
_NO_BLUE, _NO_VERMILLION = to_rgba(HUES["blue"], 0), to_rgba(HUES["vermillion"], 0)
_BOTH_WAYS = [(0, HUES["blue"]), (0.5, _NO_BLUE), (0.5, _NO_VERMILLION), (1, HUES["vermillion"])]
AMOUNT = LinearSegmentedColormap.from_list("amount", [_NO_BLUE, to_rgba(HUES["blue"])])
SIGNED = LinearSegmentedColormap.from_list("signed", _BOTH_WAYS)


def concept_in(name: str) -> str | None:
    """Return the concept that ``name`` speaks of first, or None.

    >>> concept_in("random encoder"), concept_in("held-out pairs"), concept_in("another")
    ('random', 'held out', None)
    """
    found = {}
    for concept in CONCEPTS:
        words = re.sub("[ -]", "[ -]", concept)  # a space or a hyphen, whichever the name has
        if match := re.search(rf"\b{words}s?\b", name, re.IGNORECASE):
            found[match.start(), -len(concept)] = concept  # "real image" before "image"
    return found[min(found)] if found else None


def color_of(name: str, position: int = 0) -> str:
    """Return the colour of the concept that ``name`` speaks of first, or the one of its place in a list.

    >>> color_of("random encoder") == CONCEPTS["random"], color_of("another", 1) == COLORS[1]
    (True, True)
    """
    concept = concept_in(name)
    return CONCEPTS[concept] if concept else COLORS[position % len(COLORS)]


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name: its concept's, and for a name without one a colour that means nothing there.

    The colours of the whole groups that the concepts belong to come last, and those that are taken not at all.

    >>> colors_of(["another", "random"])["another"] in [CONCEPTS["supervised"], CONCEPTS["random"]]
    False
    """
    concepts = {name: concept_in(name) for name in names}
    present = {concept for concept in concepts.values() if concept}
    taken = {CONCEPTS[concept] for concept in present}
    meant = {HUES[hue] for group in GROUPS.values() if present & group.keys() for hue in group.values()}
    free = cycle(sorted(set(COLORS) - taken, key=lambda color: (color in meant, COLORS.index(color))) or COLORS)
    return {name: CONCEPTS[concept] if concept else next(free) for name, concept in concepts.items()}


def ink_on(share: float) -> str:
    """Return the colour of a word on a cell of the scale ``AMOUNT`` that is filled to ``share``."""
    return INK if share < 0.72 else "white"


def use_style() -> None:
    """Draw all that follows in the style of the book.

    Notebooks get PNG files, which every viewer shows as they are; with ``VLMCOURSE_FIGURES=svg``, as the book is built,
    they get SVG, sharp at any size. Neither is trimmed, which would give every figure a width of its own.
    """
    plt.style.use(["default", str(files(__package__).joinpath("vlmcourse.mplstyle"))])
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return
    from matplotlib_inline.config import InlineBackend  # a requirement of IPython

    inline = InlineBackend.instance(parent=shell)
    inline.shell = shell
    as_svg = os.environ.get("VLMCOURSE_FIGURES") == "svg"
    about = {"Date": None, "Creator": None} if as_svg else {"Software": None}
    options: dict[str, Any] = {"bbox_inches": None, "metadata": about, "dpi": 200 if as_svg else 100}
    inline.print_figure_kwargs = options
    inline.figure_formats = {"svg"} if as_svg else {"png"}
