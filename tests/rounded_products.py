"""Training in bfloat16 on a CPU that has no instructions for it: products are rounded as autocast rounds them.

GPUs and newer CPUs train in bfloat16. Other CPUs take far too long for a chapter. So linear layers, convolutions,
matrix products and attention are computed in float32 here, from operands rounded to bfloat16; results and gradients
are rounded too. Sums and activations between two products stay in float32, where autocast would round them once more.

    python tests/rounded_products.py lectures/05_video.ipynb    executes chapters so, and prints what fails

Every training with ``autocast`` is rounded, also the language model's, which trains in float32 on a CPU otherwise.
"""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import strict_device
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor
PRODUCTS = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.scaled_dot_product_attention, torch.einsum}
PRODUCTS |= {torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm}
PRODUCTS |= {Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm}


class _Rounded(torch.autograd.Function):
    """A tensor rounded to bfloat16, and its gradient too."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.bfloat16().float()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.bfloat16().float()


def rounded(value):
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, Tensor) and value.dtype == torch.float32:  # float64 stays, as under autocast
        return _Rounded.apply(value)
    return value


class _Rounding(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in PRODUCTS or not RoundingAutocast.on:
            return func(*args, **kwargs)
        operands, rest = (args[:3], args[3:]) if func is F.scaled_dot_product_attention else (args, ())  # rest: a mask
        return rounded(func(*map(rounded, operands), *rest, **kwargs))


class RoundingAutocast(contextlib.ContextDecorator):
    """Stands in for ``torch.autocast``."""

    on = False  # here and now

    def __init__(self, device_type, dtype=torch.bfloat16, enabled=True, cache_enabled=None):
        assert device_type == "cpu", device_type
        assert dtype == torch.bfloat16 or not enabled, dtype
        self.enabled, self.entered = enabled, []

    def __enter__(self):
        self.entered.append((RoundingAutocast.on, _Rounding().__enter__()))
        RoundingAutocast.on = self.enabled
        return self

    def __exit__(self, *error):
        RoundingAutocast.on, mode = self.entered.pop()
        mode.__exit__(*error)


def train_rounded():
    """Let whatever trains with ``autocast`` in this process train so, whether the CPU has bfloat16 or not."""
    from vlmcourse.train import _surroundings, vlm

    def fit(*args, autocast=True, **options):
        return fit_as_asked(*args, autocast=True, **options)

    fit_as_asked, vlm.fit = vlm.fit, fit  # the stages of a VLM train in float32 on a CPU
    torch.autocast = RoundingAutocast
    _surroundings.has_bfloat16 = lambda device: True


def claims_that_failed():
    """Return the claims of the chapter that ran last which did not hold, or that it made none."""
    measured = Path(os.environ["VLMCOURSE_MEASURED"])
    if not measured.is_file():
        return ["it measured nothing"]
    claims = json.loads(measured.read_text(encoding="utf-8"))["claims"]
    measured.unlink()
    return [f"did not hold: {claim}" for claim in claims if not claim["held"]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(VLMCOURSE_DEVICE="cpu", VLMCOURSE_MEASURED=f"{scratch}/measured.json")
        train_rounded()
        failed = strict_device.run_notebooks(sys.argv[1:], claims_that_failed)
    sys.exit(failed)
