"""SDD, CATKD, SKD, OFA, ViTKD, MLKD and CRLD against slow derivations, at shapes of their own."""

import math

import pytest
import torch
from torch import Tensor, nn

from distillers.losses import CATKD, CRLD, DKD, KD, MLKD, NKD, OFA, SDD, SKD, ViTKD
from distillers.losses.ops.exits import token_exit
from distillers.losses.ops.masking import row_draws
from tests.golden.fill import draw


def normal(tag: str, *shape: int) -> Tensor:
    return draw(f"second/{tag}", *shape).double()


def softmax(row: Tensor, temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in row.tolist()]
    return [p / sum(powers) for p in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def logits(tag: str, n: int, k: int) -> tuple[Tensor, Tensor]:
    return 2 * normal(f"{tag}/student", n, k), 3 * normal(f"{tag}/teacher", n, k)


# ---- class maps ---------------------------------------------------------------------------------


def window(side: int, cells: int, number: int) -> slice:
    """The positions that adaptive pooling averages for a cell."""
    return slice(side * number // cells, -(-side * (number + 1) // cells))


def pooled(maps: Tensor, cells: int) -> Tensor:
    """(k, h, w) averaged to (k, cells, cells), cell by cell."""
    found = torch.zeros(len(maps), cells, cells, dtype=maps.dtype)
    for i in range(cells):
        for j in range(cells):
            rows, columns = window(maps.shape[1], cells, i), window(maps.shape[2], cells, j)
            found[:, i, j] = maps[:, rows, columns].flatten(1).mean(dim=1)
    return found


SIDES = [(8, 4), (4, 7), (2, 8), (5, 3), (1, 1)]  # student, teacher


def base_loss(base: str, student: Tensor, teacher: Tensor, label: int) -> float:
    row = student[None], teacher[None]
    labels = torch.tensor([label])
    if base == "kd":
        return KD(temperature=3.0)(*row).item()
    if base == "dkd":
        return DKD(alpha=0.5, beta=2.0, temperature=3.0)(*row, labels, 1.0).item()
    return NKD(gamma=0.7, temperature=3.0)(*row, labels).item()


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("base", ["kd", "dkd", "nkd"])
@pytest.mark.parametrize("scales", [(1, 2), (1, 2, 4), (2,)])
def test_sdd_is_its_base_of_every_region(sides, base, scales):
    n, k = 3, 5
    maps = [s * normal(f"{w}/{d}", n, k, d, d) for s, w, d in zip((2, 3), "st", sides, strict=True)]
    biases = [normal(f"bias/{who}", k) for who in "st"]
    wholes = [each.mean((2, 3)) + bias for each, bias in zip(maps, biases, strict=True)]
    labels, expected, count = torch.tensor([0, 3, 3]), 0.0, 0
    for i in range(n):
        grids = [pooled(each[i], 4) for each in maps]
        right = int((pooled(grids[1], 1).flatten() + biases[1]).argmax()) == labels[i]
        for scale in scales:
            cells = [pooled(grid, scale).flatten(1) for grid in grids]
            for c in range(scale * scale):
                own, other = (cell[:, c] + b for cell, b in zip(cells, biases, strict=True))
                weight = 1.0 if (int(other.argmax()) == labels[i]) == right else 1.5
                expected += weight * base_loss(base, own, other, int(labels[i]))
                count += 1
    loss = SDD(
        base=base, scales=scales, complementary=1.5, temperature=3.0, alpha=0.5, beta=2.0, gamma=0.7
    )
    found = loss(wholes[0], maps[0], wholes[1], maps[1], labels)
    assert found.item() == pytest.approx(expected / count, rel=1e-9)


def test_sdd_of_one_region_is_kd_and_rises_with_progress():
    maps = [normal(f"one/{who}", 4, 5, 4, 4) for who in "st"]
    wholes = [each.mean((2, 3)) for each in maps]
    given = (wholes[0], maps[0], wholes[1], maps[1], torch.arange(4))
    whole = KD()(*wholes).item()
    assert SDD(scales=(1,))(*given).item() == pytest.approx(whole)
    rising = SDD(scales=(1,), ramp=0.5)
    assert [rising(*given, p).item() / whole for p in (0.0, 0.25, 1.0)] == pytest.approx(
        [0, 0.5, 1]
    )


@pytest.mark.parametrize("wrong", [{"base": "kdd"}, {"scales": ()}, {"scales": (1, 5)}])
def test_sdd_refuses_other_bases_and_grids(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SDD(**wrong)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("normalise", [True, False])
def test_catkd_is_its_formula(sides, normalise):
    n, k, r = 3, 5, 2
    maps = [normal(f"cat/{who}/{d}", n, k, d, d) for who, d in zip("st", sides, strict=True)]
    expected = 0.0
    for i in range(n):
        for c in range(k):
            pair = [pooled(each[i, c : c + 1], r).flatten() for each in maps]
            if normalise:
                pair = [x / x.norm() for x in pair]
            expected += (pair[0] - pair[1]).square().sum().item()
    found = CATKD(resolution=r, normalise=normalise)(*maps)
    assert found.item() == pytest.approx(expected / (n * k * r * r))


# ---- SKD ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 6])
@pytest.mark.parametrize("released", [True, False])
def test_skd_is_its_formula(n, released):
    k = 7
    student, teacher = logits(f"skd/{n}", n, k)
    instance = (
        sum(kl(softmax(t, 3), softmax(s, 3)) for s, t in zip(student, teacher, strict=True)) / n
    )
    unit = [x / x.norm(dim=1, keepdim=True) for x in (student, teacher)]
    apart = (unit[0] @ unit[0].T - unit[1] @ unit[1].T) / (k if released else 1)
    inverse = torch.linalg.inv(torch.cov(apart) + 0.2 * torch.eye(n, dtype=torch.double))
    direction = sum(float(row @ inverse @ row) ** 0.5 for row in apart) / n
    images = (n // 2 if n % 2 == 0 else (n + 1) // 2) / n
    expected = images * 9 * instance + 4 / 7 * direction if released else instance + direction
    loss = SKD(temperature=3.0, tikhonov=0.2, released=released)
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_the_direction_of_skd_is_a_plain_length_for_many_classes():
    """The fact that its docstring states: divided by the classes, cov(D) does not matter."""
    student, teacher = logits("skd/many", 16, 100)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (student, teacher)]
    apart = (unit[0] @ unit[0].T - unit[1] @ unit[1].T) / 100
    found = SKD().direction(student, teacher).item()
    assert found == pytest.approx(float(apart.norm(dim=1).mean()) / 0.1**0.5, rel=1e-3)


# ---- two views ----------------------------------------------------------------------------------


def views(tag: str, n: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weak, strong = logits(f"{tag}/weak", n, k), logits(f"{tag}/strong", n, k)
    return weak[0], strong[0], weak[1], strong[1]


def mlkd_terms(student: Tensor, teacher: Tensor, temperature: float) -> tuple[float, float, float]:
    n, k = student.shape
    p = torch.tensor([softmax(row, temperature) for row in student]).double()
    q = torch.tensor([softmax(row, temperature) for row in teacher]).double()
    instance = temperature**2 * sum(kl(b.tolist(), a.tolist()) for a, b in zip(p, q, strict=True))
    images = sum(float(q[i] @ q[j] - p[i] @ p[j]) ** 2 for i in range(n) for j in range(n))
    classes = sum(
        float(q[:, i] @ q[:, j] - p[:, i] @ p[:, j]) ** 2 for i in range(k) for j in range(k)
    )
    return instance / n, images / n, classes / k


@pytest.mark.parametrize(("n", "k"), [(4, 6), (5, 3)])
def test_mlkd_is_its_formula(n, k):
    temperatures = (2.0, 1.0, 3.0, 5.0)
    weak, strong, teacher, teacher_strong = given = views(f"mlkd/{n}", n, k)
    whole = released = 0.0
    u, v = -(-n // 2) / n, -(-k // 2) / k  # the lower half, with the median of odd numbers
    for number, temperature in enumerate(temperatures):
        of_weak = mlkd_terms(weak, teacher, temperature)
        of_strong = mlkd_terms(strong, teacher_strong, temperature)
        whole += sum(of_weak) + sum(of_strong)
        released += u * (of_weak[0] + of_weak[1]) + v * of_weak[2]
        released += of_strong[0] if number < 3 else of_weak[0]
    for is_released, expected in ((True, released), (False, whole)):
        loss = MLKD(temperatures=temperatures, released=is_released)
        assert loss(*given).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("thresholds", [(0.9, 0.2), (0.0, 1.0), (0.5, 0.6)])
def test_crld_is_its_formula(thresholds):
    n, k = 5, 4
    weak, strong, teacher, teacher_strong = given = views("crld", n, k)
    expected = 0.0
    for i in range(n):
        s = {"w": softmax(weak[i], 3), "s": softmax(strong[i], 3)}
        t = {"w": softmax(teacher[i], 3), "s": softmax(teacher_strong[i], 3)}
        sure = max(softmax(teacher[i])) >= thresholds[0]
        fair = max(softmax(teacher_strong[i])) >= thresholds[1]
        expected += 1.5 * sure * (kl(t["w"], s["w"]) + kl(t["s"], s["s"]))
        expected += 0.7 * fair * (kl(t["w"], s["s"]) + kl(t["s"], s["w"]))
    loss = CRLD(
        temperature=3.0,
        within=1.5,
        across=0.7,
        weak_threshold=thresholds[0],
        strong_threshold=thresholds[1],
    )
    assert loss(*given).item() == pytest.approx(9 * expected / n)


# ---- OFA ----------------------------------------------------------------------------------------


def ofa_term(z: Tensor, t: Tensor, label: int, power: float, temperature: float) -> float:
    found, p = softmax(z, temperature), softmax(t, temperature)
    total = 0.0
    for c in range(len(p)):
        e = 1.0 if c == label else 0.0
        total -= ((p[c] + e) ** power - e) * math.log(found[c])
    return total


@pytest.mark.parametrize("channels", [(4, 6, 8), (8, 8, 8), (5, 6, 7, 8, 8)])
@pytest.mark.parametrize("power", [1.0, 1.5])
def test_ofa_is_the_sum_over_its_exits(channels, power):
    n, k = 5, 4
    student, teacher = logits("ofa", n, k)
    labels = torch.tensor([0, 3, 3, 1, 2])
    torch.manual_seed(0)
    loss = OFA(list(channels), 8, 10, k, power=power, temperature=2.0).double()
    maps = [normal(f"ofa/{i}/{c}", n, c, 6 - i, 6 - i) for i, c in enumerate(channels)]
    found = [student, *(leave(each) for leave, each in zip(loss.exits, maps, strict=True))]
    assert all(each.shape == (n, k) for each in found)
    expected = sum(
        ofa_term(each[i], teacher[i], int(labels[i]), power, 2.0)
        for each in found
        for i in range(n)
    )
    assert loss(maps, student, teacher, labels).item() == pytest.approx(expected / n)


def test_an_only_image_with_maps_of_one_position_is_taken():
    loss = OFA([4, 6], 6, 5, 3)
    maps = [torch.randn(1, 4, 2, 2, requires_grad=True), torch.randn(1, 6, 1, 1)]
    loss(maps, torch.randn(1, 3), torch.randn(1, 3), torch.tensor([1])).backward()
    assert maps[0].grad.isfinite().all()


def test_power_1_of_ofa_is_the_cross_entropy_with_the_teacher():
    student, teacher = logits("ofa", 5, 4)
    found = OFA([], 1, 1, 4, exits=False)([], student, teacher, torch.zeros(5, dtype=torch.long))
    expected = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    assert found.item() == pytest.approx(expected.item())


def test_an_exit_of_one_stage_halves_the_size_once_for_each_stage_that_follows():
    exits = OFA([4, 6, 8], 8, 10, 5).exits
    strides = [[m.stride[0] for m in e if isinstance(m, nn.Conv2d)].count(2) for e in exits]
    assert strides == [2, 1, 0]
    widths = [[m.num_features for m in e if isinstance(m, nn.BatchNorm2d)] for e in exits]
    assert widths == [[4, 8, 8, 10], [6, 10], []]


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1)])
def test_token_exits_take_maps_of_any_size(size):
    torch.manual_seed(0)
    leave = token_exit(6, 2, 3)
    assert leave(torch.randn(2, 6, *size)).shape == (2, 3)
    assert [m.self_attn.num_heads for m in leave[1:-2]] == [2, 2]


# ---- ViTKD --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "teacher_width"), [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0])
def test_vitkd_is_its_formula(width, teacher_width, ratio):
    n, t, side = 3, 9, 3
    torch.manual_seed(0)
    loss = ViTKD(width, teacher_width, mimic=0.1, generate=0.2, mask_ratio=ratio).double()
    nn.init.normal_(loss.mask_token)
    student = [normal(f"vit/s/{i}", n, t, width) for i in range(4)]
    teacher = [normal(f"vit/t/{i}", n, t, teacher_width) for i in range(3)]
    noise = normal("vit/noise", n, t)
    expected = 0.0
    for block in (0, 1):
        expected += 0.1 * (loss.align[block](student[block]) - teacher[block]).square().sum() / n
    for i in range(n):
        kept = noise[i].argsort()[: int(t * (1 - ratio))].tolist()
        tokens = loss.align[2](student[-1][i]).clone()
        for place in set(range(t)) - set(kept):
            tokens[place] = loss.mask_token[0, 0]
        grid = torch.stack([tokens[r * side : (r + 1) * side] for r in range(side)])  # (h, w, d)
        made = loss.generation(grid.permute(2, 0, 1)[None])[0]
        for place in set(range(t)) - set(kept):
            missed = made[:, place // side, place % side] - teacher[-1][i, place]
            expected += 0.2 / ratio * missed.square().sum() / n
    assert loss(student, teacher, noise).item() == pytest.approx(expected.item())


def test_vitkd_masks_its_share_of_the_tokens_anew_in_each_step():
    torch.manual_seed(0)
    loss, tokens = ViTKD(4, 4).double(), normal("vit/draw", 6, 16, 4)
    masks = []
    for _ in range(2):
        masks.append(loss.masked(row_draws(loss.seed, loss.step, tokens)))
        loss([tokens] * 2, [tokens] * 2)
    assert all((mask.sum(dim=1) == 8).all() for mask in masks)
    assert not torch.equal(*masks)
    assert len({tuple(row.flatten().tolist()) for row in masks[0]}) == 6


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 9, 4), (2, 16, 6)), "equally many tokens .* 9 and the teacher 16"),
        (((2, 8, 4), (2, 8, 6)), "square grid"),
        (((2, 9, 5), (2, 9, 6)), "5 and 6 wide, the inputs 4 and 6"),
    ],
)
def test_vitkd_refuses_tokens_that_cannot_be_compared(shapes, message):
    student, teacher = ([torch.zeros(shape)] * 3 for shape in shapes)
    with pytest.raises(ValueError, match=message):
        ViTKD(4, 6)(student, teacher)


def test_vitkd_needs_two_blocks():
    with pytest.raises(ValueError, match="student has 1 and the teacher 3"):
        ViTKD(4, 6).check_inputs([torch.zeros(2, 9, 4)], [torch.zeros(2, 9, 6)] * 3)
