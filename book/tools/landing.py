"""Draw the eight small pictures of the landing page with the course's own code: python book/tools/landing.py."""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlmcourse import attention_weights, load_dataset, patchify, receptive_field, scenes, unpatchify

FOLDER = Path(__file__).resolve().parents[1] / "_static" / "landing"
ORANGE, BLUE, GREEN, PURPLE = "#E69F00", "#0072B2", "#009E73", "#CC79A7"  # told apart by colour-blind readers too
PATCH = 16


def photo() -> torch.Tensor:
    return F.interpolate(load_dataset("photos").float()[:1], size=(224, 224), mode="area")


def show(ax: Axes, image: torch.Tensor, extent: tuple[float, float, float, float], **options: Any) -> None:
    ax.imshow(rearrange(image.clamp(0, 1), "c h w -> h w c"), extent=extent, aspect="auto", **options)


def image_to_vector(ax: Axes) -> None:
    scene = scenes.images(1, seed=5, image_size=96, noise=0).images[0]
    show(ax, scene, (1.8, 7.8, 2, 8), interpolation="nearest")
    ax.annotate("", (10.8, 5), (8.5, 5), arrowprops={"arrowstyle": "-|>", "color": "0.3", "linewidth": 2})
    ax.imshow(torch.rand(8, 1), extent=(11.6, 12.8, 1, 9), cmap="viridis", aspect="auto")


def no_labels(ax: Axes) -> None:
    angles = torch.linspace(0, 2 * torch.pi, 200)
    ax.plot(8 + 4 * angles.cos(), 5 + 4 * angles.sin(), color="0.6")
    for start, color in zip((0.5, 2.1, 3.6, 5.3), (ORANGE, BLUE, GREEN, PURPLE), strict=True):
        pair = torch.tensor([start, start + 0.28])
        ax.plot(8 + 4 * pair.cos(), 5 + 4 * pair.sin(), "o-", color=color, markersize=9, linewidth=3)


def linear_map(ax: Axes) -> None:
    for centre, color, marker in (((5, 3.6), BLUE, "o"), ((11, 6.4), ORANGE, "s")):
        x, y = (torch.randn(2, 22) * torch.tensor([[1.3], [1.0]]) + torch.tensor(centre)[:, None]).unbind()
        ax.plot(x, y.clamp(0.8, 9.2), marker, color=color, markersize=5, alpha=0.85)
    ax.plot([9.6, 6.2], [0.6, 9.4], color="0.25", linewidth=2.5)


def time_axis(ax: Axes) -> None:
    films = scenes.clips(40, seed=3, classes=["down right"], channels=3, noise=0)
    inside = ((films.positions[:, :1] >= 0) & (films.positions[:, :1] <= 3)).all(dim=(1, 2))
    clip = films.clips[inside][0]
    for k, t in enumerate((0, 1, 2, 3)):
        left, bottom = 1.0 + 2.6 * k, 3.4 - 0.8 * k
        show(ax, clip[:, t], (left, left + 5.2, bottom, bottom + 5.2), interpolation="nearest", zorder=2 * k)
        ax.add_patch(Rectangle((left, bottom), 5.2, 5.2, fill=False, color="white", zorder=2 * k + 1))


def locality(ax: Axes) -> None:
    layers = [torch.nn.Conv2d(1 if k == 0 else 8, 8, 3, padding=1) for k in range(4)]
    field = receptive_field(torch.nn.Sequential(*layers), torch.randn(32, 1, 25, 25)).sqrt()
    ax.imshow(field, extent=(4, 12, 1, 9), cmap="magma", aspect="auto")
    ax.plot(11.2, 8.2, "*", color=ORANGE, markersize=14)


def attention(ax: Axes) -> None:
    image = photo()
    patches = patchify(image, patch_size=PATCH)
    tokens = patches - patches.mean(dim=(1, 2), keepdim=True)
    weights = attention_weights(tokens, tokens)[0, 7 * 14 + 3]
    strength = (weights / weights.quantile(0.97)).clamp(max=1)[None, :, None]
    seen = unpatchify(strength * patches + (1 - strength) * 0.93, patch_size=PATCH, image_size=224)[0]
    show(ax, seen, (4, 12, 1, 9))
    ax.add_patch(Rectangle((4 + 3 * 8 / 14, 9 - 8 * 8 / 14), 8 / 14, 8 / 14, fill=False, color=ORANGE, linewidth=2))


def patches(ax: Axes) -> None:
    pieces = rearrange(patchify(photo(), patch_size=56), "1 n (h w c) -> n c h w", h=56, w=56)
    for n, piece in enumerate(pieces):
        row, column = divmod(n, 4)
        left, top = 3.6 + 2.2 * column, 9.3 - 2.2 * row
        show(ax, piece, (left, left + 2, top - 2, top))


def answer(ax: Axes) -> None:
    scene = scenes.captions(1, seed=11, image_size=96, noise=0)
    show(ax, scene.images[0], (5, 11, 3.4, 9.4), interpolation="nearest")
    ax.text(8, 1.6, f"“{scene.captions[0]}”", ha="center", va="center", fontsize=12, style="italic", color="0.1")


def main() -> None:
    matplotlib.use("agg")
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    drawings = (image_to_vector, no_labels, linear_map, time_axis, locality, attention, patches, answer)
    for number, draw in enumerate(drawings, start=1):
        figure = plt.figure(figsize=(3.2, 2.0), dpi=125, facecolor="white")
        ax = figure.add_axes((0, 0, 1, 1))
        draw(ax)
        ax.set(xlim=(0, 16), ylim=(0, 10))
        ax.set_axis_off()
        figure.savefig(FOLDER / f"{number}_{draw.__name__}.png")
        plt.close(figure)


if __name__ == "__main__":
    main()
