"""A small world drawn on demand: coloured shapes as labelled images, as captioned images, and as moving clips.

Every shape is a signed distance function, the distance from a point to the outline, negative inside: one formula for
smooth edges, masks, any size, place and rotation. The same call and seed give one result; no global state changes.

Units: lengths are fractions of half the image width; ``x`` points right and ``y`` up, from -1 to 1.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vlmcourse._checks import check_floating, check_int, check_number, check_range, choose_names
from vlmcourse._devices import on_cpu

# ---------------------------------------------------------------------------------------------------------
# Shapes: signed distance functions of points (x, y), each inside the unit circle, y up. The closed forms follow Inigo
# Quilez, "2D distance functions" (iquilezles.org/articles/distfunctions2d).
# ---------------------------------------------------------------------------------------------------------

_STAR = [(r * math.sin(k * math.pi / 5), r * math.cos(k * math.pi / 5)) for k, r in enumerate([1.0, 0.42] * 5)]
_POLYGONS = {
    "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
    "triangle": [(0.0, 1.0), (-0.87, -0.5), (0.87, -0.5)],
    "star": _STAR,
    "cross": [(a * x, a * y) for a in (1, -1) for x, y in
              [(0.93, -0.32), (0.93, 0.32), (0.32, 0.32), (0.32, 0.93), (-0.32, 0.93), (-0.32, 0.32)]],
    "diamond": [(0.0, 1.0), (-0.52, 0.0), (0.0, -1.0), (0.52, 0.0)],
    "arrow": [(1.0, 0.0), (0.1, 0.85), (0.1, 0.32), (-0.92, 0.32), (-0.92, -0.32), (0.1, -0.32), (0.1, -0.85)],
}  # fmt: skip


def _polygon(x: Tensor, y: Tensor, vertices: Sequence[tuple[float, float]]) -> Tensor:
    """Return the distance to the nearest edge; a ray from a point inside crosses the outline an odd number of times."""
    squared = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (start_x, start_y), (end_x, end_y) in zip(vertices, [*vertices[1:], vertices[0]], strict=True):
        edge_x, edge_y = end_x - start_x, end_y - start_y
        from_x, from_y = x - start_x, y - start_y
        along = ((from_x * edge_x + from_y * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
        squared = torch.minimum(squared, (from_x - along * edge_x) ** 2 + (from_y - along * edge_y) ** 2)
        if edge_y:  # a level edge is never crossed by a level ray
            inside ^= ((y < start_y) != (y < end_y)) & (from_x < from_y * (edge_x / edge_y))
    return torch.where(inside, -1, 1) * squared.sqrt()


def _moon(x: Tensor, y: Tensor, offset: float = 0.48, outer: float = 0.84, inner: float = 0.70) -> Tensor:
    """Take the inner disc out of the outer; beyond the two tips, return the distance to the nearer tip."""
    x, y = x - 0.2, y.abs()  # the middle of the crescent, not of its disc, comes to the origin
    tip_x = (outer**2 - inner**2 + offset**2) / (2 * offset)
    tip_y = math.sqrt(outer**2 - tip_x**2)
    bulk = torch.maximum(torch.hypot(x, y) - outer, inner - torch.hypot(x - offset, y))
    at_tip = x * tip_y - y * tip_x > offset * (tip_y - y).clamp(min=0)
    return torch.where(at_tip, torch.hypot(x - tip_x, y - tip_y), bulk)


def _heart(x: Tensor, y: Tensor, scale: float = 1.5) -> Tensor:
    """Put two quarter-discs on a square that stands on its corner, at the origin of (x, y) * scale."""
    x, y = (x / scale).abs(), (y + 0.88) / scale
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    foot = 0.5 * (x + y).clamp(min=0)
    sides = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - foot, y - foot)) * torch.sign(x - y)
    return scale * torch.where(x + y > 1, lobe, sides)


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.85,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.68).abs() - 0.26,
    "moon": _moon,
    "heart": _heart,
    **{name: partial(_polygon, vertices=corners) for name, corners in _POLYGONS.items()},
}

SHAPES: tuple[str, ...] = tuple(_DISTANCES)

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.14), "orange": (1.00, 0.55, 0.05), "yellow": (0.98, 0.90, 0.20), "green": (0.13, 0.68, 0.25),
    "cyan": (0.20, 0.85, 0.90), "blue": (0.15, 0.30, 0.90), "purple": (0.55, 0.20, 0.75), "pink": (1.00, 0.55, 0.75),
}  # fmt: skip

# A texture is positive where the second colour shows; (u, v) advance by one per period.
_PATTERNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda u, v: torch.full_like(u, -1.0),
    "stripes": lambda u, v: torch.sin(2 * math.pi * u),
    "checker": lambda u, v: 2 * torch.sin(math.pi * u) * torch.sin(math.pi * v),
    "dots": lambda u, v: torch.cos(2 * math.pi * u) + torch.cos(2 * math.pi * v) - 0.5,
}

TEXTURES: tuple[str, ...] = tuple(_PATTERNS)

SIZES: dict[str, tuple[float, float]] = {"small": (0.24, 0.30), "large": (0.42, 0.48)}

PLACES: dict[str, tuple[float, float]] = {
    "left": (-0.5, 0.0), "right": (0.5, 0.0), "top": (0.0, 0.5), "bottom": (0.0, -0.5), "middle": (0.0, 0.0),
    "top left": (-0.5, 0.5), "top right": (0.5, 0.5), "bottom left": (-0.5, -0.5), "bottom right": (0.5, -0.5),
}  # fmt: skip

TASKS: dict[str, tuple[str, ...]] = {
    "direction": ("right", "up right", "up", "up left", "left", "down left", "down", "down right"),
    "speed": ("slow", "medium", "fast"),
    "order": ("brightening", "dimming"),
}


# ---------------------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------------------


def _uniform(generator: Generator, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _positions(names: Sequence[str], known: Sequence[str]) -> Tensor:
    return torch.tensor([known.index(name) for name in names])


def _by_kind(functions: dict[str, Callable[[Tensor, Tensor], Tensor]], kind: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Evaluate for each row the function its kind names; a function runs once, on its own rows only."""
    values = torch.empty_like(x)
    for k, function in enumerate(functions.values()):
        rows = (kind == k).nonzero().flatten()
        if len(rows):
            values[rows] = function(x[rows], y[rows])
    return values


def _grid(image_size: int) -> tuple[Tensor, Tensor]:
    """Return x ``(w,)`` and y ``(h, 1)`` of the pixel centres, the first row at the top."""
    centers = (torch.arange(image_size) + 0.5) * (2 / image_size) - 1
    return centers, -centers[:, None]


def _distance_to(objects: Tensor, image_size: int) -> Tensor:
    """Return the signed distance ``(n, h, w)`` of pixel centres from objects ``(n, 5)``: kind, x, y, radius, turn."""
    kind, place_x, place_y, radius, turn = objects[..., None, None].unbind(1)
    x, y = _grid(image_size)
    x, y = (x - place_x) / radius, (y - place_y) / radius
    x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    return radius * _by_kind(_DISTANCES, kind.flatten(), x, y)


def _coverage(distance: Tensor) -> Tensor:
    """Return how much of each pixel lies inside, from the distance at its centre: a smooth edge one pixel wide."""
    return (0.5 - distance * distance.shape[-1] / 2).clamp(0, 1)


def _surfaces(generator: Generator, color: Tensor, textures: Sequence[str]) -> Tensor:
    """Return surfaces ``(n, 7)``: three numbers for the colour, and drawn by chance texture, angle and phases."""
    n = len(color)
    angle, phase = _uniform(generator, (n, 1), 0, math.pi), _uniform(generator, (n, 2), 0, 2)
    texture = _positions(textures, TEXTURES)[torch.randint(len(textures), (n, 1), generator=generator)]
    return torch.cat([color, texture, angle, phase], dim=1)


def _colors_of(surfaces: Tensor, image_size: int, *, period: float) -> Tensor:
    """Return colours ``(n, 3, h, w)`` at the pixel centres."""
    first = surfaces[:, :3, None, None]
    texture, angle, *phases = surfaces[:, 3:, None, None].unbind(1)
    if not texture.any():  # all plain
        return first.expand(-1, -1, image_size, image_size)
    x, y = _grid(image_size)
    u = (x * angle.cos() + y * angle.sin()) / period + phases[0]
    v = (y * angle.cos() - x * angle.sin()) / period + phases[1]
    second_shows = (0.5 + 2 * _by_kind(_PATTERNS, texture.flatten(), u, v)).clamp(0, 1)[:, None]
    second = torch.lerp(first, (first.mean(1, keepdim=True) < 0.5).float(), 0.45)  # towards black or white
    return torch.lerp(first, second, second_shows)


def _paint(canvas: Tensor, masks: Tensor, values: Tensor, rows: Tensor, objects: Tensor, surfaces: Tensor) -> None:
    """Draw one object into each image of ``rows``, and ``values[i]`` into its mask; other images stay as they are."""
    for part in rows.split(256):  # bounds the memory that one step takes
        distance = _distance_to(objects[part], canvas.shape[-1])
        colors = _colors_of(surfaces[part], canvas.shape[-1], period=0.3)
        canvas[part] = torch.lerp(canvas[part], colors, _coverage(distance)[:, None])
        masks[part] = torch.where(distance < 0, values[part, None, None], masks[part])


def _backdrop(surfaces: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    canvas = torch.cat([_colors_of(part, image_size, period=0.5) for part in surfaces.split(256)])
    return canvas, torch.zeros(len(canvas), image_size, image_size, dtype=torch.int64)


def _with_noise(pictures: Tensor, noise: float, generator: Generator) -> Tensor:
    if noise:
        pictures += noise * torch.randn(pictures.shape, generator=generator)
    return pictures.clamp_(0, 1)


def _kept_apart(generator: Generator, colors: Tensor) -> Tensor:
    """Draw for each colour one at least 0.6 away in RGB, or the farthest of 32, should all be near."""
    candidates = torch.rand(len(colors), 32, 3, generator=generator)
    gap = (candidates - colors[:, None]).norm(dim=-1)
    chosen = torch.where(gap >= 0.6, 2.0, gap).argmax(1)  # the first far one, else the farthest
    return candidates[torch.arange(len(colors)), chosen]


def _start(n: int, seed: int, image_size: int, minimum: int, noise: float) -> Generator:
    check_int("n", n)
    check_int("seed", seed, minimum=0)
    check_int("image_size", image_size, minimum=minimum)
    check_number("noise", noise, low=0, high=1)
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------
# Labelled images
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not one truth value
class ShapeImages:
    """A batch of labelled pictures, one shape in each.

    Shapes:
        images: ``(b, 3, h, w)`` float32 in [0, 1]. labels: ``(b,)`` int64, positions in ``class_names``. masks:
        ``(b, h, w)`` int64, 0 for background and ``1 + label`` on the shape.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    masks: Tensor = field(repr=False)
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@on_cpu()
def images(
    n: int,
    *,
    seed: int,
    image_size: int = 24,
    shapes: Iterable[str] | None = None,
    colors: str | Iterable[str] | None = None,
    texture: str | Iterable[str] = "plain",
    object_texture: str | Iterable[str] = "plain",
    radius: tuple[float, float] = (0.45, 0.70),
    noise: float = 0.05,
) -> ShapeImages:
    """Draw ``n`` pictures of one shape each; the label is the shape, everything else is chance.

    Each class occurs equally often, to within one. The shape lies up to a quarter of the half-width off the middle,
    never beyond the edge, and is turned by up to half a radian.

    Options:
        shapes: names from ``SHAPES``; labels count within this selection. colors: names from ``COLORS`` for the shape,
        any colour if left out; the background is kept apart. texture (background's), object_texture: from ``TEXTURES``,
        one a picture. radius: smallest, largest, in half-widths. noise: standard deviation, of colours from 0 to 1.

    >>> batch = images(6, seed=0, shapes=["star", "moon"])
    >>> batch.images.shape, sorted(batch.labels.tolist()), batch.class_names
    (torch.Size([6, 3, 24, 24]), [0, 0, 0, 1, 1, 1], ('star', 'moon'))
    """
    generator = _start(n, seed, image_size, 12, noise)
    names = choose_names("shapes", shapes, SHAPES)
    check_range("radius", radius, low=0.3, high=1.0)
    textures = choose_names("texture", texture, TEXTURES)
    object_textures = choose_names("object_texture", object_texture, TEXTURES)
    labels = torch.randperm(n, generator=generator) % len(names)  # each class equally often, to within one
    size = _uniform(generator, n, *radius)
    place = _uniform(generator, (2, n), -1, 1) * (1 - size).clamp(max=0.25)  # the whole shape stays in the picture
    turn = _uniform(generator, n, -0.5, 0.5)
    objects = torch.stack([_positions(names, SHAPES)[labels], *place, size, turn], dim=1)
    color = torch.rand(n, 3, generator=generator)
    if colors is not None:
        palette = torch.tensor([COLORS[name] for name in choose_names("colors", colors, COLORS)])
        color = palette[torch.randint(len(palette), (n,), generator=generator)]
    surfaces = _surfaces(generator, color, object_textures)
    canvas, masks = _backdrop(_surfaces(generator, _kept_apart(generator, color), textures), image_size)
    _paint(canvas, masks, labels + 1, torch.arange(n), objects, surfaces)
    return ShapeImages(_with_noise(canvas, noise, generator), labels, masks, names)


# ---------------------------------------------------------------------------------------------------------
# Captioned images
# ---------------------------------------------------------------------------------------------------------

ADJECTIVES = {"plain": "", "stripes": "striped", "checker": "checkered", "dots": "dotted"}
PHRASES = {name: f"{'in' if name == 'middle' else 'at' if name[0] in 'tb' else 'on'} the {name}" for name in PLACES}
_LAYOUTS: dict[int, list[tuple[str, ...]]] = {  # where the objects of a picture go, by their number
    1: [(name,) for name in ("left", "right", "top", "bottom", "middle")],
    2: [("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top")],
    **{k: list(permutations(("top left", "top right", "bottom left", "bottom right"), k)) for k in (3, 4)},
}
ATTRIBUTES = ("size", "texture", "color", "shape", "place")


@dataclass(frozen=True)
class SceneObject:
    """One object of a captioned picture, in words and in numbers, which are fractions of half the image width.

    >>> star = SceneObject("red", "small", "star", "plain", "left", -0.5, 0.0, 0.25)
    >>> star.relation_to(SceneObject("blue", "large", "ring", "dots", "right", 0.5, 0.1, 0.4))
    'left of'
    """

    color: str
    size: str
    shape: str
    texture: str
    place: str
    x: float
    y: float
    radius: float

    def relation_to(self, other: "SceneObject") -> str:
        """Return where this lies, seen from ``other``: left of, right of, above or below, whichever is plainer."""
        right, up = self.x - other.x, self.y - other.y
        if abs(right) > abs(up):
            return "right of" if right > 0 else "left of"
        return "above" if up > 0 else "below"


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not one truth value
class CaptionedImages:
    """A batch of pictures with what is in them, as sentences and as records.

    Shapes:
        images: ``(b, 3, h, w)`` float32 in [0, 1]. captions: ``b`` sentences. objects: ``b`` tuples of records, in
        the caption's order, or of two the reverse. masks: ``(b, h, w)`` int64, 0 outside, 1 + position in ``SHAPES``.
    """

    images: Tensor = field(repr=False)
    captions: tuple[str, ...]
    objects: tuple[tuple[SceneObject, ...], ...] = field(repr=False)
    masks: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)


def _noun_phrase(thing: SceneObject, drop: Iterable[str]) -> str:
    words = {"size": thing.size, "texture": ADJECTIVES[thing.texture], "color": thing.color, "shape": thing.shape}
    kept = [word for name, word in words.items() if word and name not in drop] + ["thing"] * ("shape" in drop)
    return f"{'an' if kept[0][0] in 'aeiou' else 'a'} {' '.join(kept)}"


def describe(objects: Sequence[SceneObject], *, phrasing: int = 0, drop: Iterable[str] = ()) -> str:
    """Say in one sentence, put in one of three ways, what a picture holds; two objects with the relation between them.

    ``drop``, names from ``ATTRIBUTES``, are left out: a shape becomes "thing", and with the place goes the relation.

    >>> star = SceneObject("red", "small", "star", "plain", "left", -0.5, 0.0, 0.25)
    >>> ring = SceneObject("orange", "large", "ring", "dots", "right", 0.5, 0.0, 0.4)
    >>> describe([star, ring], phrasing=2), describe([ring], drop=["size", "texture", "place"])
    ('a large dotted orange ring right of a small red star', 'an orange ring')
    """
    drop = choose_names("drop", drop, ATTRIBUTES) if drop else ()
    *others, last = (_noun_phrase(thing, drop) for thing in objects)
    if "place" in drop or len(objects) > 2:
        sentence = f"{', '.join(others)} and {last}" if others else last
    elif len(objects) == 1:
        place = PHRASES[objects[0].place]
        sentence = f"{place} there is {last}" if phrasing == 2 else f"{last} {place}"
    else:
        one, other = reversed(objects) if phrasing == 2 else objects
        sentence = f"{_noun_phrase(one, drop)} {one.relation_to(other)} {_noun_phrase(other, drop)}"
    return f"there is {sentence}" if phrasing == 1 else sentence


@on_cpu()
def captions(
    n: int,
    *,
    seed: int,
    image_size: int = 32,
    num_objects: int | Sequence[int] = 1,
    shapes: Iterable[str] | None = None,
    colors: Iterable[str] | None = None,
    sizes: Iterable[str] | None = None,
    textures: str | Iterable[str] = "plain",
    exclude: Iterable[Sequence[str]] = (),
    only: Iterable[Sequence[str]] | None = None,
    phrasings: int = 1,
    noise: float = 0.03,
) -> CaptionedImages:
    """Draw ``n`` pictures of one to four named objects, each with a caption such as "a small red star on the left".

    Objects are drawn uniformly and independently from the allowed combinations, and never touch: one to the left,
    right, top, bottom or middle, two to opposite sides, more to the corners.

    Options:
        num_objects: from 1 to 4, or several to draw from. shapes, colors, sizes, textures: names to draw from. exclude:
        combinations that no object may show, such as ``[("red", "star"), ("moon", "stripes")]``. only: combinations of
        which each must show one. phrasings: how many of the three ways of putting a caption are mixed.

    >>> captions(2, seed=0, only=[("red", "star")]).captions
    ('a small red star at the top', 'a small red star on the right')
    """
    generator = _start(n, seed, image_size, 16, noise)
    counts = [num_objects] if isinstance(num_objects, int) else list(num_objects)
    if not counts or any(count not in _LAYOUTS for count in counts):
        raise ValueError(f"num_objects must be a number from 1 to 4 or several of them, received {num_objects!r}")
    check_number("phrasings", phrasings, low=1, high=3)
    allowed = combinations_of(shapes, colors, sizes, textures, exclude, only)

    count = torch.tensor(counts)[torch.randint(len(counts), (n,), generator=generator)]
    layout = torch.randint(2**31, (n,), generator=generator)
    shade = _uniform(generator, n, 0.05, 0.30)[:, None].expand(n, 3)  # dark grey, a colour no object has
    canvas, masks = _backdrop(_surfaces(generator, shade, ("plain",)), image_size)
    records: list[list[SceneObject]] = [[] for _ in range(n)]
    for slot in range(max(counts)):
        kinds = [allowed[int(k)] for k in torch.randint(len(allowed), (n,), generator=generator)]
        fits = [_LAYOUTS[c] for c in count.tolist()]
        places = [fit[k % len(fit)][min(slot, len(fit[0]) - 1)] for fit, k in zip(fits, layout.tolist(), strict=True)]
        objects, surfaces = _placed(generator, kinds, places)
        numbers, rows = objects[:, 1:4].tolist(), (count > slot).nonzero().flatten()
        _paint(canvas, masks, objects[:, 0].long() + 1, rows, objects, surfaces)
        for row in map(int, rows):
            records[row].append(SceneObject(*kinds[row], places[row], *numbers[row]))
    phrasing = torch.randint(phrasings, (n,), generator=generator).tolist()
    sentences = tuple(describe(record, phrasing=which) for record, which in zip(records, phrasing, strict=True))
    return CaptionedImages(_with_noise(canvas, noise, generator), sentences, tuple(map(tuple, records)), masks)


def _placed(
    generator: Generator, kinds: Sequence[tuple[str, str, str, str]], places: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Draw for each (color, size, shape, texture) and its place what is left to chance: objects and surfaces."""
    colors, sizes, shapes, textures = zip(*kinds, strict=True)
    low, high = torch.tensor([SIZES[size] for size in sizes]).unbind(-1)
    radius = low + (high - low) * torch.rand(len(kinds), generator=generator)
    jitter = _uniform(generator, (len(kinds), 2), -1, 1) * (0.5 - radius).clamp(max=0.1)[:, None]
    x, y = (torch.tensor([PLACES[place] for place in places]) + jitter).unbind(-1)
    turn = _uniform(generator, len(kinds), -0.3, 0.3)
    surfaces = _surfaces(generator, torch.tensor([COLORS[name] for name in colors]), ("plain",))
    surfaces[:, 3] = _positions(textures, TEXTURES)
    return torch.stack([_positions(shapes, SHAPES), x, y, radius, turn], dim=1), surfaces


def combinations_of(
    shapes: Iterable[str] | None,
    colors: Iterable[str] | None,
    sizes: Iterable[str] | None,
    textures: str | Iterable[str],
    exclude: Iterable[Sequence[str]],
    only: Iterable[Sequence[str]] | None,
) -> list[tuple[str, str, str, str]]:
    """Return all allowed (color, size, shape, texture)."""
    unwanted = _words_of("exclude", exclude)
    wanted: list[tuple[str, ...]] = [()] if only is None else _words_of("only", only)
    kinds = product(
        choose_names("colors", colors, COLORS),
        choose_names("sizes", sizes, SIZES),
        choose_names("shapes", shapes, SHAPES),
        choose_names("textures", textures, TEXTURES),
    )

    def shows_one(kind: tuple[str, ...], combinations: list[tuple[str, ...]]) -> bool:
        return any(set(words) <= set(kind) for words in combinations)

    allowed = [kind for kind in kinds if shows_one(kind, wanted) and not shows_one(kind, unwanted)]
    if not allowed:
        raise ValueError(f"exclude={unwanted} and only={wanted} leave no combination to draw; relax one of them")
    return allowed


def _words_of(name: str, combinations: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    combinations = list(combinations)
    if words := [words for words in combinations if isinstance(words, str)]:
        raise TypeError(f"{name} must hold combinations such as ('red', 'star'), received {words[0]!r}")
    return [choose_names(name, words, (*COLORS, *SIZES, *SHAPES, *TEXTURES)) for words in combinations]


# ---------------------------------------------------------------------------------------------------------
# Clips
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # == of two tensors is a tensor, not one truth value
class Clips:
    """A batch of short films whose label lies in the change from frame to frame.

    Shapes:
        clips: ``(b, c, t, h, w)`` float32 in [0, 1]. labels: ``(b,)`` int64, positions in ``class_names``. sprites:
        ``(b,)`` int64, which one moves. positions: ``(b, t, 2)`` int64, row and column of its top left corner.
    """

    clips: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    sprites: Tensor = field(repr=False)
    positions: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.clips)


# How far each direction goes in a frame, in rows and in columns.
_STEPS = torch.tensor([(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)], device="cpu")
_LEVELS = torch.tensor([0.4, 0.7, 1.0], device="cpu")


@on_cpu()
def clips(
    n: int,
    *,
    seed: int,
    task: str = "direction",
    classes: Iterable[str] | None = None,
    num_frames: int = 8,
    image_size: int = 20,
    sprites: Tensor | None = None,
    channels: int = 1,
    noise: float = 0.05,
) -> Clips:
    """Film ``n`` sprites gliding over a torus, out on one side and in on the other; only the motion tells the label.

    A lone frame says nothing. Frames without their order say nothing about ``order``, nor about ``direction`` where
    ``classes`` is a pair of opposites; with all eight directions they show the axis of motion, not which way.

    * ``direction``: two pixels per frame, in one of eight directions (diagonals step on both axes).
    * ``speed``: one, two or three pixels per frame, in a random direction.
    * ``order``: the sprite stands still and cycles through three brightnesses, upwards or downwards, from a random one.

    Options:
        classes: names from ``TASKS[task]``; labels count within this selection. sprites: ``(m, h, w)`` in [0, 1] to
        draw from, such as real digits; the shapes if left out. channels: 1, or 3 for sprites in random colours.

    >>> film = clips(4, seed=0, classes=["left", "right"])
    >>> film.clips.shape, film.class_names
    (torch.Size([4, 1, 8, 20, 20]), ('left', 'right'))
    """
    generator = _start(n, seed, image_size, 12, noise)
    (task,) = choose_names("task", task, TASKS)
    names = choose_names("classes", classes, TASKS[task])
    check_int("num_frames", num_frames)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), received {channels!r}")
    sprites = _shape_sprites(image_size) if sprites is None else _check_sprites(sprites, image_size)

    labels = torch.randperm(n, generator=generator) % len(names)  # each class equally often, to within one
    kind = _positions(names, TASKS[task])[labels]
    which = torch.randint(len(sprites), (n,), generator=generator)
    start = torch.randint(image_size, (n, 1, 2), generator=generator)
    heading = torch.randint(len(_STEPS), (n,), generator=generator)
    level = torch.randint(len(_LEVELS), (n, 1), generator=generator)
    tint = torch.tensor(list(COLORS.values()))[torch.randint(len(COLORS), (n,), generator=generator)]

    time = torch.arange(num_frames)
    step = torch.zeros(n, 2, dtype=torch.int64)
    brightness = torch.ones(n, num_frames)
    if task == "direction":
        step = 2 * _STEPS[kind]
    elif task == "speed":
        step = (kind + 1)[:, None] * _STEPS[heading]
    else:
        brightness = _LEVELS[(level + (1 - 2 * kind[:, None]) * time) % len(_LEVELS)]
    positions = (start + step[:, None] * time[:, None]) % image_size

    film = (_film(sprites[which], positions, image_size) * brightness[..., None, None])[:, None]
    if channels == 3:
        film = film * tint[..., None, None, None]
    return Clips(_with_noise(film, noise, generator), labels, names, which, positions)


def _film(sprites: Tensor, positions: Tensor, image_size: int) -> Tensor:
    """Place ``(n, h, w)`` sprites at ``(n, t, 2)`` positions on a torus: frames ``(n, t, image_size, image_size)``."""
    height, width = sprites.shape[1:]
    canvas = F.pad(sprites, (0, image_size - width, 0, image_size - height))
    rows, columns = ((torch.arange(image_size) - positions[..., axis, None]) % image_size for axis in (0, 1))
    return canvas[torch.arange(len(sprites))[:, None, None, None], rows[..., None], columns[..., None, :]]


def _shape_sprites(image_size: int) -> Tensor:
    objects = torch.tensor([[kind, 0.0, 0.0, 0.95, 0.0] for kind in range(len(SHAPES))])
    return _coverage(_distance_to(objects, image_size // 2))


def _check_sprites(sprites: Tensor, image_size: int) -> Tensor:
    check_floating("sprites", sprites, "m h w")
    if max(sprites.shape[1:]) > image_size:
        raise ValueError(f"sprites must fit into image_size={image_size}, received {tuple(sprites.shape)}")
    if not (sprites.amin() >= 0 and sprites.amax() <= 1):  # also refuses NaN
        raise ValueError(f"sprites must lie in [0, 1], received {sprites.amin():.3g} to {sprites.amax():.3g}")
    return sprites.detach().cpu().float()
