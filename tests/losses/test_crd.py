"""CRD against a second derivation; its negatives, its banks, and both ways of computing scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses import CRD, crd
from distillers.losses.ops import memory_bank as bank
from distillers.losses.ops.negative_sampling import NegativeSampler

LABELS = torch.tensor(
    [2, 0, 0, 1, 2, 2, 0, 1, 3, 0, 2, 1]
)  # unsorted, with classes of different sizes


def make(**options) -> CRD:
    torch.manual_seed(0)
    return CRD(4, 3, LABELS, **{"dim": 5, "negatives": 6} | options).double()


def batch(n: int = 3, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(LABELS), generator=generator)[:n]
    student = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return student, teacher, LABELS[index], index


def slowly(loss: CRD, anchors: Tensor, memory: Tensor, rows: Tensor, z: float | None) -> tuple:
    """Return one of the two terms by the formula, and its Z."""
    n, k, total = len(rows), rows.shape[1] - 1, len(memory)
    scores = [
        [math.exp((anchors[i] @ memory[j]).item() / loss.temperature) for j in rows[i]]
        for i in range(n)
    ]
    z = z or total * sum(map(sum, scores)) / (n * (k + 1))
    value = 0.0
    for row in scores:
        p = [score / z for score in row]
        value -= math.log(p[0] / (p[0] + k / total + 1e-7))
        value -= sum(math.log((k / total) / (x + k / total + 1e-7)) for x in p[1:])
    return value / n, z


def test_value_of_two_steps_follows_from_the_formula():
    loss, zs = make(), [None, None]
    for step in range(2):
        student, teacher, labels, index = batch(seed=step)
        negatives = loss.sampler.sample_other_classes(labels, index, 6)
        rows = torch.cat((index[:, None], negatives), dim=1)
        s = F.normalize(loss.embed_student(student), dim=1)
        t = F.normalize(loss.embed_teacher(teacher), dim=1)
        of_student, zs[0] = slowly(loss, s, loss.teacher_bank, rows, zs[0])
        of_teacher, zs[1] = slowly(loss, t, loss.student_bank, rows, zs[1])
        before = loss.student_bank.clone()
        value = loss(student, teacher, labels, index, negative_index=negatives)
        assert value.item() == pytest.approx(of_student + of_teacher, rel=1e-9)
        for i, row in enumerate(index):
            moved = 0.5 * before[row] + 0.5 * s[i]
            torch.testing.assert_close(loss.student_bank[row], moved / moved.norm())
        others = [row for row in range(len(LABELS)) if row not in index]
        assert torch.equal(loss.student_bank[others], before[others])


def test_gradient_is_that_of_the_formula():
    loss = make()
    student, teacher, labels, index = batch()
    loss(student, teacher, labels, index)  # estimates Z
    negatives = loss.sampler.sample_other_classes(labels, index, 6)
    rows = torch.cat((index[:, None], negatives), dim=1)
    student.requires_grad_()
    value = 0
    heads = ((loss.embed_student, student, loss.teacher_bank, 0),)
    heads += ((loss.embed_teacher, teacher, loss.student_bank, 1),)
    for head, pooled, memory, which in heads:
        anchors = F.normalize(head(pooled), dim=1)
        p = (torch.einsum("nd,nkd->nk", anchors, memory[rows]) / loss.temperature).exp()
        p = p / loss.log_partition[which].exp()
        noise = 6 / len(LABELS)
        value = value - (p[:, 0] / (p[:, 0] + noise + 1e-7)).log().sum() / 3
        value = value - (noise / (p[:, 1:] + noise + 1e-7)).log().sum() / 3
    leaves = [student, loss.embed_student.weight, loss.embed_teacher.weight]
    expected = torch.autograd.grad(value, leaves)
    found = torch.autograd.grad(loss(student, teacher, labels, index, negatives), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("steps", [1, 2])
def test_gathering_rows_gives_the_numbers_of_the_whole_product(monkeypatch, steps):
    results = []
    for whole in (True, False):
        monkeypatch.setattr(bank, "dense_is_cheaper", lambda *_, whole=whole: whole)
        monkeypatch.setattr(bank, "CHUNK", 50)  # one image at a time
        loss = make()
        for step in range(steps):
            student, teacher, labels, index = batch(seed=step)
            student.requires_grad_()
            value = loss(student, teacher, labels, index)
        value.backward()
        parameters = [p.grad for p in loss.parameters()]
        results.append((value.detach(), student.grad, *parameters, *loss.state_dict().values()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_the_cheaper_way_is_taken():
    ids = torch.empty(64, 16385, device="meta")
    assert bank.dense_is_cheaper(torch.empty(50_000, 128, device="meta"), ids)
    assert not bank.dense_is_cheaper(torch.empty(1_281_167, 128, device="meta"), ids)


def chi_squared(found: Tensor, places: Tensor) -> float:
    """Return the chi-squared statistic of draws that should be uniform over a mask."""
    counts = found.flatten().bincount(minlength=len(places)).double()
    assert not counts[~places].any()
    expected = found.numel() / int(places.sum())
    return ((counts[places] - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_negatives_are_uniform_over_the_other_classes(seed):
    torch.manual_seed(seed)
    sampler, labels = NegativeSampler(LABELS), torch.arange(4)
    for row, label in zip(
        sampler.sample_other_classes(labels, labels, 60_000), labels, strict=True
    ):
        assert chi_squared(row, label != LABELS) < 30  # 10 degrees of freedom: chance 0.001


def test_negatives_are_uniform_over_images_steps_and_pairs_of_draws():
    torch.manual_seed(0)
    sampler = NegativeSampler(torch.arange(8) % 8)
    images = torch.arange(20_000)
    labels = torch.zeros_like(images)
    steps = []
    for _ in range(4):
        steps.append(sampler.sample_other_classes(labels, images, 3) - 1)  # 0 .. 6
        sampler.advance()
    over_images, over_steps = steps[0], torch.stack(steps)
    pairs = [(over_images[:, 0], over_images[:, 1]), (over_images[:, 0], over_images[:, 2])]
    pairs += [(over_steps[0, :, 0], over_steps[1, :, 0])]
    few = sampler.sample_other_classes(torch.zeros(2).long(), torch.tensor([5, 6]), 20_000) - 1
    pairs += [(few[0, :-1], few[0, 1:]), (few[0], few[1])]
    for one, other in pairs:
        assert chi_squared(one * 7 + other, torch.ones(49).bool()) < 90  # 48 degrees: 0.0002


def test_relax_takes_any_image_of_the_class_as_positive():
    torch.manual_seed(0)
    sampler, found = NegativeSampler(LABELS), []
    for _ in range(200):
        found.append(sampler.sample_same_class(LABELS, torch.arange(len(LABELS))))
        assert torch.equal(LABELS[found[-1]], LABELS)
        sampler.advance()
    for number, of_image in enumerate(torch.stack(found, dim=1)):
        assert chi_squared(of_image, LABELS[number] == LABELS) < 20  # at most 4 degrees
    assert make(mode="relax")(*batch()).isfinite()


def test_a_class_that_nobody_has_and_a_training_set_of_one_class():
    sampler = NegativeSampler(torch.tensor([0, 3, 3]))
    found = sampler.sample_other_classes(torch.tensor([3]), torch.tensor([1]), 20)
    assert set(found.flatten().tolist()) == {0}
    with pytest.raises(ValueError, match="only 1 class"):
        NegativeSampler(torch.zeros(5))


def test_an_image_draws_the_same_wherever_it_stands_and_others_at_another_step():
    torch.manual_seed(3)
    sampler, index = NegativeSampler(LABELS), torch.arange(len(LABELS))
    first = sampler.sample_other_classes(LABELS, index, 50)
    assert torch.equal(sampler.sample_other_classes(LABELS[5:], index[5:], 50), first[5:])
    torch.manual_seed(3)
    assert torch.equal(NegativeSampler(LABELS).sample_other_classes(LABELS, index, 50), first)
    sampler.advance()
    assert not torch.equal(sampler.sample_other_classes(LABELS, index, 50), first)
    torch.manual_seed(4)
    assert not torch.equal(NegativeSampler(LABELS).sample_other_classes(LABELS, index, 50), first)


def test_the_last_copy_of_a_repeated_image_moves_its_row():
    student, teacher, labels, index = (torch.cat((x, x)) for x in batch())
    student[3:] += 1
    loss, alone = make(), make()
    loss(student, teacher, labels, index)
    alone(student[3:], teacher[3:], labels[3:], index[3:])
    torch.testing.assert_close(loss.student_bank, alone.student_bank)
    torch.testing.assert_close(loss.teacher_bank, alone.teacher_bank)
    draws = loss.sampler.sample_other_classes(labels, index, 6)
    assert torch.equal(draws[:3], draws[3:])  # the same negatives for both copies


def test_partition_is_fixed_or_follows():
    fixed, following = make(), make(partition_momentum=0.9)
    for loss in (fixed, following):
        torch.manual_seed(7)
        loss(*batch())
    torch.testing.assert_close(fixed.log_partition, following.log_partition)
    first = fixed.log_partition.clone()
    for loss in (fixed, following):
        torch.manual_seed(8)
        loss(*batch(seed=4))
    assert torch.equal(fixed.log_partition, first)
    assert not torch.equal(following.log_partition, first)
    assert (following.log_partition.exp() / first.exp() - 0.9).min() > 0


def test_state_has_no_history_and_all_that_resuming_needs():
    loss = make()
    student = batch()[0].requires_grad_()
    loss(student, *batch()[1:]).backward()
    assert all(buffer.grad_fn is None and not buffer.requires_grad for buffer in loss.buffers())
    state = set(loss.state_dict())
    assert {"student_bank", "teacher_bank", "log_partition", "estimated"} <= state


def test_scores_too_large_for_exp_are_finite():
    loss = make(temperature=0.001).float()
    student, teacher, labels, index = batch()
    student = student.float().requires_grad_()
    loss.teacher_bank.copy_(F.normalize(loss.teacher_bank, dim=1))
    value = loss(student, teacher.float(), labels, index)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_softplus_is_torchs():
    x = torch.linspace(-60, 60, 1001)
    torch.testing.assert_close(crd.softplus(x), F.softplus(x), rtol=1e-6, atol=1e-7)


def test_partition_momentum_must_be_a_share():
    with pytest.raises(ValueError, match=r"partition_momentum is 1\.0; it must be in \(0, 1\)"):
        make(partition_momentum=1.0)


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode is 'exakt'; it must be 'exact' or 'relax'"):
        make(mode="exakt")
