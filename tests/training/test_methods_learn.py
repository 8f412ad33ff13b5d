"""Every method, trained on digits: it learns, and what is saved is what was scored."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.load import load as load_network
from distillers.cli import main as cli
from distillers.config.augmentation import Augmentation
from distillers.data import Loader, load
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.task import Supervised
from distillers.losses import CE, wiring
from distillers.training import runner as run
from distillers.training.trainer import Hyperparameters, fit

COUNT, BATCH = 256, 64
# CRD's loss rises while real embeddings replace the random ones in its banks, and falls then.
EPOCHS = {"crd": 18}
# IRG's published weight is too small to lower its loss against the cross-entropy's.
WEIGHTS = {"irg": {"irg": 10.0}}


@pytest.fixture(scope="module")
def digits():
    images = load("digits").resized(16)
    return images.keep(torch.arange(COUNT))


def make_loader(images, **flags):
    return Loader(
        images.train_images,
        images.train_labels,
        batch_size=BATCH,
        mean=images.mean,
        std=images.std,
        **flags,
    )


@pytest.fixture(scope="module")
def teacher(digits):
    torch.manual_seed(0)
    net = models.create("resnet14", num_classes=10)
    hparams = Hyperparameters(epochs=6, learning_rate=0.05)
    loader = make_loader(digits, shuffle=True)
    fit(Supervised(net, CE()), loader, hparams, evaluate=lambda _: {}, on_epoch_end=lambda *_: None)
    return net


def student_of(name):
    return "tests.nets:tiny_vit" if name == "vitkd" else "resnet8"


def build(name, digits, teacher, seed=0):
    torch.manual_seed(seed)
    if name == "vitkd":  # reads tokens
        teacher = models.create(student_of(name), num_classes=10)
    row = recipes.recipe("crd", name)
    options = {"warmup_epochs": 1} if name in ("ab", "ft", "fsp") else {}
    return distil(
        models.create(student_of(name), num_classes=10),
        teacher,
        row.weights(name) | WEIGHTS.get(name, {}),
        images=digits.sample(torch.device("cpu")),
        train_labels=digits.train_labels,
        batch_size=BATCH,
        options={name: options} if options else None,
    )


def scores(net, digits):
    return run.evaluate_on_splits(net, {"test": digits.test_loader(torch.device("cpu"))})


def train(name, digits, teacher):
    task, rows = build(name, digits, teacher), []
    second_view = Augmentation(strong_aa="fixmatch" if task.reads_strong else None)
    epochs = EPOCHS.get(name, 4)
    fit(
        task,
        make_loader(digits, shuffle=True, augment=task.reads_strong, augmentation=second_view),
        Hyperparameters(epochs=epochs, learning_rate=0.02),
        evaluate=lambda net: scores(net, digits) if len(rows) >= epochs - 1 else {},
        on_epoch_end=lambda row, *_: rows.append(row),
    )
    return task, rows


@pytest.mark.parametrize("name", sorted(wiring.losses()))
def test_a_method_lowers_its_loss_and_what_is_saved_scores_the_same(
    name, digits, teacher, tmp_path
):
    task, rows = train(name, digits, teacher)
    part = f"train_{name}"
    seen = [row[part] for row in rows if part in row]
    if len(seen) > 1:
        assert min(seen[1:]) < seen[0]
    else:  # AB and FSP act in their first stage alone
        assert name in ("ab", "fsp")
    deployed = task.deployed()
    card = {"model": student_of(name), "num_classes": 10, "deploy": getattr(deployed, "card", None)}
    path = tmp_path / "resnet8_best.pth"
    checkpoint.save(path, {"model": deployed.state_dict(), "card": json.loads(json.dumps(card))})
    loaded = load_network(path, model=student_of(name)).net
    assert scores(loaded, digits) == {k: rows[-1][k] for k in scores(loaded, digits)}


def test_the_simkd_student_is_the_one_that_was_scored(digits, teacher):
    """Backbone, projector and the teacher's classifier, counted and frozen as they should be."""
    task, _ = train("simkd", digits, teacher)
    deployed = task.deployed()
    head = {id(p) for p in task.losses["simkd"].teacher_head.parameters()}
    assert head <= {id(p) for p in deployed.parameters()}
    assert torch.equal(deployed.head.weight, teacher.fc.weight)
    own = sum(p.numel() for p in task.student.fc.parameters())
    kept = sum(p.numel() for p in task.student.parameters()) - own
    between = sum(p.numel() for p in task.losses["simkd"].projector.parameters())
    total = sum(p.numel() for p in deployed.parameters())
    assert total == kept + between + sum(p.numel() for p in teacher.fc.parameters())


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """A few images in CIFAR-100's exact layout, and the documented teacher on them."""
    home = tmp_path_factory.mktemp("cifar")
    folder = home / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("test", 37)):
        content = {
            b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"fine_labels": [int(n) for n in rng.integers(0, 100, count)],
            b"coarse_labels": [0] * count,
            b"filenames": [b"x.png"] * count,
            b"batch_label": b"batch",
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {b"fine_label_names": [b"%d" % n for n in range(100)], b"coarse_label_names": []}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        documented = (
            "--batch_size 64 --epochs 240 --dataset cifar100 --model resnet32x4 "
            "--learning_rate 0.05 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --trial 0"
        )
        assert cli.run("teacher", [*documented.split(), "--epochs", "1"]) == 0
    return home


def test_the_documented_cifar100_commands_work(cifar100, monkeypatch, capsys):
    monkeypatch.chdir(cifar100)
    documented = (
        "--path_t ./save/teachers/models/resnet32x4_vanilla/resnet32x4_best.pth --distill simkd "
        "--model_s resnet8x4 -c 0 -d 0 -b 1 --trial 0"
    )
    assert cli.run("student", [*documented.split(), "--epochs", "1"]) == 0
    (folder,) = (cifar100 / "save/students/models").glob(
        "S_resnet8x4_T_resnet32x4_cifar100_simkd_*"
    )
    reported = json.loads((folder / "test_best_metrics.json").read_text())
    words = [sys.executable, "-m", "distillers.cli.main", "evaluate", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    printed = dict(
        line.split()[:2] for line in done.stdout.splitlines() if line.startswith("test_")
    )
    for key in ("test_acc", "test_acc_top5", "test_loss"):
        assert float(printed[key]) == pytest.approx(reported[key], rel=1e-6)


@pytest.mark.parametrize("name", recipes.ELEVEN)
def test_every_method_is_reached_by_the_documented_flag(name, cifar100, monkeypatch):
    monkeypatch.chdir(cifar100)
    flags = ["--path_t", "./save/teachers/models/resnet32x4_vanilla/resnet32x4_best.pth"]
    flags += ["--distill", name, "--model_s", "resnet8", "--batch_size", "32", "--epochs", "1"]
    flags += ["--nce_k", "64", "--skip_validation"]
    assert cli.run("student", flags) == 0
