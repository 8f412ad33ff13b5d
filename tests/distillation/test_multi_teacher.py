import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers import JointTask, distil
from distillers.distillation.dropping import TeacherDropping
from distillers.distillation.ema_teacher import EMATeacher
from distillers.distillation.multi_teacher import combine_logits, normalize_weights, renamed
from distillers.errors import InputError
from distillers.losses import KD
from distillers.models.precision import ReducedPrecision
from tests.nets import Declared, Small, make_batch

DETERMINISTIC = ["kd", "dkd", "dist", "fitnet", "at", "sp", "rkd", "vid", "srrl", "cc", "ttm",
                 "reviewkd", "ofd", "semckd", "pkt", "rrd", "queuekl", "vkd", "mlkd",
                 "crld"]  # fmt: skip


def gradient(task: nn.Module, batch) -> tuple[float, dict[str, Tensor]]:
    loss = task(batch).loss
    loss.backward()
    found = {n: p.grad for n, p in task.student.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("combine", ["probabilities", "logits", "each"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_two_equal_teachers_are_as_one(name, combine) -> None:
    torch.manual_seed(0)
    teacher, batch = Declared(6).double(), make_batch(8)
    images = batch.images.double()
    batch = replace(batch, images=images, strong=images.flip(3))
    values = []
    for teachers in (teacher, [teacher, copy.deepcopy(teacher)]):
        torch.manual_seed(1)
        student = Declared(4).double()
        task = distil(student, teachers, {"ce": 0.5, name: 2.0}, images=batch.images,
                      batch_size=8, combine=combine).double()  # fmt: skip
        values.append(gradient(task, batch))
    (one, of_one), (two, of_two) = values
    assert two == pytest.approx(one, rel=1e-9)
    for key, value in of_one.items():
        torch.testing.assert_close(of_two[key], value, rtol=1e-9, atol=1e-9)


def test_averages_are_those_of_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (3 * torch.randn(6, 5, generator=generator).double() for _ in range(2))
    weights = normalize_weights([3, 1], 2)
    probabilities = 0.75 * one.softmax(1) + 0.25 * other.softmax(1)
    found = combine_logits([one, other], weights, "probabilities")
    torch.testing.assert_close(found, probabilities.log())
    torch.testing.assert_close(
        combine_logits([one, other], weights, "logits"), 0.75 * one + 0.25 * other
    )


def test_each_teacher_of_another_kind_has_a_head_of_its_own() -> None:
    torch.manual_seed(0)
    batch = make_batch()
    teachers = [Declared(6), Small(8, 5)]
    weights = {"ce": 1.0, "kd": 1.0, "fitnet": 4.0}
    task = distil(
        Declared(4),
        teachers,
        weights,
        images=batch.images,
        teacher_weights=[1, 3],
        options={"fitnet": {"hint_layer": 1}},
    )
    step = task(batch)
    assert list(step.parts) == ["ce", "kd", "fitnet_1", "fitnet_2"]
    assert task.weights == {"ce": 1.0, "kd": 1.0, "fitnet_1": 1.0, "fitnet_2": 3.0}
    assert task.losses["fitnet_1"].conv.out_channels == 6
    assert task.losses["fitnet_2"].conv.out_channels == 8
    mean = 0.25 * teachers[0](batch.images).softmax(1) + 0.75 * teachers[1](batch.images).softmax(1)
    student = (task.student(batch.images) / 4).log_softmax(1)
    expected = 16 * F.kl_div(student, (mean.log() / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(step.parts["kd"], expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_cached_teacher_is_not_run() -> None:
    batch = make_batch()
    task = distil(Small(), [Small(6), Small(8)], {"kd": 1.0, "rkd": 1.0}, images=batch.images)
    full = task(batch).loss
    runs: list[int] = []
    for number, frozen in enumerate(task.teachers):
        frozen.fused.register_forward_hook(lambda *_, n=number: runs.append(n))
    second = renamed(task.read_teacher(batch.images, 1), 1)
    assert set(second) == {"teacher2_logits", "teacher2_pooled"}
    runs.clear()
    with_one = type(batch)(*batch, teacher=second)
    torch.testing.assert_close(task(with_one).loss, full)
    assert runs == [0]
    runs.clear()
    both = type(batch)(*batch, teacher=second | task.read_teacher(batch.images, 0))
    runs.clear()
    torch.testing.assert_close(task(both).loss, full)
    assert runs == []


def test_misfits_of_several_teachers_are_refused() -> None:
    images = make_batch().images
    with pytest.raises(InputError, match="3 weights of teachers were given for 2 teachers"):
        distil(Small(), [Small(), Small()], {"kd": 1.0}, images=images, teacher_weights=[1, 1, 1])
    with pytest.raises(InputError, match="must be positive"):
        distil(Small(), [Small(), Small()], {"kd": 1.0}, images=images, teacher_weights=[1, 0])
    with pytest.raises(InputError, match="7 classes and the student has 5"):
        distil(Small(), [Small(), Small(4, 7)], {"kd": 1.0}, images=images)
    with pytest.raises(InputError, match="no teacher was given"):
        distil(Small(), [], {"kd": 1.0}, images=images)
    with pytest.raises(InputError, match="only one loss may deploy"):
        distil(Declared(), [Declared(), Declared()], {"simkd": 1.0}, images=images)


def test_an_average_of_the_student_follows_it() -> None:
    torch.manual_seed(0)
    student, batch = Small(), make_batch()
    task = distil(student, [Small(6), EMATeacher(student, 0.9)], {"ce": 1.0, "kd": 1.0},
                  images=batch.images)  # fmt: skip
    average = [p.detach().clone() for p in student.parameters()]
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        average = [
            0.9 * a + 0.1 * p.detach() for a, p in zip(average, student.parameters(), strict=True)
        ]
        optimizer.zero_grad()
        task.train()(batch).loss.backward()
        optimizer.step()
    teacher = task.teachers[1].net
    for own, expected in zip(teacher.net.parameters(), average, strict=True):
        torch.testing.assert_close(own, expected)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    assert any("followers" in name for name in task.state_dict())
    before = [p.clone() for p in teacher.parameters()]
    task.eval()(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_the_worst_teacher_of_each_image_counts_and_the_others_every_other_time() -> None:
    dropping = TeacherDropping()
    losses = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0))
    index = torch.arange(4000) * 3
    kept = dropping.counts(losses, index)
    worst = losses.argmax(0)
    assert bool(kept.gather(0, worst[None]).all())
    others = kept.sum(0) - 1
    assert abs(float(others.float().mean()) - 1.0) < 0.05  # of two others, half
    parts = dropping(list(losses), index)
    for part, loss, used in zip(parts, losses, kept, strict=True):
        torch.testing.assert_close(part, loss[used].mean())
    assert not torch.equal(dropping.counts(losses, index), kept)  # the next step draws anew
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
    again = dropping.counts(losses[:, order], index[order])
    assert torch.equal(again, dropping.counts(losses, index)[:, order])


def test_dropping_goes_on_after_a_resume() -> None:
    torch.manual_seed(0)
    batch = make_batch(32)
    student, teachers = Small(), [Small(6), Small(8)]

    def make() -> nn.Module:
        torch.manual_seed(1)
        weights = {"kd": 1.0, "embedmatch": 1.0, "mapmatch": 1.0}
        return distil(copy.deepcopy(student), teachers, weights, images=batch.images,
                      combine="each", drop_teachers=True)  # fmt: skip

    whole, first = make(), make()
    steps = [whole(batch).loss for _ in range(4)]
    for _ in range(2):
        first(batch)
    second = make()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(batch).loss, steps[2])
    assert torch.equal(second(batch).loss, steps[3])
    assert len({float(step.detach()) for step in steps}) == 4
    assert set(first(batch).parts) == {
        f"{name}_{number}" for name in ("kd", "embedmatch", "mapmatch") for number in (1, 2)
    }


def test_dropping_needs_losses_of_each_image() -> None:
    images = make_batch().images
    with pytest.raises(InputError, match=r"dropped for RKD, .*these have: "):
        distil(Small(), [Small(), Small()], {"rkd": 1.0}, images=images, drop_teachers=True)
    with pytest.raises(InputError, match="where each has a separate term"):
        distil(Small(), [Small(), Small()], {"kd": 1.0}, images=images, drop_teachers=True)


@pytest.mark.parametrize("standardise", [False, True])
def test_kd_of_each_image_has_the_mean_of_kd(standardise) -> None:
    student, teacher = (3 * torch.randn(7, 5).double() for _ in range(2))
    loss = KD(temperature=3.0, standardise=standardise)
    torch.testing.assert_close(loss.per_image(student, teacher).mean(), loss(student, teacher))


def test_a_teacher_in_bfloat16_is_read_in_float32() -> None:
    batch, teacher = make_batch(), Declared(6)
    weights = {"kd": 1.0, "fitnet": 1.0, "srrl": 1.0, "at": 1.0}
    exact = distil(Declared(), copy.deepcopy(teacher), weights, images=batch.images)
    reduced = ReducedPrecision(teacher, torch.bfloat16)
    task = distil(Declared(), reduced, weights, images=batch.images)
    found, expected = task.read_teacher(batch.images), exact.read_teacher(batch.images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [
            (found[name], value)
        ]  # fmt: skip
        for low, high in pairs:
            assert low.dtype == torch.float32
            assert float((low - high).abs().max()) < 0.05 * float(high.abs().max())
    task(batch).loss.backward()


def test_two_students_teach_each_other() -> None:
    torch.manual_seed(0)
    batch, students = make_batch(), [Small(4), Small(6)]
    tasks = []
    for student, other in (students, students[::-1]):
        peer = EMATeacher(other, 0, follows_other=True)
        tasks.append(distil(student, peer, {"ce": 1.0, "kd": 0.5}, images=batch.images))
    task = JointTask(tasks)
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.2)
    for _ in range(3):
        outputs = [net.train()(batch.images) for net in copy.deepcopy(students)]
        peers = [net.eval()(batch.images).detach() for net in copy.deepcopy(students)]
        expected = sum(
            F.cross_entropy(outputs[i], batch.labels) + 0.5 * KD()(outputs[i], peers[1 - i])
            for i in range(2)
        )
        step = task.train()(batch)
        # The second peer has the running statistics that the first student has just updated.
        torch.testing.assert_close(step.loss, expected, rtol=1e-4, atol=1e-4)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    assert set(step.parts) == {"ce", "kd", "ce_2", "kd_2"}
    assert task.deployed() is students[0]
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for net in students for p in net.parameters())
    with pytest.raises(InputError, match="needs tasks"):
        JointTask([])


def test_a_loss_of_the_logits_of_two_views_reads_the_average_of_the_teachers() -> None:
    torch.manual_seed(0)
    teachers, images = [Declared(6), Declared(5)], make_batch().images
    views = images, images.flip(3)
    batch = replace(make_batch(), strong=views[1])
    task = distil(Declared(), teachers, {"crld": 1.0}, images=images, combine="logits")
    assert list(task.losses) == ["crld"]
    averages = [sum(net(view) for net in teachers) / 2 for view in views]
    task.train()
    found = task(batch).loss
    own = [task.student(view) for view in views]
    expected = task.losses["crld"](*own, *averages)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
