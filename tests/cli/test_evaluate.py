"""`distillers evaluate` takes every kind of file and tells the same of each."""

import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli

LINES = (
    *("test_acc", "test_acc_top5", "test_loss", "balanced_acc", "macro_f1", "ece"),
    *("teacher_acc", "agreement", "parameters"),
)
CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 32, "dataset": "digits"}


def evaluate(capsys, path, *flags):
    assert cli.run("evaluate", [str(path), *map(str, flags)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split()[1] for line in lines[1:]}


def save(folder, seed, name="resnet8"):
    torch.manual_seed(seed)
    folder.mkdir()
    state = models.create(name, num_classes=10).state_dict()
    card = CARD | {"model": name, "mean": [0.3], "std": [0.4]}
    checkpoint.save(folder / f"{name}_best.pth", {"model": state, "card": card})
    return folder


@pytest.mark.parametrize(
    "form",
    [
        "safetensors",
        pytest.param("torch_export", marks=pytest.mark.slow),
        pytest.param("onnx", marks=pytest.mark.slow),
    ],
)
def test_every_artefact_scores_what_its_run_does(form, tmp_path, capsys):
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    student, teacher = save(tmp_path / "student", 0), save(tmp_path / "teacher", 1, "resnet14")
    assert cli.run("export", [str(student), "--format", form]) == 0
    capsys.readouterr()
    (path,) = (p for p in student.iterdir() if p.suffix in (".safetensors", ".pt2", ".onnx"))
    of_run = evaluate(capsys, student, "--path_t", teacher)
    of_file = evaluate(capsys, path, "--path_t", teacher)
    assert set(LINES) | {"MACs", "latency_ms", "correct"} == set(of_run) == set(of_file)
    for name in LINES:
        assert float(of_file[name]) == pytest.approx(float(of_run[name]), abs=1e-4)
    assert of_file["MACs"] == of_run["MACs"]
    assert 0 <= float(of_run["ece"]) <= 1


def test_a_network_agrees_with_itself(tmp_path, capsys):
    run = save(tmp_path / "run", 0)
    printed = evaluate(capsys, run, "--path_t", run)
    assert printed["agreement"] == "100.0"
    assert printed["teacher_acc"] == printed["test_acc"]


def test_another_number_of_classes_is_refused(tmp_path, capsys):
    path = tmp_path / "resnet8_vanilla" / "x.pth"
    path.parent.mkdir()
    torch.save({"model": models.create("resnet8", num_classes=7).state_dict()}, path)
    assert cli.run("evaluate", [str(path), "--dataset", "digits"]) == 2
    assert "has 7 classes, the data set has 10" in capsys.readouterr().err
