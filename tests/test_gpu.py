"""On a GPU everything public runs, and gives what the CPU gives: formulas, networks, losses, ``fit``, probes, words.

Without CUDA these tests are skipped. With ``VLMCOURSE_DEVICE=cpu`` they compare the CPU with itself, which only shows
that they run; with ``VLMCOURSE_DEVICE=strict`` they run on the strict second device.
"""

import contextlib
import os

import pytest
import test_second_device as everything
import torch
import torch.nn.functional as F
from torch import nn

import vlmcourse as course

WHERE = torch.device(os.environ.get("VLMCOURSE_DEVICE") or "cuda")
ON_GPU = WHERE.type == "cuda"
pytestmark = [pytest.mark.cuda] if ON_GPU else []
only_gpu = pytest.mark.skipif(not ON_GPU, reason="the CPU has no such thing")

# How far two devices may be apart, relative to the largest number of a tensor. Both round every product.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}
BOTH = ("fused", "einops")


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked_attention(queries, keys, values):
    return course.self_attention(queries, keys, values, mask=torch.ones(7, 7, device=queries.device).tril() > 0)


FORMULAS = {
    "patchify": (lambda x: course.patchify(x, patch_size=4), [(3, 2, 8, 12)]),
    "unpatchify": (lambda x: course.unpatchify(x, patch_size=4, image_size=(8, 12)), [(3, 6, 32)]),
    "attention_weights": (course.attention_weights, [(2, 7, 5), (2, 7, 5)]),
    "self_attention": (course.self_attention, [(2, 7, 5), (2, 7, 5), (2, 7, 3)]),
    "self_attention, masked": (masked_attention, [(2, 7, 5), (2, 7, 5), (2, 7, 3)]),
    "conv3d": (lambda *x: course.conv3d(*x, stride=(1, 2, 1), padding=1), [(2, 3, 5, 7, 6), (4, 3, 2, 3, 3), (4,)]),
    "slide_contrastive_loss": (
        lambda *x: course.slide_contrastive_loss(*x, temperature=0.2), [(7, 5), (7, 5), (7, 11, 5)]),
    "nt_xent_loss": (lambda *x: course.nt_xent_loss(*x, temperature=0.2), [(37, 5), (37, 5)]),
    "nt_xent_loss in chunks": (lambda *x: course.nt_xent_loss(*x, temperature=0.2, chunk_size=11), [(37, 5), (37, 5)]),
    "info_nce_loss": (lambda *x: course.info_nce_loss(*x, temperature=0.2), [(37, 5), (37, 5)]),
    "alignment": (course.alignment, [(37, 5), (37, 5)]),
    "uniformity": (course.uniformity, [(37, 5)]),
}  # fmt: skip

VIT = {"image_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
CLIPS, IMAGES = (2, 3, 4, 16, 16), (4, 3, 16, 16)
NETWORKS = {
    "MLP": (lambda: course.MLP(5, 7), (3, 5)),
    "PatchEmbed": (lambda: course.PatchEmbed(4, 3, 8), IMAGES),
    "TransformerBlock": (lambda: course.TransformerBlock(8, 2), (2, 5, 8)),
    "ConvEncoder": (lambda: course.ConvEncoder(width=2), IMAGES),
    "SlideViT": (lambda: course.SlideViT(image_size=16, patch_size=4, num_classes=3), IMAGES),
    "VisionTransformer": (lambda: course.VisionTransformer(**VIT, num_classes=3), IMAGES),
    "LanguageModel": (lambda: course.LanguageModel(11, context_length=8, embed_dim=8, depth=2, num_heads=2), (2, 5, 8)),
    "FrameAverage": (lambda: course.FrameAverage(num_classes=3, width=2), CLIPS),
    "CNNLSTM": (lambda: course.CNNLSTM(num_classes=3, width=2), CLIPS),
    "CNNTransformer": (lambda: course.CNNTransformer(num_classes=3, width=2, embed_dim=8), CLIPS),
    "Connector": (lambda: course.Connector(6, 8, grid_size=4, reduction=2), (2, 16, 6)),
    **{f"attention, {b}": (lambda b=b: course.MultiHeadSelfAttention(8, 2, backend=b), (2, 5, 8)) for b in BOTH},
    **{f"Conv3d, {b}": (lambda b=b: course.Conv3d(3, 2, 3, padding=1, backend=b), CLIPS) for b in BOTH},
    **{f"CNN3D, {b}": (lambda b=b: course.CNN3D(num_classes=3, width=2, backend=b), CLIPS) for b in BOTH},
}


@pytest.fixture(autouse=True)
def _exactly():
    """Multiply float32 as float32: TF32 keeps ten bits of it."""
    course.seed_everything(0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True):
        yield
    torch.set_float32_matmul_precision(before)


def assert_near(mine, theirs, dtype):
    for one, other in zip(mine, theirs, strict=True):
        one, other = one.detach().cpu().double(), other.detach().cpu().double()
        assert one.isfinite().all()
        assert (one - other).abs().max() <= TOLERANCE[dtype] * max(1.0, other.abs().max().item())


def there_and_back(function, inputs, parameters=()):
    """Return what a function gives, and the gradients of a mixture of it."""
    output = function(*inputs)
    mixture = (output.double() * numbers(*output.shape, seed=9).to(output.device)).sum()
    return [output, *torch.autograd.grad(mixture, [*inputs, *parameters], allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_gives_value_and_gradient_of_the_cpu(name, dtype):
    function, shapes = FORMULAS[name]
    inputs = [numbers(*shape, seed=k) for k, shape in enumerate(shapes)]
    there = [x.to(WHERE, dtype).requires_grad_() for x in inputs]
    # The same rounded inputs in float64: what the CPU's own narrow kernels lose is not asked of the GPU.
    exact = [x.to(dtype).double().requires_grad_() for x in inputs]
    assert_near(there_and_back(function, there), there_and_back(function, exact), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_output_and_gradients_of_the_cpu(name, dtype):
    make, shape = NETWORKS[name]
    model = make().to(dtype)
    inputs = [numbers(*shape).to(dtype).requires_grad_()]
    expected = there_and_back(model, inputs, model.parameters())
    model.to(WHERE)
    there = [x.detach().to(WHERE).requires_grad_() for x in inputs]
    with loosened(10):  # several layers
        assert_near(there_and_back(model, there, model.parameters()), expected, dtype)


@contextlib.contextmanager
def loosened(factor):
    TOLERANCE.update({dtype: value * factor for dtype, value in TOLERANCE.items()})
    try:
        yield
    finally:
        TOLERANCE.update({dtype: value / factor for dtype, value in TOLERANCE.items()})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_bfloat16_is_near_itself_in_float32(name):
    make, shape = NETWORKS[name]
    model, inputs = make().to(WHERE).eval(), numbers(*shape).float().to(WHERE)
    with torch.no_grad():
        exact = model(inputs)
        with torch.autocast(WHERE.type, torch.bfloat16):
            narrow = model(inputs)
    assert_near([narrow], [exact], torch.bfloat16)


@pytest.mark.parametrize("name", everything.CALLS)
def test_everything_public_runs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "WHERE", WHERE.type)
    monkeypatch.setenv("VLMCOURSE_DEVICE", WHERE.type)
    everything.CALLS[name](tmp_path)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.GELU(), nn.Linear(16, 5))


def cost(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


DATA = (numbers(64, 3, 8, 8).float(), torch.arange(64) % 5)
FIT = {"lr": 0.05, "steps": 8, "batch_size": 16, "optimizer": "sgd", "progress": False}


def test_fit_trains_to_the_weights_of_the_cpu():
    trained = []
    for where in ("cpu", WHERE):
        model = small_network()
        losses = course.fit(model, cost, DATA, device=where, autocast=False, **FIT)["loss"]
        trained.append([torch.tensor(losses.to_numpy()), *model.parameters()])
    with loosened(10):
        assert_near(trained[1], trained[0], torch.float32)


def test_fit_in_bfloat16_learns_what_float32_learns():
    ends = []
    for autocast in (False, True):
        losses = course.fit(small_network(), cost, DATA, device=WHERE, autocast=autocast, **{**FIT, "steps": 60})[
            "loss"
        ]
        ends.append(losses.iloc[-10:].mean())
        assert ends[-1] < 0.7 * losses.iloc[0]
    assert abs(ends[1] - ends[0]) < 0.1


def test_features_and_probes_are_those_of_the_cpu():
    train, test = (course.load_dataset("digits", split=part).subset(slice(200)) for part in ("train", "test"))
    encoder = course.ConvEncoder(in_channels=1, width=4)
    features = {w: [course.extract_features(encoder, d, device=w) for d in (train, test)] for w in ("cpu", WHERE)}
    with loosened(10):
        assert_near(features[WHERE], features["cpu"], torch.float32)
    scores = []
    for mine, judged in features.values():
        probe = course.LinearProbe(penalties=(0.1,)).fit(mine, train.labels, judged, test.labels)
        near = course.knn_accuracy(mine.to(WHERE), train.labels.to(WHERE), judged.to(WHERE), test.labels.to(WHERE), k=5)
        scores.append((probe.score(judged, test.labels), near))
    assert scores[1] == pytest.approx(scores[0], abs=0.011)  # two pictures of 200 on a border


def test_generate_writes_the_words_of_the_cpu():
    model, _ = course.shipped_vlm()
    images = course.scenes.captions(6, seed=3).images
    said = []
    for where in ("cpu", WHERE):
        model.to(where, torch.float64)
        answers = model.generate(images.to(where, torch.float64), prompt=course.PROMPT)
        said.append([str(answer) for answer in answers])
    assert said[0] == said[1]
    assert len(set(said[0])) > 1


@only_gpu
def test_a_batch_that_does_not_fit_is_refused_with_what_to_try():
    def greedy(model, batch):
        torch.empty(torch.cuda.get_device_properties(WHERE).total_memory, dtype=torch.uint8, device=WHERE)
        return cost(model, batch)

    with pytest.raises(MemoryError, match="batch_size"):
        course.fit(small_network(), greedy, DATA, device=WHERE, **FIT)


@only_gpu
def test_compiled_training_is_training():
    networks = [small_network(), small_network()]
    networks[1].compile()
    plain, compiled = (course.fit(n, cost, DATA, device=WHERE, autocast=False, **FIT)["loss"] for n in networks)
    with loosened(10):
        assert_near([torch.tensor(compiled.to_numpy())], [torch.tensor(plain.to_numpy())], torch.float32)


@only_gpu
def test_the_loss_in_chunks_needs_a_quarter_of_the_memory():
    views = [numbers(4096, 64, seed=k).float().to(WHERE).requires_grad_() for k in (0, 1)]
    most = {}
    for size in (None, 256):
        course.nt_xent_loss(*views, temperature=0.2, chunk_size=size).backward()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        course.nt_xent_loss(*views, temperature=0.2, chunk_size=size).backward()
        most[size] = torch.cuda.max_memory_allocated() - before
    assert most[256] <= most[None] / 4
