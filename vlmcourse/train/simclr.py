"""SimCLR: train an encoder on unlabelled images, with a small projection head that is thrown away afterwards."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from vlmcourse._checks import check_rank
from vlmcourse.data.augment import SIMCLR_STEPS, Step, two_views
from vlmcourse.ops.contrastive import nt_xent_loss
from vlmcourse.train.distributed import gather_embeddings
from vlmcourse.train.loop import fit
from vlmcourse.train.probe import extract_features


def train_simclr(
    encoder: nn.Module,
    images: Any,
    *,
    views: Mapping[str, Step] = SIMCLR_STEPS,
    loss: Callable[..., Tensor] = nt_xent_loss,
    temperature: float = 0.2,
    embed_dim: int = 64,
    lr: float = 4e-3,
    warmup: int | float = 0.3,
    **options: Any,
) -> tuple[nn.Sequential, pd.DataFrame]:
    """Train ``encoder`` in place without labels; return it with its projection head, and the history.

    ``loss(view1, view2, temperature=...)`` sees the head's embeddings of two random views of each image. Probe the
    encoder: the head may lose what the views change. Call ``seed_everything`` before, for the head's first weights.

    Shapes:
        images ``(n, c, h, w)``, or a dataset with ``images``, whose labels are not looked at; the encoder returns
        ``(b, d)``, the model ``(b, embed_dim)``.

    Options:
        views: the steps of :func:`~vlmcourse.data.augment.two_views`; for generated scenes ``SCENE_STEPS``. Others:
        those of :func:`~vlmcourse.train.loop.fit`. The warm-up is long: at first the loss stays at that of guessing.

    Source:
        Chen et al. 2020, algorithm 1 (arXiv 2002.05709) and its published code for the head; slide S07. Departure:
        AdamW, which serves small batches better than the paper's LARS.

    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU())
    >>> _, history = train_simclr(encoder, torch.rand(9, 3, 8, 8), steps=3)
    >>> list(history.columns), len(history)
    (['step', 'loss', 'lr', 'seconds'], 3)
    """
    images = getattr(images, "images", images)
    check_rank("images", images, "n c h w")
    with torch.compiler.set_stance("force_eager"):  # two images are not worth a compilation
        vectors = extract_features(encoder, images[:2], device="cpu")
    if vectors.ndim != 2:
        raise ValueError(f"encoder must return one vector per image, (b, d), received {tuple(vectors.shape)}")
    dtype = next((weight.dtype for weight in encoder.parameters()), vectors.dtype)
    model = nn.Sequential(encoder, _projection_head(vectors.shape[1], embed_dim).to(dtype))

    def objective(model: nn.Module, batch: Tensor) -> Tensor:
        # Both views in one pass, so that BatchNorm sees them together.
        embeddings = model(torch.cat(two_views(batch, steps=views)))
        view1, view2 = embeddings.chunk(2)
        return loss(gather_embeddings(view1), gather_embeddings(view2), temperature=temperature)

    return model, fit(model, objective, images, lr=lr, warmup=warmup, **options)


def _projection_head(width: int, embed_dim: int) -> nn.Sequential:
    # The last norm matters most: an untrained network turns all images into nearly one vector, and the loss of vectors
    # that agree has almost no slope. Centred and scaled, they differ from the first step on.
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, embed_dim, bias=False), nn.BatchNorm1d(embed_dim, affine=False),
    )  # fmt: skip
