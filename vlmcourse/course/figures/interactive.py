"""Pictures that answer to the reader: HTML that carries its own data and needs neither kernel nor network.

Colours come from the page's theme, so the pictures follow its light and dark modes; outside the book they fall back
to plain ones. Identifiers are made from the content: the same data give the same HTML.
"""

import base64
import hashlib
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from itertools import count
from string import Template

import torch
from einops import rearrange
from torch import Tensor

from vlmcourse.course.figures.plots import COLORS
from vlmcourse.models.vlm import PROMPT, VisionLanguageModel
from vlmcourse.ops._checks import check_floating, check_rank
from vlmcourse.ops._modes import evaluating
from vlmcourse.ops.contrastive import nt_xent_loss

# A weight is stored as one byte, the square root of its share of the query's largest weight.
LEVELS = 255


def attention_picture(
    image: Tensor,
    weights: Tensor,
    *,
    grid_size: tuple[int, int],
    label: str,
    names: Sequence[str] | None = None,
    layer: int | None = None,
    head: int | None = None,
    start: tuple[int, int] | None = None,
) -> str:
    """Return HTML in which a reader points at a patch and sees what it attends to, layer by layer and head by head.

    Point with a mouse, tap, or move with the arrow keys. Patches with small weights fade into the page.

    Shapes:
        image ``(1 or 3, h, w)``, weights ``(depth, num_heads, n, n)`` with ``n = grid_size[0] * grid_size[1]`` patches
        in row-major order, as ``VisionTransformer.attention_maps`` gives them for one image without a class token.

    Units:
        image from 0 to 1. ``label`` describes the picture in words to those who do not see it.

    Options:
        names: what to call the layers, in place of their numbers; so one picture can show several networks.
        layer, head, start: what is shown first, counted from 0, ``start`` as (row, column) of the patch that asks;
        without them the last layer, the mean of its heads, and the middle.

    Raises:
        ValueError: weights that do not fit the grid or are negative, an empty ``label``, names that are not one for
            each layer, or a layer, head or patch that is not there.
        TypeError: an image or weights that are not floating point.

    Source:
        Slides S23 and S24.

    >>> weights = torch.full((2, 3, 4, 4), 0.25)  # two layers, three heads, four patches
    >>> picture = attention_picture(torch.rand(3, 8, 8), weights, grid_size=(2, 2), label="four grey squares")
    >>> picture.count("<option"), "http" in picture
    (6, False)
    """
    check_rank("image", image, "c h w")
    check_floating("image", image)
    check_rank("weights", weights, "depth head i j")
    check_floating("weights", weights)
    rows, columns = grid_size
    depth, heads, n = weights.shape[:3]
    if weights.shape[2:] != (rows * columns,) * 2:
        raise ValueError(
            f"weights must have shape (depth, num_heads, n, n) with n = {rows} × {columns} patches of grid_size, "
            f"received {tuple(weights.shape)}; leave a class token out with weights[:, :, 1:, 1:]"
        )
    if not (weights >= 0).all():
        raise ValueError(f"weights must not be negative, received values from {weights.min():.3g}")
    if not label.strip():
        raise ValueError("label must describe the picture for readers who do not see it, received none")
    weights = weights.detach().cpu().double()  # Apple's GPUs have no float64
    levels = (LEVELS * (weights / weights.amax(dim=-1, keepdim=True).clamp(min=1e-30)).sqrt()).round().to(torch.uint8)
    layer = depth - 1 if layer is None else layer
    row, column = (rows // 2, columns // 2) if start is None else start
    if names is not None and len(names) != depth:
        raise ValueError(f"names must be one for each of {depth} layers, received {list(names)}")
    if not (0 <= layer < depth and (head is None or 0 <= head < heads) and 0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"layer, head and start must lie within {depth} layers, {heads} heads and {rows} × {columns} patches, "
            f"received {layer}, {head} and {(row, column)}"
        )
    query = row * columns + column
    content = {
        "rows": rows,
        "columns": columns,
        "heads": heads,
        "start": query,
        "weights": base64.b64encode(levels.numpy().tobytes()).decode(),
    }
    photo = _jpeg(image)
    name = (
        "attention-"
        + hashlib.sha256(json.dumps([content, photo, label, names and list(names), layer, head]).encode()).hexdigest()[
            :10
        ]
    )
    chosen = weights[layer, :, query]  # shown before the first move
    first = chosen.mean(dim=0) if head is None else chosen[head]
    light = (first / first.max()).sqrt().tolist()
    tiles = [f'<i class="{"query" * (k == query)}" style="opacity:{1 - light[k]:.2f}"></i>' for k in range(n)]
    return _ATTENTION.substitute(
        name=name,
        label=html.escape(label, quote=True),
        photo=photo,
        veil="".join(tiles),
        columns=columns,
        rows=rows,
        which="Layer" if names is None else "Shown",
        no_layers=" hidden" * (depth == 1),
        no_heads=" hidden" * (heads == 1),
        layers="".join(_option(k, k == layer, str(k + 1) if names is None else names[k]) for k in range(depth)),
        heads=_option(-1, head is None, "mean") + "".join(_option(k, k == head, str(k + 1)) for k in range(heads)),
        content=json.dumps(content),
    )


def _option(value: int, selected: bool, shown: str) -> str:
    return f'<option value="{value}"{" selected" * selected}>{html.escape(shown)}</option>'


def path_picture(
    model: VisionLanguageModel, image: Tensor, *, prompt: str = PROMPT, links: Mapping[str, str] | None = None
) -> str:
    """Return HTML that follows one image through the model, with the shapes that it really takes on the way.

    What is computed stands on cards, the parts that compute it between them, with their numbers of weights. A feature
    map is shown by its three main components as red, green and blue, and tokens as a matrix, one a row.

    Shapes:
        image ``(3, h, w)``, from 0 to 1.

    Options:
        links: where a click on a part leads: addresses for ``"encoder"``, ``"connector"`` and ``"language_model"``.

    Raises:
        ValueError: an image or a prompt that the model does not accept.

    Source:
        Slide S03.

    >>> from vlmcourse import Connector, ConvEncoder, LanguageModel, Tokenizer
    >>> words = Tokenizer.from_texts([PROMPT])
    >>> parts = ConvEncoder(width=3), Connector(12, 6, grid_size=3), LanguageModel(len(words), embed_dim=6, num_heads=2)
    >>> picture = path_picture(VisionLanguageModel(*parts, words), torch.rand(3, 12, 12), links={"encoder": "#encoder"})
    >>> "12 × 3 × 3" in picture, "9 × 6" in picture, picture.count("<a ")
    (True, True, 1)
    """
    check_rank("image", image, "c h w")
    links = links or {}
    with torch.no_grad(), evaluating(model):
        features = model.features(image[None])
        tokens = model.connector(features)[0]
        (answer,) = model.generate(image[None], prompt=prompt)
    features = features[0] if features.ndim == 4 else rearrange(features, "1 n d -> d 1 n")

    numbers = count(1)

    def card(name: str, shape: str, shown: str) -> str:
        return f'<li class="stage"><span>{shown}</span><b>{next(numbers)}. {name}</b>{shape}</li>'

    def part(name: str, work: str) -> str:
        title = html.escape(name.replace("_", " "))
        title = f'<a href="{html.escape(links[name], quote=True)}">{title}</a>' if name in links else title
        weights = sum(parameter.numel() for parameter in getattr(model, name).parameters())
        return f'<li class="work"><b>{title}</b>{work}<br>{weights:,} weights<span aria-hidden="true">→</span></li>'

    words = model.tokenizer.encode(prompt)
    length = len(words) + prompt.count("<image>") * (model.connector.num_tokens - 1)
    asked = html.escape(prompt).replace(
        "&lt;image&gt;",
        f"<span>{_pixels(image, 'the picture', height='1.8rem')} × {model.connector.num_tokens}</span>",
    )
    said = "".join(f"<mark>{html.escape(word)}</mark> " for word in answer.words)
    steps = [
        card("pixels", _sizes(image), _pixels(image, "the picture")),
        part("encoder", "sees"),
        card("feature map", _sizes(features), _pixels(_main_colors(features), "its feature map in false colours")),
        part("connector", "translates"),
        card("image tokens", _sizes(tokens), _pixels(_to_unit(tokens)[None], "the image tokens as a matrix")),
        '<li class="work">take the place of &lt;image&gt;<span aria-hidden="true">→</span></li>',
        card("prompt", f"{length} tokens × {tokens.shape[1]}", f"<q>{asked}</q>"),
        part("language_model", "reads and writes"),
        card("answer", f"{len(answer.words)} words, one at a time", f"<q>{said}</q>"),
    ]
    return f'<ol class="path-picture" aria-label="From pixels to words">{_PATH_STYLE}{"".join(steps)}</ol>'


def _sizes(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def _to_unit(values: Tensor) -> Tensor:
    """Stretch the middle ninety-eight hundredths of the values to the range from 0 to 1."""
    low, high = values.float().quantile(torch.tensor([0.01, 0.99], device=values.device))
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _main_colors(features: Tensor) -> Tensor:
    """Return a map's three main components as an image, ``(c, h, w)`` → ``(3, h, w)``."""
    vectors = rearrange(features, "c h w -> (h w) c")
    _, _, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    main = rearrange(vectors @ directions[:3].T, "(h w) c -> c h w", h=features.shape[1])
    return torch.stack([_to_unit(component) for component in main])


def _pixels(image: Tensor, alt: str, *, height: str = "6.5rem") -> str:
    """Return an image tag whose pixels stay squares however large it is shown."""
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image.detach().float().cpu().clamp(0, 1)).save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    # On the tag itself: the book's own rules for pictures in outputs, such as a white card in dark mode, are strong.
    style = f"height: {height}; width: auto; max-width: 8rem; padding: 0; border-radius: 0; background: none"
    return f'<img alt="{alt}" style="{style}; image-rendering: pixelated" src="data:image/png;base64,{content}">'


_PATH_STYLE = """<style>
.path-picture { display: flex; flex-wrap: wrap; gap: .6rem; padding: .25rem; margin: 0 0 1rem; list-style: none;
  color: var(--pst-color-text-base, CanvasText); background: var(--pst-color-background, Canvas); font-size: .85rem; }
.path-picture li { display: flex; flex-direction: column; justify-content: center; text-align: center; margin: 0;
  max-width: 12rem; }
.path-picture .stage { border: 1px solid var(--pst-color-border, GrayText); border-radius: .4rem; padding: .5rem; }
.path-picture .work span { font-size: 1.4rem; line-height: 1; }
.path-picture a { color: var(--pst-color-link, LinkText); }
.path-picture q { quotes: none; } .path-picture q span { white-space: nowrap; }
.path-picture q img { vertical-align: middle; }
.path-picture mark { color: inherit; background: var(--pst-color-surface, Field); border-radius: .2rem;
  padding: 0 .2rem; }
</style>"""


def _jpeg(image: Tensor) -> str:
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1)).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


_ATTENTION = Template("""\
<figure id="$name" class="attention-picture">
<style>
#$name { --veil: var(--pst-color-background, Canvas); --text: var(--pst-color-text-base, CanvasText);
  display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1rem; padding: .25rem;
  color: var(--text); background: var(--veil); }
#$name .photo { position: relative; flex: 1 1 16rem; max-width: 24rem; aspect-ratio: $columns / $rows; display: grid;
  grid-template: repeat($rows, 1fr) / repeat($columns, 1fr);
  background: url("data:image/jpeg;base64,$photo") 0 / 100% 100%;
  cursor: crosshair; touch-action: manipulation; user-select: none; }
#$name .photo:focus-visible { outline: 3px solid var(--pst-color-primary, Highlight); outline-offset: 3px; }
#$name i { background: var(--veil); transition: opacity .1s; }
#$name i.query { background: none; opacity: 1 !important; box-shadow: 0 0 0 2px #000, 0 0 0 4px #fff; z-index: 1; }
#$name .controls { flex: 1 1 12rem; font-size: .9rem; color: var(--text); text-align: start; }
#$name select { font: inherit; color: var(--text); background: var(--pst-color-surface, Field);
  border: 1px solid var(--pst-color-border, GrayText); border-radius: .3rem;
  padding: .15rem .4rem; margin: 0 .8rem .6rem .3rem; }
#$name p { margin: 0 0 .6rem; }
@media (prefers-reduced-motion: reduce) { #$name i { transition: none; } }
</style>
<div class="photo" tabindex="0" role="application" aria-label="$label" aria-describedby="$name-help">$veil</div>
<figcaption class="controls">
<label$no_layers>$which<select class="layer">$layers</select></label>
<label$no_heads>Head<select class="head">$heads</select></label>
<p id="$name-help">Point at a patch or tap it. With the keyboard: the arrow keys move, Home goes back to the first.</p>
<p class="says" aria-live="polite"></p>
<noscript><p>Without scripts, this shows one patch.</p></noscript>
</figcaption>
<script>
(() => {
  const data = $content, figure = document.getElementById("$name");
  const levels = Uint8Array.from(atob(data.weights), c => c.charCodeAt(0));
  const [photo, layer, head, says] = [".photo", ".layer", ".head", ".says"].map(part => figure.querySelector(part));
  const n = data.rows * data.columns, tiles = photo.children;
  let query = data.start;
  const place = k => `row $${Math.floor(k / data.columns) + 1}, column $${k % data.columns + 1}`;
  const shares = h => {
    const from = ((+layer.value * data.heads + h) * n + query) * n;
    const weights = Array.from(levels.subarray(from, from + n), level => level * level);
    const sum = weights.reduce((a, b) => a + b, 0) || 1;
    return weights.map(w => w / sum);
  };
  const show = () => {
    const chosen = +head.value < 0 ? [...Array(data.heads).keys()] : [+head.value];
    const each = chosen.map(shares), mean = each[0].map((_, k) => each.reduce((a, s) => a + s[k], 0) / each.length);
    const largest = Math.max(...mean), most = mean.indexOf(largest);
    mean.forEach((w, k) => {
      tiles[k].style.opacity = (1 - Math.sqrt(w / largest)).toFixed(2);
      tiles[k].className = k === query ? "query" : "";
    });
    says.textContent = `The patch in $${place(query)} attends most to ` +
      (most === query ? "itself" : `$${place(most)}`) + `: $${Math.round(100 * largest)} % of its attention.`;
  };
  const point = event => {
    const box = photo.getBoundingClientRect();
    const clamp = (x, size) => Math.min(size - 1, Math.max(0, Math.floor(x * size)));
    query = clamp((event.clientY - box.top) / box.height, data.rows) * data.columns
      + clamp((event.clientX - box.left) / box.width, data.columns);
    show();
  };
  photo.addEventListener("pointermove", event => event.pointerType === "mouse" && point(event));
  photo.addEventListener("pointerdown", point);
  photo.addEventListener("keydown", event => {
    const row = Math.floor(query / data.columns), column = query % data.columns;
    const moves = {ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1], Home: [Math.floor(data.start / data.columns), data.start % data.columns]};
    const to = moves[event.key];
    if (!to) return;
    event.preventDefault();
    if (to[0] < 0 || to[1] < 0 || to[0] >= data.rows || to[1] >= data.columns) return;
    query = to[0] * data.columns + to[1];
    show();
  });
  layer.addEventListener("change", show);
  head.addEventListener("change", show);
  show();
})();
</script>
</figure>
""")


ARROW = 0.35  # length of an arrow, in radii, for a gradient of one over the temperature in a view's own term


def contrastive_circle(angles: Tensor, *, temperature: float = 0.2, label: str) -> str:
    """Return HTML in which a reader drags embeddings round the unit circle and watches a loss and its gradient.

    Drag with a mouse or a finger, or move with the arrow keys. Arrows point where gradient descent would move a view;
    their length is the gradient times the temperature. A slider turns the temperature, a switch chooses between
    NT-Xent and the slide's loss, with each view the anchor once and all views of other images its negatives.

    Shapes:
        angles ``(2, n)``, the two views of 2 to 6 images.

    Units:
        angles in radians, counted from the right against the clock. temperature from 0.05 to 1, the slider's range.
        ``label`` describes the picture in words to those who do not see it.

    Raises:
        ValueError: angles of another shape or not finite, a temperature off the slider, or an empty ``label``.
        TypeError: angles that are not floating point.

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
    if not label.strip():
        raise ValueError("label must describe the picture for readers who do not see it, received none")
    start = [round(angle, 3) for angle in angles.flatten().tolist()]
    n = angles.shape[1]
    turned = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    points = torch.stack([turned.cos(), turned.sin()], dim=1)
    loss = nt_xent_loss(points[:n], points[n:], temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, turned)
    logits = (points @ points.T).detach().fill_diagonal_(-math.inf) / temperature
    sure = logits.softmax(dim=1)[range(2 * n), [*range(n, 2 * n), *range(n)]].mean().item()
    content = {"start": start, "arrow": ARROW}
    name = "contrastive-" + hashlib.sha256(json.dumps([content, temperature, label]).encode()).hexdigest()[:10]
    views, arrows, pairs = [], [], []
    for k, angle in enumerate(start):
        letter = "ABCDEF"[k % n] if k < n else "abcdef"[k % n]
        move = -ARROW * 2 * n * temperature * gradient[k].item()
        x, y = points[k, 0].item(), -points[k, 1].item()
        tip = x - move * points[k, 1].item(), y - move * points[k, 0].item()
        arrows.append(
            f'<line class="arrow" x1="{x:.3f}" y1="{y:.3f}" x2="{tip[0]:.3f}" y2="{tip[1]:.3f}" '
            f'marker-end="url(#{name}-tip)"/>'
        )
        views.append(
            f'<g class="view" tabindex="0" role="slider" aria-label="view {1 + k // n} of image {"ABCDEF"[k % n]}" '
            f'aria-valuemin="0" aria-valuemax="359" aria-valuenow="{round(math.degrees(angle)) % 360}" '
            f'aria-valuetext="{round(math.degrees(angle)) % 360} degrees" '
            f'transform="translate({x:.3f} {y:.3f})" style="stroke: {COLORS[k % n]}">'
            f'<circle r="0.1"/><text dy="0.045">{letter}</text></g>'
        )
    for k in range(n):
        (x1, y1), (x2, y2) = points[k].tolist(), points[k + n].tolist()
        pairs.append(
            f'<line class="pair" x1="{x1:.3f}" y1="{-y1:.3f}" x2="{x2:.3f}" y2="{-y2:.3f}" '
            f'style="stroke: {COLORS[k]}"/>'
        )
    return _CIRCLE.substitute(
        name=name,
        label=html.escape(label, quote=True),
        lines="".join(pairs + arrows),
        views="".join(views),
        temperature=temperature,
        loss=f"{loss.item():.2f}",
        sure=f"{100 * sure:.0f}",
        guessing=f"{math.log(2 * n - 1):.2f}",
        others=2 * n - 1,
        content=json.dumps(content),
    )


_CIRCLE = Template("""\
<figure id="$name" class="contrastive-circle">
<style>
#$name { --veil: var(--pst-color-background, Canvas); --text: var(--pst-color-text-base, CanvasText);
  display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1rem; padding: .25rem;
  color: var(--text); background: var(--veil); }
#$name svg { flex: 1 1 16rem; max-width: 24rem; user-select: none; }
#$name .rim { fill: none; stroke: var(--pst-color-border, GrayText); stroke-width: .01; }
#$name .pair { stroke-width: .015; stroke-dasharray: .04 .03; }
#$name .arrow { stroke: var(--text); stroke-width: .025; }
#$name marker path { fill: var(--text); }
#$name .view { cursor: grab; stroke-width: .04; }
#$name .view * { touch-action: none; }  /* on what a finger touches: a group has no touch-action of its own */
#$name .view circle { fill: var(--veil); }
#$name .view text { fill: var(--text); stroke: none; font: bold .13px sans-serif; text-anchor: middle; }
#$name .view:focus { outline: none; }
#$name .view:focus-visible circle { stroke-width: .08; }
#$name .controls { flex: 1 1 12rem; font-size: .9rem; color: var(--text); text-align: start; }
#$name input { vertical-align: middle; width: 9rem; margin: 0 .4rem; accent-color: var(--pst-color-primary, auto); }
#$name select, #$name button { font: inherit; color: var(--text); background: var(--pst-color-surface, ButtonFace);
  border: 1px solid var(--pst-color-border, GrayText); border-radius: .3rem; padding: .15rem .6rem;
  margin: 0 .4rem .6rem 0; }
#$name p { margin: 0 0 .6rem; }
</style>
<svg viewBox="-1.4 -1.4 2.8 2.8" role="group" aria-label="$label" aria-describedby="$name-help">
<defs><marker id="$name-tip" viewBox="0 0 6 6" refX="3" refY="3" markerWidth="4" markerHeight="4" orient="auto">
<path d="M0 0 6 3 0 6z"/></marker></defs>
<circle class="rim" r="1"/>$lines$views
</svg>
<figcaption class="controls">
<p><label>Loss <select class="which"><option value="nt-xent" selected>NT-Xent</option>
<option value="slide">the slide's</option></select></label></p>
<p><label>Temperature
<input class="temperature" type="range" min="0.05" max="1" step="0.05" value="$temperature"/></label>
<output class="shown">$temperature</output></p>
<button type="button" class="step">one step</button><button type="button" class="many">100 steps</button
><button type="button" class="reset">start again</button>
<p id="$name-help">Large and small letters are the two views of one image. Drag them round the circle. With the
keyboard: Tab chooses a view, the arrow keys turn it, Home puts it back.</p>
<p class="says" aria-live="polite">Loss $loss. Guessing among $others costs $guessing. A partner gets $sure % of the
softmax.</p>
<noscript><p>Without scripts, this shows the start.</p></noscript>
</figcaption>
<script>
(() => {
  const data = $content, figure = document.getElementById("$name"), count = data.start.length, n = count / 2;
  const svg = figure.querySelector("svg"), [views, arrows, pairs] =
    [".view", ".arrow", ".pair"].map(part => [...figure.querySelectorAll(part)]);
  const [which, slider, shown, says] =
    [".which", ".temperature", ".shown", ".says"].map(part => figure.querySelector(part));
  let angles = [...data.start];
  const measure = () => {
    const tau = +slider.value, slide = which.value === "slide", gradient = Array(count).fill(0);
    let loss = 0, sure = 0;
    for (let i = 0; i < count; i++) {
      const partner = (i + n) % count, logits = angles.map(a => Math.cos(angles[i] - a) / tau);
      const candidate = j => j !== i && !(slide && j === partner);  // nobody is their own candidate
      const others = logits.filter((_, j) => candidate(j)), most = Math.max(...others);
      const sum = others.reduce((total, logit) => total + Math.exp(logit - most), 0);
      const average = slide ? Math.log(others.length) : 0;  // the slide has the mean where NT-Xent has the sum
      loss += (most + Math.log(sum) - average - logits[partner]) / count;
      sure += Math.exp(logits[partner] - most) / sum / count;
      for (let j = 0; j < count; j++) {
        if (j === i) continue;
        const slope = (candidate(j) ? Math.exp(logits[j] - most) / sum : 0) - (j === partner);
        const turn = -Math.sin(angles[i] - angles[j]) * slope / tau / count;
        gradient[i] += turn;
        gradient[j] -= turn;
      }
    }
    return {loss, gradient, tau, slide, sure};
  };
  const place = (line, values) => ["x1", "y1", "x2", "y2"].forEach((side, k) => line.setAttribute(side, values[k]));
  const show = () => {
    const {loss, gradient, tau, slide, sure} = measure();
    angles.forEach((angle, k) => {
      const [x, y] = [Math.cos(angle), -Math.sin(angle)], move = -data.arrow * count * tau * gradient[k];
      views[k].setAttribute("transform", `translate($${x} $${y})`);
      const degrees = (Math.round(angle * 180 / Math.PI) % 360 + 360) % 360;
      views[k].setAttribute("aria-valuenow", degrees);
      views[k].setAttribute("aria-valuetext", `$${degrees} degrees`);
      place(arrows[k], [x, y, x + move * y, y - move * x]);
      if (k < n) place(pairs[k], [x, y, Math.cos(angles[k + n]), -Math.sin(angles[k + n])]);
    });
    shown.textContent = tau;
    figure.dataset.loss = loss;
    figure.dataset.gradient = JSON.stringify(gradient);
    says.textContent = `Loss $${loss.toFixed(2)}. ` + (slide ? "Where all views are alike it is 0." :
      `Guessing among $others costs $guessing. A partner gets $${(100 * sure).toFixed(0)} % of the softmax.`);
  };
  const descend = steps => {
    for (let k = 0; k < steps; k++) {
      const {gradient, tau} = measure();
      angles = angles.map((angle, k) => angle - 0.1 * count * tau * gradient[k]);
    }
    show();
  };
  views.forEach((view, k) => {
    view.addEventListener("pointerdown", event => { view.setPointerCapture(event.pointerId); view.focus(); });
    view.addEventListener("pointermove", event => {
      if (!view.hasPointerCapture(event.pointerId)) return;
      const box = svg.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
      angles[k] = Math.atan2(-y, x);
      show();
    });
    view.addEventListener("keydown", event => {
      const turn = {ArrowLeft: 1, ArrowUp: 1, ArrowRight: -1, ArrowDown: -1}[event.key];
      if (!turn && event.key !== "Home") return;
      event.preventDefault();
      angles[k] = turn ? angles[k] + turn * Math.PI / 36 : data.start[k];
      show();
    });
  });
  which.addEventListener("change", show);
  slider.addEventListener("input", show);
  figure.querySelector(".step").addEventListener("click", () => descend(1));
  figure.querySelector(".many").addEventListener("click", () => descend(100));
  figure.querySelector(".reset").addEventListener("click", () => { angles = [...data.start]; show(); });
  show();
})();
</script>
</figure>
""")
