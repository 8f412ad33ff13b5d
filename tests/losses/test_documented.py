"""CE, KD, FitNet, AT, SP, VID, SRRL and DCD against slow derivations, and their invariances."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses import AT, BCE, CE, DCD, KD, SP, SRRL, VID, FitNet, SoftCE


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


# ---- CE and KD ----------------------------------------------------------------------------------


def test_ce_is_minus_the_log_probability_of_the_label():
    logits, labels = normal(3, 4), torch.tensor([2, 0, 3])
    rows = [math.log(sum(math.exp(z) for z in row)) for row in logits.tolist()]
    log_p = [[z - total for z in row] for row, total in zip(logits.tolist(), rows, strict=True)]
    plain = -sum(row[y] for row, y in zip(log_p, labels, strict=True)) / 3
    smooth = -sum(sum(row) / 4 for row in log_p) / 3
    close(CE()(logits, labels), plain)
    close(CE(label_smoothing=0.2)(logits, labels), 0.8 * plain + 0.2 * smooth)


def test_softce_is_the_mean_of_cross_entropies_weighted_by_the_targets():
    logits, labels, k = normal(3, 4), torch.tensor([2, 0, 3]), 4
    one_hot = torch.eye(k, dtype=torch.float64)[labels]
    close(SoftCE()(logits, one_hot), CE()(logits, labels).item())
    smoothed = 0.8 * one_hot + 0.2 / k
    close(SoftCE()(logits, smoothed), CE(label_smoothing=0.2)(logits, labels).item())
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    parts = CE()(logits, labels).item(), CE()(logits, labels.flip(0)).item()
    close(SoftCE()(logits, mixed), 0.7 * parts[0] + 0.3 * parts[1])


def test_bce_is_one_logistic_regression_for_each_class():
    logits, targets = normal(3, 4), normal(3, 4, seed=1).softmax(dim=1)
    total = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        for z, t in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-z))
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    close(BCE()(logits, targets), total / 12)


def softened(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def test_kd_is_a_divergence_of_softened_probabilities():
    student, teacher = normal(5, 7), 3 * normal(5, 7, seed=1)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(softened(s, 2.5), softened(t, 2.5), strict=True)
        total += sum(q * math.log(q / p) for p, q in pairs)
    close(KD(temperature=2.5)(student, teacher), 2.5**2 * total / 5)


def test_kd_is_zero_at_equality_and_blind_to_shifts():
    student, teacher = normal(5, 7), normal(5, 7, seed=1)
    close(KD()(student, student), 0)
    value = KD()(student, teacher).item()
    close(KD()(student + normal(5, 1, seed=2), teacher - 4), value)
    assert value > 0


def test_kd_of_far_apart_logits_is_finite():
    student = torch.tensor([[3e4, -3e4]], requires_grad=True)
    value = KD(temperature=1.0)(student, torch.tensor([[-3e4, 3e4]]))
    value.backward()
    assert value.item() == pytest.approx(6e4)
    assert student.grad.isfinite().all()


# ---- FitNet -------------------------------------------------------------------------------------

PAIRS = [
    ((6, 6), (6, 6), (1, 1)),
    ((8, 8), (4, 4), (3, 3)),
    ((4, 4), (8, 8), (4, 4)),
    ((8, 6), (4, 3), (3, 3)),
    ((7, 5), (3, 5), (5, 1)),
    ((9, 9), (2, 2), (8, 8)),
    ((3, 5), (7, 5), (1, 1)),
    ((6, 4), (4, 6), (1, 1)),
    ((2, 2), (7, 7), (1, 1)),
]


@pytest.mark.parametrize(("size", "wanted", "kernel"), PAIRS)
def test_fitnet_brings_any_size_to_the_hints(size, wanted, kernel):
    loss = FitNet([3, 4], [5, 6], [(9, 9), size], [(9, 9), wanted]).double()
    student, hint = normal(3, 4, *size), normal(3, 6, *wanted, seed=1)
    assert loss.conv.kernel_size == kernel
    value = loss([normal(1), student], [normal(1), hint])
    found = loss.conv(student)
    if found.shape[-2:] != wanted:
        assert kernel == (1, 1)
        found = F.interpolate(found, wanted, mode="bilinear")
    assert found.shape == hint.shape
    mean = found.mean(dim=(0, 2, 3), keepdim=True)
    variance = found.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    adapted = ((found - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    close(value, (adapted - hint).square().mean().item())


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_fitnet_says_which_stages_there_are(layer):
    with pytest.raises(ValueError, match=rf"hint_layer is {layer}; it must be from 1 to 2"):
        FitNet([3, 4, 5], [5, 6], [(4, 4)] * 3, [(4, 4)] * 2, hint_layer=layer)


def test_fitnet_refuses_maps_of_another_size():
    loss = FitNet([3], [5], [(8, 8)], [(4, 4)], hint_layer=1)
    with pytest.raises(ValueError, match="images of one size"):
        loss([torch.rand(2, 3, 16, 16)], [torch.rand(2, 5, 8, 8)])


# ---- AT, SP, VID --------------------------------------------------------------------------------


def attention(maps: Tensor, size: tuple[int, int], power: int) -> list[list[float]]:
    rows = []
    for image in F.adaptive_avg_pool2d(maps, size):
        places = image.abs().pow(power).mean(dim=0).flatten().tolist()
        length = math.sqrt(sum(p * p for p in places))
        rows.append([p / length for p in places])
    return rows


@pytest.mark.parametrize("power", [1, 2, 4])
def test_at_compares_maps_of_length_one_on_the_smaller_grid(power):
    students = [normal(2, 3, 8, 6), normal(2, 4, 3, 2, seed=1), normal(2, 2, 4, 6, seed=2)]
    teachers = [normal(2, 5, 4, 3, seed=3), normal(2, 2, 6, 6, seed=4), normal(2, 1, 6, 4, seed=5)]
    total = 0.0
    for student, teacher in zip(students, teachers, strict=True):
        size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        of_student, of_teacher = (attention(maps, size, power) for maps in (student, teacher))
        squares = [
            (a - b) ** 2
            for x, y in zip(of_student, of_teacher, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
        total += sum(squares) / len(squares)
    close(AT(power=power)(students, teachers), total)


def test_at_is_blind_to_the_scale_of_an_image():
    student, teacher = normal(2, 3, 4, 4), normal(2, 5, 4, 4, seed=1)
    value = AT()([student], [teacher]).item()
    close(AT()([student * torch.tensor([3.0, 0.2])[:, None, None, None]], [teacher]), value)


def test_stages_must_be_as_many():
    maps = [normal(2, 3, 4, 4)] * 2
    with pytest.raises(ValueError, match=r"AT compares stages one by one.*2.*1"):
        AT()(maps, maps[:1])
    with pytest.raises(ValueError, match=r"VID compares stages one by one.*3.*2"):
        VID([4, 4, 4], [4, 4])


def test_sp_compares_rows_of_products():
    student, teacher = normal(4, 3, 5, 2), normal(4, 2, 3, 3, seed=1)

    def rows(maps: Tensor) -> list[list[float]]:
        found = [[float((a * b).sum()) for b in maps] for a in maps]
        return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in found]

    of_student, of_teacher = rows(student), rows(teacher)
    squares = [(of_student[i][j] - of_teacher[i][j]) ** 2 for i in range(4) for j in range(4)]
    close(SP()([student], [teacher]), sum(squares) / 16)


def test_sp_is_blind_to_order_and_scale():
    student, teacher = normal(6, 3, 2, 2), normal(6, 4, 4, 4, seed=1)
    value = SP()([student], [teacher]).item()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    close(SP()([student[order]], [teacher[order]]), value)
    close(SP()([0.01 * student], [-7 * teacher]), value)


def test_vid_is_a_gaussian_likelihood_without_its_constant():
    torch.manual_seed(0)
    loss = VID([3, 4], [5, 2], initial_variance=2.0, eps=1e-3).double()
    students = [normal(2, 3, 6, 4), normal(2, 4, 2, 3, seed=1)]
    teachers = [normal(2, 5, 3, 4, seed=2), normal(2, 2, 4, 3, seed=3)]
    total = 0.0
    for each, student, teacher in zip(loss.predictors, students, teachers, strict=True):
        size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        student, teacher = (F.adaptive_avg_pool2d(x, size) for x in (student, teacher))
        x = student
        for i in (0, 2, 4):
            x = torch.einsum("oi,nihw->nohw", each.regressor[i].weight[:, :, 0, 0], x)
            x = x.clamp(min=0) if i < 4 else x
        # the parameters were initialized in float32
        likelihood = torch.distributions.Normal(x, 2.0**0.5).log_prob(teacher).mean()
        total -= likelihood.item() + 0.5 * math.log(2 * math.pi)
    assert loss(students, teachers).item() == pytest.approx(total, rel=1e-6)


def test_vid_variance_must_exceed_its_limit():
    with pytest.raises(ValueError, match=r"initial_variance is 0\.1; it must exceed eps, 0\.5"):
        VID([3], [3], initial_variance=0.1, eps=0.5)


# ---- SRRL ---------------------------------------------------------------------------------------


def test_srrl_compares_embeddings_and_what_the_classifier_makes_of_them():
    head = nn.Linear(5, 3).double()
    loss = SRRL(4, 5, head).double()
    student, teacher, logits = normal(6, 4), normal(6, 5, seed=1), normal(6, 3, seed=2)
    x = student @ loss.connector[0].weight.T
    x = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()).clamp(min=0)
    expected = (x - teacher).square().mean()
    expected += (x @ head.weight.T + head.bias - logits).square().mean()
    close(loss(student, teacher, logits), expected.item())


def test_srrl_freezes_the_classifier_and_learns_through_it():
    head = nn.Sequential(nn.Dropout(), nn.Linear(5, 3))
    loss = SRRL(4, 5, head).train()
    assert not loss.teacher_head.training
    assert loss.connector.training
    student = torch.rand(6, 4, requires_grad=True)
    loss(student, torch.rand(6, 5), torch.rand(6, 3)).backward()
    assert student.grad.count_nonzero()
    assert all(p.grad is None and not p.requires_grad for p in loss.teacher_head.parameters())


# ---- DCD ----------------------------------------------------------------------------------------


def test_dcd_finds_the_own_image_both_ways():
    loss = DCD(4, 3, dim=5, initial_log_scale=0.7, consistency=0.3).double()
    student, teacher = normal(6, 4), normal(6, 3, seed=1)
    s = F.normalize(student @ loss.embed_student.weight.T + loss.embed_student.bias, dim=1)
    t = F.normalize(teacher @ loss.embed_teacher.weight.T + loss.embed_teacher.bias, dim=1)
    scale = math.exp(loss.log_scale.item())
    powers = [[math.exp(scale * (s[i] @ t[j]).item()) for j in range(6)] for i in range(6)]
    total = 0.0
    for i in range(6):
        forth = [powers[i][j] / sum(powers[i]) for j in range(6)]
        back = [powers[j][i] / sum(powers[k][i] for k in range(6)) for j in range(6)]
        total -= math.log(forth[i])
        total += 0.3 * sum(q * math.log(q / p) for p, q in zip(forth, back, strict=True))
    close(loss(student, teacher), total / 6)


def test_dcd_scale_learns_and_is_not_decayed():
    loss = DCD(4, 4, dim=4)
    assert loss.scale().item() == pytest.approx(math.e)
    loss(torch.rand(6, 4), torch.rand(6, 4)).backward()
    assert loss.log_scale.grad.abs() > 1e-4
    assert loss.no_weight_decay == ("log_scale",)
    assert set(loss.no_weight_decay) <= dict(loss.named_parameters()).keys()


def test_dcd_scale_is_capped_and_comes_back():
    loss = DCD(4, 4, dim=4, initial_log_scale=2.5)
    assert loss.scale().item() == pytest.approx(10)
    assert DCD(4, 4, max_scale=20.0, initial_log_scale=2.5).scale().item() < 20
    optimizer = torch.optim.SGD([loss.log_scale], lr=0.5)
    student = torch.rand(6, 4)
    for _ in range(20):  # embeddings that do not match reduce the scale
        optimizer.zero_grad()
        loss(student, student.flip(0)).backward()
        optimizer.step()
    assert loss.scale().item() < 9
