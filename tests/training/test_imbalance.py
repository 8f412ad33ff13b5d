"""Classes of unequal size: weights, sampling, scores, and the choice of the best epoch."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from distillers import data
from distillers.cli import main as cli
from distillers.config.data import DecodeOptions
from distillers.config.teacher import TeacherConfig
from distillers.data.loaders.mixing import smooth
from distillers.data.sampling import balanced_order, occurrences
from distillers.distillation.task import Supervised
from distillers.distributed.world import Shard
from distillers.errors import InputError
from distillers.losses import BCE, CE, SoftCE
from distillers.report.run_folder import read_run
from distillers.training.class_weight import check_same_weights, class_weight_options
from distillers.training.recorder import RunRecorder
from tests.data.trees import WNIDS, tree
from tests.nets import Small, make_batch
from tests.processes import together
from tests.run_folders import interrupt_after

WEIGHTS = (0.5, 1.0, 4.0, 2.0, 0.25)
CPU = torch.device("cpu")


def drawn(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    logits = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (n,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy_is_that_of_pytorch(smoothing):
    logits, labels = drawn()
    expected = F.cross_entropy(
        logits, labels, torch.tensor(WEIGHTS).double(), label_smoothing=smoothing
    )
    found = CE(label_smoothing=smoothing, class_weight=WEIGHTS)(logits, labels)
    torch.testing.assert_close(found, expected)
    assert CE(class_weight=[3.0] * 5)(logits, labels) == pytest.approx(float(CE()(logits, labels)))


def test_weighted_soft_losses_are_their_definitions():
    logits, labels = drawn()
    targets = smooth(labels, 5, 0.2).double().lerp(smooth(labels.flip(0), 5, 0.2).double(), 0.3)
    entropies, binaries, total = 0.0, 0.0, 0.0
    for row, target in zip(logits, targets, strict=True):
        share = sum(float(t) * w for t, w in zip(target, WEIGHTS, strict=True))
        logs = row.log_softmax(0)
        entropies -= sum(w * float(t * p) for t, p, w in zip(target, logs, WEIGHTS, strict=True))
        p = row.sigmoid()
        binaries -= share * float((target * p.log() + (1 - target) * (1 - p).log()).mean())
        total += share
    assert float(SoftCE(class_weight=WEIGHTS)(logits, targets)) == pytest.approx(entropies / total)
    assert float(BCE(class_weight=WEIGHTS)(logits, targets)) == pytest.approx(binaries / total)
    hard = SoftCE(class_weight=WEIGHTS)(logits, F.one_hot(labels, 5))
    torch.testing.assert_close(hard, CE(class_weight=WEIGHTS)(logits, labels))


def compare_with_one(folder: str) -> None:
    rank, size, counts = dist.get_rank(), dist.get_world_size(), (5, 2)
    for loss in (CE(class_weight=WEIGHTS), SoftCE(class_weight=WEIGHTS)):
        whole = replace(make_batch(7), images=make_batch(7).images)
        first = sum(counts[:rank])
        mine = slice(first, first + counts[rank])
        part = replace(
            whole, images=whole.images[mine], labels=whole.labels[mine], rows_per_rank=counts
        )
        torch.manual_seed(0)
        task = Supervised(Small(), loss).double().eval()
        step = task(replace(part, images=part.images.double()))
        grads = torch.autograd.grad(step.loss * part.share, list(task.parameters()))
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        torch.manual_seed(0)
        logits = task.student(whole.images.double())
        weight = torch.tensor(WEIGHTS).double()
        expected = F.cross_entropy(logits, whole.labels, weight)
        grads = torch.autograd.grad(expected, list(task.parameters()))
        torch.testing.assert_close(flat / size, torch.cat([grad.flatten() for grad in grads]))


def test_several_processes_weight_as_one(tmp_path):
    together(2, compare_with_one, str(tmp_path))


def splits(labels: torch.Tensor, names: tuple[str, ...]) -> SimpleNamespace:
    return SimpleNamespace(train=SimpleNamespace(train_labels=labels, class_names=names))


@pytest.mark.parametrize("unlabelled", [0, 4])
def test_balanced_weights_are_those_of_scikit_learn(unlabelled):
    labels = torch.tensor([0] * 7 + [1] * 2 + [3] * 5)
    every = torch.cat([labels, torch.full((unlabelled,), -1)])
    config = TeacherConfig(class_weight="balanced")
    found = class_weight_options(config, splits(every, ("a", "b", "c", "d")))["class_weight"]
    classes = np.unique(labels)
    expected = compute_class_weight("balanced", classes=classes, y=labels.numpy())
    assert [found[label] for label in classes] == pytest.approx(expected)
    assert class_weight_options(TeacherConfig(), splits(labels, ("a",))) == {}


FILES = {
    "01: 2\nno: 0.5\n1e3: 1": None,
    '{"01": 2.0, "no": 0.5, "1e3": 1}': None,
    "01: 2\nno: 0.5": "lacks the classes: 1e3",
    "01: 2\nno: 0.5\n1e3: 1\ncat: 3": "has classes that the data set has not: cat",
    "01: 2\nno: -1\n1e3: 1": "no is '-1'; it must be greater than 0",
    "01: 2\nno: much\n1e3: 1": "no is 'much'; it must be greater than 0",
    "- 1\n- 2": "must be a mapping of names to values",
    "01: [1]": "must be a mapping of names to values",
}


@pytest.mark.parametrize("content", FILES)
def test_weights_from_a_file(content, tmp_path):
    file = tmp_path / "weights.yml"
    file.write_text(content)
    config, parts = TeacherConfig(class_weight=str(file)), splits(None, ("01", "no", "1e3"))
    if FILES[content] is None:
        assert class_weight_options(config, parts) == {"class_weight": (2.0, 0.5, 1.0)}
        return
    with pytest.raises(InputError, match=FILES[content].replace("[", r"\[")):
        class_weight_options(config, parts)


def test_names_of_classes_may_differ_in_a_hyphen_only(tmp_path):
    file = tmp_path / "weights.yml"
    file.write_text("a-1: 2\na_1: 3")
    config = TeacherConfig(class_weight=str(file))
    found = class_weight_options(config, splits(None, ("a-1", "a_1")))
    assert found == {"class_weight": (2.0, 3.0)}


def test_a_missing_file_of_weights_is_named():
    with pytest.raises(InputError, match=r"cannot read --class_weight none\.yml"):
        class_weight_options(TeacherConfig(class_weight="none.yml"), splits(None, ()))


def test_a_run_with_other_weights_is_not_resumed():
    def run_dir(weights):
        return SimpleNamespace(folder="x", state=SimpleNamespace(card={"class_weight": weights}))

    check_same_weights(run_dir([1.0, 2.0]), (1.0, 2.0))
    check_same_weights(run_dir(None), None)
    with pytest.raises(InputError, match="x began with other weights of the classes"):
        check_same_weights(run_dir([1.0, 2.0]), (1.0, 3.0))


def test_a_balanced_epoch_has_every_class_equally_often():
    labels = torch.tensor([2] * 30 + [0] * 3 + [5] * 8)
    rows = balanced_order(labels, torch.Generator().manual_seed(0))
    counts = torch.bincount(labels[rows])
    assert len(rows) == 41
    assert sorted(counts[counts > 0].tolist()) == [13, 14, 14]
    for label in (0, 2, 5):
        times = torch.bincount(rows, minlength=41)[labels == label]
        assert times.max() - times.min() <= 1
    assert not torch.equal(rows, balanced_order(labels, torch.Generator().manual_seed(1)))
    seen: dict[int, int] = {}
    for row, before in zip(rows.tolist(), occurrences(rows).tolist(), strict=True):
        assert before == seen.get(row, 0)
        seen[row] = before + 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder without val/, with 8, 4 and 2 images of three classes."""
    root = tree(tmp_path_factory.mktemp("photos") / "photos", train=8, val=1)
    shutil.rmtree(root / "val")
    for name, count in zip(WNIDS, (8, 4, 2), strict=True):
        for file in sorted((root / "train" / name).iterdir())[count:]:
            file.unlink()
    return root


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_processes_and_resumed_runs_see_the_balanced_images_of_one(kind, photos):
    if kind == "folder":
        source = data.source_of("folder", photos, False, DecodeOptions(16, val_fraction=0.2))
    else:
        whole = data.load("digits")
        source = whole.keep(
            torch.cat([torch.arange(40), (whole.train_labels == 3).nonzero()[:, 0]])
        )

    def batches(size, shard=Shard(), start=0):
        loader = source.train_loader(
            size, seed=3, drop_last=False, device=CPU, shard=shard, balanced=True
        )
        return [(b.index, b.images) for b in loader.epoch(2, start)]

    one = batches(6)
    rows = torch.cat([index for index, _ in one])
    counts = torch.bincount(source.train_labels[rows])
    assert counts.max() - counts.min() <= 1
    for number, (index, images) in enumerate(batches(6, start=1), 1):
        assert torch.equal(index, one[number][0])
        assert torch.equal(images, one[number][1])
    for size in (2, 3):
        parts = [batches(6 // size, Shard(rank, size)) for rank in range(size)]
        for number, (index, images) in enumerate(one):
            assert torch.equal(torch.cat([part[number][0] for part in parts]), index)
            assert torch.equal(torch.cat([part[number][1] for part in parts]), images)
    if kind == "folder":  # an image that comes again is cropped anew
        images = torch.cat([each for _, each in one])
        again = [(rows == row).nonzero().flatten() for row in rows.unique()]
        first, second, *_ = max(again, key=len)
        assert not torch.equal(images[first], images[second])


ROWS = [
    {"val_acc": 50.0, "val_balanced_acc": 20.0, "val_loss": 0.9, "test_acc": 40.0},
    {"val_acc": 60.0, "val_balanced_acc": 15.0, "val_loss": 1.0, "test_acc": 50.0},
    {"val_acc": 55.0, "val_balanced_acc": 30.0, "val_loss": 0.5, "test_acc": 60.0},
    {"val_acc": 55.0, "val_balanced_acc": 25.0, "val_loss": 0.4, "test_acc": 45.0},
]


@pytest.mark.parametrize(
    ("select", "protocol", "part", "expected"),
    [
        (None, "crd", "val", 2),
        ("test_acc", "crd", "val", 2),
        ("balanced_acc", "simkd", "val", 3),
        ("loss", "crd", "val", 4),
        (None, "simkd", "test", 3),
        (None, "crd", "test", 4),
        ("test_acc", "crd", "test", 3),
    ],
)
def test_the_figure_that_chooses_the_best_epoch(select, protocol, part, expected):
    config = TeacherConfig(select=select, protocol=protocol)
    recorder = SimpleNamespace(config=config, best=None)
    for epoch, row in enumerate(ROWS, 1):
        seen = {name: value for name, value in row.items() if part == "val" or "val" not in name}
        if RunRecorder._is_better(recorder, seen):
            recorder.best = {**seen, "epoch": epoch}
    assert recorder.best["epoch"] == expected


def test_a_first_loss_that_is_not_finite_is_not_the_best_for_ever():
    config = TeacherConfig(select="loss")
    recorder = SimpleNamespace(config=config, best={"val_acc": 10.0, "val_loss": float("nan")})
    assert RunRecorder._is_better(recorder, {"val_acc": 10.0, "val_loss": 2.0})


FLAGS = [
    *("--dataset", "folder", "--num_workers", "0", "--image_size", "16", "--batch_size", "4"),
    *("--model", "tests.nets:tiny", "--gpu_id", "cpu", "--lr_decay_epochs", "", "--epochs", "3"),
    *("--val_fraction", "0.2", "--class_weight", "balanced", "--balanced_sampling"),
    *("--select", "balanced_acc", "--learning_rate", "0.01", "--protocol", "crd"),
]


def test_an_unbalanced_folder_is_recorded_as_val_and_resumed_to_the_bit(
    photos, tmp_path, monkeypatch, capsys
):
    flags = [*FLAGS, "--data_dir", str(photos)]
    monkeypatch.chdir(tmp_path)
    assert cli.run("teacher", [*flags, "--save_dir", "whole"]) == 0
    printed = capsys.readouterr()
    assert "11 training, 3 val" in printed.out
    assert "test_acc" not in printed.err
    (folder,) = (f for f in (tmp_path / "whole/teachers/models").iterdir() if not f.is_symlink())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = {"loss", "acc", "acc_top5", "balanced_acc", "macro_f1"}
    assert {f"val_{figure}" for figure in figures} <= rows[0].keys()
    assert not any(name.startswith("test_") for name in rows[0])
    best = max(rows, key=lambda row: row["val_balanced_acc"])
    reported = json.loads((folder / "test_best_metrics.json").read_text())
    assert reported == {
        name: best[name] for name in ("val_loss", "val_acc", "val_acc_top5", "epoch")
    }
    record = read_run(folder)
    assert (record.dataset, record.scores["last"]) == ("folder (val)", rows[-1]["val_acc"])

    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch=2)
        assert cli.run("teacher", [*flags, "--save_dir", "parts"]) == 130
    assert cli.run("teacher", [*flags, "--save_dir", "parts", "--resume"]) == 0
    (other,) = (f for f in (tmp_path / "parts/teachers/models").iterdir() if not f.is_symlink())
    (last,) = folder.glob("*_last.pth")
    a, b = (torch.load(each / last.name, weights_only=True)["model"] for each in (folder, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
