"""Augmentation of whole batches on the device that trains on them, with parameters drawn anew for every sample.

Most steps are two functions: one of the images and a parameter per sample (``adjust_hue`` …), equal to its namesake in
``torchvision.transforms.v2.functional``, and one that draws the parameters as torchvision does (``random_…``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vlmcourse._checks import as_pair, check_floating, check_number, check_range
from vlmcourse._precision import without_autocast

Step = Callable[..., Tensor]


def _check_images(images: Tensor, *, channels: tuple[int, ...] | None = None, in_unit_range: bool = False) -> None:
    check_floating("images", images, "b c h w")
    if channels and images.shape[1] not in channels:
        expected = " or ".join(map(str, channels))
        raise ValueError(f"images must have {expected} channels for this step, received {images.shape[1]}")
    if in_unit_range:
        low, high = torch.stack(images.detach().aminmax()).tolist()
        if not -1e-3 <= low <= high <= 1 + 1e-3:  # also refuses NaN
            raise ValueError(
                f"images must lie in [0, 1], received values from {low:.3g} to {high:.3g}; undo the scaling"
            )


def _uniform(images: Tensor, low: float, high: float, generator: Generator | None, *shape: int) -> Tensor:
    """Draw one number a sample, or ``shape`` of them, where the generator lives."""
    where = images.device if generator is None else generator.device
    draw = torch.rand(len(images), *shape, generator=generator, device=where)
    return low + (high - low) * draw.to(images.device)


def _chosen(images: Tensor, p: float, generator: Generator | None) -> Tensor:
    """Draw one boolean a sample, true with probability ``p``; exactly all or none at one and zero."""
    check_number("p", p, low=0, high=1)
    return _uniform(images, 0, 1, generator) < p


def _each(parameter: Tensor) -> Tensor:
    """Return ``(b,)`` as ``(b, 1, 1, 1)``, one number for all pixels of a sample."""
    return parameter[:, None, None, None]


def _some(images: Tensor, changed: Tensor, p: float, generator: Generator | None) -> Tensor:
    """Return for each sample, with probability ``p``, the changed image, else the image as it came, in its type."""
    return torch.where(_each(_chosen(images, p, generator)), changed.to(images.dtype), images)


# ---------------------------------------------------------------------------------------------------------
# Where things are
# ---------------------------------------------------------------------------------------------------------


def _resize_weights(start: Tensor, length: Tensor, *, old: int, new: int) -> Tensor:
    """Return rows ``(b, new, old)`` that average the pixels ``start … start + length`` of a line into ``new``."""
    # A triangle around each new pixel's centre, as wide as the spacing of the sparser of the two lines: bilinear
    # interpolation where the line is stretched, the antialiased average of torchvision where it shrinks.
    start, length = start[:, None, None].float(), length[:, None, None].float()
    spacing = length / new
    center = start + spacing * (torch.arange(new, device=start.device)[:, None] + 0.5)
    pixel = torch.arange(old, device=start.device) + 0.5
    weight = (1 - (pixel - center).abs() / spacing.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel > start) & (pixel < start + length))
    return weight / weight.sum(-1, keepdim=True)


@without_autocast
def crop_resize(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, *, size: tuple[int, int]
) -> Tensor:
    """Cut one box a sample and resize it, as ``v2.functional.resized_crop`` with ``antialias=True``.

    Shapes:
        images ``(b, c, h, w)``; top, left, height, width ``(b,)`` whole pixels; result ``(b, c, *size)``.

    >>> image, one = torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([1])
    >>> crop_resize(image, one, one, one + 1, one + 1, size=(2, 2)).flatten()
    tensor([ 5.,  6.,  9., 10.])
    """
    rows = _resize_weights(top, height, old=images.shape[2], new=size[0]).to(images)
    columns = _resize_weights(left, width, old=images.shape[3], new=size[1]).to(images)
    return rows[:, None] @ images @ columns.mT[:, None]


def _draw_boxes(
    images: Tensor, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator | None
) -> tuple[Tensor, ...]:
    """Return top, left, height, width of a box a sample: the first of ten that fits, else the largest in the middle."""
    full_h, full_w = images.shape[2:]
    area = full_h * full_w * _uniform(images, *scale, generator, 10)
    aspect = _uniform(images, math.log(ratio[0]), math.log(ratio[1]), generator, 10).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths >= 1) & (widths <= full_w) & (heights >= 1) & (heights <= full_h)
    first = fits.byte().argmax(1, keepdim=True)
    width, height = widths.gather(1, first)[:, 0], heights.gather(1, first)[:, 0]
    top = (_uniform(images, 0, 1, generator) * (full_h - height + 1)).floor()
    left = (_uniform(images, 0, 1, generator) * (full_w - width + 1)).floor()

    largest = min(max(full_w / full_h, ratio[0]), ratio[1])  # the ratio of the largest box
    w, h = min(full_w, max(1, round(full_h * largest))), min(full_h, max(1, round(full_w / largest)))
    middle = torch.tensor([(full_h - h) // 2, (full_w - w) // 2, h, w]).to(top)
    return torch.where(fits.any(1, keepdim=True), torch.stack([top, left, height, width], 1), middle).unbind(1)


def random_resized_crop(
    images: Tensor,
    *,
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: Generator | None = None,
) -> Tensor:
    """Cut a random box from each image and resize it, as ``v2.RandomResizedCrop`` with ``antialias=True``.

    ``size`` is the images' own if left out, ``scale`` the box's part of the area, ``ratio`` its width over its height.

    >>> random_resized_crop(torch.rand(3, 1, 8, 6), size=4).shape
    torch.Size([3, 1, 4, 4])
    """
    _check_images(images)
    check_range("scale", scale, low=1e-6, high=1.0)
    check_range("ratio", ratio, low=1e-3, high=1e3)
    new = as_pair("size", tuple(images.shape[2:]) if size is None else size)
    return crop_resize(images, *_draw_boxes(images, scale, ratio, generator), size=new)


def random_horizontal_flip(images: Tensor, *, p: float = 0.5, generator: Generator | None = None) -> Tensor:
    """Mirror each image, left for right, with probability ``p``, as ``v2.RandomHorizontalFlip``.

    >>> random_horizontal_flip(torch.tensor([[[[1.0, 2.0]]]]), p=1.0)
    tensor([[[[2., 1.]]]])
    """
    _check_images(images)
    return _some(images, images.flip(-1), p, generator)


@without_autocast
def rotate_shift_scale(images: Tensor, angle: Tensor, right: Tensor, down: Tensor, scale: Tensor) -> Tensor:
    """Turn and scale each image about its middle, then shift it, as ``v2.functional.affine`` with bilinear sampling.

    Departure: edges repeat, where torchvision fills with a constant: a black corner would tell the network the angle.

    Shapes:
        images ``(b, c, h, w)``; angle (degrees, clockwise), right and down (pixels), scale ``(b,)``.

    >>> images, still = torch.eye(4)[None, None], torch.zeros(1)
    >>> turned = rotate_shift_scale(images, still + 90, right=still, down=still, scale=still + 1)
    >>> torch.allclose(turned, images.flip(-1), atol=1e-6)
    True
    """
    height, width = images.shape[2:]
    cos, sin = torch.deg2rad(angle).cos() / scale, torch.deg2rad(angle).sin() / scale
    # each output pixel looks back to where it came from: undo the shift, the turn and the scale
    back = torch.stack([
        torch.stack([cos, sin * height / width, -(cos * right + sin * down) * 2 / width], 1),
        torch.stack([-sin * width / height, cos, (sin * right - cos * down) * 2 / height], 1),
    ], 1)  # fmt: skip
    grid = F.affine_grid(back.to(images), list(images.shape), align_corners=False)
    # Looking no further than the outermost pixels' centres repeats the edge. Asking grid_sample for that
    # (padding_mode="border") would leave out Apple's GPUs.
    middles = 1 - 1 / torch.tensor([width, height]).to(images)
    return F.grid_sample(images, grid.clamp(-middles, middles), mode="bilinear", align_corners=False)


def random_affine(
    images: Tensor,
    *,
    degrees: float,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: tuple[float, float] = (1.0, 1.0),
    generator: Generator | None = None,
) -> Tensor:
    """Turn each image by up to ``degrees`` either way, shift it by whole pixels and scale it, as ``v2.RandomAffine``.

    Sampling is bilinear, and edges repeat. ``translate`` is the largest shift, as a part of width and height.

    >>> random_affine(torch.rand(3, 1, 8, 6), degrees=10.0, translate=(0.1, 0.1), scale=(0.8, 1.2)).shape
    torch.Size([3, 1, 8, 6])
    """
    _check_images(images)
    check_number("degrees", degrees, low=0, high=180)
    if not isinstance(translate, Sequence) or len(translate) != 2:
        raise TypeError(f"translate must be a pair (right, down), received {translate!r}")
    for part in translate:
        check_number("translate", part, low=0, high=1)
    check_range("scale", scale, low=1e-3, high=1e3)
    angle, scaling = _uniform(images, -degrees, degrees, generator), _uniform(images, *scale, generator)
    right = (_uniform(images, -translate[0], translate[0], generator) * images.shape[3]).round()
    down = (_uniform(images, -translate[1], translate[1], generator) * images.shape[2]).round()
    return rotate_shift_scale(images, angle, right, down, scaling)


# ---------------------------------------------------------------------------------------------------------
# What colour they have
# ---------------------------------------------------------------------------------------------------------


def _luma(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its ``factor``, as ``v2.functional.adjust_brightness``."""
    return (images * _each(factor.to(images))).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each image's distance from its mean lightness, as ``v2.functional.adjust_contrast``."""
    return torch.lerp(_luma(images).mean((1, 2, 3), keepdim=True), images, _each(factor.to(images))).clamp(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each pixel's distance from its own grey, as ``v2.functional.adjust_saturation``."""
    return torch.lerp(_luma(images), images, _each(factor.to(images))).clamp(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn each image's colours round the colour wheel by ``shift`` turns, as ``v2.functional.adjust_hue``."""
    if images.shape[1] == 1:
        return images
    low, high = images.amin(1), images.amax(1)
    chroma = high - low
    red, green, blue = (images / chroma.clamp(min=torch.finfo(images.dtype).tiny)[:, None]).unbind(1)
    sixths = torch.where(images[:, 1] == high, 2 + blue - red, 4 + red - green)
    sixths = torch.where(images[:, 0] == high, green - blue, sixths) + 6 * shift.to(images)[:, None, None]
    # each channel is a trapezoid of the angle: at its highest for a third of the wheel, lowest for another
    angle = (sixths[:, None] + torch.tensor([5, 3, 1], device=images.device)[:, None, None]) % 6
    return high[:, None] - chroma[:, None] * torch.minimum(angle, 4 - angle).clamp(0, 1)


def random_color_jitter(
    images: Tensor,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    p: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image with probability ``p``, in an order drawn for each.

    As ``v2.ColorJitter`` inside ``v2.RandomApply(p=p)``: brightness, contrast and saturation change by factors from
    ``1 - value`` (at least 0) to ``1 + value``, hue by up to its value (at most 0.5) in turns of the colour wheel.

    >>> random_color_jitter(torch.full((2, 3, 1, 1), 0.25), brightness=0.5).shape
    torch.Size([2, 3, 1, 1])
    """
    _check_images(images, channels=(1, 3), in_unit_range=True)
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    functions = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    parameters = []
    for name, value in strengths.items():
        check_number(name, value, low=0, high=0.5 if name == "hue" else 100)
        middle, least = (0.0, -value) if name == "hue" else (1.0, max(0.0, 1 - value))
        parameters.append(_uniform(images, least, middle + value, generator))
    order = _uniform(images, 0, 1, generator, 4).argsort(1)
    order[~_chosen(images, p, generator)] = -1
    order = order.cpu()  # wait for a GPU once, and not for each of 16 choices; and send it all of them at once
    chosen = [(order[:, turn] == which).nonzero().flatten() for turn in range(4) for which in range(4)]
    changed, sent = images.clone(), torch.cat(chosen).to(images.device)
    for k, rows in enumerate(sent.split([len(rows) for rows in chosen])):
        if len(rows) and list(strengths.values())[k % 4]:
            changed[rows] = functions[k % 4](changed[rows], parameters[k % 4][rows])
    return changed


def random_grayscale(images: Tensor, *, p: float = 0.1, generator: Generator | None = None) -> Tensor:
    """Take the colour from each image with probability ``p``, as ``v2.RandomGrayscale``; equal channels remain."""
    _check_images(images, channels=(1, 3))
    return _some(images, _luma(images).expand_as(images), p, generator)


@without_autocast
def recolor(images: Tensor, matrix: Tensor, contrast: Tensor, place: Tensor) -> Tensor:
    """Apply a colour matrix and a contrast to each image, and place it in [0, 1], scaled down rather than clipped.

    Shapes:
        images ``(b, 3, h, w)``, matrix ``(b, 3, 3)``, contrast ``(b,)``, place ``(b, 3)`` from 0, dark, to 1, bright.
    """
    turned = torch.einsum("b i c, b c h w -> b i h w", matrix.to(images), images)
    low, high = turned.amin((2, 3), keepdim=True), turned.amax((2, 3), keepdim=True)
    scale = _each(contrast.to(images)) / (high - low).amax(1, keepdim=True).clamp(min=1)
    room = (1 - scale * (high - low)).clamp(min=0)
    return (scale * (turned - low) + place.to(images)[:, :, None, None] * room).clamp(0, 1)  # only rounding is cut


def random_recolor(images: Tensor, *, p: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Rotate or reflect the colour space of each image, keep 0.7 to 1 of its contrast, and move it back into [0, 1].

    Only outlines stay as a clue: a rotation alone keeps the distances between colours, which identify a scene.

    Source:
        Mezzadri 2007 (arXiv math-ph/0609050): the Q of a Gaussian matrix, signs set by the diagonal of R, is uniform.

    >>> random_recolor(torch.rand(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """
    _check_images(images, channels=(3,), in_unit_range=True)
    where = images.device if generator is None else generator.device
    gaussian = torch.randn(len(images), 3, 3, generator=generator, device=where)
    q, r = torch.linalg.qr(gaussian.cpu())  # not every device factorises matrices
    matrix = (q * r.diagonal(dim1=1, dim2=2).sign()[:, None]).to(images.device)
    factor, place = _uniform(images, 0.7, 1.0, generator), _uniform(images, 0, 1, generator, 3)
    return _some(images, recolor(images, matrix, factor, place), p, generator)


# ---------------------------------------------------------------------------------------------------------
# Two views
# ---------------------------------------------------------------------------------------------------------

SIMCLR_STEPS: Mapping[str, Step] = {
    "crop": partial(random_resized_crop, scale=(0.2, 1.0)),
    "flip": random_horizontal_flip,
    "jitter": partial(random_color_jitter, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
    "grayscale": partial(random_grayscale, p=0.2),
}

SCENE_STEPS: Mapping[str, Step] = {
    "affine": partial(random_affine, degrees=23.0, translate=(0.12, 0.12), scale=(0.7, 1.1)),
    "recolor": random_recolor,
}


def two_views(
    images: Tensor, *, steps: Mapping[str, Step] = SIMCLR_STEPS, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return two independent random views of every image: what contrastive learning is to recognise as the same.

    Shapes:
        images ``(b, c, h, w)`` in [0, 1]; both views ``(b, c, h', w')`` in [0, 1], with the steps' size.

    Options:
        steps: name → function of ``(images, generator=...)``, applied in turn: ``SIMCLR_STEPS`` for photographs,
        ``SCENE_STEPS`` for scenes. generator: the device's global one if left out; one on the CPU repeats everywhere.

    Source:
        Chen et al. 2020 (arXiv 2002.05709), B.9, on CIFAR-10; slide S07. Departure: crops from 20 % of the area, not 8.

    >>> view1, view2 = two_views(torch.rand(5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    >>> view1.shape == view2.shape == (5, 3, 32, 32), torch.equal(view1, view2)
    (True, False)
    """
    _check_images(images, in_unit_range=True)
    views = torch.cat([images, images])
    for step in steps.values():
        views = step(views, generator=generator)
    first, second = views.clamp(0, 1).chunk(2)
    return first, second
