"""The landing page's question: the shipped model is asked about eight pictures when the page is made."""

from collections.abc import Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vlmcourse import scenes, shipped_vlm
from vlmcourse.course.figures.asked import AskedPicture, ask_a_picture
from vlmcourse.data.questions import ENDING, TEMPLATES
from vlmcourse.data.scenes import PHRASES, SceneObject

SEED = 1  # the first picture's; the others follow. It was not chosen for what the model answers.
KNOWN, NEW = "Pairs of colour and shape it has learned", "New pairs of words it knows"


class AskThePicture(SphinxDirective):
    """Pictures and questions to choose from, and the model's answers; a page without a kernel shows them."""

    def run(self) -> list[nodes.Node]:
        """Return them as HTML."""
        return [nodes.raw("", asked_page(), format="html")]


def pictures(provenance: dict[str, Any]) -> list[AskedPicture]:
    """Return four pictures of the model's own world, the last with two objects, and four of pairs held out from it."""
    learned = [tuple(pair) for pair in provenance["pairs"]]
    new = [tuple(pair) for pair in provenance["held_out"]][:4]
    shown: list[tuple[Sequence[tuple[str, ...]], int]] = [([pair], 1) for pair in (learned[0], learned[3], learned[8])]
    shown += [(learned, 2), *(([pair], 1) for pair in new)]
    found = []
    for k, (pairs, number) in enumerate(shown):
        drawn = scenes.captions(1, seed=SEED + k, only=pairs, num_objects=number)
        (objects,) = drawn.objects
        thing = objects[0]
        remark = f"It never read of a {thing.color} {thing.shape}." if pairs[0] in new else ""
        group = NEW if pairs[0] in new else KNOWN
        asked = questions_about(objects, absent=absent_from(objects, learned))
        found.append(AskedPicture(drawn.images[0], drawn.captions[0], group, remark, asked))
    return found


def absent_from(objects: Sequence[SceneObject], pairs: Sequence[tuple[str, ...]]) -> str:
    """Return the first pair that shares neither colour nor shape with any object, as words."""
    used = {word for thing in objects for word in (thing.color, thing.shape)}
    return next(" ".join(pair) for pair in pairs if not used & set(pair))


def questions_about(objects: Sequence[SceneObject], *, absent: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return six questions about a picture, each with its true answers."""
    thing, last = objects[0], objects[-1]
    by_place = "the thing" if len(objects) == 1 else f"the thing {PHRASES[last.place]}"
    asked = [
        ("describe", {}, [scenes.describe(objects), scenes.describe(objects[::-1])]),
        ("color", {"thing": by_place}, [last.color]),
        ("shape", {"thing": by_place}, [last.shape]),
        ("exist", {"thing": f"a {thing.color} {thing.shape}"}, ["yes"]),
        ("exist", {"thing": f"a {absent}"}, ["no"]),
        ("size", {"thing": "the thing"}, [thing.size]) if len(objects) == 1 else ("count", {}, ["two"]),
    ]
    return tuple((TEMPLATES[kind][0].format(**blanks) + ENDING, tuple(truths)) for kind, blanks, truths in asked)


def asked_page() -> str:
    """Return the HTML at the top of the landing page: the shipped model's answers."""
    model, provenance = shipped_vlm()
    weights = sum(parameter.numel() for parameter in model.parameters())
    known, new = (provenance["validation"][f"{kind}, one object described"]["exact"] for kind in ("seen", "held out"))
    source = (
        f"The answers are those of the model that comes with this book: {weights:,} weights, trained on "
        f"{provenance['date']}. They were computed when this page was made. The pictures are the first that "
        f"the seeds {SEED} to {SEED + 7} draw, not the best. On other pictures of one object it described {known:.0%} "
        f"of those of learned pairs rightly in every word, and {new:.0%} of those of new pairs."
    )
    return ask_a_picture(model, pictures(provenance), source=source)


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("ask-the-picture", AskThePicture)
