"""`distillers evaluate` takes every kind of file and tells the same of each."""

import csv
import json

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
    return {line.split()[0]: line.split()[1] for line in lines[1 : lines.index("")]}


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
    assert (
        set(LINES) | {"MACs", "latency_ms", "correct", "file_bytes"} == set(of_run) == set(of_file)
    )
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


def test_table_json_and_csv_have_the_same_numbers(tmp_path, capsys):
    run = save(tmp_path / "run", 0)
    out, table, folder = tmp_path / "a.json", tmp_path / "p.csv", tmp_path / "confusion"
    flags = ["--json", str(out), "--csv", str(table), "--confusion", str(folder)]
    printed = evaluate(capsys, run, *flags)
    content = json.loads(out.read_text())
    for name, value in content["metrics"].items():
        assert float(printed[name]) == value
    assert content["file_bytes"] == (run / "resnet8_best.pth").stat().st_size
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [rows[n]["path"] for n in (0, 499)] == ["digits/test/0", "digits/test/499"]
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert 100 * right / len(rows) == content["metrics"]["test_acc"]
    for row in rows[:50]:
        chances = {str(n): float(row[f"p({n})"]) for n in range(10)}
        assert max(chances, key=chances.get) == row["prediction"]
        assert sum(chances.values()) == pytest.approx(1)
    loss = -sum(torch.tensor(float(row[f"p({row['label']})"])).double().log() for row in rows)
    assert float(loss) / 500 == pytest.approx(content["metrics"]["test_loss"], rel=1e-5)
    with (folder / "confusion.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    for row in cells:
        for name in map(str, range(10)):
            both = [r for r in rows if (r["label"], r["prediction"]) == (row["label"], name)]
            assert len(both) == int(row[name])
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    for each in content["latency"]:
        milliseconds = each["milliseconds"]
        assert 0 < milliseconds["p50"] <= milliseconds["p90"] <= milliseconds["p99"]
        assert each["images_per_second"] == 1000 * each["batch_size"] / milliseconds["p50"]
    assert [each["batch_size"] for each in content["latency"]] == [1, 8, 32]


@pytest.mark.parametrize("flag", ["--json", "--csv", "--confusion"])
def test_a_file_that_cannot_be_written_is_refused_first(flag, tmp_path, capsys):
    assert cli.run("evaluate", ["missing.pth", flag, str(tmp_path / "no" / "x")]) == 2
    assert f"{flag} is" in capsys.readouterr().err


def test_a_network_that_gives_nan_is_refused_with_the_image(tmp_path, capsys):
    run = save(tmp_path / "run", 0)
    content = torch.load(run / "resnet8_best.pth", weights_only=True)
    content["model"]["fc.bias"][3] = float("nan")
    checkpoint.save(run / "resnet8_best.pth", {k: content[k] for k in ("model", "card")})
    assert cli.run("evaluate", [str(run)]) == 2
    assert "the first is digits/test/0" in capsys.readouterr().err
