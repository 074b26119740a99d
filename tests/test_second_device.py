"""Everything public runs on a second device as strict as CUDA; and what CUDA refuses, that device refuses.

A device can be registered once a process and stays. So this file runs itself once more in a process of its own, with
VLMCOURSE_DEVICE naming the device, and there collects the tests of ``TestOnTheDevice``.
"""

import functools
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import strict_device
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import vlmcourse as course
from vlmcourse import fit, plots, scenes
from vlmcourse.homework import CHECKS, Draw
from vlmcourse.homework.checking import attempt, examine
from vlmcourse.train import vlm

WHERE = strict_device.NAME
ON_DEVICE = os.environ.get("VLMCOURSE_DEVICE") == WHERE
QUIET = {"progress": False, "batch_size": 4}
CHAPTERS = sorted((Path(__file__).parents[1] / "lectures").glob("[0-9]*.ipynb"))

if ON_DEVICE:
    strict_device.register()


def in_a_process_of_its_own(*command, **environment):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "VLMCOURSE_DEVICE": WHERE, "MPLBACKEND": "agg", **environment},
        capture_output=True,
        text=True,
    )


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=short")


@pytest.mark.slow
@pytest.mark.parametrize("like", ["cuda", "mps"])
def test_everything_runs_on_a_strict_second_device(like):
    run = in_a_process_of_its_own(*PYTEST, __file__, **{strict_device.LIKE_MPS: like})
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "no tests ran" not in run.stdout


@pytest.mark.slow
def test_a_strict_second_device_computes_what_the_cpu_computes():
    run = in_a_process_of_its_own(*PYTEST, "-k", "not everything", Path(__file__).with_name("test_gpu.py"))
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not os.environ.get("CHAPTERS_ON_STRICT_DEVICE"), reason="set CHAPTERS_ON_STRICT_DEVICE=1")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_runs_on_a_strict_second_device(chapter):
    run = in_a_process_of_its_own(strict_device.__file__, chapter)
    assert run.returncode == 0, run.stdout + run.stderr[-6000:]


test_everything_runs_on_a_strict_second_device.__test__ = not ON_DEVICE
test_a_strict_second_device_computes_what_the_cpu_computes.__test__ = not ON_DEVICE
test_every_chapter_runs_on_a_strict_second_device.__test__ = not ON_DEVICE


def rand(*shape):
    return torch.rand(*shape, device=WHERE)


def class_numbers(n, classes=2):
    return torch.arange(n, device=WHERE) % classes


def backward(model, *inputs):
    """A step of a model on the device, there and back."""
    model.to(WHERE)
    output = model(*inputs)
    output.float().square().mean().backward()
    assert output.device.type == WHERE
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    return output


def folder_of_pictures(folder):
    for name in ("leaf", "sky"):
        (folder / name).mkdir()
        Image.new("RGB", (8, 8), "green").save(folder / name / "1.png")
    return course.image_folder(folder, root=folder).to(WHERE)


def small_vlm():
    return vlm.build_vlm(image_size=16, embed_dim=8, depth=1, num_heads=2)


def asked(n=8):
    return course.questions(n, seed=0, kinds="describe", image_size=16)


def saved_and_loaded(folder):
    model = small_vlm().to(WHERE)
    course.save_vlm(model, folder / "model.safetensors")
    return course.load_vlm(folder / "model.safetensors")[0].to(WHERE).generate(rand(1, 3, 16, 16))


def checkpointed(folder):
    model = nn.Linear(3, 2).to(WHERE)
    course.save_checkpoint(folder / "a.pt", {"model": model.state_dict()})
    model.load_state_dict(course.load_checkpoint(folder / "a.pt")["model"])


def resumed(folder):
    """A run that is stopped and goes on ends as one that was not."""
    x, y = torch.rand(8, 3), torch.rand(8, 1)

    def run(**options):
        course.seed_everything(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        fit(
            model,
            lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
            (x, y),
            lr=0.01,
            steps=6,
            **QUIET,
            **options,
        )
        return model[0].weight.detach().cpu()

    def stop(model, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=folder / "run.pt", checkpoint_every=2, callback=stop, callback_every=5)
    torch.testing.assert_close(run(checkpoint=folder / "run.pt", checkpoint_every=2), run())


STAGES = ("language model", "connector", "joint")


def trained_vlm():
    model, _ = course.train_vlm(
        course.ConvEncoder(width=2), asked(), steps=dict.fromkeys(STAGES, 1), embed_dim=8, **QUIET
    )
    assert next(model.parameters()).device.type == WHERE
    for control in vlm.CONTROLS:
        vlm.answers(model, asked(), control=control)
        vlm.teacher_forced(model, course.questions(4, seed=0, kinds="color", image_size=16), control=control)
    vlm.evaluate(model, {"seen": asked()})
    vlm.movement(model, vlm.copy_weights(model))
    ids, is_answer = model.tokenize(asked().prompts, asked().answers)
    return model(asked().images.to(WHERE), ids, is_answer)[1].backward()


@functools.cache  # several names share it
def probed():
    train, test = (course.load_dataset("digits", split=part).subset(slice(60)) for part in ("train", "test"))
    encoder = course.ConvEncoder(in_channels=1, width=2)
    features = [course.extract_features(encoder, data) for data in (train, test)]
    probe = course.LinearProbe(penalties=(0.1, 1.0)).fit(features[0], train.labels, features[1], test.labels)
    assert probe.score(features[1], test.labels) > 0
    on_device = [f.to(WHERE) for f in features]
    probe.fit(on_device[0], train.labels.to(WHERE), on_device[1], test.labels.to(WHERE))
    return probe.predict(on_device[1])


@functools.cache  # several names share it
def segmented():
    drawn = scenes.images(8, seed=0, image_size=16)
    maps = course.extract_features(course.ConvEncoder(width=2).feature_map, drawn.images)
    masks = drawn.masks.to(maps.device)
    probe = course.SegmentationProbe(penalties=(0.1, 1.0)).fit(maps, masks, maps, masks)
    predicted = probe.predict(maps, size=(16, 16))
    assert 0 <= course.mean_iou(predicted, drawn.masks.to(predicted.device), num_classes=11) <= 1
    return course.mean_iou(drawn.masks.to(WHERE), drawn.masks.to(WHERE), num_classes=11)


def contrasted():
    encoder = course.ConvEncoder(width=2)
    model, _ = course.train_simclr(encoder, torch.rand(8, 3, 16, 16), steps=2, **QUIET)
    again, _ = course.train_simclr(encoder, rand(8, 3, 16, 16), views=course.SIMCLR_STEPS, steps=2, **QUIET)
    return model(rand(4, 3, 16, 16)), again


def viewed():
    images = rand(6, 3, 16, 16)
    for steps in (course.SIMCLR_STEPS, course.SCENE_STEPS):
        course.two_views(images, steps=steps)
        views = course.two_views(images, steps=steps, generator=torch.Generator().manual_seed(3))
        same = course.two_views(images.cpu(), steps=steps, generator=torch.Generator().manual_seed(3))
        for view, expected in zip(views, same, strict=True):
            torch.testing.assert_close(view.cpu(), expected)
    return views


def shown():
    images = rand(4, 3, 8, 8)
    plots.show_images(images)
    plots.show_similarity(rand(4, 4))
    plots.show_on_circle(F.normalize(rand(4, 2), dim=1), rand(4, 3))
    plots.show_attention(images[0], F.softmax(rand(4, 4), -1), queries=[(0, 0)], patch_size=4)
    plots.show_attention_matrix(F.softmax(rand(4, 4), -1))
    plots.show_rows({"a": images, "b": images})


@functools.cache  # several names share it
def played_with():
    course.attention_picture(rand(3, 8, 8), F.softmax(rand(1, 2, 4, 4), -1), grid_size=(2, 2), label="a picture")
    course.contrastive_circle(rand(2, 4), label="a circle")
    course.path_picture(small_vlm().to(WHERE), rand(3, 16, 16))
    course.clip_player(rand(3, 4, 8, 8), label="a clip")
    course.field_viewer(rand(3, 9, 9), {(1, 3, 1): rand(9, 9)}, start=(1, 3, 1), label="a field")
    course.patch_slider(rand(3, 16, 24), sizes=(8, 4), start=4, label="a picture")
    course.convolution_stepper(rand(1, 3, 4, 4), rand(1, 1, 2, 3, 3), label="a clip")
    world = {"colors": vlm.COLORS, "shapes": vlm.SHAPES, "usual": vlm.pairings(2)}
    world |= {"rows": [0, 1], "start": (0, "red")}
    pictures = course.questions(2, seed=0, kinds="describe", colors=vlm.COLORS, shapes=vlm.SHAPES)
    course.forced_word({"untrained": vlm.build_vlm(embed_dim=8, depth=1, num_heads=2).to(WHERE)}, pictures, **world)


def told_apart():
    model, images = small_vlm().to(WHERE), rand(100, 3, 16, 16)
    world = course.Familiarity.measure(model, images[:80], images[80:])
    return world.is_out_of_distribution(model, images)


@functools.cache  # several names share it
def moved():
    course.random_affine(rand(4, 3, 8, 8), degrees=10.0, translate=(0.1, 0.1), scale=(0.8, 1.1))
    course.random_horizontal_flip(rand(4, 3, 8, 8))
    return course.random_resized_crop(rand(4, 3, 8, 8))


def attended():
    for backend in ("fused", "einops"):
        backward(course.MultiHeadSelfAttention(8, 2, backend=backend), rand(2, 5, 8))
    module = course.MultiHeadSelfAttention(8, 2).to(WHERE)
    return module(rand(2, 5, 8), mask=torch.ones(5, 5, dtype=torch.bool, device=WHERE).tril())


def contrast(loss, *negatives, **options):
    loss(rand(4, 8).requires_grad_(), rand(4, 8), *negatives, temperature=0.2, **options).backward()


def transformed():
    options = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    for pool in ("class", "mean", "flatten"):
        backward(course.VisionTransformer(**options, num_classes=3, pool=pool), rand(2, 3, 16, 16))
    encoder = course.VisionTransformer(**options).to(WHERE)
    return encoder(rand(2, 3, 16, 16)), encoder.attention_maps(rand(2, 3, 16, 16))


@functools.cache  # several names share it
def spoken():
    model = course.LanguageModel(11, context_length=8, embed_dim=8, depth=1, num_heads=2)
    ids = class_numbers(6, 5).view(2, 3)
    backward(model, ids)
    logits = model(ids)
    course.next_token_loss(logits, ids, loss_mask=rand(2, 3) > -1).backward()
    return course.next_token_probabilities(logits[:, -1].detach(), temperature=0.7, top_p=0.9)


@functools.cache  # several names share it
def answered():
    model = small_vlm().to(WHERE)
    images = rand(2, 3, 16, 16)
    prompts = [course.PROMPT] * 2
    answers = model.generate(images, prompt=course.PROMPT, max_new_tokens=4)
    model.generate(None, prompt=["a red star"], max_new_tokens=2)
    ids, is_answer = model.tokenize(prompts, ["a red star", "a blue ring"])
    model(images, ids, is_answer)[1].backward()
    return [*map(str, answers)]


def fitted():
    """``fit`` with everything it has: a CNN, uint8 pictures, a dataset, metrics, clipping, a callback."""
    with torch.device("cpu"):  # a lazy layer cannot start on the strict device
        model = nn.Sequential(course.ConvEncoder(width=2), nn.LazyLinear(10))
        model(torch.rand(1, 3, 24, 24))
    data = course.load_dataset("scenes").subset(slice(12))

    def loss(model, batch):
        logits = model(batch[0])
        return F.cross_entropy(logits, batch[1]), {"accuracy": (logits.argmax(1) == batch[1]).float().mean()}

    for given in (data, data.to(WHERE), (data.images, data.labels)):
        history = fit(model, loss, given, lr=1e-3, steps=3, clip_norm=1.0, callback=lambda model, step: {"a": step},
                      callback_every=1, **QUIET)  # fmt: skip
        assert len(history) == 3
    return fit(model, loss, data, lr=1e-3, steps=2, optimizer="sgd", **QUIET)


def examined(check):
    """The check draws on the device, its own right function runs there, and a wrong one is told what is wrong."""
    for case in check.task.cases(Draw(0, device=WHERE)):
        outcome = attempt(check.task.right, case, seconds=60.0, forbidden=frozenset())
        assert outcome.error is None, (case.what, outcome.error)
    if os.environ.get(strict_device.LIKE_MPS) == "mps":
        return ""  # looking for the mistake takes most of the time, and was done as CUDA would
    report = check(lambda *_, **__: (torch.ones(2, 3), 1))
    assert not report.passed
    return str(report)


BOTH = ("fused", "einops")
CLIPS = (2, 3, 4, 16, 16)
CALLS = {
    "Answer": lambda folder: answered(),
    "CNN3D": lambda folder: [backward(course.CNN3D(num_classes=3, width=2, backend=b), rand(*CLIPS)) for b in BOTH],
    "CNNLSTM": lambda folder: backward(course.CNNLSTM(num_classes=3, width=2), rand(*CLIPS)),
    "CNNTransformer": lambda folder: backward(course.CNNTransformer(num_classes=3, width=2, embed_dim=8), rand(*CLIPS)),
    "Connector": lambda folder: backward(course.Connector(6, 8, grid_size=4, reduction=2), rand(2, 16, 6)),
    "Conv3d": lambda folder: [backward(course.Conv3d(3, 2, 3, backend=b), rand(*CLIPS)) for b in BOTH],
    "ConvEncoder": lambda folder: backward(course.ConvEncoder(width=2), rand(2, 3, 16, 16)),
    "Familiarity": lambda folder: told_apart(),
    "FrameAverage": lambda folder: backward(course.FrameAverage(num_classes=3, width=2), rand(*CLIPS)),
    "ImageDataset": lambda folder: course.load_dataset("digits").to(WHERE)[class_numbers(4)],
    "LanguageModel": lambda folder: spoken(),
    "LinearProbe": lambda folder: probed(),
    "MLP": lambda folder: backward(course.MLP(4, 8), rand(2, 4)),
    "MultiHeadSelfAttention": lambda folder: attended(),
    "PatchEmbed": lambda folder: backward(course.PatchEmbed(4, 3, 8), rand(2, 3, 16, 16)),
    "SegmentationProbe": lambda folder: segmented(),
    "SlideViT": lambda folder: backward(course.SlideViT(image_size=8, patch_size=4, num_classes=3), rand(2, 3, 8, 8)),
    "TransformerBlock": lambda folder: backward(course.TransformerBlock(8, 2), rand(2, 5, 8)),
    "VisionLanguageModel": lambda folder: answered(),
    "VisionTransformer": lambda folder: transformed(),
    "alignment": lambda folder: course.alignment(F.normalize(rand(4, 8)), F.normalize(rand(4, 8))),
    "attention_picture": lambda folder: played_with(),
    "attention_weights": lambda folder: course.attention_weights(rand(2, 5, 4), rand(2, 5, 4)),
    "clip_player": lambda folder: played_with(),
    "contrastive_circle": lambda folder: played_with(),
    "convolution_stepper": lambda folder: played_with(),
    "conv3d": lambda folder: course.conv3d(rand(*CLIPS), rand(2, 3, 2, 3, 3), rand(2), padding=1),
    "extract_features": lambda folder: probed(),
    "field_viewer": lambda folder: played_with(),
    "fit": lambda folder: (fitted(), resumed(folder)),
    "forced_word": lambda folder: played_with(),
    "gather_embeddings": lambda folder: course.gather_embeddings(rand(4, 8)),
    "image_folder": folder_of_pictures,
    "info_nce_loss": lambda folder: contrast(course.info_nce_loss),
    "knn_accuracy": lambda folder: course.knn_accuracy(rand(9, 4), class_numbers(9), rand(5, 4), class_numbers(5), k=3),
    "labels_per_class": lambda folder: class_numbers(9)[course.labels_per_class(class_numbers(9), 2, seed=0)],
    "load_checkpoint": checkpointed,
    "load_dataset": lambda folder: course.load_dataset("photos").to(WHERE).float(),
    "load_vlm": saved_and_loaded,
    "mean_iou": lambda folder: segmented(),
    "next_token_loss": lambda folder: spoken(),
    "next_token_probabilities": lambda folder: spoken(),
    "nt_xent_loss": lambda folder: [contrast(course.nt_xent_loss, chunk_size=size) for size in (None, 3)],
    "patch_slider": lambda folder: played_with(),
    "patchify": lambda folder: course.patchify(rand(2, 3, 8, 8), patch_size=4),
    "path_picture": lambda folder: played_with(),
    "plots": lambda folder: shown(),
    "questions": lambda folder: course.questions(8, seed=0, num_objects=[1, 2]),
    "random_affine": lambda folder: moved(),
    "random_horizontal_flip": lambda folder: moved(),
    "random_resized_crop": lambda folder: moved(),
    "receptive_field": lambda folder: course.receptive_field(nn.Conv2d(3, 2, 3).to(WHERE), rand(1, 3, 9, 9)),
    "rotate_shift_scale": lambda folder: course.rotate_shift_scale(rand(2, 3, 8, 8), *rand(3, 2), rand(2) + 0.5),
    "save_checkpoint": checkpointed,
    "save_vlm": saved_and_loaded,
    "self_attention": lambda folder: course.self_attention(rand(2, 5, 4), rand(2, 5, 4), rand(2, 5, 4)),
    "shared_nt_xent_loss": lambda folder: contrast(course.shared_nt_xent_loss),
    "shipped_vlm": lambda folder: course.shipped_vlm()[0].to(WHERE).generate(
        scenes.captions(2, seed=0).images.to(WHERE), prompt=course.PROMPT),
    "sinusoids": lambda folder: course.sinusoids(rand(2, 5, 8)),
    "slide_contrastive_loss": lambda folder: contrast(course.slide_contrastive_loss, rand(4, 3, 8)),
    "train_simclr": lambda folder: contrasted(),
    "train_vlm": lambda folder: trained_vlm(),
    "two_views": lambda folder: viewed(),
    "uniformity": lambda folder: course.uniformity(F.normalize(rand(4, 8))),
    "unpatchify": lambda folder: course.unpatchify(rand(2, 4, 48), patch_size=4, image_size=8),
    **{f"check_{name}": lambda folder, check=check: examined(check) for name, check in CHECKS.items()},
}  # fmt: skip
# What holds no tensor that could lie in the wrong place, or makes its tensors on the CPU alone.
NOWHERE = {"Chapter", "KINDS", "PROMPT", "SCENE_STEPS", "SIMCLR_STEPS", "Tokenizer", "VideoDataset", "device", "glue"}
NOWHERE |= {"load_result", "pick", "profile", "record_result", "scenes", "seed_everything", "video_folder"}


class TestOnTheDevice:
    __test__ = ON_DEVICE

    def test_what_is_wrong_is_looked_for_on_the_cpu(self):
        """A mistake that is tried may index out of range, which ends all further work on a GPU."""
        task, tried = CHECKS["attention_weights"].task, set()

        def variant(queries, keys, **knobs):
            tried.add(queries.device.type)
            return task.variant(queries, keys, **knobs)

        report = examine(replace(task, variant=variant), lambda queries, keys, mask=None: queries @ keys.mT)
        assert "not divided by the square root" in str(report) or "these are scores" in str(report)
        assert tried == {"cpu"}

        def stays_behind(embeddings):
            embeddings = embeddings.cpu()
            return embeddings / embeddings.norm(dim=1, keepdim=True).clamp(min=1e-12)

        report = str(CHECKS["unit"](stays_behind))
        assert f"right on the CPU, but on {course.device()}: " in report
        assert "stay on the input's device" in report

    def test_a_check_judges_tensors_without_a_device_where_a_notebook_names_one_for_all(self):
        def attention(queries, keys, values, *, mask=None):
            scores = queries @ keys.mT / queries.shape[-1] ** 0.5
            scores = scores + torch.zeros(keys.shape[-2])  # beside inputs on the CPU first, then on the device
            if mask is None:
                return scores.softmax(-1) @ values
            return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0) @ values

        with torch.device(WHERE):
            report = CHECKS["attention"](attention)
        assert report.passed, report

    def test_the_course_chooses_it(self):
        assert course.device() == torch.device(WHERE)

    def test_every_public_name_is_tried(self):
        assert set(CALLS) | NOWHERE >= set(course.__all__)
        assert not set(CALLS) & NOWHERE

    @pytest.mark.parametrize("name", CALLS)
    def test_it_runs(self, name, tmp_path):
        if not hasattr(course, name):
            pytest.skip("gone")
        course.seed_everything(0)
        # The second time as in a notebook that names the device for all tensors.
        with torch.device(WHERE) if os.environ.get(strict_device.LIKE_MPS) == "mps" else nullcontext():
            CALLS[name](tmp_path)

    # --- it refuses what CUDA refuses, and so would have found the fault -----------------------------------------

    @pytest.mark.parametrize(
        "forget",
        [
            lambda: rand(2, 3) + torch.rand(2, 3),
            lambda: torch.rand(2, 3) @ rand(3, 2),
            lambda: torch.cat([rand(1), torch.rand(1)]),
            lambda: nn.Linear(3, 2)(rand(2, 3)),
            lambda: nn.Linear(3, 2).to(WHERE)(torch.rand(2, 3)),
            lambda: F.cross_entropy(rand(4, 3), torch.zeros(4, dtype=torch.int64)),
            lambda: torch.rand(4)[class_numbers(4)],
            lambda: torch.zeros(3).add_(rand(3)),
            lambda: torch.zeros(()).add_(rand(1)[0]),
            lambda: torch.where(torch.ones(3) > 0, rand(3), rand(3)),
            lambda: rand(3).scatter_(0, torch.tensor([1]), 0.0),
            lambda: F.scaled_dot_product_attention(rand(1, 4, 4), rand(1, 4, 4), torch.rand(1, 4, 4)),
            lambda: nn.LSTM(3, 2).to(WHERE)(rand(4, 1, 3), (torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))),
        ],
    )
    def test_a_forgotten_move_is_an_error(self, forget):
        with pytest.raises(RuntimeError, match=r"(on|at) the same device"):
            forget()

    def test_a_number_without_axes_may_lie_on_the_cpu(self):
        assert (rand(3) * torch.tensor(2.0)).device.type == WHERE
        assert rand(3).masked_fill(rand(3) > 2, torch.tensor(0.0)).device.type == WHERE
        assert rand(3)[torch.tensor([0, 2])].device.type == WHERE

    @pytest.mark.parametrize("read", [lambda t: t.numpy(), lambda t: __import__("numpy").asarray(t)])
    def test_numpy_without_cpu_is_an_error(self, read):
        with pytest.raises(TypeError, match=r"can't convert strict:0 .* Use Tensor.cpu\(\)"):
            read(rand(3))
        assert rand(3).cpu().numpy().shape == (3,)

    @pytest.mark.parametrize(
        "draw",
        [
            lambda own: torch.rand(3, generator=own, device=WHERE),
            lambda own: torch.randperm(3, generator=own, device=WHERE),
            lambda own: torch.randint(3, (3,), generator=own, device=WHERE),
            lambda own: rand(3).normal_(generator=own),
            lambda own: torch.bernoulli(rand(3), generator=own),
            lambda own: torch.multinomial(rand(3), 1, generator=own),
        ],
    )
    def test_a_generator_of_the_cpu_cannot_draw_there(self, draw):
        with pytest.raises(RuntimeError, match="Expected a 'strict' device type for generator but found 'cpu'"):
            draw(torch.Generator())

    def test_a_loss_that_keeps_its_target_on_the_cpu_is_found_in_fit(self):
        target = torch.zeros(4, 2)

        def loss(model, x):
            return F.mse_loss(model(x), target)

        with pytest.raises(RuntimeError, match="on the same device"):
            fit(nn.Linear(3, 2), loss, torch.rand(4, 3), lr=0.1, steps=1, **QUIET)

    def test_weights_copied_before_the_model_moved_are_found(self):
        model = nn.Linear(3, 2)
        before = [p.detach().clone() for p in model.parameters()]
        fit(model, lambda model, x: model(x).square().mean(), torch.rand(4, 3), lr=0.1, steps=1, **QUIET)
        with pytest.raises(RuntimeError, match="on the same device"):
            [(p - old).norm() for p, old in zip(model.parameters(), before, strict=True)]

    def test_its_random_numbers_follow_the_seed_and_leave_those_of_the_cpu_alone(self):
        course.seed_everything(5)
        first, after = rand(3), torch.rand(1)
        course.seed_everything(5)
        assert torch.equal(rand(3), first)
        course.seed_everything(5)
        assert torch.equal(torch.rand(1), after)

    def test_a_model_that_moves_keeps_its_parameters(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        held = model[0].weight
        model.to(WHERE)
        assert model[0].weight is held
        assert model[1].weight is held
