"""Pictures that answer to the reader: HTML that carries its own data and needs neither kernel nor network."""

import base64
import math
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

from vlmcourse._checks import check_floating, check_rank
from vlmcourse.course.figures.page import base64_of, filled
from vlmcourse.course.figures.plots import COLORS
from vlmcourse.models.vlm import PROMPT, VisionLanguageModel
from vlmcourse.ops._modes import evaluating
from vlmcourse.ops.contrastive import nt_xent_loss

# A weight is stored as the square root of its share of the query's largest weight: in one byte, or where there are so
# many that the HTML would exceed 200 kB, in half a byte.
FINE, COARSE = 255, 15
MOST_BYTES = 100_000


def attention_picture(
    image: Tensor,
    weights: Tensor,
    *,
    grid_size: tuple[int, int],
    label: str,
    names: Sequence[str] | None = None,
    layer: int | None = None,
    start: tuple[int, int] | None = None,
) -> str:
    """Return HTML in which a reader points at a patch and sees what it attends to, layer by layer and head by head.

    Shapes:
        image ``(1 or 3, h, w)``, from 0 to 1, weights ``(depth, num_heads, n, n)`` with the n patches of ``grid_size``
        row by row, as ``VisionTransformer.attention_maps`` gives them for one image, without a class token.

    Options:
        names: what to call the layers, which may be several networks. layer: what is shown first, as the mean of its
        heads, else the head with the sharpest look. start: (row, column) of the patch that asks first, else the middle.

    Source:
        Slides S23 and S24.

    >>> weights = torch.full((2, 3, 4, 4), 0.25)  # two layers, three heads, four patches
    >>> picture = attention_picture(torch.rand(3, 8, 8), weights, grid_size=(2, 2), label="four grey squares")
    >>> picture.count("<option"), "http" in picture
    (6, False)
    """
    rows, columns = grid_size
    _check_attention(image, weights, rows, columns)
    depth, heads = weights.shape[:2]
    which = "Layer" if names is None else "Shown"
    names = [str(k + 1) for k in range(depth)] if names is None else list(names)
    if len(names) != depth:
        raise ValueError(f"names must be one for each of {depth} layers, received {names}")
    weights = weights.detach().cpu().double()  # Apple's GPUs have no float64
    top = FINE if weights.numel() <= MOST_BYTES else COARSE
    levels = (top * (weights / weights.amax(dim=-1, keepdim=True).clamp(min=1e-30)).sqrt()).round().to(torch.uint8)
    head = -1  # the mean of all heads
    if layer is None:
        sharpness = weights.amax(dim=-1).mean(dim=-1)  # the share of the favourite patch, (depth, heads)
        layer, head = divmod(int(sharpness.argmax()), heads) if heads > 1 else (depth - 1, -1)
    row, column = (rows // 2, columns // 2) if start is None else start
    if not (0 <= layer < depth and 0 <= row < rows and 0 <= column < columns):
        within = f"{depth} layers and {rows} × {columns} patches"
        raise ValueError(f"layer and start must lie within {within}, received {layer} and {(row, column)}")
    query = row * columns + column
    stored = (levels if top == FINE else _in_half_bytes(levels)).numpy().tobytes()
    light, says = _first_look(levels[layer, :, query], head, query, columns)
    return filled(
        "attention.html",
        label=label,
        photo=base64_of(image.expand(3, -1, -1), "JPEG", quality=80),
        light=light,
        which=which,
        layers=names,
        layer=layer,
        head=head,
        says=says,
        content={
            "rows": rows, "columns": columns, "heads": heads, "start": query, "halves": top == COARSE,
            "weights": base64.b64encode(stored).decode(),
        },
    )  # fmt: skip


def _in_half_bytes(levels: Tensor) -> Tensor:
    """Return two levels below 16 in each byte, the first in the upper half."""
    pairs = torch.nn.functional.pad(levels.flatten(), (0, levels.numel() % 2)).unflatten(0, (-1, 2))
    return 16 * pairs[:, 0] + pairs[:, 1]


def _place(patch: int, columns: int) -> str:
    return f"row {patch // columns + 1}, column {patch % columns + 1}"


def _check_attention(image: Tensor, weights: Tensor, rows: int, columns: int) -> None:
    check_floating("image", image, "c h w")
    check_floating("weights", weights, "depth head i j")
    if weights.shape[2:] != (rows * columns,) * 2:
        raise ValueError(
            f"weights must have shape (depth, num_heads, n, n) with n = {rows} × {columns} patches of grid_size, "
            f"received {tuple(weights.shape)}; leave a class token out with weights[:, :, 1:, 1:]"
        )
    if not (weights >= 0).all():
        raise ValueError(f"weights must not be negative, received values from {weights.min():.3g}")


def _first_look(levels: Tensor, head: int, query: int, columns: int) -> tuple[list[float], str]:
    """Return how light each patch is before the first move, and what is said of it; levels are ``(heads, n)``."""
    chosen = levels.double().square()
    chosen = chosen / chosen.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    first = chosen.mean(dim=0) if head == -1 else chosen[head]
    most = int(first.argmax())
    where = "itself" if most == query else _place(most, columns)
    says = f"The patch in {_place(query, columns)} attends most to {where}: {100 * first[most]:.0f} % of its attention."
    return (first / first.max()).sqrt().tolist(), says


def path_picture(
    model: VisionLanguageModel, image: Tensor, *, prompt: str = PROMPT, links: Mapping[str, str] | None = None
) -> str:
    """Return HTML that follows one image through the model, with the shapes that it really takes on the way.

    A feature map is shown by its three main components as red, green and blue, and tokens as a matrix, one a row.

    Shapes:
        image ``(3, h, w)``, from 0 to 1. links: addresses for ``encoder``, ``connector`` and ``language_model``.

    Source:
        Slide S03.

    >>> from vlmcourse.train.vlm import build_vlm
    >>> model = build_vlm(image_size=16, embed_dim=8, depth=1, num_heads=2)
    >>> picture = path_picture(model, torch.rand(3, 16, 16), links={"encoder": "#encoder"})
    >>> "64 × 4 × 4" in picture, "4 × 8" in picture, picture.count("<a ")
    (True, True, 1)
    """
    check_rank("image", image, "c h w")
    with torch.no_grad(), evaluating(model):
        features = model.features(image[None])
        tokens = model.connector(features)[0].cpu()
        (answer,) = model.generate(image[None], prompt=prompt)
    features = features.cpu()  # to be drawn: not every device has quantiles and singular vectors
    features = features[0] if features.ndim == 4 else rearrange(features, "1 n d -> d 1 n")

    length = len(model.tokenizer.encode(prompt)) + prompt.count("<image>") * (len(tokens) - 1)
    return filled(
        "path.html",
        links=dict(links or {}),
        weights={
            part: f"{sum(parameter.numel() for parameter in getattr(model, part).parameters()):,}"
            for part in ("encoder", "connector", "language_model")
        },
        shape={
            "pixels": _sizes(image), "map": _sizes(features), "tokens": _sizes(tokens),
            "prompt": f"{length} tokens × {tokens.shape[1]}",
        },
        grid=f"{features.shape[1]} by {features.shape[2]}",
        count=len(tokens),
        pixels=base64_of(image, "PNG"),
        map=base64_of(_main_colors(features), "PNG"),
        tokens=base64_of(_to_unit(tokens)[None], "PNG"),
        prompt=prompt,
        answer=list(answer.words),
    )  # fmt: skip


def _sizes(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def _to_unit(values: Tensor) -> Tensor:
    """Stretch the middle 98 % of the values to the range from 0 to 1."""
    low, high = values.float().quantile(values.new_tensor([0.01, 0.99], dtype=torch.float32))
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _main_colors(features: Tensor) -> Tensor:
    """Return a map's three main components as an image, ``(c, h, w)`` → ``(3, h, w)``."""
    vectors = rearrange(features, "c h w -> (h w) c")
    _, _, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    main = rearrange(vectors @ directions[:3].T, "(h w) c -> c h w", h=features.shape[1])
    return torch.stack([_to_unit(component) for component in main])


LETTER = 0.22  # how far outside the circle a first view's letter stands, and inside it a second view's, in radii
ARROW = 0.35  # length of an arrow, in radii, for a gradient of one over the temperature in a view's own term


def contrastive_circle(angles: Tensor, *, temperature: float = 0.2, label: str) -> str:
    """Return HTML in which a reader drags embeddings round the unit circle and watches a loss and its gradient.

    Arrows point where gradient descent would move a view; their length grows with gradient times temperature. A switch
    turns NT-Xent into the slide's loss, with each view the anchor once and all views of other images its negatives.

    Shapes:
        angles ``(2, n)``, two views of 2 to 6 images, radians counterclockwise from the right. temperature 0.05 to 1.

    Source:
        Chen et al. 2020, equation 1 (arXiv 2002.05709); slides S07 and S08.

    >>> picture = contrastive_circle(torch.tensor([[0.0, 2.0], [1.0, 4.0]]), label="two images, two views each")
    >>> picture.count("<g "), "http" in picture
    (4, False)
    """
    check_floating("angles", angles)
    if angles.ndim != 2 or len(angles) != 2 or not 2 <= angles.shape[1] <= 6 or not angles.isfinite().all():
        raise ValueError(f"angles must be finite and of shape (2, n) with n from 2 to 6, received {angles.tolist()}")
    if not 0.05 <= temperature <= 1:
        raise ValueError(f"temperature must lie on the slider, from 0.05 to 1, received {temperature}")
    start = [round(angle, 3) for angle in angles.flatten().tolist()]
    n = angles.shape[1]
    turned = torch.tensor(start, dtype=torch.float64, device="cpu", requires_grad=True)
    points = torch.stack([turned.cos(), turned.sin()], dim=1)
    loss = nt_xent_loss(points[:n], points[n:], temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, turned)
    logits = (points @ points.T).detach().fill_diagonal_(-math.inf) / temperature
    sure = logits.softmax(dim=1)[range(2 * n), [*range(n, 2 * n), *range(n)]].mean().item()
    views = []
    for k, (angle, (x, y), slope) in enumerate(zip(start, points.tolist(), gradient.tolist(), strict=True)):
        move = -ARROW * 2 * n * temperature * slope
        views.append({
            "at": (x, -y),  # in a drawing, down is positive
            "tip": (x - move * y, -y - move * x),
            "clockwise": (90 - round(math.degrees(angle))) % 360,
            "color": COLORS[k % n],
        })  # fmt: skip
    return filled(
        "circle.html",
        label=label,
        views=views,
        temperature=temperature,
        loss=f"{loss.item():.2f}",
        sure=f"{100 * sure:.0f}",
        guessing=f"{math.log(2 * n - 1):.2f}",
        content={"start": start, "arrow": ARROW, "letter": LETTER},
    )
