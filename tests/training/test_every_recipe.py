"""Every recipe trains on digits and on photographs, is saved, resumed, exported and scored."""

import json
from pathlib import Path

import pytest
import torch

from distillers.cli import main as cli
from distillers.config.recipes import RECIPES
from tests.data.trees import tree
from tests.run_folders import interrupt_after

NET = "tests.nets:tiny"
CHEAP = ("distil",)
SHARED = ["--gpu_id", "cpu", "--epochs", "3", "--num_workers", "0"]
DATA = {
    "digits": ["--dataset", "digits", "--batch_size", "128"],
    "folder": ["--dataset", "folder", "--data_dir", "photos", "--image_size", "16"],
}
DATA["folder"] += ["--batch_size", "6"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a teacher of digits and one of photographs."""
    folder = tmp_path_factory.mktemp("home")
    tree(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, flags in DATA.items():
            words = [*flags, *SHARED[:2], "--epochs", "2", "--model", NET, "--save_dir", name]
            assert cli.run("teacher", [*words, "--num_workers", "0"]) == 0
    return folder


ROWS = [
    pytest.param(
        dataset,
        recipe,
        marks=[] if dataset == "digits" and recipe in CHEAP else [pytest.mark.slow],
    )
    for dataset in DATA
    for recipe in RECIPES
]


@pytest.mark.parametrize(("dataset", "recipe"), ROWS)
def test_a_recipe_from_training_to_export(dataset, recipe, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (teacher,) = (home / dataset).rglob("*vanilla/*_best.pth") or [None]
    flags = [*DATA[dataset], *SHARED, "--recipe", recipe, "--path_t", str(teacher)]
    flags += ["--model_t", NET, "--model_s", NET, "--distill", "kd", "--skip_validation"]
    if recipe == "finetune":
        flags += ["--pretrained", str(teacher)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.run("student", [*flags, "--save_dir", str(whole)]) == 0
    assert f"recipe {recipe}: " in capsys.readouterr().out

    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch=2)
        assert cli.run("student", [*flags, "--save_dir", str(parts)]) == 130
    assert cli.run("student", [*flags, "--save_dir", str(parts), "--resume"]) == 0
    first, second = (next(each.rglob("*_last.pth")) for each in (whole, parts))
    a, b = (torch.load(path, weights_only=True)["model"] for path in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)

    best = json.loads((first.parent / "test_best_metrics.json").read_text())
    exported = tmp_path / "net.safetensors"
    named = ["--model", NET]
    assert cli.run("export", [str(first.parent), "--out", str(exported), *named]) == 0
    for path in (first.parent, exported):
        capsys.readouterr()
        words = [str(path), "--gpu_id", "cpu", "--num_workers", "0", *named]
        words += DATA[dataset][: 4 if dataset == "folder" else 2]
        assert cli.run("evaluate", words) == 0
        printed = capsys.readouterr().out
        assert f"test_acc       {best['test_acc']!r}" in printed
    assert Path(exported).stat().st_size > 0
