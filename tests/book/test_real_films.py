"""The cell of chapter 5 for films in a folder, which no build runs since nobody has the films: here on a few."""

import sys
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

import vlmcourse

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from test_videos import counting, write_video

CHAPTER = Path(__file__).parents[2] / "lectures" / "05_video.ipynb"
NEEDED = ("NETWORKS = {", "def classify_loss", "def compare_on_real_films")


def films(folder):
    """A folder as UCF-101 unpacks: two classes, a film of each group, groups 1 and 2 for the test."""
    pytest.importorskip("av")
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    names = {"train": [], "test": []}
    for number, label in enumerate(("Dive", "Swing"), start=1):
        for group in range(1, 5):
            name = f"{label}/v_{label}_g{group:02}_c01.avi"
            write_video(folder / "UCF-101" / name, counting(4, start=40 * number))
            names["test" if group < 3 else "train"].append(name if group < 3 else f"{name} {number}")
    for split, found in names.items():
        (lists / f"{split}list01.txt").write_text("\n".join(found) + "\n")


def test_every_network_of_the_chapter_trains_on_films_in_a_folder(tmp_path, monkeypatch, capsys):
    films(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLMCOURSE_DATA", str(tmp_path))
    monkeypatch.delenv("VLMCOURSE_UCF101", raising=False)
    space = {"torch": torch, "nn": nn, "pick": lambda quick, full: quick, "chapter": vlmcourse.Chapter("trial")}
    space |= {
        name: getattr(vlmcourse, name) for name in ("CNN3D", "CNNLSTM", "CNNTransformer", "FrameAverage", "device")
    }
    cells = [cell.source for cell in nbformat.read(CHAPTER, 4).cells if cell.cell_type == "code"]
    for part in NEEDED:
        exec(next(source for source in cells if part in source), space)
    capsys.readouterr()
    small = vlmcourse.video_folder
    space["video_folder"] = lambda **read: small(**read, num_frames=4, image_size=16, root=tmp_path)
    space["compare_on_real_films"](tmp_path, epochs=1, width=4)
    said = capsys.readouterr().out
    for name in ("frame average", "CNN + LSTM", "CNN + Transformer", "3D convolution"):
        assert f"{name}: " in said
