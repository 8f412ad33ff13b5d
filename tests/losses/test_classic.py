"""The classic losses against second, slow derivations, and their invariances."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses import AB, CC, EGA, FSP, FT, ITRD, KDSVD, NST, PKT, RKD, WSLD
from distillers.losses.ops.feature_maps import same_size
from tests.golden.fill import draw


def normal(tag: str, *shape: int) -> Tensor:
    return draw(f"classic/{tag}", *shape).double()


def maps(who: str, *stages: tuple[int, int, int], n: int = 3) -> list[Tensor]:
    return [normal(f"{who}/{i}", n, *stage) for i, stage in enumerate(stages)]


def pooled(n: int = 5, student: int = 6, teacher: int = 9) -> tuple[Tensor, Tensor]:
    return normal("student", n, student), normal("teacher", n, teacher)


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def cosine(a: Tensor, b: Tensor) -> float:
    lengths = a.norm() * b.norm()
    return (a @ b / lengths).item() if lengths > 0 else 0.0


# ---- relations in a batch -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "spread", [1.0, 10.0]
)  # the second reaches the linear part of the Huber loss
def test_rkd_is_its_formula(spread):
    student, teacher = pooled()
    student = student * torch.tensor([1.0, spread, 1.0, 1.0, 1.0]).double()[:, None]
    n = len(student)

    def distances(x: Tensor) -> list[list[float]]:
        found = [[(x[i] - x[j]).norm().item() for j in range(n)] for i in range(n)]
        positive = [d for row in found for d in row if d > 0]
        return [[d * len(positive) / sum(positive) for d in row] for row in found]

    a, b = distances(student), distances(teacher)
    of_distances = sum(huber(a[i][j] - b[i][j]) for i in range(n) for j in range(n)) / n**2
    of_angles = sum(
        huber(
            cosine(student[j] - student[i], student[k] - student[i])
            - cosine(teacher[j] - teacher[i], teacher[k] - teacher[i])
        )
        for i in range(n)
        for j in range(n)
        for k in range(n)
    )
    expected = 25 * of_distances + 50 * of_angles / n**3
    assert RKD()(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_rkd_ignores_rotation_scale_and_place():
    student, teacher = pooled()
    rotation = torch.linalg.qr(normal("rotation", 6, 6))[0]
    moved = 7 * student @ rotation + 3
    torch.testing.assert_close(RKD()(moved, teacher), RKD()(student, teacher))
    torch.testing.assert_close(RKD()(moved, student), torch.zeros((), dtype=torch.float64))


def test_rkd_keeps_its_digits_for_near_neighbors_in_float32():
    student, teacher = pooled()
    student[1] = student[0] + 1e-4 * student[1]
    student = student + 10
    exact = RKD()(student, teacher).item()
    assert RKD()(student.float(), teacher.float()).item() == pytest.approx(exact, rel=2e-3)


def test_rkd_with_coinciding_embeddings_has_a_finite_gradient():
    student, teacher = pooled()
    student[1] = student[0]
    student.requires_grad_()
    RKD()(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.norm() < 1e3


def test_pkt_is_its_formula_and_ignores_scale():
    student, teacher = pooled()
    n = len(student)

    def neighbors(x: Tensor, i: int) -> list[float]:
        similar = [(cosine(x[i], x[j]) + 1) / 2 for j in range(n)]
        return [s / sum(similar) for s in similar]

    expected = 0.0
    for i in range(n):
        for p, q in zip(neighbors(teacher, i), neighbors(student, i), strict=True):
            expected += p * math.log((p + 1e-7) / (q + 1e-7)) / n**2
    assert PKT()(student, teacher).item() == pytest.approx(expected, rel=1e-9)
    scale = torch.arange(1.0, n + 1).double()[:, None]
    assert PKT()(student * scale, 4 * teacher).item() == pytest.approx(expected, rel=1e-9)


def test_pkt_of_two_opposite_images_is_finite():
    teacher = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    below = 0
    for seed in range(40):
        row = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed))
        opposite = torch.cat((row, -row))  # their cosine is -1, or less by rounding
        rows = F.normalize(opposite)
        below += bool((rows @ rows.T < -1).any())
        assert PKT()(opposite, teacher).isfinite()
    assert below > 5


def test_cc_consecutive_is_its_formula_and_zero_for_one_image():
    student, teacher = pooled()
    loss = CC(6, 9, dim=4).double()
    e = (loss.embed_student(student) - loss.embed_teacher(teacher)).abs()
    expected = sum((e[i] @ e[i + 1]).item() for i in range(4)) / 4
    assert loss(student, teacher).item() == pytest.approx(expected)
    assert loss(student[:1], teacher[:1]).item() == 0


def test_cc_matrix_is_its_formula_and_ignores_the_order_of_the_batch():
    student, teacher = pooled()
    loss = CC(6, 9, dim=4, form="matrix", order=8).double()
    a = F.normalize(loss.embed_student(student), dim=1)
    b = F.normalize(loss.embed_teacher(teacher), dim=1)

    def gauss(x: Tensor, i: int, j: int) -> float:
        return math.exp(-0.4 * (x[i] - x[j]).square().sum().item())

    differences = [gauss(a, i, j) - gauss(b, i, j) for i in range(5) for j in range(5)]
    expected = sum(d * d for d in differences) / 25
    assert loss(student, teacher).item() == pytest.approx(
        expected, rel=1e-3
    )  # the Taylor series is truncated
    turned = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(loss(student[turned], teacher[turned]), loss(student, teacher))


def test_cc_refuses_a_form_that_it_does_not_have():
    with pytest.raises(ValueError, match="'matrx'; it must be 'consecutive' or 'matrix'"):
        CC(6, 9, form="matrx")


@pytest.mark.parametrize("width", [6, 9])
def test_ega_is_its_formula(width):
    student, teacher = pooled(student=width)
    loss = EGA(width, 9).double()
    assert bool(list(loss.parameters())) == (width != 9)
    embedded = loss.embed(student)

    def corr(a: Tensor, b: Tensor) -> float:
        return cosine(a - a.mean(), b - b.mean())

    node = edge = 0.0
    for i in range(5):
        for j in range(5):
            node += (corr(teacher[i], embedded[j]) - (i == j)) ** 2
            edge += (corr(teacher[i], teacher[j]) - corr(embedded[i], embedded[j])) ** 2
    expected = math.sqrt(node) + 0.3 * math.sqrt(edge)
    assert loss(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("width", [6, 9])
def test_itrd_is_its_formula_with_both_factors(width):
    student, teacher = pooled(student=width)
    loss = ITRD(width, 9, correlation=3.0, mutual=0.7, alpha=1.2).double()
    embedded = loss.embed(student)
    n, d = teacher.shape

    total = 0.0
    for j in range(d):
        a, b = embedded[:, j], teacher[:, j]
        c = sum((a - a.mean()) * (b - b.mean())).item() / (a.std() * b.std()).item() / n
        total += abs(c - 1) ** 2.4

    plain = student if width == 9 else embedded
    joint = of_student = trace = 0.0
    for i in range(n):
        trace += cosine(plain[i], plain[i]) * cosine(teacher[i], teacher[i])
        for j in range(n):
            of_student += (cosine(plain[i], plain[j]) / n) ** 2
            joint += (cosine(plain[i], plain[j]) * cosine(teacher[i], teacher[j])) ** 2
    expected = 3 * math.log2(total) + 0.7 * (of_student - joint / trace**2)
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_wsld_is_its_formula():
    student, teacher = 2 * normal("student/z", 4, 5), 3 * normal("teacher/z", 4, 5)
    labels = torch.tensor([0, 3, 3, 1])
    expected = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        beaten = s.log_softmax(0)[y] / t.log_softmax(0)[y]
        soft = -((t / 3).softmax(0) @ (s / 3).log_softmax(0))
        expected += 9 * (1 - math.exp(-beaten)) * soft.item() / 4
    found = WSLD(temperature=3.0)(student, teacher, labels)
    assert found.item() == pytest.approx(expected, rel=1e-6)


# ---- maps ---------------------------------------------------------------------------------------

FINER = (((3, 8, 6), (4, 4, 4)), ((5, 4, 3), (2, 2, 2)))  # the student's maps are larger
COARSER = (((3, 4, 3), (4, 2, 2)), ((5, 8, 6), (2, 4, 4)))
UNEVEN = (
    ((9, 3, 5),),
    ((8, 5, 2),),
)  # no size divides another, and there are more channels than positions


def reduced(x: Tensor, height: int, width: int) -> Tensor:
    return F.adaptive_avg_pool2d(x, (height, width))


@pytest.mark.parametrize("stages", [FINER, COARSER, UNEVEN])
def test_nst_is_its_formula(stages):
    student, teacher = maps("student", *stages[0]), maps("teacher", *stages[1])
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        grid = [min(s.shape[i], t.shape[i]) for i in (2, 3)]
        s, t = (F.normalize(reduced(x, *grid).flatten(2), dim=2) for x in (s, t))

        def mean(a: Tensor, b: Tensor) -> float:
            return sum((x @ y).item() ** 2 for x in a for y in b) / (len(a) * len(b))

        for a, b in zip(s, t, strict=True):
            expected += (mean(a, a) + mean(b, b) - 2 * mean(a, b)) / len(s)
    assert NST()(student, teacher).item() == pytest.approx(expected)


def test_nst_ignores_the_order_and_scale_of_channels():
    student, teacher = maps("student", (4, 3, 3)), maps("teacher", (6, 3, 3))
    turned = [5 * student[0][:, [2, 0, 3, 1]]]
    torch.testing.assert_close(NST()(turned, teacher), NST()(student, teacher))
    assert NST()(turned, student).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("build", [AB, FSP, KDSVD], ids=lambda cls: cls.__name__)
def test_different_numbers_of_stages_are_refused_with_both(build):
    with pytest.raises(
        ValueError, match=rf"{build.__name__} .* the student has 2 and the teacher 3"
    ):
        build([4, 4], [4, 4, 4])


def test_nst_refuses_different_numbers_of_maps():
    with pytest.raises(ValueError, match=r"NST .* the student has 2 and the teacher 3"):
        NST()(maps("student", *[(4, 3, 3)] * 2), maps("teacher", *[(4, 3, 3)] * 3))


@pytest.mark.parametrize("stages", [FINER, COARSER, UNEVEN])
def test_ab_is_its_formula(stages):
    student, teacher = maps("student", *stages[0]), maps("teacher", *stages[1])
    loss = AB([s[0] for s in stages[0]], [t[0] for t in stages[1]], margin=0.6).double()
    expected = 0.0
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        s, t = same_size(loss.connectors[i](s), t)
        for r, reference in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True):
            off, on = r > -0.6 and reference <= 0, r <= 0.6 and reference > 0
            part = (r + 0.6) ** 2 * off + (r - 0.6) ** 2 * on
            expected += 0.003 * part / 2 ** (len(student) - 1 - i) / len(s)
    assert loss(student, teacher).item() == pytest.approx(expected)
    assert loss.warmup(student, teacher).item() == pytest.approx(expected)


def test_ab_compares_the_neurons_themselves_where_channels_agree():
    loss = AB([4, 6], [4, 5])
    assert [len(list(each.parameters())) for each in loss.connectors] == [0, 4]
    (maps_of_both,) = maps("both", (4, 3, 3))
    beyond = maps_of_both + 2 * maps_of_both.sign()
    assert AB([4], [4])([beyond], [beyond]).item() == 0  # every neuron is beyond the margin


def test_ab_asks_only_for_the_side_of_the_boundary():
    loss = AB([4], [4]).double()
    found = loss.beyond(
        torch.tensor([-3.0, 3.0, -3.0, 3.0]), torch.tensor([False, True, True, False])
    )
    assert found.tolist() == [0, 0, 16, 16]


@pytest.mark.parametrize("stages", [FINER, COARSER, UNEVEN])
@pytest.mark.parametrize("form", ["attention", "factor"])
def test_ft_is_its_formula(stages, form):
    student, teacher = maps("student", *stages[0]), maps("teacher", *stages[1])
    channels = [[stage[0] for stage in each] for each in stages]
    loss = FT(*channels, rate=1.0, form=form).double()
    a, b = same_size(loss.translator(student[-1]), loss.paraphraser(teacher[-1]))
    expected = 0.0
    for x, y in zip(a, b, strict=True):
        if form == "attention":
            x, y = x.square().mean(0), y.square().mean(0)
        expected += (x / x.norm() - y / y.norm()).abs().mean().item() / len(a)
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_ft_gradient_is_that_of_the_value():
    loss = FT([3], [4]).double()
    (student,), (teacher,) = maps("student", (3, 3, 3)), maps("teacher", (4, 3, 3))
    weight = loss.translator[0].weight
    assert torch.autograd.gradcheck(
        lambda x, _: loss([x], [teacher]), (student.requires_grad_(), weight), fast_mode=True
    )


def test_ft_first_stage_trains_the_paraphraser_and_second_the_translator():
    loss = FT([3], [4]).double()
    teacher = maps("teacher", (4, 3, 3))
    loss.warmup(teacher).backward()
    reached = {name.split(".")[0] for name, p in loss.named_parameters() if p.grad is not None}
    assert reached == {"paraphraser", "decoder"}
    restored = loss.decoder(loss.paraphraser(teacher[0]))
    assert loss.warmup(teacher).item() == pytest.approx(
        (restored - teacher[0]).square().mean().item()
    )
    loss.zero_grad()
    loss(maps("student", (3, 3, 3)), teacher).backward()
    reached = {name.split(".")[0] for name, p in loss.named_parameters() if p.grad is not None}
    assert reached == {"translator"}


def test_ft_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="form is 'paper'"):
        FT([3], [4], form="paper")
    with pytest.raises(ValueError, match=r"rate is 0\.1; 4 channels give no factor"):
        FT([3], [4], rate=0.1)


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4), (4, 4)), ((3, 5), (4, 2), (2, 2))])
def test_fsp_is_its_formula(sizes):
    channels, other = (2, 3, 4), ((4, 4), (4, 4), (2, 2))
    student = maps("student", *((c, *s) for c, s in zip(channels, sizes, strict=True)))
    teacher = maps("teacher", *((c, *s) for c, s in zip(channels, other, strict=True)))

    def flow(net: list[Tensor], stage: int, n: int, i: int, j: int) -> float:
        a, b = same_size(net[stage], net[stage + 1])
        positions = [(y, x) for y in range(a.shape[2]) for x in range(a.shape[3])]
        return sum((a[n, i, y, x] * b[n, j, y, x]).item() for y, x in positions) / len(positions)

    expected = 0.0
    for stage in (0, 1):
        rows, columns = channels[stage], channels[stage + 1]
        for n in range(3):
            for i in range(rows):
                for j in range(columns):
                    difference = flow(student, stage, n, i, j) - flow(teacher, stage, n, i, j)
                    expected += difference**2 / (3 * rows * columns)
    loss = FSP([3, 4], [3, 4])
    inputs = (student[0], student[1:], teacher[0], teacher[1:])
    assert loss(*inputs).item() == pytest.approx(expected)
    assert loss.warmup(*inputs).item() == pytest.approx(expected)


def test_fsp_names_the_stages_whose_channels_differ():
    with pytest.raises(ValueError, match=r"stage 2 \(16 and 32\), stage 3 \(32 and 64\)"):
        FSP([16, 16, 32], [16, 32, 64])
    stems = normal("a", 1, 3, 2, 2), normal("b", 1, 4, 2, 2)
    with pytest.raises(ValueError, match="the student's has 3 and the teacher's 4"):
        FSP([], [])(stems[0], [], stems[1], [])


@pytest.mark.parametrize("build", [AB, FSP], ids=lambda cls: cls.__name__)
def test_ab_and_fsp_act_in_their_first_stage_only_as_published(build):
    assert build([4], [4]).warmup_epochs == 30
    assert not build([4], [4]).keep
    assert build([4], [4], keep=True).keep


# ---- singular vectors ---------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
def test_kdsvd_is_its_formula_on_grids_that_are_not_square(rank):
    channels = (4, 5, 7)
    student = maps("student", (4, 6, 3), (5, 3, 2), (7, 2, 2), n=2)  # 4 positions, 7 channels
    teacher = maps("teacher", (4, 2, 5), (5, 4, 4), (7, 3, 3), n=2)

    def vectors(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        _, values, rows = torch.linalg.svd(x.flatten(1).T, full_matrices=False)
        return rows[:count], values[:count]

    expected = 0.0
    for n in range(2):
        before = None
        for s, t in zip(student, teacher, strict=True):
            reference, values = vectors(t[n], rank)
            reference = torch.stack([v if v.sum() >= 0 else -v for v in reference])
            candidates, _ = vectors(s[n], rank + 3)
            aligned = []
            for v in reference:
                best = max(candidates, key=lambda c: abs((c @ v).item()))
                aligned.append(best if best @ v >= 0 else -best)
            scale = values / values.norm()
            now = torch.stack(aligned) * scale[:, None], reference * scale[:, None]
            if before is not None:
                for v in range(rank):
                    for a in range(now[0].shape[1]):
                        for b in range(before[0].shape[1]):
                            of_student, of_teacher = (
                                math.exp(-((x[v, a] - y[v, b]) ** 2) / 8)
                                for x, y in zip(now, before, strict=True)
                            )
                            expected += (of_student - of_teacher) ** 2 / 2
            before = now
    loss = KDSVD(list(channels), list(channels), rank=rank)
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_kdsvd_gradient_is_exact_where_the_library_has_one():
    student = maps("student", (4, 3, 3), (3, 1, 2))  # the second has fewer positions than channels
    teacher = maps("teacher", (4, 3, 3), (3, 2, 2))
    loss = KDSVD([4, 3], [4, 3])
    leaves = [x.requires_grad_() for x in student]
    assert torch.autograd.gradcheck(lambda *x: loss(list(x), teacher), leaves)


def test_kdsvd_with_silent_channels_has_a_finite_gradient():
    student, teacher = maps("student", (6, 3, 3), (6, 3, 3)), maps("teacher", (6, 3, 3), (6, 3, 3))
    for x in student:
        x[:, 1:5] = 0
        x.requires_grad_()
    KDSVD([6, 6], [6, 6])(student, teacher).backward()
    for x in student:
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert 0 < x.grad.norm() < 10


def test_kdsvd_refuses_channels_that_differ_and_a_single_stage():
    with pytest.raises(ValueError, match=r"the student has \[4, 8\] and the teacher \[4, 9\]"):
        KDSVD([4, 8], [4, 9])
    with pytest.raises(ValueError, match="at least two stages"):
        KDSVD([4], [4])
