"""RLD, TTM, WTTM, CTKD, NormKD, LumiNet and WKDL against slow derivations."""

import math

import pytest
from torch import Tensor, nn

from distillers.losses import CTKD, DKD, RLD, TTM, WKDL, WTTM, LumiNet, NormKD
from tests.losses.test_second_set import kl, logits, normal, softmax

SHAPES = [(1, 4), (3, 2), (5, 7)]
LABELS = {
    "right": lambda t: t.argmax(1),
    "wrong": lambda t: t.argmin(1),
    "some": lambda t: t[:, 0].long() * 0,
}


def two(row: Tensor, place: int, temperature: float) -> list[float]:
    p = softmax(row, temperature)[place]
    return [p, 1 - p]


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("labels", LABELS)
def test_rld_is_its_formula(n, k, labels):
    student, teacher = logits(f"rld/{n}", n, k)
    chosen, expected = LABELS[labels](teacher), 0.0
    for s, t, y in zip(student, teacher, chosen.tolist(), strict=True):
        top = max(range(k), key=t.tolist().__getitem__)
        expected += 0.5 * 4 * kl(two(t, top, 2), two(s, y, 2))
        below = [c for c in range(k) if t[c] < t[y]]
        if below:
            expected += 3 * 9 * kl(softmax(t[below], 3), softmax(s[below], 3))
    loss = RLD(alpha=0.5, beta=3.0, temperature=3.0, target_temperature=2.0)
    assert loss(student, teacher, chosen, 0.0).item() == pytest.approx(expected / n, rel=1e-9)


def test_rld_of_a_teacher_that_is_right_is_dkd():
    student, teacher = logits("rld/right", 6, 5)
    given = student, teacher, teacher.argmax(1), 0.1
    assert RLD(ramp=0.3)(*given).item() == pytest.approx(DKD(ramp=0.3)(*given).item())


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_ttm_and_wttm_are_their_formulas(n, k):
    student, teacher = logits(f"ttm/{n}", n, k)
    plain = weighted = 0.0
    for s, t in zip(student, teacher, strict=True):
        powers = [p**0.3 for p in softmax(t)]
        divergence = kl([p / sum(powers) for p in powers], softmax(s))
        plain += divergence / n
        weighted += sum(powers) * divergence / n
    assert TTM(gamma=0.3)(student, teacher).item() == pytest.approx(plain)
    assert WTTM(gamma=0.3)(student, teacher).item() == pytest.approx(weighted)


def ctkd(student: Tensor, teacher: Tensor, theta: float) -> float:
    temperature = 2 + 5 / (1 + math.exp(-theta))
    pairs = zip(student, teacher, strict=True)
    total = sum(kl(softmax(t, temperature), softmax(s, temperature)) for s, t in pairs)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)])
def test_the_temperature_of_ctkd_climbs_the_loss(progress, share):
    student, teacher = logits("ctkd", 4, 6)
    loss = CTKD(low=2.0, span=5.0, rise=0.2, initial=0.7).double()
    value = loss(student, teacher, progress)
    value.backward()
    assert value.item() == pytest.approx(ctkd(student, teacher, 0.7), rel=1e-6)
    step = 1e-5
    slope = (ctkd(student, teacher, 0.7 + step) - ctkd(student, teacher, 0.7 - step)) / (2 * step)
    assert loss.theta.grad.item() == pytest.approx(-share * slope, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 4), (5, 7)])
def test_normkd_is_its_formula(n, k):
    student, teacher = logits(f"normkd/{n}", n, k)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        own, other = 1.5 * s.std().item(), 1.5 * t.std().item()
        expected += other**2 * kl(softmax(t, other), softmax(s, own)) / n
    assert NormKD(temperature=1.5)(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_luminet_is_its_formula(n, k):
    student, teacher = logits(f"luminet/{n}", n, k)

    def standardized(rows: Tensor) -> Tensor:
        found = rows.clone()
        for c in range(k):
            column = rows[:, c].tolist()
            mean = sum(column) / n
            variance = sum((z - mean) ** 2 for z in column) / n
            for i, z in enumerate(column):
                found[i, c] = (z - mean) / math.sqrt(variance + 0.1)
        return found

    pairs = list(zip(standardized(student), standardized(teacher), strict=True))
    expected = 49 * sum(kl(softmax(t, 3), softmax(s, 3)) for s, t in pairs) / n
    loss = LumiNet(alpha=7.0, temperature=3.0, eps=0.1, ramp=0.5)
    assert loss(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-12)
    assert loss(student, teacher, 0.1).item() == pytest.approx(expected / 5, abs=1e-12)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_wkdl_cuts_the_label_out_of_each_cost_matrix(n, k, labels):
    student, teacher = logits(f"wkdl/{n}", n, k)
    chosen = LABELS[labels](teacher)
    head = nn.Linear(3, k).double()
    weight = normal(f"wkdl/{k}", k, 3)
    head.weight.data.copy_(weight)
    loss = WKDL(head, temperature=2.0, gamma=5.0, blur=0.2, iterations=4, sharpen=1.5)
    expected = 0.0
    for s, t, y in zip(student, teacher, chosen.tolist(), strict=True):
        rest = [c for c in range(k) if c != y]
        a, b = softmax(s[rest], 2), softmax(t[rest], 2)
        unit = [weight[c] / weight[c].norm() for c in rest]
        cost = [[1 - math.exp(-1.5 * (1 - float(p @ q))) for q in unit] for p in unit]
        cost = [[max(c, 0.0) + 1e-8 for c in row] for row in cost]
        kernel = [[math.exp(-c / 0.2) for c in row] for row in cost]
        size = range(k - 1)
        u = [1 / (k - 1)] * (k - 1)
        for _ in range(4):
            v = [b[j] / (sum(kernel[i][j] * u[i] for i in size) + 1e-8) for j in size]
            u = [a[i] / (sum(kernel[i][j] * v[j] for j in size) + 1e-8) for i in size]
        moved = sum(u[i] * kernel[i][j] * v[j] * cost[i][j] for i in size for j in size)
        expected += (-softmax(t)[y] * math.log(softmax(s)[y]) + 2.5 * moved) / n
    half = (1 + 0.625) / 2  # of the decay
    found = loss(student, teacher, chosen, half)
    assert found.item() == pytest.approx(expected, rel=1e-6)
