"""Losses that need labels act on the labelled images of a batch, all others on all."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from distillers.config.hyperparameters import Hyperparameters
from distillers.data.batch import Batch
from distillers.distillation.build import distil
from distillers.distillation.joint import JointTask
from distillers.distillation.labelled import call_for_labelled
from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.losses import CE, CRD, wiring
from distillers.training.metrics import EpochMetrics
from distillers.training.trainer import Trainer
from tests.losses.cases import CASES, exported
from tests.processes import together

SIDE, CLASSES = 8, 3
LABELS = torch.tensor([0, -1, 2, -1, -1, 1, 2, -1, 0, 1, -1, -1])
NEEDING = [name for name, cls in exported().items() if wiring.needs_labels(cls)]


def batch_of(labels, counts=(), known=()):
    rng = torch.Generator().manual_seed(len(labels))
    images = torch.randn(len(labels), 3, SIDE, SIDE, generator=rng, dtype=torch.float64)
    rows = (labels >= 0).nonzero().flatten()
    index = torch.arange(len(labels))
    return Batch(images, labels, index, None, counts, labelled=rows, labelled_per_rank=known)


def network():
    layers = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, CLASSES)).double()


def task_of(weights, train_labels=LABELS):
    torch.manual_seed(0)
    student, teacher = network(), network()
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    options = {"crd": {"negatives": 6}} if "crd" in weights else {}
    task = distil(
        student, teacher, weights, images=images, train_labels=train_labels, options=options
    )
    return task.double().train()


def changed(inputs, change):
    def apply(value):
        if isinstance(value, list):
            return [apply(each) for each in value]
        return change(value) if isinstance(value, torch.Tensor) else value

    return {name: apply(value) for name, value in inputs.items()}


def test_the_losses_that_need_labels_are_those_that_name_them():
    assert {"ce", "crd", "dkd", "wsld"} <= set(NEEDING)
    assert not {"kd", "dist", "rrd", "rrdmomentum", "dcd", "rkd"} & set(NEEDING)


@pytest.mark.parametrize("name", NEEDING)
def test_a_loss_gets_only_the_labelled_images(name):
    case, cls = CASES[name], exported()[name]
    inputs = case.inputs(cls)
    n, rows = case.batch, torch.tensor([0, 2, 3])
    torch.manual_seed(5)
    expected = case.build(cls)(**changed(inputs, lambda x: x[rows]))
    hidden = torch.ones(n, dtype=torch.bool)
    hidden[rows] = False

    def spoil(x):
        shape = (n, *[1] * (x.ndim - 1))
        return x.masked_fill(hidden.view(shape), float("nan") if x.is_floating_point() else -1)

    batch = replace(batch_of(torch.zeros(n, dtype=torch.int64)), labelled=rows)
    torch.manual_seed(5)
    found = call_for_labelled(case.build(cls), changed(inputs, spoil), batch)
    torch.testing.assert_close(found, expected)


def test_a_batch_without_labels_gives_zero_with_zero_gradients():
    task = task_of({"ce": 1.0})
    step = task(batch_of(torch.full((4,), -1)))
    step.loss.backward()
    assert float(step.loss.detach()) == 0
    assert all(torch.equal(p.grad, p * 0) for p in task.student.parameters())


def test_labels_act_on_their_images_and_the_teacher_on_all():
    task = task_of({"ce": 1.0, "kd": 0.5})
    batch = batch_of(LABELS)
    step = task(batch)
    known = LABELS >= 0
    logits, taught = task.student(batch.images), task.teacher(batch.images)
    ce = F.cross_entropy(logits[known], LABELS[known])
    kd = F.kl_div((logits / 4).log_softmax(1), (taught / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(step.parts["ce"], ce.detach())
    torch.testing.assert_close(step.loss, ce + 0.5 * 16 * kd)
    assert step.labelled == ("ce",)


def test_the_parts_of_joint_tasks_that_are_means_over_labelled_images_are_named():
    task = JointTask([task_of({"ce": 1.0, "kd": 1.0}) for _ in range(2)])
    assert task(batch_of(LABELS)).labelled == ("ce", "ce_2")


@pytest.mark.parametrize("mode", ["exact", "relax"])
def test_unlabelled_images_change_nothing_for_crd(mode):
    labels = torch.arange(20) % 4
    more = torch.cat([labels, torch.full((30,), -1)])
    torch.manual_seed(0)
    alone = CRD(6, 7, labels, dim=5, negatives=8, mode=mode).double()
    beside = CRD(6, 7, more, dim=5, negatives=8, mode=mode).double()
    state = alone.state_dict()
    for bank in ("student_bank", "teacher_bank"):
        state[bank] = torch.cat([state[bank], torch.full((30, 5), torch.nan)])
    beside.load_state_dict(state)
    for _ in range(3):
        rows = torch.randperm(50)[:16]
        student, teacher = torch.randn(16, 6).double(), torch.randn(16, 7).double()
        inputs = {"student_pooled": student, "teacher_pooled": teacher}
        inputs |= {"labels": more[rows], "index": rows, "rows_per_rank": ()}
        known = (more[rows] >= 0).nonzero().flatten()
        batch = replace(batch_of(more[rows]), labelled=known)
        expected = alone(student[known], teacher[known], more[rows][known], rows[known])
        found = call_for_labelled(beside, inputs, batch)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(beside.teacher_bank[:20], alone.teacher_bank, rtol=0, atol=1e-12)


def test_losses_of_the_teacher_alone_need_no_label():
    wiring.check_has_labels(["kd", "dist", "rrd"])
    with pytest.raises(InputError, match="but crd and ce need labels; set the weight to 0"):
        wiring.check_has_labels(["crd", "kd", "ce"])


def test_a_network_without_a_teacher_leaves_out_what_has_no_label():
    torch.manual_seed(0)
    task = Supervised(network(), CE())
    batch = batch_of(LABELS)
    known = LABELS >= 0
    expected = F.cross_entropy(task.student(batch.images)[known], LABELS[known])
    torch.testing.assert_close(task(batch).loss, expected)


def test_the_training_accuracy_counts_labelled_images_only():
    task, metrics, right, total = task_of({"ce": 1.0, "kd": 1.0}), EpochMetrics(), 0, 0
    ce, kd = 0.0, 0.0
    for labels in (LABELS, LABELS.flip(0)[:7], torch.full((3,), -1)):
        batch = batch_of(labels)
        step = task(batch)
        metrics.add(step, batch)
        right += int((step.logits.argmax(1) == labels).sum())
        total += batch.num_labelled
        ce += float(step.parts["ce"]) * batch.num_labelled
        kd += float(step.parts["kd"]) * len(labels)
    found = metrics.compute()
    assert found["train_acc"] == pytest.approx(100 * right / total)
    assert found["train_ce"] == pytest.approx(ce / total)
    assert found["train_kd"] == pytest.approx(kd / 22)
    resumed = EpochMetrics(metrics.state(World()))
    assert resumed.compute()["train_acc"] == found["train_acc"]


def test_an_epoch_without_labels_has_no_training_accuracy():
    metrics, batch = EpochMetrics(), batch_of(torch.full((3,), -1))
    metrics.add(task_of({"kd": 1.0})(batch), batch)
    assert "train_acc" not in metrics.compute()


# ---- several processes --------------------------------------------------------------------------

# images of both processes, and the labelled ones: uneven; none in the second; none at all
PARTS = [((6, 6), (3, 2)), ((7, 5), (4, 0)), ((6, 6), (0, 0)), ((6, 6), (1, 5))]
METHODS = (
    {"ce": 1.0, "kd": 0.5},
    {"crd": 0.8, "dcd": 1.0},
    {"ce": 1.0, "rrd": 0.1},
    {"softce": 1.0, "kd": 0.5},
    {"bce": 1.0},
)


def labels_of(counts, known):
    parts = []
    for count, labelled in zip(counts, known, strict=True):
        labels = torch.arange(count) % CLASSES
        labels[labelled:] = -1
        parts.append(labels)
    return torch.cat(parts)


def trained(weights, world):
    train_labels = torch.arange(12) % CLASSES
    trainer = Trainer(task_of(weights, train_labels), Hyperparameters(1, 0.1), world)
    losses = []
    for counts, known in PARTS:
        whole = batch_of(labels_of(counts, known))
        if world.size > 1:
            first = sum(counts[: world.rank])
            rows = torch.arange(first, first + counts[world.rank])
            labels = whole.labels[rows]
            labelled = (labels >= 0).nonzero().flatten()
            whole = Batch(whole.images[rows], labels, rows, None, counts, labelled=labelled)
            whole = replace(whole, labelled_per_rank=known)
        loss = trainer.backward(whole, 0.0).loss.detach() * whole.share
        losses.append(world.sum(loss) / world.size)
        trainer.optimizer_step()
    return losses, trainer.task.state_dict()


def work(path):
    world = World(dist.get_rank(), dist.get_world_size(), dist.get_rank())
    found = [trained(weights, world) for weights in METHODS]
    if world.is_first:
        torch.save(found, path)


def test_several_processes_learn_what_one_does(tmp_path):
    together(2, work, str(tmp_path / "found.pt"))
    found = torch.load(tmp_path / "found.pt")
    for weights, mine in zip(METHODS, found, strict=True):
        torch.testing.assert_close(mine, trained(weights, World()), rtol=1e-9, atol=1e-9)
