"""Every step of the augmentation equals torchvision's: given the parameters, and in distribution without them."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from vlmcourse.data import augment
from vlmcourse.data.augment import SCENE_STEPS, SIMCLR_STEPS, two_views

FEW = settings(max_examples=30, deadline=None)
RANDOM_STEPS = {
    **SIMCLR_STEPS,
    **SCENE_STEPS,
    "resize": partial(augment.random_resized_crop, size=(5, 7)),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pictures(n, channels, height, width, seed=0):
    return torch.rand(n, channels, height, width, generator=seeded(seed))


# --- given the parameters: torchvision's functional, one image at a time -----------------------------------


@FEW
@given(
    # torch 2.14 repeats the first row of an image that is one pixel wide, so the reference starts at two
    height=st.integers(2, 29),
    width=st.integers(2, 31),
    size=st.tuples(st.integers(1, 37), st.integers(2, 37)),
    seed=st.integers(0, 999),
)
def test_crop_resize_is_torchvisions_resized_crop_with_antialiasing(height, width, size, seed):
    images, rng = pictures(5, 3, height, width, seed), seeded(seed)
    boxes = []
    for _ in range(5):
        # two pixels or more: PyTorch's antialiased interpolation of a one-pixel-wide strip repeats its first pixel
        h, w = (torch.randint(2, side + 1, (), generator=rng).item() for side in (height, width))
        top, left = (torch.randint(0, side - n + 1, (), generator=rng).item() for side, n in ((height, h), (width, w)))
        boxes.append((top, left, h, w))
    ours = augment.crop_resize(images, *torch.tensor(boxes).unbind(1), size=size)
    theirs = torch.stack([
        V.resized_crop(image, *box, size=list(size), antialias=True) for image, box in zip(images, boxes, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@FEW
@given(
    height=st.integers(4, 29),
    width=st.integers(4, 31),
    angle=st.floats(-180, 180),
    right=st.integers(-3, 3),
    down=st.integers(-3, 3),
    scale=st.floats(0.5, 2),
)
def test_rotate_shift_scale_is_torchvisions_affine_wherever_that_does_not_fill(
    height, width, angle, right, down, scale
):
    images = pictures(2, 3, height, width)
    affine = partial(
        V.affine, angle=angle, translate=[right, down], scale=scale, shear=[0.0, 0.0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )  # fmt: skip
    each = [torch.tensor([float(value)] * 2) for value in (angle, right, down, scale)]
    ours, theirs = augment.rotate_shift_scale(images, *each), affine(images)
    inside = affine(torch.ones(1, 1, height, width))[0, 0] > 1 - 1e-4
    torch.testing.assert_close(ours[..., inside], theirs[..., inside], atol=2e-3, rtol=0)


def test_rotate_shift_scale_repeats_the_edge_where_torchvision_fills():
    images = torch.ones(1, 3, 9, 9)
    shifted = augment.rotate_shift_scale(images, *torch.tensor([[30.0], [5.0], [0.0], [0.5]]))
    torch.testing.assert_close(shifted, images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_adjustment_is_torchvisions(name, channels):
    images = pictures(67, channels, 5, 7)
    images[:9] = images[:9].round()  # pure colours and greys: ties between channels
    images[9:12] = 0.25
    factors = torch.linspace(-0.5, 0.5, 67) if name == "hue" else torch.linspace(0, 2.3, 67)
    ours = getattr(augment, f"adjust_{name}")(images, factors)
    adjust = getattr(V, f"adjust_{name}")
    theirs = torch.stack([adjust(image, factor.item()) for image, factor in zip(images, factors, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


def test_grayscale_is_torchvisions():
    images = pictures(5, 3, 7, 11)
    torch.testing.assert_close(augment.random_grayscale(images, p=1.0), V.rgb_to_grayscale(images, 3))


def test_recolouring_keeps_outlines_and_fills_the_room_there_is():
    images = pictures(501, 3, 5, 2)
    between = lambda x: torch.cdist(x.flatten(2).mT, x.flatten(2).mT)  # noqa: E731
    q, _ = torch.linalg.qr(torch.randn(501, 3, 3, generator=seeded(1)))
    contrast, place = torch.rand(501, generator=seeded(2)), torch.rand(501, 3, generator=seeded(3))
    changed = augment.recolor(images, q, contrast, place)
    ratio = between(changed)[:, 0, 1:] / between(images)[:, 0, 1:]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))  # one factor for all distances of an image
    assert (ratio[:, 0] <= contrast + 1e-5).all()
    fits = augment.recolor(0.4 * images, q, contrast, place)  # small enough that no contrast is lost
    torch.testing.assert_close(between(fits), 0.4 * contrast[:, None, None] * between(images), atol=1e-5, rtol=0)
    low, high = fits.amin((2, 3)), fits.amax((2, 3))
    torch.testing.assert_close(low / (1 - (high - low)), place, atol=1e-4, rtol=0)


def test_recolouring_draws_turns_contrasts_and_places_evenly():
    axis = torch.zeros(20_000, 3, 1, 2)
    axis[:, 0, 0, 1] = 0.1  # two pixels, 0.1 apart along red
    views = augment.random_recolor(axis, generator=seeded(0))
    apart = views[..., 1] - views[..., 0]
    factor = apart.flatten(1).norm(dim=1) * 10
    direction = apart.flatten(1) / apart.flatten(1).norm(dim=1, keepdim=True)
    place = views.amin(3).flatten(1) / (1 - apart.abs().flatten(1))
    assert ks_2samp(factor.numpy(), torch.linspace(0.7, 1, 20_001).numpy()).pvalue > 1e-4
    for channel in range(3):  # a point uniform on the sphere has uniform coordinates (Archimedes)
        assert ks_2samp(direction[:, channel].numpy(), torch.linspace(-1, 1, 20_001).numpy()).pvalue > 1e-4
        assert ks_2samp(place[:, channel].numpy(), torch.linspace(0, 1, 20_001).numpy()).pvalue > 1e-4
    assert abs(torch.corrcoef(torch.cat([direction, place], 1).T)[:3, 3:]).max() < 0.04


# --- without them: the same distribution as torchvision's transform ----------------------------------------

TRANSFORMS = {
    "RandomResizedCrop": (
        partial(augment.random_resized_crop, size=(9, 6), scale=(0.1, 0.9)),
        v2.RandomResizedCrop((9, 6), scale=(0.1, 0.9)),
    ),
    "RandomResizedCrop that seldom fits": (
        partial(augment.random_resized_crop, scale=(0.7, 1.0), ratio=(1.6, 2.5)),
        v2.RandomResizedCrop((13, 11), scale=(0.7, 1.0), ratio=(1.6, 2.5)),
    ),
    "RandomHorizontalFlip": (
        partial(augment.random_horizontal_flip, p=0.3),
        v2.RandomHorizontalFlip(p=0.3),
    ),
    "RandomAffine": (
        partial(augment.random_affine, degrees=40, translate=(0.2, 0.1), scale=(0.6, 1.2)),
        v2.RandomAffine(40, translate=(0.2, 0.1), scale=(0.6, 1.2), interpolation=v2.InterpolationMode.BILINEAR),
    ),
    "ColorJitter": (
        partial(augment.random_color_jitter, brightness=0.6, contrast=0.7, saturation=0.8, hue=0.2, p=0.8),
        v2.RandomApply([v2.ColorJitter(0.6, 0.7, 0.8, 0.2)], p=0.8),
    ),
    "strong ColorJitter": (
        partial(augment.random_color_jitter, brightness=2.0, contrast=1.5, saturation=3.0),
        v2.ColorJitter(2.0, 1.5, 3.0),
    ),
    "RandomGrayscale": (
        partial(augment.random_grayscale, p=0.3),
        v2.RandomGrayscale(p=0.3),
    ),
}


def statistics(images):
    """Numbers in which a shift, a flip, a scale or a colour of one known picture shows."""
    height, width = images.shape[2:]
    x = torch.linspace(-1, 1, width)
    y = torch.linspace(-1, 1, height)[:, None]
    middle = images[:, :, height // 2, width // 2]
    moments = [
        images.mean((1, 2, 3)),
        images.std((1, 2, 3)),
        (images * x).mean((1, 2, 3)),
        (images * y).mean((1, 2, 3)),
    ]
    return torch.cat([torch.stack(moments, 1), images.mean((2, 3)), middle], 1)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_in_distribution_each_step_is_torchvisions_transform(name):
    ours, theirs = TRANSFORMS[name]
    draws = 3000
    x, y = torch.linspace(0, 1, 11), torch.linspace(0, 1, 13)[:, None]
    image = torch.stack([0.8 * x + 0 * y, 0.7 * y + 0 * x, 0.2 + 0.6 * x * y + 0.1 * (x * 9).sin()])
    if "Affine" in name:  # away from the edge, where the two fill differently
        image = image * (((x - 0.5).abs() < 0.2) & ((y - 0.5).abs() < 0.2))
    torch.manual_seed(0)
    expected = statistics(torch.stack([theirs(image) for _ in range(draws)]))
    received = statistics(ours(image.expand(draws, -1, -1, -1), generator=seeded(1)))
    for k, (one, other) in enumerate(zip(received.mT, expected.mT, strict=True)):
        spread = max(one.std().item(), other.std().item(), 1e-4)
        # to three digits, so that rounding does not split what is equal
        one, other = ((values / spread * 1000).round().numpy() for values in (one, other))
        assert ks_2samp(one, other).pvalue > 1e-4, f"statistic {k}"


# --- properties of all steps -------------------------------------------------------------------------------


@FEW
@given(
    name=st.sampled_from(list(RANDOM_STEPS)),
    n=st.integers(1, 7),
    height=st.integers(3, 19),
    width=st.integers(3, 17),
    seed=st.integers(0, 999),
)
def test_every_step_keeps_the_batch_and_the_unit_interval(name, n, height, width, seed):
    images = pictures(n, 3, height, width, seed).round(decimals=1)
    before = images.clone()
    changed = RANDOM_STEPS[name](images, generator=seeded(seed))
    assert changed.shape == (n, 3, *((5, 7) if name == "resize" else (height, width)))
    assert changed.min() >= -1e-6
    assert changed.max() <= 1 + 1e-6
    assert torch.equal(images, before), "the input was changed"


@pytest.mark.parametrize("name", RANDOM_STEPS)
def test_parameters_differ_from_sample_to_sample(name):
    images = pictures(1, 3, 11, 13).expand(64, -1, -1, -1)
    changed = RANDOM_STEPS[name](images, generator=seeded(0))
    distinct = len({bytes(sample.numpy()) for sample in changed.contiguous()})
    assert distinct == 2 if name in ("flip", "grayscale") else distinct > 25


@pytest.mark.parametrize("name", RANDOM_STEPS)
def test_a_generator_decides_everything_and_the_global_state_nothing(name):
    images, step = pictures(17, 3, 11, 13), RANDOM_STEPS[name]
    torch.manual_seed(1)
    first, after = step(images, generator=seeded(5)), torch.rand(3)
    torch.manual_seed(2)
    second, other = step(images, generator=seeded(5)), step(images, generator=seeded(6))
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3)), "the global generator moved"
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", RANDOM_STEPS)
def test_without_a_generator_the_global_seed_decides(name):
    images, step = pictures(17, 3, 11, 13), RANDOM_STEPS[name]
    torch.manual_seed(1)
    first, second = step(images), step(images)
    torch.manual_seed(1)
    assert torch.equal(first, step(images))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["flip", "jitter", "grayscale", "recolor"])
def test_probability_zero_and_one_are_exact(name):
    step = {
        "flip": augment.random_horizontal_flip,
        "jitter": partial(augment.random_color_jitter, brightness=0.5, hue=0.3),
        "grayscale": augment.random_grayscale,
        "recolor": augment.random_recolor,
    }[name]
    images = pictures(997, 3, 3, 5)
    assert torch.equal(step(images, p=0.0), images)
    changed = (step(images, p=1.0) != images).flatten(1).any(1)
    assert changed.all()


def test_jitter_of_strength_zero_changes_nothing():
    images = pictures(31, 3, 5, 7)
    assert torch.equal(augment.random_color_jitter(images), images)


def test_the_whole_picture_is_a_crop_of_scale_one():
    images = pictures(31, 3, 8, 8)
    torch.testing.assert_close(augment.random_resized_crop(images, scale=(1.0, 1.0), ratio=(1.0, 1.0)), images)


@pytest.mark.parametrize("steps", [SIMCLR_STEPS, SCENE_STEPS, {}])
def test_two_views_are_two_independent_draws_of_each_image(steps):
    images = pictures(31, 3, 13, 11)
    view1, view2 = two_views(images, steps=steps, generator=seeded(0))
    assert view1.shape == view2.shape == images.shape
    assert min(view1.min(), view2.min()) >= 0
    assert max(view1.max(), view2.max()) <= 1
    if not steps:
        assert torch.equal(view1, images)
        assert torch.equal(view2, images)
    else:
        assert (view1 != view2).flatten(1).any(1).all()
    # each view still comes from the image in its own place
    brightness = torch.linspace(0.05, 0.95, 31)[:, None, None, None].expand(-1, 3, 13, 11)
    moved1, moved2 = two_views(brightness, steps={k: v for k, v in steps.items() if k in ("crop", "flip", "affine")})
    torch.testing.assert_close(moved1, brightness)
    torch.testing.assert_close(moved2, brightness)


def test_both_views_are_changed_and_the_generator_decides_how():
    images = pictures(31, 3, 13, 11)
    views, again, others = (two_views(images, generator=seeded(seed)) for seed in (0, 0, 1))
    for view, same, other in zip(views, again, others, strict=True):
        assert (view != images).flatten(1).any(1).float().mean() > 0.9
        assert torch.equal(view, same)
        assert not torch.equal(view, other)


def test_views_stay_in_the_unit_interval_whatever_a_step_does():
    brighter = {"brighter": lambda images, generator: 1.5 * images - 0.1}
    for view in two_views(pictures(5, 3, 7, 11), steps=brighter):
        assert view.min() == 0
        assert view.max() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_views_keep_the_number_type_and_the_unit_interval(dtype):
    images = pictures(7, 3, 13, 11).to(dtype)
    images[..., 0], images[..., -1] = 0, 1
    for view in two_views(images, steps=RANDOM_STEPS):
        assert view.dtype == dtype
        assert 0 <= view.min() <= view.max() <= 1


@pytest.mark.parametrize("name", RANDOM_STEPS)
def test_autocast_does_not_touch_the_views(name):
    images = pictures(7, 3, 13, 11)
    expected = RANDOM_STEPS[name](images, generator=seeded(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(RANDOM_STEPS[name](images, generator=seeded(0)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_adjustments_keep_the_number_type(name, dtype):
    images, factors = pictures(5, 3, 5, 7), torch.linspace(-0.4, 0.4, 5)
    adjust = getattr(augment, f"adjust_{name}")
    changed = adjust(images.to(dtype), factors)
    assert changed.dtype == dtype
    torch.testing.assert_close(changed.float(), adjust(images, factors), atol=1e-2, rtol=0)


def test_two_views_of_one_image_and_of_grey_ones():
    for images in (pictures(1, 3, 8, 9), pictures(5, 1, 8, 9)):
        view1, view2 = two_views(images)
        assert view1.shape == view2.shape == images.shape


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("steps", [SIMCLR_STEPS, SCENE_STEPS])
def test_a_cpu_generator_gives_the_same_views_on_cuda(steps):
    images = pictures(101, 3, 13, 11)
    here = two_views(images, steps=steps, generator=seeded(0))
    there = two_views(images.cuda(), steps=steps, generator=seeded(0))
    for one, other in zip(here, there, strict=True):
        assert other.is_cuda
        assert ((one - other.cpu()).abs() < 1e-3).float().mean() > 0.999
    with_own = two_views(images.cuda(), steps=steps, generator=torch.Generator("cuda").manual_seed(0))
    assert with_own[0].is_cuda


# --- bad input ---------------------------------------------------------------------------------------------

FINE = torch.rand(2, 3, 8, 8)
BAD = [
    (two_views, FINE[0], {}, ValueError, r"images must have shape \(b c h w\)"),
    (two_views, FINE[:0], {}, ValueError, "no empty axis"),
    (two_views, (FINE * 255).byte(), {}, TypeError, r"received torch.uint8; try images.float\(\) / 255"),
    (two_views, FINE.numpy(), {}, TypeError, "received ndarray"),
    (two_views, FINE * 255, {}, ValueError, r"images must lie in \[0, 1\]"),
    (two_views, FINE - 0.5, {}, ValueError, r"images must lie in \[0, 1\]"),
    (two_views, FINE * torch.nan, {}, ValueError, r"images must lie in \[0, 1\], received values from nan"),
    (two_views, torch.rand(2, 4, 8, 8), {}, ValueError, "1 or 3 channels for this step, received 4"),
    (augment.random_color_jitter, FINE * 255, {}, ValueError, r"images must lie in \[0, 1\]"),
    (augment.random_color_jitter, FINE, {"hue": 0.6}, ValueError, "hue must lie between 0 and 0.5"),
    (augment.random_color_jitter, FINE, {"brightness": -1}, ValueError, "brightness must lie between"),
    (augment.random_color_jitter, FINE, {"p": 1.5}, ValueError, "p must lie between 0 and 1"),
    (augment.random_horizontal_flip, FINE, {"p": -0.1}, ValueError, "p must lie between 0 and 1"),
    (augment.random_resized_crop, FINE, {"scale": (0.0, 1.0)}, ValueError, "scale must be a pair"),
    (augment.random_resized_crop, FINE, {"scale": (0.5, 1.2)}, ValueError, "scale must be a pair"),
    (augment.random_resized_crop, FINE, {"ratio": (2.0, 1.0)}, ValueError, "ratio must be a pair"),
    (augment.random_resized_crop, FINE, {"size": 0}, ValueError, "size must be at least 1"),
    (augment.random_resized_crop, FINE, {"size": 2.5}, TypeError, "size must be"),
    (augment.random_affine, FINE, {"degrees": 200}, ValueError, "degrees must lie between"),
    (augment.random_affine, FINE, {"degrees": 9, "translate": 0.1}, TypeError, "translate must be a pair"),
    (augment.random_affine, FINE, {"degrees": 9, "translate": (0.1, 2)}, ValueError, "translate must lie between"),
    (augment.random_affine, FINE, {"degrees": 9, "scale": (0.0, 1.0)}, ValueError, "scale must be a pair"),
    (augment.random_recolor, FINE[:, :1], {}, ValueError, "3 channels for this step, received 1"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "images", "options", "error", "message"), BAD)
def test_bad_input_is_named(step, images, options, error, message):
    with pytest.raises(error, match=message):
        step(images, **options)
