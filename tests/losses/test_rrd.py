"""RRD against a second derivation; its memory and its presets."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses import RRD, RRDMomentum


def make(**options) -> RRD:
    torch.manual_seed(0)
    return RRD(4, 3, **{"dim": 5, "queue_size": 7} | options).double()


def batch(n: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return student, torch.randn(n, 3, generator=generator, dtype=torch.float64)


def key(loss: RRD, teacher: Tensor) -> Tensor:
    return F.normalize(loss.embed_teacher(teacher), dim=1)


def slowly(loss: RRD, student: Tensor, teacher: Tensor, rows: Tensor) -> float:
    """Compute the loss by the formula, over these rows of memory."""
    s, t = F.normalize(loss.embed_student(student), dim=1), key(loss, teacher)
    total = 0.0
    for i in range(len(s)):
        p = [math.exp((s[i] @ row).item() / loss.student_temperature) for row in rows]
        q = [math.exp((t[i] @ row).item() / loss.teacher_temperature) for row in rows]
        pairs = zip(p, q, strict=True)
        total -= sum(b / sum(q) * math.log(a / sum(p)) for a, b in pairs)
    return total / len(s)


@torch.no_grad()
@pytest.mark.parametrize("preset", ["recent", "tables", "equal"])
@pytest.mark.parametrize("empty", ["keep", "mask"])
def test_value_follows_from_the_formula(preset, empty):
    loss = make(preset=preset, empty=empty)
    kept: list[Tensor] = []
    for step in range(4):
        student, teacher = batch(seed=step)
        queue = loss.queue.clone()
        value = loss(student, teacher)
        if preset != "tables":
            kept += list(key(loss, teacher))
            queue = loss.queue
        rows = torch.stack(kept[-7:]) if empty == "mask" and kept else queue
        expected = slowly(loss, student, teacher, rows)
        if empty == "mask" and not kept:
            expected = 0.0  # nothing is written yet
        assert value.item() == pytest.approx(expected, rel=1e-9)
        if preset == "tables":
            kept += list(key(loss, teacher))


def test_presets_are_the_two_published_settings():
    tables, recent = make(preset="tables"), make(preset="recent")
    assert (tables.student_temperature, tables.teacher_temperature) == (0.04, 0.1)
    assert (recent.student_temperature, recent.teacher_temperature) == (0.1, 0.02)
    assert (tables.enqueue, recent.enqueue) == ("after", "before")
    plain = make()
    assert (plain.student_temperature, plain.teacher_temperature) == (0.1, 0.02)
    assert plain.enqueue == "before"


def test_a_preset_refuses_what_contradicts_it():
    make(preset="tables", student_temperature=0.04)
    with pytest.raises(ValueError, match=r"'tables' means student_temperature=0\.04, not 0\.07"):
        make(preset="tables", student_temperature=0.07)
    with pytest.raises(ValueError, match="'recent' means enqueue='before', not 'after'"):
        make(preset="recent", enqueue="after")
    with pytest.raises(
        ValueError, match="preset is 'old'; it must be None or 'recent' or 'equal' or 'tables'"
    ):
        make(preset="old")
    with pytest.raises(ValueError, match="memory is 'lifo'; it must be 'fifo' or 'momentum'"):
        make(memory="lifo")


def test_queue_starts_with_rows_of_length_one():
    torch.testing.assert_close(make().queue.norm(dim=1), torch.ones(7, dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (7, 2, 7), (5, 12, 1, 30, 4), (1,) * 9])
def test_queue_keeps_the_last_rows_in_order_over_its_end(sizes):
    loss, stored = make(), []
    for step, n in enumerate(sizes):
        student, teacher = batch(n, seed=step)
        loss(student, teacher)
        stored += list(key(loss, teacher))
    total = sum(sizes)
    assert loss.pointer.item() == total % 7
    for place in range(max(0, total - 7), total):
        torch.testing.assert_close(loss.queue[place % 7], stored[place])


def test_only_the_students_side_learns():
    loss = make()
    student, teacher = (x.requires_grad_() for x in batch())
    loss(student, teacher).backward()
    assert student.grad.count_nonzero()
    assert teacher.grad is None
    assert not any(p.requires_grad for p in loss.embed_teacher.parameters())
    assert not loss.queue.requires_grad


@torch.no_grad()
def test_momentum_compares_the_teacher_with_the_teachers_bank():
    loss = RRDMomentum(4, 3, torch.zeros(9), dim=5, enqueue="after").double()
    bank = loss.rrd.queue.clone()
    index = torch.tensor([8, 0, 3])
    student, teacher = batch()
    expected = slowly(loss.rrd, student, teacher, bank)
    assert loss(student, teacher, index).item() == pytest.approx(expected, rel=1e-9)
    bank[index] = F.normalize(0.5 * bank[index] + 0.5 * key(loss.rrd, teacher), dim=1)
    torch.testing.assert_close(loss.rrd.queue, bank)


@torch.no_grad()
def test_copies_of_an_image_fill_the_queue_but_one_row_of_the_bank():
    """As --aug_repeats 3 shows images: other crops of one follow each other."""
    student, teacher = batch(6)
    index = torch.tensor([5, 5, 5, 2, 2, 2])
    loss = RRDMomentum(4, 3, torch.zeros(9), dim=5, enqueue="after").double()
    bank = loss.rrd.queue.clone()
    expected = slowly(loss.rrd, student, teacher, bank)
    assert loss(student, teacher, index).item() == pytest.approx(expected, rel=1e-9)
    last = key(loss.rrd, teacher)[[2, 5]]
    bank[[5, 2]] = F.normalize(0.5 * bank[[5, 2]] + 0.5 * last, dim=1)
    torch.testing.assert_close(loss.rrd.queue, bank)
    queue = make()
    queue(student, teacher)
    torch.testing.assert_close(queue.queue[:6], key(queue, teacher))


def test_momentum_needs_to_know_the_images():
    with pytest.raises(ValueError, match="memory='momentum' needs index"):
        make(memory="momentum")(*batch())
    value = make(memory="momentum")(*batch(), index=torch.tensor([1, 1, 6]))
    assert value.isfinite()
