"""Rounding products in float32 has the effect of training in bfloat16, so chapters tried with it say something."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import rounded_products
import torch
import torch.nn.functional as F
from torch import nn

from vlmcourse import ConvEncoder, VisionTransformer
from vlmcourse._precision import no_autocast

CHAPTERS = sorted((Path(__file__).parents[1] / "lectures").glob("[01]*.ipynb"))


def gradient(model, context):
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    with context:
        loss = F.cross_entropy(model(images).float(), torch.arange(16) % 5)
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("kind", ["transformer", "convolutions"])
def test_gradients_are_as_far_from_float32_as_with_autocast(kind):
    torch.manual_seed(0)
    if kind == "transformer":
        model = VisionTransformer(image_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=5)
    else:
        encoder = ConvEncoder(width=8)
        model = nn.Sequential(encoder, nn.Linear(encoder.embed_dim, 5))
    exact = gradient(model, nullcontext())
    real = gradient(model, torch.autocast("cpu", torch.bfloat16))
    ours = gradient(model, rounded_products.RoundingAutocast("cpu", torch.bfloat16))
    assert 0.5 < (ours - exact).norm() / (real - exact).norm() < 1.5
    assert (ours - real).norm() < (real - exact).norm(), "most of the error is the very same"


def test_what_is_kept_from_autocast_is_not_rounded(monkeypatch):
    monkeypatch.setattr(torch, "autocast", rounded_products.RoundingAutocast)
    a, b = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        with no_autocast(a):
            inside = a @ b
        after = a @ b
        double = a.double() @ b.double()
    assert torch.equal(inside, a @ b)
    assert torch.equal(after, after.bfloat16().float())
    assert not torch.equal(after, a @ b)
    assert torch.equal(double, a.double() @ b.double())
    assert not rounded_products.RoundingAutocast.on


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.environ.get("CHAPTERS_IN_BFLOAT16"), reason="set CHAPTERS_IN_BFLOAT16=1")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_runs_in_bfloat16(chapter):
    command = [sys.executable, rounded_products.__file__, str(chapter)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-6000:]
