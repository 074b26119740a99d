"""The command line, as a class would use it: any picture, any question, a clear word when it cannot answer."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmcourse import ConvEncoder, load_dataset, scenes
from vlmcourse.cli import ANSWERED, BAD_INPUT, EXAMPLES, OUTSIDE, as_prompt, main, read_picture
from vlmcourse.course.shipped import WEIGHTS, Familiarity, shipped_vlm
from vlmcourse.data.questions import ENDING, TEMPLATES, questions
from vlmcourse.models.vlm import save_vlm
from vlmcourse.train.vlm import build_vlm, without_image

ROOT = Path(__file__).parents[1]


def to_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One picture of the model's world, on disk."""
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    to_picture(scenes.captions(1, seed=11).images[0]).save(path)
    return path


# ---- the shipped model -------------------------------------------------------------------------------------------


def test_the_shipped_model_describes_a_scene_it_never_saw(tmp_path, capsys):
    drawn = scenes.captions(5, seed=10**6, colors=["red"], shapes=["circle"])
    right = 0
    for image, caption in zip(drawn.images, drawn.captions, strict=True):
        to_picture(image).save(tmp_path / "scene.png")
        assert main(["ask", str(tmp_path / "scene.png"), "What is in this image?"]) == ANSWERED
        right += capsys.readouterr().out.strip() == caption
    assert right >= 4


def test_a_photograph_is_outside_its_world_and_it_says_so(tmp_path, capsys):
    for photo in load_dataset("photos").images:
        to_picture(photo / 255).save(tmp_path / "photo.jpg")
        assert main(["ask", str(tmp_path / "photo.jpg")]) == OUTSIDE
        said = capsys.readouterr()
        assert said.out == ""
        assert "outside my world" in said.err
        assert main(["ask", str(tmp_path / "photo.jpg"), "--anyway"]) == ANSWERED
        assert capsys.readouterr().out.strip()


def test_pictures_of_other_worlds_are_refused_and_those_of_its_own_are_not():
    """The measure that decides, on pictures that set nothing: neither the model nor the threshold."""
    model, provenance = shipped_vlm()
    world = Familiarity.from_dict(provenance["familiarity"])
    pairs = [*provenance["pairs"], *provenance["held_out"]]
    inside = scenes.captions(500, seed=10**6 + 1, num_objects=[1, 2], only=pairs).images
    digits = load_dataset("digits", split="test").float().expand(-1, 3, -1, -1)
    digits = torch.nn.functional.interpolate(digits, 32, mode="bilinear", antialias=True)
    photos = load_dataset("photos").float().unfold(2, 96, 64).unfold(3, 96, 64)
    photos = photos.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    photos = torch.nn.functional.interpolate(photos, 32, mode="bilinear", antialias=True)
    others = scenes.images(500, seed=10**6 + 2, image_size=32).images
    assert float((world.distance(model, inside) <= world.threshold).float().mean()) > 0.95
    for outside in (digits, photos, others):
        assert float(world.is_out_of_distribution(model, outside).float().mean()) > 0.9


# ---- familiarity -------------------------------------------------------------------------------------------------


def test_distance_is_that_of_mahalanobis():
    model = build_vlm(ConvEncoder(width=3, depths=(1,)), image_size=16).eval()
    images = scenes.captions(300, seed=3, image_size=16).images
    world = Familiarity.measure(model, images[:200], images[200:])
    features = model.features(images).detach().double()
    summary = features.mean((2, 3))
    reference = summary[:200]
    covariance = reference.T.cov()
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(3, dtype=torch.float64)
    difference = summary - reference.mean(0)
    expected = ((difference @ covariance.inverse()) * difference).mean(1).sqrt()
    torch.testing.assert_close(world.distance(model, images), expected.float(), rtol=1e-3, atol=1e-4)
    inside = (world.distance(model, images[200:]) <= world.threshold).float().mean()
    assert 0.98 <= float(inside) < 1


def test_familiarity_survives_the_model_file(tmp_path):
    model = build_vlm(ConvEncoder(width=3, depths=(1,)), image_size=16)
    images = scenes.captions(60, seed=3, image_size=16).images
    world = Familiarity.measure(model, images[:50], images[50:])
    again = Familiarity.from_dict(world.to_dict())
    assert again.threshold == world.threshold
    assert again.distance(model, images).equal(world.distance(model, images))


def test_familiarity_needs_more_pictures_than_channels():
    model = build_vlm(ConvEncoder(width=3, depths=(1,)), image_size=16)
    pictures = scenes.captions(3, seed=3, image_size=16).images
    with pytest.raises(ValueError, match="images must be more than 3, received 3"):
        Familiarity.measure(model, pictures, pictures)


# ---- questions ---------------------------------------------------------------------------------------------------


def test_every_question_of_the_training_is_recognised_as_it_was_asked():
    asked = questions(200, seed=5, num_objects=[1, 2], phrasings=2)
    assert all(as_prompt(prompt) == (prompt, True) for prompt in asked.prompts)


def test_a_question_without_placeholder_becomes_one_that_was_trained():
    for prompt in questions(200, seed=5, num_objects=[1, 2], phrasings=2).prompts:
        assert as_prompt(without_image(prompt).removesuffix(ENDING))[1], prompt


@pytest.mark.parametrize(
    ("question", "prompt", "known"),
    [
        ("What is in this image?", "What is in this image <image>? Answer:", True),
        ("What is in this image? Answer:", "What is in this image <image>? Answer:", True),
        ("Where is the star?", "Where is the star in <image>? Answer:", True),
        ("What shape is the thing in this image?", "What shape is the thing in <image>? Answer:", True),
        ("What is the star left of?", "What is the star left of in <image>? Answer:", False),
    ],
)  # fmt: skip
def test_the_picture_is_put_where_the_question_speaks_of_it(question, prompt, known):
    assert as_prompt(question) == (prompt, known)


@pytest.mark.parametrize("question", [line.strip() for line in EXAMPLES.strip().splitlines()])
def test_every_question_that_the_help_shows_is_one_that_was_trained(question):
    prompt, known = as_prompt(question)
    assert known
    assert shipped_vlm()[0].tokenizer.encode(prompt)


def test_every_form_of_question_holds_one_placeholder():
    assert all(template.count("<image>") == 1 for kind in TEMPLATES.values() for template in kind)


def test_unknown_words_are_named(scene, capsys):
    assert main(["ask", str(scene), "Is this a banana?"]) == BAD_INPUT
    assert "'banana'" in capsys.readouterr().err


def test_a_question_of_another_form_is_answered_with_a_warning(scene, capsys):
    assert main(["ask", str(scene), "What is the star left of?"]) == ANSWERED
    assert "may mean nothing" in capsys.readouterr().err


# ---- pictures ----------------------------------------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_read_as_it_is(scene):
    image, notes = read_picture(scene, image_size=32)
    assert notes == []
    assert image.shape == (3, 32, 32)
    torch.testing.assert_close(image, scenes.captions(1, seed=11).images[0], atol=0.5 / 255, rtol=0)


def test_another_size_is_cut_resized_and_said(tmp_path):
    picture = Image.new("RGB", (120, 60), "blue")
    picture.paste("red", (30, 0, 90, 60))
    picture.save(tmp_path / "wide.png")
    image, notes = read_picture(tmp_path / "wide.png", image_size=32)
    assert torch.equal(image, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 32, 32))
    assert notes == [
        "only its middle square of 60 × 60 pixels is looked at", "resized from 120 × 60 to 32 × 32 pixels"
    ]  # fmt: skip


def test_grey_palette_alpha_and_sixteen_bit_pictures_keep_their_colours(tmp_path):
    half = Image.new("RGB", (32, 32), (200, 200, 200))
    half.paste((100, 100, 100), (0, 0, 32, 16))
    expected = torch.tensor(np.asarray(half)).permute(2, 0, 1) / 255
    deep = Image.fromarray(np.asarray(half.convert("L")).astype(np.uint16) * 257)
    for name, picture in {
        "grey.png": half.convert("L"), "grey_alpha.png": half.convert("LA"), "palette.png": half.quantize(8),
        "palette.gif": half.quantize(8), "alpha.png": half.convert("RGBA"), "deep.png": deep,
        "cmyk.tiff": half.convert("CMYK"),
    }.items():  # fmt: skip
        picture.save(tmp_path / name)
        image, _ = read_picture(tmp_path / name, image_size=32)
        torch.testing.assert_close(image, expected, atol=1.5 / 255, rtol=0, msg=name)


def test_transparent_parts_become_black_and_this_is_said(tmp_path):
    picture = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    picture.paste((0, 255, 0, 255), (0, 0, 32, 16))
    picture.save(tmp_path / "alpha.png")
    image, notes = read_picture(tmp_path / "alpha.png", image_size=32)
    assert image[:, 16:].max() == 0
    assert image[:, :16].amin((1, 2)).tolist() == [0, 1, 0]
    assert notes == ["its transparent parts are shown as black"]


def test_of_an_animation_the_first_frame_is_shown_and_this_is_said(tmp_path):
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    image, notes = read_picture(tmp_path / "moving.gif", image_size=32)
    assert image.amax((1, 2)).tolist() == [1, 0, 0]
    assert notes == ["it has several frames; only the first is read"]


def test_a_picture_taken_sideways_is_turned_upright(tmp_path):
    picture, exif = Image.new("RGB", (32, 32), "black"), Image.Exif()
    picture.paste("white", (0, 0, 32, 16))
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    image, _ = read_picture(tmp_path / "turned.jpg", image_size=32)
    assert image[:, 20:].min() > 0.9 > 0.1 > image[:, :12].max()


def _cut_short(path, scene):
    path.write_bytes(scene.read_bytes()[:-400])


def _large(path, _scene):
    Image.new("1", (8_000, 8_000)).save(path)


def _huge(path, _scene):
    Image.new("1", (20_000, 20_000)).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path, scene: None, "No such file"),
        (lambda path, scene: path.mkdir(), "is a folder; name one picture in it"),
        (lambda path, scene: path.write_text("a star"), "is not a picture that can be read"),
        (lambda path, scene: path.touch(), "is not a picture that can be read"),
        (_cut_short, "cannot be read: it is damaged"),
        (_large, "has too many pixels (8000 × 8000); make it smaller, at most 50 million"),
        (_huge, "make it smaller, at most 50 million"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(tmp_path, scene, spoil, message, capsys):
    path = tmp_path / "picture.png"
    spoil(path, scene)
    assert main(["ask", str(path)]) == BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert str(path) in said.err


def test_another_model_can_be_asked(tmp_path, scene, capsys):
    model = build_vlm(image_size=16, embed_dim=8, depth=1, num_heads=2)
    save_vlm(model, tmp_path / "mine.safetensors", provenance={"image_size": 16})
    assert main(["ask", str(scene), "--model", str(tmp_path / "mine.safetensors")]) == ANSWERED
    assert "resized from 32 × 32 to 16 × 16" in capsys.readouterr().err
    assert main(["ask", str(scene), "--model", str(scene)]) == BAD_INPUT
    assert "is not a whole file of save_vlm" in capsys.readouterr().err
    assert main(["ask", str(scene), "--model", str(tmp_path / "nowhere")]) == BAD_INPUT


# ---- the program -------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vlmcourse.cli", *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["doctor"], "Say what this machine has, where chapters will run, and what is missing."),
        (["bench"], "exit codes: 0, all benches are timed; 4, --slice left some for another call; 2,"),
        (["homework"], "Get an assignment, check it, see what comes next."),
        (["homework", "start"], "Copy an assignment into a folder; never overwrites your work."),
    ],
)
def test_each_command_says_in_its_own_help_what_it_does(command, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert sentence in " ".join(capsys.readouterr().out.split())


def test_help_names_the_exit_codes_and_loads_no_network():
    shown = run("ask", "--help")
    assert shown.returncode == 0
    for word in ("question", "--model", "--anyway", "exit codes"):
        assert word in shown.stdout
    code = "import sys; from vlmcourse.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stderr == "False\n"


@pytest.mark.slow
def test_the_program_ends_with_the_codes_it_promises(scene):
    assert run("ask", str(scene)).returncode == ANSWERED
    assert run("ask", "nowhere.png").returncode == BAD_INPUT
    assert run("ask").returncode == BAD_INPUT
    assert run().returncode == BAD_INPUT


def test_the_package_carries_the_weights():
    """The wheel holds what lies in the package's folder, but for what git ignores."""
    path = files("vlmcourse").joinpath(*WEIGHTS)
    assert path.is_file()
    assert subprocess.run(["git", "check-ignore", "--quiet", str(path)], cwd=ROOT).returncode != 0


@pytest.mark.slow
def test_the_command_runs_as_a_module_and_refuses_a_device_that_is_not_there(scene, monkeypatch):
    monkeypatch.setenv("VLMCOURSE_DEVICE", "cuda:99")
    command = [sys.executable, "-m", "vlmcourse", "ask", str(scene)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=scene.parent)
    assert ended.returncode == BAD_INPUT
    assert ended.stdout == ""
    assert "VLMCOURSE_DEVICE=cuda:99 is not available" in ended.stderr


# ---- homework ----------------------------------------------------------------------------------------------------


def test_homework_is_listed_started_once_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["homework", "list"]) == ANSWERED
    assert "hw1  Homework 1: patches" in capsys.readouterr().out
    assert main(["homework", "start", "hw1"]) == ANSWERED
    assert main(["homework", "start", "hw1"]) == BAD_INPUT
    captured = capsys.readouterr()
    assert "vlmcourse homework next hw1.ipynb" in captured.out
    assert "never overwritten" in captured.err
    assert main(["homework", "next"]) == ANSWERED
    assert "next: by-hand" in capsys.readouterr().out
    assert main(["homework", "check", "nowhere.ipynb"]) == BAD_INPUT
    assert "nowhere.ipynb" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m vlmcourse homework list | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_a_pipe_that_lacks_a_letter_loses_no_report():
    command = [
        sys.executable,
        "-c",
        "import sys; from vlmcourse.cli import main; main(['homework', 'list']); print('α')",
    ]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, capture_output=True, text=True)
    assert done.stdout.endswith("\\u03b1\n"), done.stderr
