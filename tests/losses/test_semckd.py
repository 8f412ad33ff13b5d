"""SemCKD against a second derivation, and the batches that it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses import SemCKD

STUDENT = ((3, 6, 4), (2, 3, 2))
TEACHER = ((4, 3, 4), (2, 6, 2), (3, 2, 2))
CHANNELS = [c for c, _, _ in STUDENT], [c for c, _, _ in TEACHER]


def maps(shapes: tuple, n: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def expected(loss: SemCKD, students: list, teachers: list) -> Tensor:
    """Compute the loss by the formula, with the attention of each image and pair of stages."""

    def described(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.einsum("id,jd->ij", flat, flat)

    def embedded(net, x: Tensor) -> Tensor:
        hidden = (described(x) @ net.linear1.weight.T + net.linear1.bias).clamp(min=0)
        return F.normalize(hidden @ net.linear2.weight.T + net.linear2.bias, dim=1)

    queries = [embedded(q, s) for q, s in zip(loss.queries, students, strict=True)]
    keys = [embedded(k, t) for k, t in zip(loss.keys, teachers, strict=True)]
    total = torch.zeros((), dtype=torch.float64)
    for s, (student, query) in enumerate(zip(students, queries, strict=True)):
        scores = torch.stack([(query * key).sum(dim=1) / loss.softness for key in keys], dim=1)
        weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        for t, teacher in enumerate(teachers):
            pairs = zip(student.shape[2:], teacher.shape[2:], strict=True)
            size = tuple(min(a, b) for a, b in pairs)
            source, target = (F.adaptive_avg_pool2d(x, size) for x in (student, teacher))
            error = loss.cross_stage.projections[s * len(teachers) + t](source) - target
            total = total + (weights[:, t] * error.square().mean(dim=(1, 2, 3))).mean()
    return total / len(students)


@pytest.mark.parametrize("softness", [1.0, 0.1])
def test_value_and_gradient_follow_from_the_formula(softness):
    torch.manual_seed(0)
    loss = SemCKD(*CHANNELS, 8, softness=softness).double()
    students, teachers = maps(STUDENT, 8, 1), maps(TEACHER, 8, 2)
    leaves = [s.requires_grad_() for s in students]
    found = torch.autograd.grad(loss(students, teachers), leaves)
    formula = expected(loss, students, teachers)
    torch.testing.assert_close(loss(students, teachers), formula)
    for one, other in zip(found, torch.autograd.grad(formula, leaves), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("n", [1, 4, 16])
def test_semckd_refuses_another_batch_and_says_what_to_do(n):
    loss = SemCKD(*CHANNELS, 8).double()
    message = rf"batches of 8 and got {n}; .*drop_last=True"
    with pytest.raises(ValueError, match=message):
        loss(maps(STUDENT, n, 1), maps(TEACHER, n, 2))


def test_semckd_refuses_a_batch_smaller_than_its_reduction():
    with pytest.raises(ValueError, match="batch_size is 3; SemCKD needs 4 or more"):
        SemCKD(*CHANNELS, 3)


def test_the_attention_depends_on_the_order_of_the_batch():
    torch.manual_seed(0)
    loss = SemCKD(*CHANNELS, 6).double()
    students, teachers = maps(STUDENT, 6, 1), maps(TEACHER, 6, 2)
    shuffled = [s.flip(0) for s in students], [t.flip(0) for t in teachers]
    assert (loss.attend(*shuffled) - loss.attend(students, teachers).flip(0)).abs().max() > 1e-3
