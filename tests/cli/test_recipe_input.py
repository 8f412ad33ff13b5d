"""Flags of recipes that do not fit are refused in one line, before anything is written."""

import pytest

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli

CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 32, "dataset": "digits"}
CARD |= {"mean": [0.5] * 3, "std": [0.5] * 3}
WRONG = {
    "--opt adamv": "no optimizer 'adamv', did you mean 'adam'",
    "--sched cosin": "no schedule 'cosin', did you mean 'cosine'",
    "--recipe patent": "no recipe 'patent', did you mean 'patient'",
    "--sched cosine --warmup_epochs 3": "--warmup_epochs is 3; it must be less than --epochs 3",
    "--recipe distil --warmup_epochs 3": "--warmup_epochs is 3; it must be less than --epochs 3",
    "--distill crd --mixup 0.2": "CRD reads hard labels, which images mixed by --mixup or",
    "--distill kd+dkd --cutmix 1": "DKD reads hard labels, which images mixed by --mixup or",
    "--teacher_cache auto --mixup 0.2": "--teacher_cache holds what the teacher computed for",
    "--teacher_cache auto --recipe a2 --aug_repeats 0": "--teacher_cache holds what the teacher",
    "--views 4 --aug_repeats 3": "--aug_repeats 3 shows several augmentations of an image in an",
    "--aa rand-m11": "the magnitude m is 11; it must be from 0 to 10; rand-m11-mmax11 allows more",
    "--aa augmix-m11": "the magnitude m is 11; it must be from 0 to 10",
    "--aa rend-m9": "no policy in --aa 'rend', did you mean 'rand'",
    "--aa rand-m": "'m' is not a name with a number, as in m9 or mstd0.5",
    "--class_weight weights.yml": "weights.yml has classes that the data set has not: cat; it",
    "--class_weight none.yml": "cannot read --class_weight none.yml",
    "--recipe a2 --model_s resnet8 --drop_path 0.1": "resnet8 has no stochastic depth",
    "--grad_checkpointing": "cannot do --grad_checkpointing; many networks of timm can",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "weights.yml").write_text("cat: 1\n'0': 2\n")
    state = {"model": models.create("resnet8", 10).state_dict(), "card": CARD}
    checkpoint.save(folder / "teacher.pth", state)
    return folder


@pytest.mark.parametrize("words", WRONG)
def test_flags_that_do_not_fit_are_refused_in_one_line(words, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    flags = ["--path_t", "teacher.pth", "--model_s", "resnet8", "--dataset", "digits"]
    flags += ["--gpu_id", "cpu", "--epochs", "3", "--lr_decay_epochs", "2"]
    assert cli.run("student", [*flags, *words.split()]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert WRONG[words] in error[0]
    assert sorted(home.rglob("*")) == before
