"""The newer losses and logit standardization against slow derivations, and their invariances."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distillers.losses import DIST, DKD, KD, NKD, OFD, WSLD, ReviewKD
from distillers.losses.ops.feature_maps import downsample, same_size
from distillers.losses.ops.standardize import z_score
from tests.golden.fill import draw


def normal(tag: str, *shape: int) -> Tensor:
    return draw(f"modern/{tag}", *shape).double()


STUDENT, TEACHER = 2 * normal("student", 4, 5), 3 * normal("teacher", 4, 5)
LABELS = torch.tensor([0, 3, 3, 1])


def softmax(row: Tensor, temperature: float, without: int | None = None) -> list[float]:
    powers = [math.exp(z / temperature) for i, z in enumerate(row.tolist()) if i != without]
    return [p / sum(powers) for p in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# ---- DKD ----------------------------------------------------------------------------------------


def two(row: Tensor, label: int, temperature: float) -> list[float]:
    p = softmax(row, temperature)[label]
    return [p, 1 - p]


def test_dkd_is_its_formula():
    expected = 0.0
    for s, t, y in zip(STUDENT, TEACHER, LABELS.tolist(), strict=True):
        expected += 9 * 0.5 * kl(two(t, y, 3), two(s, y, 3)) / 4
        expected += 9 * 2.0 * kl(softmax(t, 3, y), softmax(s, 3, y)) / 4
    found = DKD(alpha=0.5, beta=2.0, temperature=3.0)(STUDENT, TEACHER, LABELS, 1.0)
    assert found.item() == pytest.approx(expected)


def test_dkd_with_the_teachers_doubt_as_weight_is_kd():
    parts = 0.0
    for i, label in enumerate(LABELS.tolist()):
        row = STUDENT[i : i + 1], TEACHER[i : i + 1], LABELS[i : i + 1], 1.0
        doubt = 1 - softmax(TEACHER[i], 4)[label]
        parts += DKD(alpha=1.0, beta=doubt)(*row).item() / 4
    assert KD()(STUDENT, TEACHER).item() == pytest.approx(parts)


def test_dkd_rises_with_progress_and_then_stays():
    full = DKD()(STUDENT, TEACHER, LABELS, 0.0).item()
    loss = DKD(ramp=20 / 240)
    found = [loss(STUDENT, TEACHER, LABELS, p).item() for p in (0.0, 10 / 240, 20 / 240, 1.0)]
    assert found == pytest.approx([0, full / 2, full, full])


def test_dkd_keeps_its_digits_for_sure_networks():
    student, teacher = STUDENT.clone(), TEACHER.clone()
    student[range(4), LABELS] += 80
    teacher[range(4), LABELS] += 90
    exact = DKD(temperature=1.0)(student, teacher, LABELS, 1.0).item()
    leaf = student.float().requires_grad_()
    found = DKD(temperature=1.0)(leaf, teacher.float(), LABELS, 1.0)
    found.backward()
    assert found.item() == pytest.approx(exact, rel=1e-5)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


# ---- DIST ---------------------------------------------------------------------------------------


def pearson(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return (a @ b / (a.norm() * b.norm())).item()


def test_dist_is_its_formula():
    p = torch.tensor([softmax(row, 3) for row in STUDENT]).double()
    q = torch.tensor([softmax(row, 3) for row in TEACHER]).double()
    inter = 1 - sum(pearson(p[i], q[i]) for i in range(4)) / 4
    intra = 1 - sum(pearson(p[:, j], q[:, j]) for j in range(5)) / 5
    found = DIST(beta=0.5, gamma=2.0, temperature=3.0)(STUDENT, TEACHER)
    assert found.item() == pytest.approx(9 * (0.5 * inter + 2 * intra), rel=1e-5)


def test_dist_ignores_an_affine_change_of_the_probabilities():
    sharper = (TEACHER / 4).softmax(dim=1)
    flatter = (4 * (0.3 * sharper + 0.7 / 5).log()).requires_grad_()
    loss = DIST()(flatter, TEACHER)
    assert loss.item() == pytest.approx(0, abs=1e-4)  # not exactly, because of eps
    assert KD()(flatter, TEACHER).item() > 0.05


@pytest.mark.parametrize("rows", [1, 3])  # as from a classifier that is initialized with zeros
def test_dist_of_constant_probabilities_is_its_largest_without_gradient(rows):
    student = torch.zeros(rows, 5, requires_grad=True)
    loss = DIST()(student, TEACHER[:rows].float())
    loss.backward()
    assert loss.item() == pytest.approx(32)
    assert student.grad is not None
    assert student.grad.count_nonzero() == 0


# ---- NKD ----------------------------------------------------------------------------------------


def test_nkd_is_its_formula():
    expected = 0.0
    for s, t, y in zip(STUDENT, TEACHER, LABELS.tolist(), strict=True):
        expected -= softmax(t, 1)[y] * math.log(softmax(s, 1)[y]) / 4
        others = zip(softmax(t, 2, y), softmax(s, 2, y), strict=True)
        expected -= 1.5 * 4 * sum(a * math.log(b) for a, b in others) / 4
    found = NKD(temperature=2.0)(STUDENT, TEACHER, LABELS)
    assert found.item() == pytest.approx(expected)


# ---- LS -----------------------------------------------------------------------------------------


def test_standardise_is_the_z_score():
    for row, found in zip(STUDENT.tolist(), z_score(STUDENT), strict=True):
        mean = sum(row) / 5
        deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / 4)
        assert found.tolist() == pytest.approx([(z - mean) / (1e-7 + deviation) for z in row])


@settings(deadline=None, max_examples=25)
@given(st.floats(-50, 50), st.floats(0.05, 20))
def test_standardised_logits_ignore_shift_and_scale(shift, scale):
    torch.testing.assert_close(
        z_score(scale * STUDENT + shift), z_score(STUDENT), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("level", [0.0, 0.1, -0.7, 333.3])  # their sums are rounded
def test_standardise_of_equal_logits_is_zero_without_gradient(level):
    logits = torch.full((2, 5), level, requires_grad=True)
    found = z_score(logits)
    (found * torch.arange(5)).sum().backward()
    assert found.count_nonzero() == 0
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("loss", "extra"),
    [(KD, ()), (DIST, ()), (DKD, (LABELS, 1.0)), (NKD, (LABELS,)), (WSLD, (LABELS,))],
)
def test_every_loss_with_a_temperature_takes_standardised_logits(loss, extra):
    plain = loss(temperature=2.0)(z_score(STUDENT), z_score(TEACHER), *extra)
    found = loss(temperature=2.0, standardise=True)(STUDENT, TEACHER, *extra)
    if loss in (KD, DIST, DKD):  # in the other two the label's term uses the plain logits
        assert found.item() == pytest.approx(plain.item())
    else:
        assert found.item() != pytest.approx(plain.item())
    assert found.item() != pytest.approx(loss(temperature=2.0)(STUDENT, TEACHER, *extra).item())


def test_kd_with_standardised_logits_ignores_the_students_scale():
    loss = KD(temperature=2.0, standardise=True)
    assert loss(3 * TEACHER + 1, TEACHER).item() == pytest.approx(0, abs=1e-9)


# ---- maps ---------------------------------------------------------------------------------------

FINER = ([(3, 8, 6), (4, 4, 4)], [(5, 4, 3), (2, 2, 2)])
COARSER = ([(3, 4, 3), (4, 2, 2)], [(5, 8, 6), (2, 4, 4)])


def maps(who: str, stages: list[tuple[int, int, int]], n: int = 3) -> list[Tensor]:
    return [normal(f"{who}/{i}", n, *stage) for i, stage in enumerate(stages)]


@pytest.mark.parametrize("stages", [FINER, COARSER])
def test_ofd_is_its_formula(stages):
    student, teacher = (maps(who, each) for who, each in zip("st", stages, strict=True))
    loss = OFD([s[0] for s in stages[0]], [t[0] for t in stages[1]]).double()
    expected = 0.0
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        s, target = same_size(loss.connectors[i](s), t)
        target = target.clone()
        for c in range(t.shape[1]):
            negative = [x for x in t[:, c].flatten().tolist() if x < 0]
            target[:, c] = target[:, c].clamp(min=sum(negative) / len(negative))
        for a, b in zip(s.flatten().tolist(), target.flatten().tolist(), strict=True):
            expected += (a - b) ** 2 * (a > b or b > 0) / 3 / 2 ** (1 - i)
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_ofd_margin_is_the_mean_over_all_batches_and_rests_in_evaluation():
    margin = OFD([3], [2]).double().margins[0]
    first, second = normal("first", 3, 2, 4, 4), normal("second", 5, 2, 2, 2)
    margin(first)
    found = margin(second)
    for c in range(2):
        values = [*first[:, c].flatten().tolist(), *second[:, c].flatten().tolist()]
        negative = [x for x in values if x < 0]
        assert found[c].item() == pytest.approx(sum(negative) / len(negative))
    assert torch.equal(margin.eval()(first - 9), found)
    assert torch.equal(OFD([3], [2]).margins[0](first.abs().float()), torch.zeros(2, 1, 1))


def hcl(a: Tensor, b: Tensor) -> float:
    total, weights = F.mse_loss(a, b).item(), 1.0
    for share, side in ((0.5, 4), (0.25, 2), (0.125, 1)):
        if side < min(a.shape[2:]):
            share = share if a.shape[2] > 4 else 2 * share if a.shape[2] > 2 else 4 * share
            pooled = (F.adaptive_avg_pool2d(x, side) for x in (a, b))
            total += share * F.mse_loss(*pooled, reduction="mean").item()
            weights += share
    return total / weights


@pytest.mark.parametrize("stages", [FINER, COARSER])
def test_reviewkd_is_its_formula(stages):
    student, teacher = (maps(who, each) for who, each in zip("st", stages, strict=True))
    pooled = normal("s/pooled", 3, 6), normal("t/pooled", 3, 7)
    channels = [[stage[0] for stage in each] for each in stages]
    loss = ReviewKD(channels[0], 6, channels[1], 7, max_width=5).double().eval()

    deep, middle, early = loss.fusions
    carried = deep.enter(pooled[0][:, :, None, None])
    expected = hcl(deep.leave(carried), pooled[1][:, :, None, None])
    for fusion, own, wanted in ((middle, student[1], teacher[1]), (early, student[0], teacher[0])):
        own = fusion.enter(own)
        below = nn.Upsample(own.shape[2:])(carried)
        share = torch.sigmoid(fusion.attend(torch.cat([own, below], 1)))
        carried = own * share[:, 0, None] + below * share[:, 1, None]
        carried = nn.Upsample(wanted.shape[2:])(carried)
        expected += hcl(fusion.leave(carried), wanted)
    inputs = student, pooled[0], teacher, pooled[1]
    assert loss(*inputs, 1.0).item() == pytest.approx(expected)
    loss.ramp = 0.5
    assert loss(*inputs, 0.25).item() == pytest.approx(expected / 2)


@pytest.mark.parametrize("build", [OFD, ReviewKD], ids=lambda cls: cls.__name__)
def test_different_numbers_of_stages_are_refused_with_both(build):
    facts = ([4, 4], [4, 4, 4]) if build is OFD else ([4, 4], 4, [4, 4, 4], 4)
    with pytest.raises(
        ValueError, match=rf"{build.__name__} .* the student has 2 and the teacher 3"
    ):
        build(*facts)


@pytest.mark.parametrize("size", [(6, 9), (3, 3), (2, 9), (4, 5), (1, 1)])
def test_downsample_is_adaptive_average_pooling(size):
    x = normal("shrink", 2, 3, 6, 9)
    torch.testing.assert_close(downsample(x, size), F.adaptive_avg_pool2d(x, size))
