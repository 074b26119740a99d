"""Draw the cards of the landing page with the course's own code: make landing.

A small drawing for each chapter goes into book/_static/landing. They are committed, so that a build draws nothing.
"""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlmcourse import attention_weights, load_dataset, patchify, receptive_field, scenes, shipped_vlm, unpatchify
from vlmcourse.course.figures.forced_word import shapes_after
from vlmcourse.course.figures.style import HUES
from vlmcourse.data.questions import ENDING, TEMPLATES
from vlmcourse.models.vlm import VisionLanguageModel
from vlmcourse.train import vlm

BOOK = Path(__file__).resolve().parents[1]
FOLDER = BOOK / "_static" / "landing"
ORANGE, BLUE, GREEN, PURPLE = (HUES[name] for name in ("vermillion", "blue", "green", "pink"))
PATCH = 16
INK = "#808080"  # on white and on black


def photo() -> torch.Tensor:
    """Return the photograph that several cards show."""
    return F.interpolate(load_dataset("photos").float()[:1], size=(224, 224), mode="area")


def show(ax: Axes, image: torch.Tensor, extent: tuple[float, float, float, float], **options: Any) -> None:
    """Draw an image where ``extent`` says."""
    ax.imshow(rearrange(image.clamp(0, 1), "c h w -> h w c"), extent=extent, aspect="auto", **options)


def question(ax: Axes) -> None:
    """Draw what chapter 1 is about: a picture and a question."""
    scene = scenes.captions(1, seed=11, image_size=96, noise=0)
    show(ax, scene.images[0], (1.2, 7.8, 1.7, 8.3), interpolation="nearest")
    bubble = {"boxstyle": "round,pad=0.5", "facecolor": "none", "edgecolor": BLUE, "linewidth": 2}
    ax.text(11.9, 5, "What is\nin this\nimage?", ha="center", va="center", fontsize=12, color=INK, bbox=bubble)


def image_to_vector(ax: Axes) -> None:
    """Draw what chapter 2 is about: a picture becomes numbers."""
    scene = scenes.images(1, seed=5, image_size=96, noise=0).images[0]
    show(ax, scene, (1.8, 7.8, 2, 8), interpolation="nearest")
    ax.annotate("", (10.8, 5), (8.5, 5), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 2})
    ax.imshow(torch.rand(8, 1), extent=(11.6, 12.8, 1, 9), cmap="viridis", aspect="auto")


def no_labels(ax: Axes) -> None:
    """Draw what chapter 3 is about: pairs on a circle."""
    angles = torch.linspace(0, 2 * torch.pi, 200)
    ax.plot(8 + 4 * angles.cos(), 5 + 4 * angles.sin(), color=INK)
    for start, color in zip((0.5, 2.1, 3.6, 5.3), (ORANGE, BLUE, GREEN, PURPLE), strict=True):
        pair = torch.tensor([start, start + 0.28])
        ax.plot(8 + 4 * pair.cos(), 5 + 4 * pair.sin(), "o-", color=color, markersize=9, linewidth=3)


def linear_map(ax: Axes) -> None:
    """Draw what chapter 4 is about: a line between two classes."""
    for centre, color, marker in (((5, 3.6), BLUE, "o"), ((11, 6.4), ORANGE, "s")):
        x, y = (torch.randn(2, 22) * torch.tensor([[1.3], [1.0]]) + torch.tensor(centre)[:, None]).unbind()
        ax.plot(x, y.clamp(0.8, 9.2), marker, color=color, markersize=5, alpha=0.85)
    ax.plot([9.6, 6.2], [0.6, 9.4], color=INK, linewidth=2.5)


def time_axis(ax: Axes) -> None:
    """Draw what chapter 5 is about: frames behind one another."""
    films = scenes.clips(40, seed=3, classes=["down right"], channels=3, noise=0)
    inside = ((films.positions[:, :1] >= 0) & (films.positions[:, :1] <= 3)).all(dim=(1, 2))
    clip = films.clips[inside][0]
    for k, t in enumerate((0, 1, 2, 3)):
        left, bottom = 1.0 + 2.6 * k, 3.4 - 0.8 * k
        show(ax, clip[:, t], (left, left + 5.2, bottom, bottom + 5.2), interpolation="nearest", zorder=2 * k)
        ax.add_patch(Rectangle((left, bottom), 5.2, 5.2, fill=False, color="white", zorder=2 * k + 1))


def locality(ax: Axes) -> None:
    """Draw what chapter 6 is about: how far a convolution sees."""
    layers = [torch.nn.Conv2d(1 if k == 0 else 8, 8, 3, padding=1) for k in range(4)]
    field = receptive_field(torch.nn.Sequential(*layers), torch.randn(32, 1, 25, 25)).sqrt()
    ax.imshow(field, extent=(4, 12, 1, 9), cmap="magma", aspect="auto")
    ax.plot(11.2, 8.2, "*", color=ORANGE, markersize=14)


def attention(ax: Axes) -> None:
    """Draw what chapter 7 is about: where a patch looks."""
    image = photo()
    patches = patchify(image, patch_size=PATCH)
    tokens = patches - patches.mean(dim=(1, 2), keepdim=True)
    weights = attention_weights(tokens, tokens)[0, 7 * 14 + 3]
    strength = (weights / weights.quantile(0.97)).clamp(max=1)[None, :, None]
    seen = unpatchify(strength * patches + (1 - strength) * 0.6, patch_size=PATCH, image_size=224)[0]
    show(ax, seen, (4, 12, 1, 9))
    ax.add_patch(Rectangle((4 + 3 * 8 / 14, 9 - 8 * 8 / 14), 8 / 14, 8 / 14, fill=False, color=ORANGE, linewidth=2))


def patches(ax: Axes) -> None:
    """Draw what chapter 8 is about: a picture cut into patches."""
    pieces = rearrange(patchify(photo(), patch_size=56), "1 n (h w c) -> n c h w", h=56, w=56)
    for n, piece in enumerate(pieces):
        row, column = divmod(n, 4)
        left, top = 3.6 + 2.2 * column, 9.3 - 2.2 * row
        show(ax, piece, (left, left + 2, top - 2, top))


def next_word(ax: Axes) -> None:
    """Draw what chapter 9 is about: the words that may come next."""
    model: VisionLanguageModel = shipped_vlm()[0]
    scene = scenes.captions(1, seed=3, only=[("red", "circle")])
    begun = f"{TEMPLATES['describe'][0]}{ENDING} a {scene.objects[0][0].size} red"
    chances = shapes_after(model, [begun], scene.images, shapes=vlm.SHAPES)[0, :-1]
    order = chances.argsort(descending=True)[:4].tolist()
    ax.text(6.6, 5, "a red …", ha="right", va="center", fontsize=13, color=INK)
    for row, k in enumerate(order):
        y = 8 - 2 * row
        ax.text(7.2, y, vlm.SHAPES[k], va="center", fontsize=11, color=INK)
        ax.barh(y, max(3 * chances[k].item(), 0.05), left=12, height=0.9, color=ORANGE)


def answer(ax: Axes) -> None:
    """Draw what chapter 10 is about: a picture and what a model says of it."""
    scene = scenes.captions(1, seed=11, image_size=96, noise=0)
    show(ax, scene.images[0], (5, 11, 3.4, 9.4), interpolation="nearest")
    ax.text(8, 1.6, f"“{scene.captions[0]}”", ha="center", va="center", fontsize=12, style="italic", color=INK)


DRAWINGS = (
    question, image_to_vector, no_labels, linear_map, time_axis, locality, attention, patches, next_word, answer
)  # fmt: skip


def main() -> None:
    """Draw every card."""
    matplotlib.use("agg")
    FOLDER.mkdir(exist_ok=True)
    for chapter, draw in enumerate(DRAWINGS, start=1):
        torch.manual_seed(0)
        figure = plt.figure(figsize=(3.2, 2.0), dpi=125)
        ax = figure.add_axes((0, 0, 1, 1))
        draw(ax)
        ax.set(xlim=(0, 16), ylim=(0, 10))
        ax.set_axis_off()
        figure.savefig(FOLDER / f"{chapter:02}_{draw.__name__}.png", transparent=True, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
