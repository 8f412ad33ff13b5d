"""`train_student.py --qat`: int8 is simulated in training alone, taught by the float teacher."""

import json
from pathlib import Path

import pytest

from distillers.cli import main as cli

DIGITS = ["--dataset", "digits", "--batch_size", "128", "--trial", "0"]
PATH = "save/teachers/models/resnet8_vanilla"


def test_a_trained_student_goes_on_with_int8_simulated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run("teacher", [*DIGITS, "--model", "resnet8", "--epochs", "1"]) == 0
    flags = [*DIGITS, "--model_s", "resnet8", "--path_t", PATH, "--epochs", "1"]
    flags += ["--pretrained", f"{PATH}/resnet8_best.pth", "--learning_rate", "0.01"]
    for more in (["--qat"], []):
        assert cli.run("student", [*flags, *more]) == 0
    assert "10 layers of the student simulate int8" in capsys.readouterr().out
    folders = sorted(Path("save/students/models").iterdir())
    results = [json.loads((f / "test_best_metrics.json").read_text()) for f in folders]
    assert len(folders) == 2
    assert results[0]["test_loss"] != results[1]["test_loss"]
    before = json.loads(Path(PATH, "test_best_metrics.json").read_text())
    for folder, result in zip(folders, results, strict=True):
        assert result["test_loss"] < before["test_loss"]  # it learns
        assert cli.run("evaluate", [str(folder), "--json", "a.json"]) == 0
        found = json.loads(Path("a.json").read_text())["metrics"]
        assert found["test_loss"] == result["test_loss"]  # what is saved is the float network


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--qat starts from a trained student"),
        (["--pretrained"], "--qat starts from a trained student"),
        (["--pretrained", "x.pth", "--compile"], "--qat does not work with --compile"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, words, capsys):
    given = [*DIGITS, "--model_s", "resnet8", "--path_t", "x.pth", "--qat", *flags]
    assert cli.run("student", given) == 2
    assert words in capsys.readouterr().err
