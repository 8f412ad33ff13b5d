import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers import models
from distillers.data.batch import Batch
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distillation.task import Supervised
from distillers.distillation.terms import Term
from distillers.errors import InputError
from distillers.losses import CE, KD
from tests.nets import Declared, Small, TwoViews, make_batch


class Everything(nn.Module):
    """Reads every value that there is, and returns a number made of all of them."""

    def forward(
        self,
        student_logits: Tensor,
        student_pooled: Tensor,
        student_maps: list[Tensor],
        student_final: Tensor,
        student_preacts: list[Tensor],
        student_stem: Tensor,
        teacher_logits: Tensor,
        teacher_pooled: Tensor,
        teacher_maps: list[Tensor],
        teacher_final: Tensor,
        teacher_preacts: list[Tensor],
        teacher_stem: Tensor,
        labels: Tensor,
        index: Tensor,
        progress: float,
    ) -> Tensor:
        student = [student_logits, student_pooled, *student_maps, student_final, student_stem]
        teacher = [teacher_logits, teacher_pooled, *teacher_maps, teacher_final, teacher_stem]
        values = [*student, *student_preacts, *teacher, *teacher_preacts]
        return sum(v.mean() for v in values) + labels.sum() + index.sum() + progress


class Facts(nn.Module):
    """Requires every fact that there is."""

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        student_channels: list[int],
        teacher_channels: list[int],
        student_sizes: list[tuple[int, int]],
        teacher_sizes: list[tuple[int, int]],
        teacher_head: nn.Module,
        train_labels: Tensor,
        num_classes: int,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.facts = (student_dim, teacher_dim, student_channels, teacher_channels)
        self.sizes = (student_sizes, teacher_sizes)
        self.teacher_head, self.train_labels = teacher_head, train_labels
        self.counts = (num_classes, batch_size)

    def forward(self, student_pooled: Tensor) -> Tensor:
        return student_pooled.mean()


def make(weights=None, **kwargs) -> Distillation:
    torch.manual_seed(0)
    student, teacher = Declared(3), Declared(6)
    weights = weights or {"ce": 0.1, "kd": 0.9}
    return distil(student, teacher, weights, images=make_batch().images, **kwargs)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    task, batch = make(options={"kd": {"temperature": 2.0}}), make_batch()
    step = task(batch)
    student, teacher = task.student(batch.images), task.teacher(batch.images)
    ce = F.cross_entropy(student, batch.labels)
    kd = 4 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
    assert set(step.parts) == {"ce", "kd"}
    torch.testing.assert_close(step.parts["kd"], kd.detach())
    torch.testing.assert_close(step.loss, 0.1 * ce + 0.9 * kd)
    assert not step.parts["ce"].requires_grad


def test_every_name_is_wired():
    task = make({"tests.distillation.test_distillation:Everything": 1.0})
    step = task(make_batch(), 0.25)
    assert torch.isfinite(step.loss)
    step.loss.backward()
    assert all(p.grad is None for p in task.teacher.parameters())


def test_every_fact_is_known():
    labels = torch.arange(6)
    task = make(
        {"tests.distillation.test_distillation:Facts": 1.0}, train_labels=labels, batch_size=6
    )
    loss = task.losses["facts"]
    assert loss.facts == (6, 12, [3, 6], [6, 12])
    assert loss.sizes == ([(8, 8), (4, 4)],) * 2
    assert loss.counts == (5, 6)
    assert loss.teacher_head is not task.teacher.fc
    assert torch.equal(loss.teacher_head.weight, task.teacher.fc.weight)
    assert not loss.teacher_head.weight.requires_grad


def test_the_teacher_is_frozen_and_outside():
    task = make()
    assert not any(key.startswith("teacher") for key in task.state_dict())
    student = {id(p) for p in task.student.parameters()}
    assert {id(p) for p in task.parameters()} == student
    task.train()
    assert not task.teacher.training
    before = copy.deepcopy(task.teacher.state_dict())
    task(make_batch()).loss.backward()
    assert all(torch.equal(v, before[k]) for k, v in task.teacher.state_dict().items())
    task.double()
    assert next(task.teacher.parameters()).dtype == torch.float64


def test_a_teacher_that_no_loss_asks_for_does_not_run():
    task = make({"ce": 1.0})
    task.teacher.register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
    task(make_batch())


def test_a_weight_of_zero_leaves_a_loss_out():
    assert set(make({"ce": 1.0, "kd": 0.0}).losses) == {"ce"}
    with pytest.raises(InputError, match="no loss is left"):
        make({"ce": 0.0})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(InputError, match="weight of ce"):
        make({"ce": weight})


def test_networks_that_disagree_on_classes_are_refused():
    with pytest.raises(InputError, match="7 classes and the student has 5"):
        distil(Small(), Small(classes=7), {"kd": 1.0}, images=make_batch().images)


def test_options_for_an_absent_loss_are_refused():
    with pytest.raises(InputError, match="'crd', which is not among"):
        make(options={"crd": {"dim": 4}})


def test_two_losses_of_one_name_are_refused():
    student, teacher = Declared(), Declared()
    with pytest.raises(InputError, match="named twice"):
        Distillation(
            student,
            teacher,
            [Term("ce", CE(), 1.0), Term("ce", KD(), 1.0)],
            student_taps=student.taps,
            teacher_taps=teacher.taps,
        )


def test_undeclared_networks_are_read_by_rule():
    torch.manual_seed(0)
    task = distil(Small(3), Small(4), {"ce": 1.0, "kd": 1.0}, images=make_batch().images)
    assert task.student_taps.head == "fc"
    assert not hasattr(task.student, "taps")
    assert torch.isfinite(task(make_batch()).loss)


def test_the_deployed_network_is_the_student():
    task = make()
    assert task.deployed() is task.student
    supervised = Supervised(task.student, CE())
    assert supervised.deployed() is task.student


@pytest.mark.parametrize("width", [3, 6])
@pytest.mark.parametrize("make_net", [Small, Declared])
def test_each_network_runs_once_before_training(monkeypatch, make_net, width):
    runs = []
    forward = Small.forward

    def counted(self, x):
        runs.append(self)
        return forward(self, x)

    monkeypatch.setattr(Small, "forward", counted)
    student, teacher = make_net(3), make_net(width)
    weights = {"ce": 1.0, "kd": 1.0, "at": 1.0, "srrl": 1.0, "simkd": 1.0}
    task = distil(student, teacher, weights, images=make_batch().images)
    assert task.frozen.fused is not teacher
    assert [runs.count(net) for net in (student, teacher, task.frozen.fused)] == [1, 1, 1]
    assert len(runs) == 3


@pytest.mark.slow
def test_the_step_compiles_without_a_break():
    task, batch = make(), make_batch()
    expected = task(batch).loss
    compiled = torch.compile(task, fullgraph=True)
    torch.testing.assert_close(compiled(batch).loss, expected)
    torch.testing.assert_close(compiled(make_batch(seed=1)).loss, task(make_batch(seed=1)).loss)


class TwoStages(nn.Module):
    """A loss with a first stage of its own."""

    def __init__(self, *, warmup_epochs: int = 2, keep: bool = False) -> None:
        super().__init__()
        self.warmup_epochs, self.keep = warmup_epochs, keep

    def warmup(self, teacher_maps: list[Tensor], student_maps: list[Tensor]) -> Tensor:
        return (student_maps[0].mean() - teacher_maps[0].mean()) ** 2

    def forward(self, student_pooled: Tensor) -> Tensor:
        return student_pooled.mean() ** 2


def test_a_first_stage_has_only_its_own_loss():
    name = "tests.distillation.test_distillation:TwoStages"
    task = make({"ce": 1.0, name: 2.0})
    assert task.warmup_epochs == 2
    task.stage = "warmup"
    step = task(make_batch())
    assert set(step.parts) == {"twostages"}
    torch.testing.assert_close(step.loss.detach(), step.parts["twostages"])  # no weight
    task.stage = "train"
    assert set(task(make_batch(), 0.0).parts) == {"ce"}
    kept = make({"ce": 1.0, name: 2.0}, options={"twostages": {"keep": True}})
    assert set(kept(make_batch(), 0.0).parts) == {"ce", "twostages"}
    with pytest.raises(InputError, match="no loss is active after"):
        make({name: 1.0})


@pytest.mark.parametrize("name", ["at", "nst"])
def test_networks_of_other_depths_are_told_before_training(name):
    student = models.create("resnet8", num_classes=4)
    teacher = models.create("timm:test_resnet", num_classes=4)
    before = copy.deepcopy(student.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(InputError, match="the student has 3 and the teacher 4"):
        distil(student, teacher, {name: 1.0}, images=images)
    distil(student, copy.deepcopy(student), {name: 1.0}, images=images)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


# ---- two views ----------------------------------------------------------------------------------


def two_views(**weights: float) -> tuple[Distillation, Batch]:
    batch = make_batch()
    return make(weights), replace(batch, strong=make_batch(seed=1).images)


def test_a_loss_reads_both_networks_on_both_views():
    task, batch = two_views(**{"tests.nets:TwoViews": 1.0})
    reference = copy.deepcopy(task)
    student, teacher = reference.student.train(), reference.teacher
    expected = TwoViews()(  # each view has batch statistics of its own
        student(batch.images), teacher(batch.images), student(batch.strong), teacher(batch.strong)
    )
    step = task.train()(batch)
    torch.testing.assert_close(step.loss, expected)
    for name, buffer in task.student.named_buffers():
        torch.testing.assert_close(buffer, student.get_buffer(name))


@pytest.mark.parametrize("label_loss", ["ce", "softce", "bce"])
def test_the_loss_with_the_labels_is_taken_on_both_views(label_loss):
    task, batch = two_views(**{label_loss: 1.0, "kd": 1.0, "tests.nets:TwoViews": 0.1})
    alone, _ = two_views(**{label_loss: 1.0, "kd": 1.0})
    both = [alone.eval()(replace(batch, images=x)) for x in (batch.images, batch.strong)]
    step = task.eval()(batch)
    total = both[0].parts[label_loss] + both[1].parts[label_loss]
    torch.testing.assert_close(step.parts[label_loss], total)
    torch.testing.assert_close(step.parts["kd"], both[0].parts["kd"])
    torch.testing.assert_close(step.logits, both[0].logits)


def test_no_second_view_is_read_if_no_loss_asks():
    task, batch = two_views(ce=1.0, kd=1.0)
    assert not task.reads_strong
    assert torch.equal(task(batch).loss, copy.deepcopy(task)(make_batch()).loss)


class StrongTeacher(nn.Module):
    """Reads the teacher's second view alone."""

    def forward(self, student_maps: list[Tensor], teacher_maps_strong: list[Tensor]) -> Tensor:
        return student_maps[0].mean() + teacher_maps_strong[0].mean()


def test_features_of_the_second_view_are_read_too():
    task, batch = two_views(**{f"{__name__}:StrongTeacher": 1.0})
    assert task._read_cached(batch, 0) == {}  # not run on the first view
    found = make_features(task.teacher, batch.strong)
    expected = task._student_extractor(batch.images)["maps"][0].mean() + found.mean()
    torch.testing.assert_close(task(batch).loss, expected)


class StrongAlone(nn.Module):
    """Reads nothing of the first view."""

    def forward(self, student_logits_strong: Tensor) -> Tensor:
        return student_logits_strong.square().mean()


def test_a_loss_of_the_second_view_alone_trains_the_student():
    task, batch = two_views(**{f"{__name__}:StrongAlone": 1.0})
    expected = task.student(batch.strong).square().mean()
    torch.testing.assert_close(task.train()(batch).loss, expected)


def make_features(net: nn.Module, images: Tensor) -> Tensor:
    return net.stage1(net.stem(images))


def test_a_batch_without_the_second_view_is_refused():
    task, batch = two_views(**{"tests.nets:TwoViews": 1.0})
    with pytest.raises(InputError, match="reads a second, strongly augmented view"):
        task(replace(batch, strong=None))
