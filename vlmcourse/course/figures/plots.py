"""Figures of the chapters. Every function returns the Axes it drew into: ``ax`` where it takes one, or new ones.

The names of :mod:`~vlmcourse.course.figures.style` are here too, so that a chapter needs ``plots`` alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.font_manager import font_scalings
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from vlmcourse.course.chapter import Measurement
from vlmcourse.course.figures.style import (
    AMOUNT,
    COLORS,
    CONCEPTS,
    INK,
    NARROW,
    QUIET,
    SIGNED,
    WIDE,
    color_of,
    colors_of,
    ink_on,
    use_style,
)
from vlmcourse.data.pictures import as_unit_range
from vlmcourse.models.vlm import Answer

__all__ = [
    "AMOUNT", "COLORS", "CONCEPTS", "INK", "NARROW", "QUIET", "SIGNED", "WIDE", "color_of", "colors_of", "ink_on",
    "show_attention", "show_attention_matrix", "show_band", "show_grouped_runs", "show_images", "show_on_circle",
    "show_reach", "show_rows", "show_runs", "show_scores", "show_similarity", "show_timeline", "show_training",
    "show_where_words_look", "use_style",
]  # fmt: skip
MARKERS = "os^vPXp"  # no diamond: it marks the run here
Result = Measurement | Sequence[float]  # of one method: what a chapter measured, or a number per run
Runs = Mapping[str, Result]  # by the method's name


def _new_axes(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def show_images(
    images: Tensor, *, columns: int | None = None, titles: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a batch of images as one grid, row by row; an image of nothing but NaN leaves its place empty.

    Shapes:
        images ``(b, 1 or 3, h, w)``, uint8, or floating point from 0 to 1; other values are clipped.

    >>> show_images(torch.rand(5, 3, 8, 8), columns=3).get_images()[0].get_array().shape  # 2 rows, 1 pixel apart
    (17, 26, 4)
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images must have shape (b, 1 or 3, h, w), received {tuple(images.shape)}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"titles must be one for each of {len(images)} images, received {len(titles)}")
    columns = min(columns or len(images), len(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[-2:]
    gap = max(1, width // 12)
    gap_below = height // 3 if titles and any(titles[columns:]) else gap  # room for the titles
    colors = as_unit_range(images.detach().cpu()).float().clamp(0, 1).expand(-1, 3, -1, -1)
    tiles = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1)
    tiles = tiles.where(~tiles.isnan().any(dim=1, keepdim=True), 0)
    tiles = F.pad(tiles, (0, gap, 0, gap_below, 0, 0, 0, rows * columns - len(images)))  # the page shows there
    grid = rearrange(tiles, "(row column) c h w -> (row h) (column w) c", column=columns)[:-gap_below, :-gap]
    if ax is None:
        side = min(1.0, (WIDE - 0.1) / (grid.shape[1] / width))  # of one image, in inches
        ax = _new_axes(side * grid.shape[1] / width + 0.1, side * grid.shape[0] / height + (0.3 if titles else 0.1))
    ax.imshow(grid.numpy(), interpolation="none")  # a file keeps the pixels that there are
    for k, title in enumerate(titles or ()):
        row, column = divmod(k, columns)
        _entitle(ax, title, column * (width + gap) + width / 2 - 0.5, row * (height + gap_below) - 0.7)
    ax.set_axis_off()
    return ax


def _entitle(ax: Axes, title: str, x: float, y: float) -> None:
    ax.text(x, y, title, ha="center", va="bottom", fontsize="small")


def show_similarity(similarity: Tensor, *, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw the cosine similarities of 2n views, view i of an image beside view i + n of the same.

    Positives are framed, self-pairs crossed out, since they take no part in the loss. Zero is the paper.

    Shapes:
        similarity ``(2n, 2n)``, from -1 to 1.

    >>> show_similarity(torch.eye(6)).get_xlabel()
    'view j'
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or len(similarity) % 2:
        raise ValueError(f"similarity must have shape (2n, 2n), received {tuple(similarity.shape)}")
    ax = ax or _new_axes(NARROW, 4)
    others = similarity.detach().cpu().float().clone().fill_diagonal_(torch.nan)
    picture = ax.imshow(others.numpy(), cmap=SIGNED, vmin=-1, vmax=1)
    ax.figure.colorbar(picture, ax=ax, shrink=0.8, label="cosine similarity")
    for i in range(len(similarity)):
        partner = (i + len(similarity) // 2) % len(similarity)
        ax.add_patch(Rectangle((partner - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.5))
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="none", edgecolor="gray", hatch="xxx", lw=0))
    ax.set(xlabel="view j", ylabel="view i", title=title)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return ax


def show_band(
    x: Sequence[float] | Tensor,
    runs: Sequence[Sequence[float]] | Tensor,
    *,
    label: str,
    ax: Axes,
    color: str = COLORS[0],
) -> Axes:
    """Draw the mean of several runs over ``x``, and the range between the lowest and the highest as a band.

    Shapes:
        x ``(steps,)``, runs ``(seeds, steps)``.

    >>> ax = show_band([1, 2], [[0.0, 1.0], [2.0, 3.0]], label="two seeds", ax=plt.subplots()[1])
    >>> ax.lines[0].get_ydata().tolist()
    [1.0, 2.0]
    """
    positions, values = np.asarray(x, dtype=float), np.asarray(runs, dtype=float)
    if values.ndim != 2 or values.shape[1:] != positions.shape:
        raise ValueError(f"runs must have shape (seeds, {len(positions)}), received {values.shape}")
    ax.plot(positions, values.mean(0), color=color, label=label)
    _shade(ax, positions, values, color=color)
    return ax


def _shade(ax: Axes, x: Any, runs: Any, **look: Any) -> None:
    ax.fill_between(x, np.min(runs, axis=0), np.max(runs, axis=0), alpha=0.25, linewidth=0, **look)


def show_on_circle(
    embeddings: Tensor, colors: Tensor, *, pairs: bool = False, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw embeddings of two entries on the unit circle, each in a colour of its own.

    With ``pairs`` row i and row i + n are two views of one image and are joined by a line.

    Shapes:
        embeddings ``(b, 2)``, of any length above zero: only directions are drawn. colors ``(b, 3)``, from 0 to 1.

    >>> show_on_circle(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.rand(2, 3), title="start").get_title()
    'start'
    """
    if embeddings.shape != (len(colors), 2) or colors.shape != (len(embeddings), 3):
        received = f"{tuple(embeddings.shape)} with colors {tuple(colors.shape)}"
        raise ValueError(f"embeddings must have shape (b, 2) and colors (b, 3), received {received}")
    ax = ax or _new_axes(NARROW, 3.2)
    points = F.normalize(embeddings.detach().float().cpu(), dim=1)
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, edgecolor=QUIET, zorder=0))
    if pairs:
        for one, other in zip(*points.chunk(2), strict=True):
            ax.plot(*zip(one, other, strict=True), color="gray", linewidth=0.7, zorder=1)
    x, y = points.T
    # A grey rim, since some colours are as pale as the page.
    ax.scatter(x, y, s=26, c=colors.detach().cpu().numpy(), edgecolors="gray", linewidths=0.4, zorder=2)
    ax.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", title=title)
    ax.set_axis_off()
    return ax


def show_attention(
    image: Tensor,
    weights: Tensor,
    *,
    queries: Sequence[tuple[int, int]],
    patch_size: int,
    titles: Sequence[str] | None = None,
) -> Axes:
    """Draw where patches look: the image once for each query, lit where the query's attention weights are large.

    A patch keeps its colours in proportion to its weight, relative to the query's largest; the query is framed.

    Shapes:
        image ``(1 or 3, h, w)``, weights ``(n, n)`` with a row for each query and ``n = (h / p) * (w / p)``.
        ``queries`` are (row, column) on the grid of patches.

    >>> uniform = torch.full((6, 6), 1 / 6)
    >>> show_attention(torch.rand(3, 8, 12), uniform, queries=[(1, 2)], patch_size=4).get_images()[0].get_array().shape
    (8, 12, 4)
    """
    height, width = image.shape[-2:]
    nh, nw = height // patch_size, width // patch_size
    if image.ndim != 3 or (nh * patch_size, nw * patch_size) != (height, width) or weights.shape != (nh * nw,) * 2:
        raise ValueError(
            f"weights must have shape (n, n), n the patches of {patch_size} × {patch_size} in an image of shape "
            f"(c, h, w): received weights {tuple(weights.shape)} and image {tuple(image.shape)}"
        )
    if not all(0 <= row < nh and 0 <= column < nw for row, column in queries):
        raise ValueError(f"queries must be (row, column) on a grid of {nh} × {nw} patches, received {list(queries)}")
    asking = [row * nw + column for row, column in queries]
    image, panels = _lit(image, weights[asking].unflatten(1, (nh, nw)))
    for panel, (row, column) in zip(panels, queries, strict=True):
        top, left = row * patch_size, column * patch_size
        bottom, right = top + patch_size, left + patch_size
        for wider, shade in ((2, 0.0), (1, 1.0)):  # one pixel of black round one pixel of white round the patch
            panel[:, max(top - wider, 0) : bottom + wider, max(left - wider, 0) : right + wider] = shade
        panel[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    return show_images(panels, titles=titles)


def _lit(image: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image in colour, and for each map ``(b, rows, columns)`` a copy that fades where the map is small."""
    image = as_unit_range(image.detach().cpu()).float().expand(3, -1, -1)
    light = weights.detach().float().cpu()[:, None]
    light = F.interpolate(light / light.amax(dim=(2, 3), keepdim=True), size=image.shape[1:], mode="nearest")
    pale = 0.7 + 0.2 * ((image.mean(0) * 8).round() / 8 - 0.5)  # few shades, for a smaller file
    return image, image * light + pale * (1 - light)


def show_attention_matrix(weights: Tensor, *, title: str = "") -> Axes:
    """Draw α: row i is a query and says how much it takes from each j, the stronger the colour the more.

    Shades follow the square root of the weight, so that small weights can be told from none, which shows the paper.

    Shapes:
        weights ``(i, j)``, not negative.

    >>> show_attention_matrix(torch.eye(3)).get_ylabel()
    'i, the patch that looks'
    """
    if weights.ndim != 2:
        raise ValueError(f"weights must have shape (i, j), received {tuple(weights.shape)}")
    ax = _new_axes(NARROW, 3.6)
    shades = AMOUNT.resampled(24)  # few, for a smaller file
    picture = ax.imshow(weights.detach().float().cpu().numpy(), cmap=shades, norm=PowerNorm(0.5, vmin=0))
    ax.figure.colorbar(picture, ax=ax, shrink=0.85, label="α")
    for side, role in (("left", "query"), ("bottom", "key")):
        ax.spines[side].set(color=CONCEPTS[role], linewidth=3)
    ax.set(xlabel="j, the patch looked at", ylabel="i, the patch that looks", title=title)
    return ax


def show_runs(results: Runs, *, chance: float | None = None, label: str = "accuracy", ax: Axes | None = None) -> Axes:
    """Draw every run of every method as a point, each method's mean as a line, and the run here as an open diamond.

    ``results`` maps a method's name to what a chapter measured, or to one number per run.

    >>> ax = show_runs({"guessing": [0.5, 0.4], "trained": [0.9, 1.0]}, chance=0.5)
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['guessing', 'trained']
    """
    if not results or not all(len(_runs(result)) for result in results.values()):
        raise ValueError(f"results must hold at least one run for every method, received {dict(results)}")
    ax = ax or _new_axes(WIDE, 0.9 + 0.4 * len(results))
    colors = colors_of(results)
    for k, (name, result) in enumerate(results.items()):
        _draw_runs(ax, result, k, 0.3, color=colors[name], marker=MARKERS[k % len(MARKERS)], size=40)
    if chance is not None:
        ax.axvline(chance, color="gray", linestyle="--", linewidth=1, zorder=1)
        ax.text(chance, 1, "chance", transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize="small")
    ax.set(xlabel=label, yticks=range(len(results)), yticklabels=list(results), ylim=(len(results) - 0.5, -0.5))
    return ax


def show_training(
    curves: Mapping[str, Measurement],
    *,
    steps: Sequence[float] | None = None,
    label: str = "loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw the curve of each training here as a line, inside the band of the recorded runs.

    Every recorded run has as many values as the others: one per step, or one for each of ``steps``.

    >>> loss = Measurement("loss", [3.0, 1.0], ([3.1, 1.2], [2.9, 0.9]))
    >>> show_training({"contrastive": loss}).lines[0].get_label()
    'contrastive, here'
    """
    if not curves:
        raise ValueError("curves must hold at least one measured curve, received none")
    ax = ax or _new_axes(NARROW, 3)
    colors = list(colors_of(curves).values())
    for k, (name, curve) in enumerate(curves.items()):
        shown, color = curve.recorded or (curve.live,), colors[k]
        dashes = ("-", "--", ":", "-.")[colors[:k].count(color) % 4]  # two of one concept: one colour, another line
        _shade(ax, _steps_of(shown[0], steps), shown, color=color)
        if curve.live is not None:
            ax.plot(_steps_of(curve.live, steps), curve.live, dashes, color=color, linewidth=1.2, label=f"{name}, here")
    ax.set(xlabel="step", ylabel=label)
    ax.legend(title=f"band: {len(shown)} recorded runs" if curve.recorded else None)
    return ax


def _steps_of(curve: Sequence[float], steps: Sequence[float] | None) -> Sequence[float]:
    return range(1, len(curve) + 1) if steps is None else steps


def _runs(result: Result) -> Sequence[float]:
    """Return the recorded runs of a measurement, or the one here where none are recorded; numbers as they are."""
    if not isinstance(result, Measurement):
        return result
    return result.recorded or ([] if result.live is None else [result.live])


def _draw_runs(ax: Axes, result: Result, y: float, half: float, *, color: str, marker: str, size: float) -> None:
    runs = _runs(result)
    ax.scatter(runs, [y] * len(runs), s=size, color=color, marker=marker, alpha=0.6, linewidths=0, zorder=2)
    ax.vlines(float(np.mean(runs)), y - half, y + half, color=color)
    if isinstance(result, Measurement) and result.live is not None:
        ax.scatter(result.live, y, s=size, facecolors="none", edgecolors=INK, marker="D", zorder=3)


def show_reach(
    distances: Sequence[int], accuracies: Mapping[str, Measurement], *, reaches: Mapping[str, int], chance: float
) -> tuple[Axes, Axes]:
    """Draw accuracy against distance, and below it, on the same axis, how far each network can see.

    A line is the run here (the recorded mean where none ran) inside the band of the recorded runs. ``accuracies`` maps
    a network's name to a curve over ``distances``, ``reaches`` the same names to one distance.

    >>> near, far = Measurement("near", [1.0, 0.5], ()), Measurement("far", [1.0, 1.0], ())
    >>> upper, lower = show_reach([0, 2], {"near": near, "far": far}, reaches={"near": 0, "far": 2}, chance=0.5)
    >>> [float(bar.get_width()) for bar in lower.patches]
    [0.0, 2.0]
    """
    if set(accuracies) != set(reaches):
        raise ValueError(f"reaches must name the networks of accuracies, {list(accuracies)}, received {list(reaches)}")
    heights = [3, 0.25 * len(reaches)]
    size = (WIDE, 0.4 + sum(heights))
    _, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=size, height_ratios=heights, layout="constrained")
    words = {"fontsize": "small", "textcoords": "offset points"}
    ends, colors = 0, colors_of(accuracies)  # names at the right, of networks that see everything
    for k, (name, curve) in enumerate(accuracies.items()):
        color, marker, reach = colors[name], MARKERS[k % len(MARKERS)], reaches[name]
        apart = upper.transData + ScaledTranslation(0, -k * 3 / 72, upper.figure.dpi_scale_trans)
        runs = _runs(curve)
        line = np.mean(runs, axis=0) if curve.live is None else np.asarray(curve.live)
        if line.shape != (len(distances),):
            raise ValueError(f"accuracies must have one value for each of {len(distances)} distances, {name} does not")
        _shade(upper, distances, runs, color=color, transform=apart)
        upper.plot(distances, line, color=color, marker=marker, markersize=5, label=name, transform=apart)
        lower.barh(k, reach, height=0.5, color=color)
        lower.plot(reach, k, marker=marker, color=color)
        if reach < max(distances):
            upper.axvline(reach, color=color, linestyle=":", linewidth=1)
            next_one = min(distance for distance in distances if distance > reach)
            beside = (0.7 * reach + 0.3 * next_one, 0.7 + 0.3 * chance)  # the line, on its way down
            upper.annotate(name, beside, xytext=(6, 4), **words)
        else:
            upper.annotate(name, (max(distances), 1), xytext=(8, -4 - 14 * ends), **words)
            ends += 1
    upper.axhline(chance, color="gray", linestyle="--", linewidth=1)
    upper.annotate("chance", (0, chance), xytext=(0, 3), **words)
    upper.set(ylabel="accuracy", ylim=(0, 1.05), xticks=distances)
    lower.set(xlabel="distance to the cell that holds the answer", ylim=(len(reaches), -1))
    lower.set(yticks=range(len(reaches)), yticklabels=list(accuracies))
    lower.set_title("what each network can see", fontsize="small", loc="left")
    return upper, lower


def show_timeline(events: Sequence[tuple[float, str, int]], *, names: Sequence[str]) -> Axes:
    """Draw dated events from left to right, to scale, in one lane for each group.

    ``events`` are (year, text, group), and ``names`` one name for each group. Years may have fractions.

    >>> ax = show_timeline([(2012.9, "AlexNet", 0), (2020.8, "ViT", 1)], names=["convolution", "attention"])
    >>> [text.get_text() for text in ax.texts]
    ['AlexNet', 'ViT']
    """
    if not events or not all(0 <= group < len(names) for _, _, group in events):
        raise ValueError(f"events must belong to groups 0 to {len(names) - 1}, received {list(events)}")
    ax = _new_axes(WIDE, 0.8 + 0.9 * len(names))
    colors = colors_of(names)
    for group, name in enumerate(names):
        dated = sorted(event for event in events if event[2] == group)
        ax.axhline(group, color=QUIET, linewidth=1, zorder=0)
        years = [year for year, _, _ in dated]
        ax.scatter(years, [group] * len(dated), s=50, marker=MARKERS[group % len(MARKERS)], color=colors[name])
        for k, (year, text, _) in enumerate(dated):  # names above and below the lane by turns, further out each time
            away = (1 if k % 2 == 0 else -1) * (12 + 11 * (k % 4 // 2))
            ax.annotate(
                text, (year, group), (0, away), textcoords="offset points", ha="center", va="center", fontsize="small",
                arrowprops={"arrowstyle": "-", "color": QUIET, "shrinkB": 4} if abs(away) > 12 else None,
            )  # fmt: skip
    years = [year for year, *_ in events]
    ax.set(xlim=(int(min(years)) - 0.2, int(max(years)) + 1.2), ylim=(len(names) - 0.4, -0.6))
    ax.set(yticks=range(len(names)), yticklabels=list(names))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def show_rows(rows: Mapping[str, Tensor], *, titles: Sequence[str] | None = None) -> Axes:
    """Draw rows of images one above the other, each with its name to the left, and titles above the first row.

    Shapes:
        ``rows`` maps a name to images ``(b, 1 or 3, h, w)``, the same shape in every row.

    >>> ax = show_rows({"query": torch.rand(2, 3, 8, 8), "answer": torch.rand(2, 1, 8, 8)})
    >>> [text.get_text() for text in ax.texts]
    ['query', 'answer']
    """
    pictures = [as_unit_range(images.detach().cpu()).float() for images in rows.values()]
    shapes = [tuple(images.shape) for images in pictures]
    if not pictures or len({(*shape[:1], *shape[2:]) for shape in shapes}) > 1:
        raise ValueError(f"rows must all have one shape (b, 1 or 3, h, w), received {shapes}")
    columns, _, height, width = shapes[0]
    if titles is not None and len(titles) != columns:
        raise ValueError(f"titles must be one for each of {columns} columns, received {len(titles)}")
    everything = torch.cat([images.expand(-1, 3, -1, -1) for images in pictures])
    gap = max(1, width // 12)
    size = plt.rcParams["font.size"] * font_scalings["small"]
    names = 0.13 + 1.05 * max(TextPath((0, 0), name, size=size).get_extents().x1 for name in rows) / 72  # inches
    side = min(1.0, (WIDE - names) * width / (columns * (width + gap)))
    wide, tall = (side * count * (edge + gap) / width for count, edge in ((columns, width), (len(rows), height)))
    whole, high = names + wide, tall + (0.3 if titles else 0.1)
    figure = plt.figure(figsize=(whole, high), layout="none")  # a layout would cut long names
    ax = figure.add_axes((names / whole, 0.05 / high, wide / whole, tall / high))
    show_images(everything, columns=columns, ax=ax)
    for k, name in enumerate(rows):
        middle = (-0.5, k * (height + gap) + height / 2 - 0.5)
        ax.annotate(name, middle, (-6, 0), textcoords="offset points", ha="right", va="center", fontsize="small")
    for k, title in enumerate(titles or ()):
        _entitle(ax, title, k * (width + gap) + width / 2 - 0.5, -1.2)
    return ax


def show_grouped_runs(
    results: Mapping[str, Runs], *, chance: Mapping[str, float] | None = None, label: str = "accuracy"
) -> Axes:
    """Draw every run of every method in several tasks: a row for each task, a mark for each run, a line for each mean.

    ``results`` maps a task to what :func:`show_runs` takes, and ``chance`` a task to its chance level.

    >>> ax = show_grouped_runs({"known": {"a": [0.9, 1.0], "b": [0.8]}, "new": {"a": [0.4], "b": [0.7]}})
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['known', 'new']
    """
    methods = list(next(iter(results.values()), {}))
    if not methods or not all(list(r) == methods and all(map(len, map(_runs, r.values()))) for r in results.values()):
        received = dict(results)
        raise ValueError(f"results must hold the same methods for every task, each with a run, received {received}")
    ax = _new_axes(WIDE, 0.9 + 0.18 * len(results) * (len(methods) + 1))
    colors = colors_of(methods)
    for row, (task, by_method) in enumerate(results.items()):
        for k, (method, runs) in enumerate(by_method.items()):
            y = row + (k - (len(methods) - 1) / 2) / (len(methods) + 1)
            look: dict[str, Any] = {"color": colors[method], "marker": MARKERS[k % len(MARKERS)]}
            _draw_runs(ax, runs, y, 0.1, size=28, **look)
            if row == 0:
                ax.scatter([], [], label=method, **look)
        if chance is not None:
            ax.vlines(chance[task], row - 0.45, row + 0.45, color="gray", linestyle="--", linewidth=1)
        ax.axhline(row + 0.5, color=QUIET, linewidth=0.5)
    ax.set(xlabel=label, yticks=range(len(results)), yticklabels=list(results), ylim=(len(results) - 0.5, -0.5))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def show_scores(tables: Mapping[str, pd.DataFrame]) -> list[Axes]:
    """Draw tables of :func:`~vlmcourse.train.vlm.evaluate` side by side as heat maps, every number in its cell.

    >>> asked = {"seen": pd.DataFrame([[0.9, 0.2]], index=["blank"], columns=["exact", "color"])}
    >>> show_scores(asked)[0].get_title()
    'seen'
    """
    rows, columns = next(iter(tables.values())).shape
    size = (WIDE if len(tables) > 1 else NARROW, 0.9 + 0.4 * rows)
    figure, panels = plt.subplots(1, len(tables), squeeze=False, sharey=True, layout="constrained", figsize=size)
    for ax, (title, table) in zip(panels[0], tables.items(), strict=True):
        labels = [", ".join(name) if isinstance(name, tuple) else name for name in table.index]
        drawn = ax.imshow(100 * table.to_numpy(), cmap=AMOUNT, vmin=0, vmax=100, aspect="auto")
        ax.set(xticks=range(columns), yticks=range(rows), xticklabels=table.columns, yticklabels=labels, title=title)
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink_on(value))
    figure.colorbar(drawn, ax=panels[0, -1], label="% of answers")
    return list(panels[0])


def show_where_words_look(image: Tensor, answer: Answer) -> Axes:
    """Draw the picture once for each word of an answer, lit where the model looked for it, on the mean of all layers.

    Shapes:
        image ``(3, h, w)``; the answer comes from ``generate(..., return_attention=True)``.
    """
    if answer.attention is None:
        raise ValueError("answer must hold its attention; try generate(..., return_attention=True)")
    _, panels = _lit(image, answer.attention[:, :, 0].mean(0))
    return show_images(panels, titles=list(answer.words))
