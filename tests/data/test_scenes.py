"""The generated world is what it says: shapes, masks, captions and motion checked against independent constructions."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from sklearn.linear_model import LogisticRegression

from vlmcourse.data import scenes
from vlmcourse.data.scenes import _POLYGONS, COLORS, PLACES, SHAPES, SIZES, TASKS, TEXTURES

DISTANCES = scenes._DISTANCES
FEW = settings(max_examples=25, deadline=None)


def grid(size, extent=1.0):
    """Pixel centres written out as a double loop, first row at the top."""
    x = torch.tensor([[-extent + (2 * j + 1) * extent / size for j in range(size)] for _ in range(size)])
    return x, -x.T


def away_from(mask):
    """Pixels more than two from the mask: the smooth edge is one pixel wide, sharp tips reach one further."""
    return torch.nn.functional.max_pool2d(mask.float()[None], 5, 1, 2)[0] == 0


# --- signed distance functions ---------------------------------------------------------------------------

INSIDE = {  # what each shape is, said without distances
    "circle": lambda x, y: x**2 + y**2 < 0.85**2,
    "ring": lambda x, y: (x**2 + y**2 < 0.94**2) & (x**2 + y**2 > 0.42**2),
    "moon": lambda x, y: ((x - 0.2) ** 2 + y**2 < 0.84**2) & ((x - 0.68) ** 2 + y**2 > 0.7**2),
    "heart": lambda x, y: (
        (x.abs() + (y + 0.88 - 1.5).abs() < 1.5 / 2 + 0.75) & (y + 0.88 > x.abs()) & (x.abs() + y + 0.88 <= 1.5)
        | ((x.abs() - 0.375) ** 2 + (y + 0.88 - 1.125) ** 2 < 2 * 0.375**2) & (x.abs() + y + 0.88 > 1.5)
    ),
    **{
        name: lambda x, y, corners=corners: torch.from_numpy(
            Outline([*corners, corners[0]]).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(x.shape)
        )
        for name, corners in _POLYGONS.items()
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_negative_exactly_inside(shape):
    x, y = grid(173, extent=1.3)
    distance = DISTANCES[shape](x, y)
    away_from_the_outline = distance.abs() > 1e-4
    assert away_from_the_outline.float().mean() > 0.99
    torch.testing.assert_close((distance < 0)[away_from_the_outline], INSIDE[shape](x, y)[away_from_the_outline])


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_the_distance_to_the_nearest_point_of_the_other_side(shape):
    x, y = grid(101, extent=1.2)
    pixel = 2.4 / 101
    inside = INSIDE[shape](x, y)
    points = torch.stack([x.ravel(), y.ravel()], 1)
    nearest = torch.empty(points.shape[0])
    for side in (inside.ravel(), ~inside.ravel()):
        nearest[side] = torch.cdist(points[side], points[~side]).amin(1)
    distance = DISTANCES[shape](x, y).abs().ravel()
    if shape == "moon":  # between the tips the two arcs give a lower bound
        assert (distance <= nearest + 1e-4).all()
    else:
        assert (distance - nearest).abs().max() < 1.5 * pixel


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fits_the_unit_circle_and_fills_a_fair_part_of_it(shape):
    x, y = grid(101, extent=1.5)
    inside = DISTANCES[shape](x, y) < 0
    assert torch.hypot(x, y)[inside].max() <= 1.0
    assert 0.2 < inside.sum() / (torch.hypot(x, y) < 1).sum() < 0.8


def test_no_rotation_turns_one_shape_into_another():
    x, y = grid(61, extent=1.2)

    def turned(shape, angle):
        u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        return DISTANCES[shape](u, v) < 0

    for one, other in itertools.combinations(SHAPES, 2):
        still = turned(one, 0)
        for angle in np.linspace(-1, 1, 41):  # both may be turned by half a radian
            moved = turned(other, angle)
            overlap = (still & moved).sum() / (still | moved).sum()
            assert overlap < 0.86, (one, other, angle)


# --- labelled images -------------------------------------------------------------------------------------


@FEW
@given(n=st.integers(1, 23), image_size=st.integers(12, 41), seed=st.integers(0, 2**40))
def test_every_image_has_its_object_and_nothing_else(n, image_size, seed):
    batch = scenes.images(n, seed=seed, image_size=image_size)
    assert batch.images.shape == (n, 3, image_size, image_size)
    assert batch.images.dtype == torch.float32
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.labels.dtype == batch.masks.dtype == torch.int64
    for mask, label in zip(batch.masks, batch.labels, strict=True):
        assert mask.unique().tolist() == [0, label.item() + 1]
    counts = batch.labels.bincount(minlength=len(SHAPES))
    assert counts.max() - counts.min() <= 1


def test_same_seed_same_scene_and_other_seed_other_scene():
    everything = {"texture": TEXTURES, "object_texture": TEXTURES, "colors": ["red", "blue", "pink"]}
    several = {"num_objects": (1, 2, 3), "textures": TEXTURES, "phrasings": 3}
    for draw, options in ((scenes.images, everything), (scenes.clips, {"channels": 3}), (scenes.captions, several)):
        first, again, other = (draw(7, seed=seed, **options) for seed in (3, 3, 4))
        for name in first.__dataclass_fields__:
            one, two = getattr(first, name), getattr(again, name)
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
        pictures = "clips" if draw is scenes.clips else "images"
        assert (getattr(first, pictures) - getattr(other, pictures)).abs().mean() > 0.02


def test_drawing_neither_reads_nor_moves_the_global_random_state():
    for draw in (scenes.images, scenes.clips, scenes.captions):
        torch.manual_seed(1)
        first, after = draw(5, seed=0), torch.rand(3)
        torch.manual_seed(2)
        second = draw(5, seed=0)
        torch.manual_seed(1)
        assert torch.equal(after, torch.rand(3))
        pictures = "clips" if draw is scenes.clips else "images"
        assert torch.equal(getattr(first, pictures), getattr(second, pictures))


def test_the_world_is_the_same_whatever_the_default_dtype():
    for draw in (scenes.images, scenes.clips, scenes.captions):
        first = draw(5, seed=0)
        torch.set_default_dtype(torch.float64)
        try:
            second = draw(5, seed=0)
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
        pictures = "clips" if draw is scenes.clips else "images"
        torch.testing.assert_close(getattr(first, pictures), getattr(second, pictures), rtol=0, atol=0)


def test_background_and_object_are_each_of_one_colour_and_kept_apart():
    batch = scenes.images(97, seed=2, noise=0, image_size=48)
    for picture, mask in zip(batch.images, batch.masks, strict=True):
        inside, outside = picture[:, away_from(mask == 0)], picture[:, away_from(mask > 0)]
        assert inside.std(1).max() < 1e-5
        assert outside.std(1).max() < 1e-5
        assert (inside.mean(1) - outside.mean(1)).norm() > 0.55


@pytest.mark.parametrize("draw", [scenes.images, scenes.captions])
def test_a_small_picture_is_the_large_one_seen_from_further_away(draw):
    """Edges are one pixel wide at every size, so averaging blocks of a large picture gives the small one."""
    small, large = (draw(40, seed=0, noise=0, image_size=size).images for size in (24, 24 * 7))
    blocks = torch.nn.functional.avg_pool2d(large, 7)
    assert (small - blocks).abs().mean() < 0.004
    assert (small - blocks).abs().max() < 0.35


def test_named_colors_are_the_colors_drawn():
    batch = scenes.images(23, seed=0, noise=0, image_size=48, colors="blue", radius=(0.6, 0.7))
    for picture, mask in zip(batch.images, batch.masks, strict=True):
        color = picture[:, mask > 0].median(1).values
        torch.testing.assert_close(color, torch.tensor(COLORS["blue"]))


def test_the_object_lies_all_over_the_middle_and_no_part_of_it_outside():
    masks = scenes.images(500, seed=0, image_size=32, noise=0, radius=(0.45, 0.45), shapes="circle").masks
    inside = (masks > 0).float()
    for axis in (1, 2):
        lines = inside.sum(axis)
        middle = (lines * torch.arange(32.0)).sum(1) / lines.sum(1) - 15.5  # in pixels
        assert 0.9 * 0.25 * 16 < middle.abs().max() < 1.02 * 0.25 * 16
        assert abs(middle.mean()) < 0.4
    large = scenes.images(500, seed=0, image_size=32, noise=0, radius=(1.0, 1.0), shapes="star").masks > 0
    area = large.sum((1, 2)).float()
    assert area.std() / area.mean() < 0.1  # never cut off


def test_a_selection_of_shapes_is_labelled_in_its_own_order():
    batch = scenes.images(40, seed=0, shapes=["star", "circle"], noise=0, radius=(0.7, 0.7), image_size=40)
    assert batch.class_names == ("star", "circle")
    area = (batch.masks > 0).sum((1, 2)).float()
    assert area[batch.labels == 1].min() > 1.5 * area[batch.labels == 0].max()  # discs are larger than stars
    assert torch.equal(batch.masks.amax((1, 2)), batch.labels + 1)


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_adds_a_second_colour_where_it_is_asked_for(texture):
    common = {"seed": 1, "noise": 0, "image_size": 64, "colors": "red"}
    behind = scenes.images(31, texture=texture, **common)
    on_top = scenes.images(31, object_texture=texture, **common)
    for i in range(31):
        for picture, region in [
            (behind.images[i], away_from(behind.masks[i] > 0)),
            (on_top.images[i], away_from(on_top.masks[i] == 0)),
        ]:
            spread = picture[:, region].std(1).max()
            assert spread < 1e-5 if texture == "plain" else spread > 0.05


def test_raw_pixels_do_not_tell_the_shape_to_a_linear_map():
    """The premise of the linear-probe experiments: the shape is there, but not linearly."""
    train, test = scenes.images(1000, seed=1), scenes.images(1000, seed=2)
    probe = LogisticRegression(C=0.01, max_iter=200).fit(train.images.flatten(1), train.labels)
    assert probe.score(test.images.flatten(1), test.labels) < 0.2


# --- captions --------------------------------------------------------------------------------------------

NOUN = (
    rf"an? (?P<size{{0}}>{'|'.join(SIZES)}) (?:(?P<texture{{0}}>striped|checkered|dotted) )?"
    rf"(?P<color{{0}}>{'|'.join(COLORS)}) (?P<shape{{0}}>{'|'.join(SHAPES)})"
)
WHERE = r"(?:on|at|in) the (?P<place>left|right|top|bottom|middle)"
WORD = {"stripes": "striped", "checker": "checkered", "dots": "dotted", "plain": None}


def matches(found, suffix, thing):
    said = {name: found[f"{name}{suffix}"] for name in ("size", "texture", "color", "shape")}
    return said == {"size": thing.size, "texture": WORD[thing.texture], "color": thing.color, "shape": thing.shape}


def test_a_caption_of_one_object_parses_back_to_its_record():
    batch = scenes.captions(300, seed=0, textures=TEXTURES, phrasings=3)
    noun = NOUN.format("")
    forms = [rf"{noun} {WHERE}", rf"there is {noun} {WHERE}", rf"{WHERE} there is {noun}"]
    used = set()
    for caption, (thing,) in zip(batch.captions, batch.objects, strict=True):
        ((which, found),) = [(k, m) for k, form in enumerate(forms) if (m := re.fullmatch(form, caption))]
        assert matches(found, "", thing)
        assert found["place"] == thing.place
        used.add(which)
    assert used == {0, 1, 2}


def test_a_caption_of_two_objects_says_where_the_masks_are():
    batch = scenes.captions(300, seed=1, num_objects=2, textures=TEXTURES, phrasings=3, image_size=40)
    form = rf"(?:there is )?{NOUN.format(1)} (?P<relation>left of|right of|above|below) {NOUN.format(2)}"
    seen = set()
    for caption, things, mask in zip(batch.captions, batch.objects, batch.masks, strict=True):
        found = re.fullmatch(form, caption)
        first, second = things if matches(found, 1, things[0]) else reversed(things)
        assert matches(found, 1, first)
        assert matches(found, 2, second)
        if first.shape == second.shape:
            continue
        (row1, column1), (row2, column2) = (
            (mask == 1 + SHAPES.index(thing.shape)).nonzero().float().mean(0) for thing in (first, second)
        )
        truth = {
            "left of": column1 < column2 - 10,
            "right of": column1 > column2 + 10,
            "above": row1 < row2 - 10,
            "below": row1 > row2 + 10,
        }
        assert truth[found["relation"]]
        assert sum(map(bool, truth.values())) == 1
        seen.add(found["relation"])
    assert seen == {"left of", "right of", "above", "below"}


def test_place_size_and_colour_are_what_the_pixels_show():
    batch = scenes.captions(400, seed=2, image_size=96, noise=0)
    x, y = grid(96)
    areas = {"small": [], "large": []}
    for picture, mask, (thing,) in zip(batch.images, batch.masks, batch.objects, strict=True):
        inside = mask == 1 + SHAPES.index(thing.shape)
        assert torch.equal(inside, mask > 0)
        middle_x, middle_y = x[inside].mean().item(), y[inside].mean().item()
        assert math.hypot(middle_x - thing.x, middle_y - thing.y) < 0.25 * thing.radius + 0.03
        nearest = min(("left", "right", "top", "bottom", "middle"),
                      key=lambda place: math.dist(PLACES[place], (middle_x, middle_y)))  # fmt: skip
        assert nearest == thing.place
        torch.testing.assert_close(picture[:, inside].median(1).values, torch.tensor(COLORS[thing.color]))
        if thing.shape == "square":
            areas[thing.size].append(inside.sum().item())
    assert max(areas["small"]) < min(areas["large"])


@FEW
@given(num_objects=st.integers(1, 4), image_size=st.integers(16, 40), seed=st.integers(0, 2**40))
def test_objects_are_all_there_and_never_touch(num_objects, image_size, seed):
    batch = scenes.captions(5, seed=seed, num_objects=num_objects, image_size=image_size, noise=0)
    for mask, things in zip(batch.masks, batch.objects, strict=True):
        assert len(things) == num_objects
        assert set(mask.unique().tolist()) == {0, *(1 + SHAPES.index(thing.shape) for thing in things)}
        for thing in things:
            assert max(abs(thing.x), abs(thing.y)) + thing.radius <= 1 + 1e-6
        for one, other in itertools.combinations(things, 2):
            assert math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius


def test_pictures_may_differ_in_their_number_of_objects():
    batch = scenes.captions(400, seed=0, num_objects=(1, 3, 4))
    counts = np.bincount([len(things) for things in batch.objects], minlength=5)
    assert counts[0] == counts[2] == 0
    assert counts[[1, 3, 4]].min() > 90
    assert all(caption.count(" and ") == (len(o) > 1) for caption, o in zip(batch.captions, batch.objects, strict=True))


def test_excluded_combinations_never_occur_and_only_those_asked_for_do():
    held_out = [("red", "star"), ("moon", "stripes")]
    options = {"seed": 0, "num_objects": 2, "textures": ["plain", "stripes"]}
    words = lambda thing: {thing.color, thing.shape, thing.texture, thing.size}  # noqa: E731
    seen = [words(t) for things in scenes.captions(1000, exclude=held_out, **options).objects for t in things]
    unseen = [words(t) for things in scenes.captions(200, only=held_out, **options).objects for t in things]
    assert not any(set(pair) <= thing for pair in held_out for thing in seen)
    assert all(any(set(pair) <= thing for pair in held_out) for thing in unseen)
    for word in ("red", "star", "moon", "stripes"):  # each word is still learned, in other company
        assert any(word in thing for thing in seen)
    assert all(any(set(pair) <= thing for thing in unseen) for pair in held_out)


def test_the_phrasings_of_one_picture_differ():
    for num_objects in (1, 2):
        for things in scenes.captions(20, seed=0, num_objects=num_objects).objects:
            assert len({scenes.describe(things, phrasing=k) for k in range(3)}) == 3


def test_dropped_attributes_are_not_said():
    batch = scenes.captions(50, seed=0, textures=TEXTURES)
    said = [scenes.describe(things, drop=["shape", "texture"]) for things in batch.objects]
    assert all(
        re.fullmatch(rf"an? (small|large) ({'|'.join(COLORS)}) thing (on|at|in) the \w+", sentence) for sentence in said
    )
    ring = scenes.SceneObject("orange", "small", "ring", "plain", "left", -0.5, 0.0, 0.25)
    assert scenes.describe([ring], drop=["size", "color", "texture", "shape", "place"]) == "a thing"


# --- clips -----------------------------------------------------------------------------------------------


@FEW
@given(
    n=st.integers(1, 7),
    task=st.sampled_from(list(TASKS)),
    num_frames=st.integers(1, 11),
    image_size=st.integers(12, 29),
    channels=st.sampled_from([1, 3]),
)
def test_clips_have_the_shape_they_say(n, task, num_frames, image_size, channels):
    film = scenes.clips(n, seed=0, task=task, num_frames=num_frames, image_size=image_size, channels=channels)
    assert film.clips.shape == (n, channels, num_frames, image_size, image_size)
    assert film.clips.dtype == torch.float32
    assert film.clips.min() >= 0
    assert film.clips.max() <= 1
    assert film.labels.shape == film.sprites.shape == (n,)
    assert film.positions.shape == (n, num_frames, 2)
    assert len(film) == n
    assert film.class_names == TASKS[task]


def test_each_frame_shows_the_sprite_where_the_record_says():
    sprites = torch.rand(5, 3, 7)
    film = scenes.clips(11, seed=0, sprites=sprites, image_size=13, noise=0)
    for clip, which, places in zip(film.clips[:, 0], film.sprites, film.positions, strict=True):
        for frame, (row, column) in zip(clip, places.tolist(), strict=True):
            expected = torch.zeros(13, 13)
            for i, j in itertools.product(range(3), range(7)):
                expected[(row + i) % 13, (column + j) % 13] = sprites[which, i, j]
            assert torch.equal(frame, expected)


def test_the_sprite_moves_the_way_the_label_says():
    moves = {"right": (0, 2), "up right": (-2, 2), "up": (-2, 0), "up left": (-2, -2),
             "left": (0, -2), "down left": (2, -2), "down": (2, 0), "down right": (2, 2)}  # fmt: skip
    film = scenes.clips(80, seed=0, image_size=19)
    for label, places in zip(film.labels, film.positions, strict=True):
        step = torch.tensor(moves[film.class_names[label]]) % 19
        assert ((places.diff(dim=0) % 19) == step).all()
    fast = scenes.clips(60, seed=0, task="speed", image_size=19)
    for label, places in zip(fast.labels, fast.positions, strict=True):
        steps = (places.diff(dim=0) + 9) % 19 - 9
        assert (steps.abs().amax(1) == label + 1).all()
        assert (steps == steps[0]).all()
    order = scenes.clips(60, seed=0, task="order", noise=0)
    level = order.clips.amax((1, 3, 4))
    rises = (level.diff(dim=1) > 0).sum(1)  # two of three changes rise in one order, one of three in the other
    assert ((rises > 3.5) == (order.labels == 0)).all()


def test_every_speed_goes_in_every_direction():
    film = scenes.clips(600, seed=0, task="speed", image_size=19)
    steps = ((film.positions[:, 1] - film.positions[:, 0] + 9) % 19 - 9).sign()
    seen = {(label, *step) for label, step in zip(film.labels.tolist(), steps.tolist(), strict=True)}
    assert len(seen) == 3 * 8


@pytest.mark.parametrize("task", TASKS)
def test_a_single_frame_says_nothing_about_the_label(task):
    """Exactly: frame k of every clip is the same picture whichever label, given its position, sprite and brightness,
    and those are distributed alike under every label (a chi-square test on each)."""
    film = scenes.clips(24_000, seed=0, task=task, image_size=12, noise=0)
    classes = len(film.class_names)
    for frame in (0, 3, 7):
        row, column = film.positions[:, frame].unbind(-1)
        level = (film.clips[:, 0, frame].amax((1, 2)) * 10).round().long()
        for fact in (row * 12 + column, film.sprites, level):
            values = fact.unique()
            table = torch.stack([(fact[film.labels == k, None] == values).sum(0) for k in range(classes)]).double()
            expected = table.sum(0) * table.sum(1, keepdim=True) / table.sum()
            chi2, freedom = ((table - expected) ** 2 / expected).sum().item(), (classes - 1) * (len(values) - 1)
            assert chi2 <= freedom + 5 * math.sqrt(2 * freedom) + 1e-9


@pytest.mark.parametrize(("task", "classes"), [("direction", ["up right", "down left"]), ("order", None)])
def test_played_backwards_a_clip_is_one_of_the_other_label(task, classes):
    """So the frames as an unordered set cannot tell the two labels apart."""
    film = scenes.clips(300, seed=0, task=task, classes=classes, noise=0)
    steps = film.positions.diff(dim=1) % 20
    levels = (film.clips.amax((1, 3, 4)) * 100).round().long()

    def motions(label, steps, levels):
        return {
            (str(s.tolist()), str(b.tolist())) for s, b, k in zip(steps, levels, film.labels, strict=True) if k == label
        }

    for label in (0, 1):
        played_backwards = motions(label, -steps.flip(1) % 20, levels.flip(1))
        assert played_backwards == motions(1 - label, steps, levels) != motions(label, steps, levels)


def test_shape_sprites_are_all_different_and_none_is_cut():
    sprites = scenes._shape_sprites(20)
    assert sprites.shape == (10, 10, 10)
    assert (sprites.amax((1, 2)) > 0.9).all()
    assert torch.pdist(sprites.flatten(1)).min() > 1.5


# --- bad input -------------------------------------------------------------------------------------------

BAD = [
    (scenes.images, {"n": 0}, ValueError, "n must be at least 1, received 0"),
    (scenes.images, {"n": -3}, ValueError, "n must be at least 1"),
    (scenes.images, {"n": 2.0}, TypeError, "n must be an integer"),
    (scenes.images, {"n": True}, TypeError, "n must be an integer"),
    (scenes.images, {"seed": -1}, ValueError, "seed must be at least 0"),
    (scenes.images, {"seed": None}, TypeError, "seed must be an integer"),
    (scenes.images, {"image_size": 5}, ValueError, "image_size must be at least 12"),
    (scenes.images, {"image_size": (24, 24)}, TypeError, "image_size must be an integer"),
    (scenes.images, {"shapes": ["star", "banana"]}, ValueError, "shapes has unknown 'banana'; known: circle"),
    (scenes.images, {"shapes": []}, ValueError, "shapes must hold at least one"),
    (scenes.images, {"shapes": ["star", "star"]}, ValueError, "none twice"),
    (scenes.images, {"colors": "mauve"}, ValueError, "colors has unknown 'mauve'"),
    (scenes.images, {"texture": "wood"}, ValueError, "texture has unknown 'wood'"),
    (scenes.images, {"object_texture": "wood"}, ValueError, "object_texture has unknown 'wood'"),
    (scenes.images, {"radius": (0.7, 0.45)}, ValueError, "radius must be a pair"),
    (scenes.images, {"radius": (0.5, 1.5)}, ValueError, "radius must be a pair"),
    (scenes.images, {"radius": 0.5}, TypeError, "radius must be a pair"),
    (scenes.images, {"noise": float("nan")}, ValueError, "noise must lie between"),
    (scenes.images, {"noise": "some"}, TypeError, "noise must be a number"),
    (scenes.captions, {"num_objects": 0}, ValueError, "num_objects must be a number from 1 to 4"),
    (scenes.captions, {"num_objects": 5}, ValueError, "num_objects must be a number from 1 to 4"),
    (scenes.captions, {"num_objects": []}, ValueError, "num_objects must be a number from 1 to 4"),
    (scenes.captions, {"phrasings": 4}, ValueError, "phrasings must lie between 1 and 3"),
    (scenes.captions, {"image_size": 12}, ValueError, "image_size must be at least 16"),
    (scenes.captions, {"exclude": ["red"]}, TypeError, "exclude must hold combinations such as"),
    (scenes.captions, {"exclude": [("red", "banana")]}, ValueError, "exclude has unknown 'banana'"),
    (scenes.captions, {"only": []}, ValueError, "leave no combination"),
    (scenes.captions, {"only": [("red", "star")], "exclude": [("red",)]}, ValueError, "leave no combination"),
    (scenes.captions, {"only": [("red", "blue")]}, ValueError, "leave no combination"),
    (scenes.clips, {"task": "dance"}, ValueError, "task has unknown 'dance'"),
    (scenes.clips, {"classes": ["sideways"]}, ValueError, "classes has unknown 'sideways'"),
    (scenes.clips, {"num_frames": 0}, ValueError, "num_frames must be at least 1"),
    (scenes.clips, {"channels": 2}, ValueError, "channels must be 1"),
    (scenes.clips, {"sprites": torch.zeros(3, 8)}, ValueError, r"sprites must have .*\(m h w\)"),
    (scenes.clips, {"sprites": torch.zeros(3, 8, 21)}, ValueError, "image_size=20"),
    (scenes.clips, {"sprites": torch.zeros(0, 8, 8)}, ValueError, r"sprites must have .*\(m h w\)"),
    (scenes.clips, {"sprites": torch.full((1, 8, 8), 16.0)}, ValueError, r"sprites must lie in \[0, 1\]"),
    (scenes.clips, {"sprites": torch.full((1, 8, 8), torch.nan)}, ValueError, r"sprites must lie in \[0, 1\]"),
    (scenes.clips, {"sprites": torch.ones(1, 8, 8, dtype=torch.uint8)}, TypeError, "received torch.uint8"),
    (scenes.clips, {"sprites": np.ones((1, 8, 8))}, TypeError, "received ndarray"),
]  # fmt: skip


@pytest.mark.parametrize(("draw", "bad", "error", "message"), BAD)
def test_bad_input_is_named(draw, bad, error, message):
    with pytest.raises(error, match=message):
        draw(**{"n": 2, "seed": 0, **bad})


def test_describe_refuses_an_attribute_that_is_none():
    with pytest.raises(ValueError, match="drop has unknown 'age'"):
        scenes.describe(scenes.captions(1, seed=0).objects[0], drop=["age"])
