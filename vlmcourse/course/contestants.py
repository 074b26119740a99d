"""Who is compared by ``vlmcourse bench``: our parts and those of others, with the same inputs and precision."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import vlmcourse
from vlmcourse.models.language_model import LanguageModel
from vlmcourse.models.vit import VisionTransformer
from vlmcourse.ops.attention import MultiHeadSelfAttention
from vlmcourse.ops.contrastive import nt_xent_loss
from vlmcourse.ops.convolution import Conv3d

Call = Callable[[], object]
Maker = Callable[[], Any]  # imports what it needs, and returns a module, a function or a call
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """Where a bench runs, and whether with sizes that only try the program."""

    device: torch.device
    small: bool

    def size(self, *, cpu: T, cuda: T, small: T) -> T:
        """Return the size for this setting."""
        return small if self.small else cuda if self.device.type == "cuda" else cpu

    def precision(self) -> AbstractContextManager:
        """Return the precision that networks train in: bfloat16 on a GPU, float32 elsewhere."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def random(self, *shape: int) -> Tensor:
        """Return random numbers on the device that collect gradients."""
        return torch.rand(*shape, device=self.device).requires_grad_()


@dataclass
class Bench:
    """What is compared: makers by the contestants' names, ours first."""

    what: str
    makers: Mapping[str, Maker]
    aims: Mapping[str, float] = field(default_factory=dict)  # our time over theirs, at most
    read: Sequence[Tensor] = ()  # what has to be read at least once, whatever the program
    on_cpu: bool = False  # whatever the setting

    def between(self, ours: str, aims: Mapping[str, float]) -> "Bench":
        """Return the same bench of one of ours and those that it aims at."""
        return replace(self, makers={name: self.makers[name] for name in (ours, *aims)}, aims=aims)


def theirs(name: str, *arguments: Any, **options: Any) -> Maker:
    """Return a maker of another package's class, ``"package.module.Class"``, imported only when it is made."""
    module, _, kind = name.rpartition(".")
    return lambda: getattr(import_module(module), kind)(*arguments, **options)


def prepared(
    at: Setting, makers: Mapping[str, Maker], *inputs: Tensor, backward: bool = True, autocast: bool = True
) -> dict[str, Maker]:
    """Return makers of calls of modules or functions: forward and backward, or only forward."""

    def maker(make: Maker) -> Call:
        made = make()
        made = made.to(at.device).train(backward) if isinstance(made, nn.Module) else made

        def call() -> None:
            with at.precision() if autocast else nullcontext(), torch.inference_mode(not backward):
                out = made(*inputs)
                out = out[0] if isinstance(out, tuple) else out
            if backward:
                (out if out.ndim == 0 else out.float().square().mean()).backward()

        return call

    return {name: partial(maker, make) for name, make in makers.items()}


def losses(at: Setting, n: int, chunk_size: int = 256) -> Bench:
    """Compare NT-Xent of n pairs, at once and in chunks, as three packages write it, forward and backward."""
    views = at.random(n, 128), at.random(n, 128)

    def metric_learning() -> Callable[[Tensor, Tensor], Tensor]:
        loss = theirs("pytorch_metric_learning.losses.NTXentLoss", temperature=0.2)()
        labels = torch.arange(n, device=at.device).repeat(2)
        return lambda a, b: loss(torch.cat([a, b]), labels)

    makers = {
        "vlmcourse": lambda: partial(nt_xent_loss, temperature=0.2),
        "vlmcourse in chunks": lambda: partial(nt_xent_loss, temperature=0.2, chunk_size=chunk_size),
        "lightly": theirs("lightly.loss.NTXentLoss", temperature=0.2),
        "pytorch-metric-learning": metric_learning,
    }
    what = f"nt_xent_loss, {n} pairs of 128 numbers, forward and backward; a chunk has {chunk_size}"
    return Bench(what, prepared(at, makers, *views, autocast=False), read=views)  # ours is in float32 anyway


def vits(at: Setting) -> tuple[str, Tensor, dict[str, Maker]]:
    """Return one network as four packages write it."""
    image, patch, width, depth, heads = at.size(
        cpu=(32, 4, 192, 4, 3), cuda=(224, 16, 384, 12, 6), small=(8, 4, 8, 1, 2)
    )
    images = torch.rand(at.size(cpu=16, cuda=128, small=2), 3, image, image, device=at.device)
    shared: dict[str, Any] = {"patch_size": patch, "num_classes": 10, "depth": depth}
    sizes = {**shared, "embed_dim": width, "num_heads": heads}
    their_sizes = {**shared, "dim": width, "heads": heads, "mlp_dim": 4 * width, "dim_head": width // heads}
    torchvisions = (image, patch, depth, heads, width, 4 * width)
    what = f"ViT, {depth} layers of width {width}, {len(images)} images of {image} × {image}, patches of {patch}"
    makers: dict[str, Maker] = {
        "vlmcourse": partial(VisionTransformer, image_size=image, **sizes),
        "timm": theirs("timm.models.VisionTransformer", img_size=image, **sizes),
        "torchvision": theirs("torchvision.models.VisionTransformer", *torchvisions, num_classes=10),
        "vit-pytorch": theirs("vit_pytorch.ViT", image_size=image, **their_sizes),
    }
    return what, images, makers


def vit(at: Setting, doing: str, aim: float, *, backward: bool) -> Bench:
    """Compare Vision Transformers: a training step without the optimizer, or one that only looks."""
    what, images, makers = vits(at)
    aims = dict.fromkeys(("timm", "torchvision", "vit-pytorch"), aim)
    read = (images, *makers["vlmcourse"]().parameters())
    return Bench(f"{doing} of a {what}", prepared(at, makers, images, backward=backward), aims, read)


def attentions(at: Setting) -> Bench:
    """Compare multi-head attention as three programs compute it."""
    b, n, d, heads = at.size(cpu=(16, 197, 192, 3), cuda=(128, 197, 768, 12), small=(2, 5, 8, 2))

    def torchs() -> Callable[[Tensor], tuple[Tensor, None]]:
        theirs = nn.MultiheadAttention(d, heads, batch_first=True, device=at.device)
        return lambda x: theirs(x, x, x, need_weights=False)

    layer = partial(MultiHeadSelfAttention, d, heads)
    makers: dict[str, Maker] = {f"vlmcourse {kind}": partial(layer, backend=kind) for kind in ("fused", "einops")}
    makers["torch"] = torchs
    tokens = at.random(b, n, d)
    what = f"attention, {b} sequences of {n} tokens of width {d}, {heads} heads, forward and backward"
    return Bench(what, prepared(at, makers, tokens), read=(tokens,))


def convolution(at: Setting) -> Bench:
    """Compare the readable 3D convolution with the fused one."""
    b, c_in, c_out, t, side = at.size(cpu=(8, 16, 32, 5, 20), cuda=(32, 64, 64, 16, 56), small=(1, 2, 3, 4, 5))
    clips = at.random(b, c_in, t, side, side)
    layer = partial(Conv3d, c_in, c_out, 3, padding=1)
    makers = {"vlmcourse einops": partial(layer, backend="einops"), "torch": partial(layer, backend="fused")}
    what = f"conv3d, {b} clips of {t} × {side} × {side}, {c_in} to {c_out} channels, forward and backward"
    return Bench(what, prepared(at, makers, clips), {"torch": 4.0}, (clips,))


def views(at: Setting) -> Bench:
    """Compare two random views of a batch of images."""
    images = torch.rand(at.size(cpu=64, cuda=2048, small=4), 3, 32, 32, device=at.device)

    def kornia() -> Call:
        import kornia.augmentation as K

        steps = K.AugmentationSequential(
            K.RandomResizedCrop((32, 32), scale=(0.2, 1.0)), K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), K.RandomGrayscale(p=0.2), data_keys=["input"],
        )  # fmt: skip
        return lambda: (steps(images), steps(images))

    def torchvision() -> Call:
        from torchvision.transforms import v2

        steps = v2.Compose([
            v2.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v2.RandomGrayscale(p=0.2),
        ])  # fmt: skip
        return lambda: [torch.stack([steps(image) for image in images]) for _ in range(2)]  # each its own draw

    makers = {"vlmcourse": lambda: partial(vlmcourse.two_views, images), "kornia": kornia, "torchvision": torchvision}
    what = f"two_views of {len(images)} images of 32 × 32"
    return Bench(what, makers, {"kornia": 0.5, "torchvision": 0.07}, (images,))


def probe(at: Setting) -> Bench:
    """Compare the linear probe with scikit-learn's logistic regression: the same objective, five penalties."""
    n = 200 if at.small else 2000
    pictures = vlmcourse.scenes.images(n, seed=0)
    x, labels = vlmcourse.extract_features(vlmcourse.ConvEncoder(), pictures, device=at.device), pictures.labels
    train, judge = slice(0, n // 2), slice(n // 2, n)

    def sklearn() -> None:
        from threadpoolctl import threadpool_limits

        scale = StandardScaler().fit(x[train].double().numpy())
        inputs, judged = scale.transform(x[train].double().numpy()), scale.transform(x[judge].double().numpy())
        with threadpool_limits(1, user_api="blas"):  # quicker: in products this small, threads wait for each other
            for penalty in vlmcourse.LinearProbe().penalties:
                model = LogisticRegression(C=1 / (penalty * len(inputs)), tol=1e-7, max_iter=10_000)
                model.fit(inputs, labels[train].numpy()).score(judged, labels[judge].numpy())

    def ours() -> None:
        vlmcourse.LinearProbe().fit(x[train], labels[train], x[judge], labels[judge])

    what = f"linear probe of {n // 2} vectors of a random encoder, {x.shape[1]} numbers, on the CPU, five penalties"
    makers = {"vlmcourse": lambda: ours, "scikit-learn": lambda: sklearn}
    return Bench(what, makers, {"scikit-learn": 0.1}, (x,), on_cpu=True)


def training(at: Setting) -> Bench:
    """Compare ``fit`` with a plain loop at steps so small that bookkeeping is what is measured."""
    steps = 5 if at.small else 200
    x, labels = torch.rand(512, 32), torch.arange(512) % 10

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).to(at.device)

    def cost(network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])

    def ours() -> None:
        options: dict[str, Any] = {"lr": 1e-3, "batch_size": 64, "autocast": False, "progress": False}
        vlmcourse.fit(model(), cost, (x, labels), steps=steps, device=at.device, **options)

    def plain() -> None:
        network, inputs, targets = model(), x.to(at.device), labels.to(at.device)
        weights, biases = ([p for p in network.parameters() if (p.ndim > 1) == decays] for decays in (True, False))
        groups = [{"params": weights, "weight_decay": 1e-4}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            if step % 8 == 0:
                batches = torch.randperm(512, device=at.device).split(64)
            rows = batches[step % 8]
            optimizer.zero_grad()
            cost(network, (inputs[rows], targets[rows])).backward()
            optimizer.step()
            schedule.step()

    makers = {"vlmcourse fit": lambda: ours, "plain loop": lambda: plain}
    return Bench(f"{steps} steps of a tiny network", makers, {"plain loop": 1.2}, (x,))


def generation(at: Setting) -> Bench:
    """Compare writing with and without a cache, and a GPT-2 of the same size."""
    width, depth, new, b = at.size(cpu=(128, 4, 32, 8), cuda=(768, 12, 128, 32), small=(8, 1, 3, 2))
    ids = torch.arange(b * 16).view(b, 16).to(at.device) % 500
    sizes: dict[str, Any] = {"context_length": 16 + new, "embed_dim": width, "depth": depth, "num_heads": 4}

    def ours(cached: bool) -> Call:
        model = LanguageModel(512, **sizes).to(at.device).eval()

        @torch.inference_mode()
        def call() -> None:
            cache, written, tokens = model.new_cache() if cached else None, ids, ids
            for _ in range(new):
                word = model(tokens, cache=cache)[:, -1].argmax(-1, keepdim=True)
                written = torch.cat([written, word], dim=1)
                tokens = word if cached else written

        return call

    def transformers() -> Call:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = {"n_positions": 16 + new, "n_embd": width, "n_layer": depth, "n_head": 4}
        model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=512, bos_token_id=0, eos_token_id=0, **shape))
        model.to(at.device).eval()
        options: dict[str, Any] = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
        return partial(model.generate, ids, attention_mask=torch.ones_like(ids), **options)

    makers: dict[str, Maker] = {"vlmcourse with cache": partial(ours, True), "vlmcourse without": partial(ours, False)}
    makers["transformers"] = transformers
    weights = tuple(LanguageModel(512, **sizes).parameters())
    return Bench(f"{new} words after 16, {b} texts, {depth} layers of width {width}", makers, read=weights)


def importing(at: Setting) -> Bench:
    """Compare what importing costs, each in a process of its own."""

    def importer(statement: str) -> Call:
        command = [sys.executable, "-c", statement]
        return partial(subprocess.run, command, check=True, cwd=Path(vlmcourse.__file__).parents[1])

    makers = {name: partial(importer, f"import {name}") for name in ("vlmcourse", "torch")}
    makers["vlmcourse's formulas"] = partial(importer, "from vlmcourse import patchify, nt_xent_loss")
    return Bench("import in a new process", makers, {"torch": 1.1})


MANY = {"cpu": 512, "cuda": 4096, "small": 32}
CHUNKED = {"cpu": (1024, 128), "cuda": (16_384, 1024), "small": (32, 8)}  # pairs, and those of a chunk
BENCHES: dict[str, Callable[[Setting], Bench]] = {
    # So many pairs that the similarities, and no longer the overhead, take the time.
    "loss": lambda at: losses(at, at.size(**MANY)).between("vlmcourse", {"lightly": 0.6}),
    "loss-in-chunks": lambda at: losses(at, at.size(**MANY)).between("vlmcourse in chunks", {"lightly": 0.6}),
    # Few pairs, since the memory of one contestant grows with the cube of their number.
    "small-loss": lambda at: losses(at, at.size(cpu=64, cuda=64, small=8)),
    # So many pairs that the chunks save memory.
    "chunked-loss": lambda at: losses(at, *at.size(**CHUNKED)).between("vlmcourse in chunks", {"vlmcourse": 1.3}),
    "vit-step": lambda at: vit(at, "training step", 1.0, backward=True),
    "vit-inference": lambda at: vit(at, "inference", 0.95, backward=False),
    "attention": lambda at: attentions(at).between("vlmcourse fused", {"torch": 0.95}),
    "readable-attention": lambda at: attentions(at).between("vlmcourse einops", {"vlmcourse fused": 1.1}),
    "convolution": convolution,
    "views": views,
    "probe": probe,
    "training": training,
    "generation": generation,
    "importing": importing,
}
