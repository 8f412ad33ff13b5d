"""Students of few labels and of none, through the documented flags."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from distillers import data, models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.config.student import StudentConfig
from distillers.errors import InputError
from distillers.training.loggers import read_metrics

FLAGS = ["--dataset", "digits", "--model_s", "tests.nets:tiny", "--batch_size", "64"]
FLAGS += ["--path_t", "teacher.pth", "--gpu_id", "cpu", "--skip_validation", "--epochs", "2"]
CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 32}


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with a teacher, and few digits."""
    few = data.load("digits")
    few = few.keep(torch.arange(200))
    monkeypatch.setattr("distillers.data.datasets.digits.digits", lambda *_: few)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = models.create("resnet8", num_classes=10).state_dict()
    checkpoint.save(Path("teacher.pth"), {"model": state, "card": {**CARD, "dataset": "digits"}})
    return tmp_path


def student(*flags, status=0):
    assert cli.run("student", [*FLAGS, *flags]) == status


def results(save_dir):
    (file,) = Path(save_dir).rglob("metrics.jsonl")
    rows = read_metrics(file.parent)
    for row in rows:
        del row["images_per_second"], row["waited"]
    (path,) = (p for p in file.parent.iterdir() if p.name.endswith("_last.pth"))
    return torch.load(path, weights_only=True)["model"], rows


def test_few_labels_and_the_rest_without(there, capsys):
    flags = ["--labels_per_class", "3", "--unlabelled", "rest", "--unlabelled_share", "0.75"]
    student(*flags, "--save_dir", "one")
    assert "30 training, 500 test, 170 training without labels" in capsys.readouterr().out
    _, rows = results("one")
    assert {"train_ce", "train_kd", "train_acc"} <= rows[0].keys()
    student("--labels_per_class", "7", "--save_dir", "alone")
    assert "images: 70 training, 500 test\n" in capsys.readouterr().out


def test_a_run_that_is_continued_ends_in_the_same_bits(there):
    flags = ["--labels_per_class", "3", "--unlabelled", "rest", "--unlabelled_share", "0.75"]
    flags += ["--epochs", "3", "--distill", "crd", "--option", "crd.negatives=32"]
    student(*flags, "--save_dir", "whole")
    from distillers.training import trainer

    class StopError(Exception):
        pass

    steps = []
    original = trainer.Trainer.training_step

    def step(self, *args):
        steps.append(0)
        if len(steps) == 6:  # within the second epoch
            raise StopError
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "training_step", step)
        with pytest.raises(StopError):
            cli.run(
                "student", [*FLAGS, *flags, "--save_dir", "halves", "--save_minutes", "0.00001"]
            )
    student(*flags, "--save_dir", "halves", "--resume")
    (weights, rows), (others, other_rows) = results("whole"), results("halves")
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert rows == other_rows


def test_no_label_at_all_is_scored_by_a_probe(there, capsys):
    flags = ["--labels_per_class", "0", "--unlabelled", "rest", "--save_dir", "none"]
    student(*flags, status=2)
    assert "ce needs labels; set the weight to 0 (--cls 0" in capsys.readouterr().err
    student(*flags, "--distill", "rrd", "--cls", "0", "--div", "0")
    printed = capsys.readouterr().out
    assert "no loss trains the student's classifier, so --probe knn scores" in printed
    assert "--probe knn with 200 labelled training images" in printed
    _, rows = results("none")
    assert rows[-1]["test_acc"] > 20  # the embeddings of a hardly trained network
    assert "train_acc" not in rows[-1]


def test_a_folder_of_unlabelled_images_with_a_copy_of_a_test_image(there, capsys):
    digits = data.load("digits")
    Path("more").mkdir()
    for name, image in (("a", digits.test_images[7]), ("b", digits.train_images[9] // 2)):
        Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy()).save(f"more/{name}.png")
    flags = ["--unlabelled", "more", "--teacher_cache", "auto", "--views", "2"]
    student(*flags, "--epochs", "1")
    printed = capsys.readouterr().out
    assert "2 training without labels" in printed
    assert "WARNING: 1 training image also in the test set" in printed
    (config,) = Path("save").rglob("config.json")
    assert json.loads(config.read_text())["unlabelled"] == "more"


def test_no_labelled_set_at_all_is_scored_by_the_agreement_with_the_teacher(there, capsys):
    Path("more").mkdir()
    for number in range(40):
        image = data.load("digits").train_images[number].expand(3, -1, -1).permute(1, 2, 0)
        Image.fromarray(image.numpy()).save(f"more/{number}.png")
    flags = ["--dataset", "none", "--unlabelled", "more", "--image_size", "32"]
    flags += ["--num_workers", "0", "--student_head", "none", "--teacher_head", "none"]
    flags += ["--model_s", "resnet8", "--batch_size", "8", "--cls", "0", "--div", "0"]
    student(*flags, "--distill", "embedmatch", "--val_fraction", "0.25")
    printed = capsys.readouterr().out
    assert "10 of 40 images are held out to compare with the teacher" in printed
    assert "no classes; images: 0 training, 10 val, 30 training without labels" in printed
    (file,) = Path("save").rglob("metrics.jsonl")
    row = read_metrics(file.parent)[-1]
    assert 0 <= row["test_acc"] <= 100
    assert 0 <= row["test_loss"] <= 1


def test_flags_that_do_not_fit_are_refused():
    known = {"path_t": "x"}
    for flags, why in (
        ({"unlabelled": "rest"}, "labels_per_class"),
        ({"unlabelled_share": 0.5}, "needs unlabelled images"),
        ({"labels_per_class": 0}, "leaves no training image"),
        ({"unlabelled": "x", "unlabelled_share": 1.0}, r"in \(0, 1\)"),
        ({"unlabelled": ""}, "a name, or left out"),
        ({"dataset": "none"}, "needs the folder of --unlabelled"),
        ({"dataset": "none", "unlabelled": "x"}, "add --student_head none"),
    ):
        with pytest.raises(InputError, match=why):
            StudentConfig(**known, **flags).check()


def test_the_folder_of_a_run_without_the_flags_is_that_of_before():
    before = StudentConfig(path_t="x")
    assert before.digest() == StudentConfig(path_t="x", unlabelled_share=None).digest()
    digests = {
        StudentConfig(path_t="x", labels_per_class=3, unlabelled=each).digest()
        for each in (None, "rest", "./rest", "more")
    }
    assert len(digests) == 4
