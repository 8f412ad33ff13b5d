"""The examples, the README's blocks, and the pages made from docstrings."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from distillers.losses import wiring
from tests.run_folders import write_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    for page in PAGES:
        text = page.read_text()
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.S)):
            yield pytest.param(block, id=f"{page.name}-{number}")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("own_loop", "own_photographs")]
OTHERS = ("huggingface_trainer", "lightning_module")


@pytest.mark.parametrize("name", [*SLOW, *OTHERS, "own_loss", "own_model", "timm_task"])
def test_examples_run(name, capsys, monkeypatch, tmp_path):
    if name in OTHERS:
        pytest.importorskip({"huggingface_trainer": "transformers"}.get(name, "lightning"))
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.slow
def test_mutual_learning_learns(monkeypatch):
    module = runpy.run_path(str(ROOT / "examples/own_task.py"))
    assert module["main"](epochs=6) > 60


@pytest.mark.parametrize("block", list(blocks("python")))
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "save", "kd")  # which the page on reports reads
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def test_the_methods_page_is_the_docstrings():
    module = runpy.run_path(str(ROOT / "docs/make_methods.py"))
    assert (ROOT / "docs/methods.md").read_text() == module["page"](), "run docs/make_methods.py"


def test_a_method_is_added_by_one_file_and_one_line(tmp_path, monkeypatch):
    """At run time: a new module, a new name in `distillers.losses`, and everything knows it."""
    from distillers import losses

    (tmp_path / "fresh.py").write_text(
        "from torch import Tensor, nn\n"
        "class Fresh(nn.Module):\n"
        "    def __init__(self, student_dim: int, *, power: float = 2.0) -> None:\n"
        "        super().__init__()\n"
        "        self.power = power\n"
        "    def forward(self, student_pooled: Tensor) -> Tensor:\n"
        "        return student_pooled.abs().pow(self.power).mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(losses, "Fresh", __import__("fresh").Fresh, raising=False)
    from distillers.cli import main as cli

    assert wiring.find("fresh") is losses.Fresh
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        teacher = ["--dataset", "digits", "--model", "resnet8", "--epochs", "1"]
        assert cli.run("teacher", teacher) == 0
        path = "save/teachers/models/resnet8_vanilla/resnet8_best.pth"
        student = ["--dataset", "digits", "--model_s", "resnet8", "--epochs", "1", "--path_t", path]
        options = ["--distill", "fresh+kd", "--option", "fresh.power=3", "-b", "0.5"]
        assert cli.run("student", [*student, *options]) == 0
    sys.modules.pop("fresh")


def test_photographs_become_a_folder_of_classes(tmp_path, monkeypatch):
    from sklearn.datasets import load_sample_images

    from distillers import data

    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    pictures = [str(tmp_path / f"{name}.png") for name in ("china", "flower")]
    words = ["photographs.py", *pictures, "--to", str(tmp_path / "photos"), "--side", "100"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "examples/photographs.py"), run_name="__main__")
    made = data.source_of("folder", tmp_path / "photos")
    assert made.class_names == ("china", "flower")
    assert (len(made.train_labels), len(made.test_rows)) == (40, 8)


def test_the_numbers_of_losses_and_networks_in_the_readme_are_true():
    text = " ".join((ROOT / "README.md").read_text().split())
    num_losses = len(set(wiring.losses()) - {"ce", "softce", "bce"})
    found = re.search(r"implementations of more than (\d+) losses", text)
    assert found
    assert num_losses > int(found[1])
    from distillers import models

    assert f"{len(models.names())} networks of the literature" in text
