"""`distillers predict` classifies pictures without labels as `evaluate` does those with labels."""

import csv
import json
import os
import re
import shutil

import pytest
import torch
from PIL import Image

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from tests.data.trees import WNIDS, tree

CARD = {
    "format": 1,
    "model": "resnet8",
    "num_classes": 3,
    "image_size": 32,
    "shorter_side": 37,
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
    "dataset": "folder",
    "class_names": list(WNIDS),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    net = models.create("resnet8", num_classes=3)
    path = tmp_path_factory.mktemp("net") / "resnet8_best.pth"
    checkpoint.save(path, {"model": net.state_dict(), "card": CARD})
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_read_as_training_reads_it(photos, network, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "@eaDir").mkdir(parents=True)
    given = next((photos / "val" / WNIDS[0]).iterdir())
    for name in ("a.jpg", "@eaDir/a.jpg", ".b.jpg", "notes.txt"):
        shutil.copy(given, folder / name)
    words = [str(network), str(folder), "--gpu_id", "cpu"]
    assert cli.run("predict", words) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "3 entries of" in err
    (folder / "x.gif").touch()
    assert cli.run("predict", words) == 2
    assert "x.gif is an image in an unsupported format" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--csv", "x", "--json", "x"], "--json and --csv are both"),
        (["predict", "--csv", "."], "a folder; name a file"),
        (["evaluate", "--csv", "x", "--confusion", "x"], "--csv and --confusion are both"),
        (["evaluate", "--confusion", "file"], "a file; name a folder"),
        (["evaluate", "--csv", "none/x"], "does not exist"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_first(
    words, message, network, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.run(words[0], [str(network), *(["."] * (words[0] == "predict")), *words[1:]]) == 2
    assert message in capsys.readouterr().err


def test_file_names_that_are_not_utf8_or_act_on_a_terminal(photos, network, tmp_path, capsys):
    folder = tmp_path / "photos" / "val" / WNIDS[0]
    folder.mkdir(parents=True)
    shutil.copy(next((photos / "val" / WNIDS[0]).iterdir()), folder / "\x1b[2J.jpg")
    assert cli.run("predict", [str(network), str(folder), "--gpu_id", "cpu"]) == 0
    flags = ["--dataset", "folder", "--data_dir", str(tmp_path / "photos"), "--num_workers", "0"]
    flags += ["--gpu_id", "cpu"]
    assert cli.run("audit", [str(network), "--out", str(tmp_path / "out"), *flags]) == 0
    assert "\x1b" not in "".join(capsys.readouterr())
    name = b"\xff\xe4.jpg"
    (folder / "\x1b[2J.jpg").rename(folder / os.fsdecode(name))
    table = tmp_path / "e.csv"
    assert cli.run("evaluate", [str(network), "--csv", str(table), *flags]) == 0
    assert name in table.read_bytes()


def test_pictures_get_the_classes_that_evaluate_gives_them(photos, network, tmp_path, capsys):
    flags = ["--dataset", "folder", "--data_dir", str(photos), "--image_size", "32"]
    evaluated, predicted = tmp_path / "e.csv", tmp_path / "p.csv"
    assert cli.run("evaluate", [str(network), *flags, "--csv", str(evaluated)]) == 0
    capsys.readouterr()
    given = [str(photos / "val" / WNIDS[0]), str(photos / "val" / WNIDS[1] / "*.JPEG")]
    given += sorted(map(str, (photos / "val" / WNIDS[2]).iterdir()))
    files = ["--csv", str(predicted), "--json", str(tmp_path / "p.json"), "--batch_size", "5"]
    assert cli.run("predict", [str(network), *given, *files, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    one, other = rows_of(evaluated), rows_of(predicted)
    assert [row["path"] for row in one] == [row["path"] for row in other]
    assert [row["prediction"] for row in one] == [row["prediction"] for row in other]
    entries = json.loads((tmp_path / "p.json").read_text())
    for mine, theirs, entry, line in zip(one, other, entries, lines, strict=False):
        for name in WNIDS:
            assert float(mine[f"p({name})"]) == pytest.approx(float(theirs[f"p({name})"]), abs=1e-6)
            assert float(theirs[f"p({name})"]) == entry["probabilities"][name]
        assert line.startswith(f"{mine['path']}  {mine['prediction']}  ")
        assert line.count("%") == 2


def test_an_unreadable_picture_is_a_line_and_a_status(photos, network, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 not an image")
    Image.new("L", (40, 50), 120).save(tmp_path / "grey.png")
    assert cli.run("predict", [str(network), str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "grey.png" in printed.out
    assert "bad.jpg cannot be read as an image" in printed.err
    assert "1 of 2 images could not be read" in printed.err


@pytest.mark.parametrize("word", ["missing.jpg", "none*.png", "."])
def test_a_word_without_images_is_refused(word, network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run("predict", [str(network), word]) == 2
    assert f"{word} " in capsys.readouterr().err


def test_no_image_at_all_is_refused(network, capsys):
    assert cli.run("predict", [str(network)]) == 2
    assert "no image was given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.weight": float("nan")}, "outputs are not finite for .*; its weights or its number"),
        ({"fc.weight": None, "fc.bias": None}, "resnet8 has no classifier, .* `distillers transf"),
    ],
)
def test_a_network_that_gives_no_class_is_refused(change, words, photos, tmp_path, capsys):
    state = models.create("resnet8", num_classes=3).state_dict()
    kept = {key: value for key, value in state.items() if change.get(key, 0) is not None}
    for key in set(change) & set(kept):
        kept[key] = kept[key] * change[key]
    card = {**CARD, "num_classes": 3 if len(kept) == len(state) else 0}
    if not card["num_classes"]:
        del card["class_names"]
    checkpoint.save(tmp_path / "x.pth", {"model": kept, "card": card})
    image = str(next((photos / "val" / WNIDS[0]).iterdir()))
    assert cli.run("predict", [str(tmp_path / "x.pth"), image, "--gpu_id", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert re.search(words, err)
    assert not out
