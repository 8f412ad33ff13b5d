"""The documented ImageNet commands on a small tree in ImageNet's exact layout."""

import json

import pytest

from distillers.cli import main as cli
from tests.data.trees import WNIDS, tree

SHARED = [
    *("--batch_size", "4", "--epochs", "1", "--dataset", "imagenet", "--weight_decay", "1e-4"),
    *("--lr_decay_epochs", "30,60,90", "--num_workers", "0", "--gpu_id", "cpu"),
    *("--dist-url", "tcp://127.0.0.1:23333", "--learning_rate", "0.1", "--image_size", "32"),
]


def test_the_documented_imagenet_commands_train_and_score(tmp_path, monkeypatch, capsys):
    follow_the_commands(tmp_path, monkeypatch, capsys)


def test_they_do_so_with_dali(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nvidia.dali")
    follow_the_commands(tmp_path, monkeypatch, capsys, "--dali", "cpu")


def follow_the_commands(tmp_path, monkeypatch, capsys, *more):
    monkeypatch.chdir(tmp_path)
    root = tree(tmp_path / "data" / "imagenet")
    assert cli.run("teacher", [*SHARED, *more, "--model", "resnet8", "--trial", "0"]) == 0
    teacher = "./save/teachers/models/resnet8_vanilla/resnet8_best.pth"
    flags = ["--path-t", teacher, "--model_s", "resnet8", "--distill", "crd", "-c", "1", "-d", "1"]
    flags += ["-b", "0.8", "--option", "crd.negatives=8", "--trial", "1"]
    (root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG").write_text("not an image")
    assert cli.run("student", [*SHARED, *more, *flags]) == 2
    assert f"{WNIDS[0]}_1.JPEG cannot be read as an image" in capsys.readouterr().err
    flags += ["--on_bad_image", "skip"]
    assert cli.run("student", [*SHARED, *more, *flags]) == 0
    assert "1 bad images were replaced" in capsys.readouterr().err
    best = next(tmp_path.glob("save/students/models/*/test_best_metrics.json"))
    assert cli.run("evaluate", [str(best.parent), "--num_workers", "0", "--gpu_id", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"test_acc       {json.loads(best.read_text())['test_acc']!r}" in printed
