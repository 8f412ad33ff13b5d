"""The second set's losses of maps and embeddings against slow derivations."""

import math

import pytest
import torch
from torch import Tensor, nn

from distillers.losses import HKD, ICKD, IRG, MGD, SRD, WKDF, DISTPlus, QueueKL, VkD
from distillers.losses.ops.reflections import Reflections
from tests.losses.test_second_set import kl, logits, normal, softmax, window

PAIRS = [
    ((4, 7, 7), (5, 4, 4)),
    ((3, 4, 4), (5, 7, 7)),
    ((3, 8, 6), (3, 4, 3)),
    ((6, 3, 5), (2, 5, 3)),
]


def maps_of(tag: str, n: int, pair: tuple) -> tuple[Tensor, Tensor]:
    return normal(f"{tag}/s/{pair}", n, *pair[0]), normal(f"{tag}/t/{pair}", n, *pair[1]).abs()


def shrunk(maps: Tensor, height: int, width: int) -> Tensor:
    """(n, c, h, w) averaged cell by cell."""
    rows = [
        maps[:, :, window(maps.shape[2], height, i), window(maps.shape[3], width, j)].mean((2, 3))
        for i in range(height)
        for j in range(width)
    ]
    return torch.stack(rows, dim=2).unflatten(2, (height, width))


def both_small(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return shrunk(student, *size), shrunk(teacher, *size)


def normalized(maps: Tensor) -> Tensor:
    """Batch normalization at its start, number by number."""
    found = maps.clone()
    for c in range(maps.shape[1]):
        mean = maps[:, c].mean()
        found[:, c] = (maps[:, c] - mean) / ((maps[:, c] - mean).square().mean() + 1e-5).sqrt()
    return found


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("grid", [1, 2])
@torch.no_grad()
def test_wkdf_is_its_formula(pair, grid):
    student, teacher = maps_of("wkdf", 2, pair)
    loss = WKDF(
        *([each[0]] for each in pair), *([each[1:]] for each in pair), mean_weight=3.0, grid=grid
    ).double()
    projected = normalized(loss.project(student)).clamp(min=0)
    expected = 0.0
    for own, other in zip(projected, teacher, strict=True):
        for i in range(grid):
            for j in range(grid):
                cells = [
                    m[:, window(m.shape[1], grid, i), window(m.shape[2], grid, j)].flatten(1)
                    for m in (own, other)
                ]
                means = [cell.mean(1) for cell in cells]
                deviations = [(cell.var(1) + 1e-5).sqrt() for cell in cells]
                expected += 3 * (means[0] - means[1]).square().sum().item()
                expected += (deviations[0] - deviations[1]).square().sum().item()
    expected /= 2 * grid**2
    assert loss([student], [teacher], 0.625).item() == pytest.approx(expected)
    assert loss([student], [teacher], (1 + 0.625) / 2).item() == pytest.approx(expected / 2)


@pytest.mark.parametrize("pair", PAIRS)
def test_mgd_is_its_formula(pair):
    student, teacher = maps_of("mgd", 3, pair)
    torch.manual_seed(0)
    loss = MGD([pair[0][0]], [pair[1][0]]).double()
    mask = (normal("mgd/mask", 3, pair[1][0], 1, 1) > -0.5).double()
    own, other = both_small(loss.align(student), teacher)
    expected = (loss.generation(own * mask) - other).square().sum() / 3
    assert loss([student], [teacher], mask).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_ickd_is_its_formula(pair):
    student, teacher = maps_of("ickd", 3, pair)
    loss = ICKD([pair[0][0]], [pair[1][0]]).double()
    embedded = normalized(torch.einsum("oc,nchw->nohw", loss.embed[0].weight[:, :, 0, 0], student))
    expected = 0.0
    for own, other in zip(embedded, teacher, strict=True):
        grams = [[[float((a * b).sum()) for b in m] for a in m] for m in (own, other)]
        unit = [[[x / math.hypot(*row) for x in row] for row in gram] for gram in grams]
        for first, second in zip(*unit, strict=True):
            expected += sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    expected /= 3 * pair[1][0]
    assert loss([student], [teacher]).item() == pytest.approx(expected)


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (a.norm() * b.norm() + 1e-8))


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_distplus_is_its_formula(pair):
    n = 3
    maps = maps_of("distplus", n, pair)
    student, teacher = logits("distplus", n, 5)
    facts = {
        f"{who}_channels": [each[0]] for who, each in zip(("student", "teacher"), pair, strict=True)
    }
    loss = DISTPlus(**facts, channel=0.5, spatial=2.0).double()
    assert isinstance(loss.align, nn.Identity) == (pair[0][0] == pair[1][0])
    own, other = both_small(loss.align(maps[0]), maps[1])
    own, other = own.flatten(2), other.flatten(2)
    places = range(own.shape[2])
    of_channels = [correlation(own[i, :, x], other[i, :, x]) for i in range(n) for x in places]
    of_places = [correlation(own[:, :, x].sum(1), other[:, :, x].sum(1)) for x in places]
    expected = loss.dist(student, teacher).item()
    expected += 0.5 * (1 - sum(of_channels) / len(of_channels))
    expected += 2 * (1 - sum(of_places) / len(of_places))
    assert loss(student, [maps[0]], teacher, [maps[1]]).item() == pytest.approx(expected, rel=1e-6)


def test_distplus_alone_refuses_other_channels():
    student, teacher = maps_of("distplus", 3, PAIRS[0])
    own, other = logits("distplus", 3, 5)
    with pytest.raises(ValueError, match="the student has 4 channels and the teacher 5"):
        DISTPlus()(own, [student], other, [teacher])


def squares(rows: Tensor) -> Tensor:
    n, flat = len(rows), rows.flatten(1)
    return torch.tensor(
        [[float((flat[i] - flat[j]).square().sum()) for j in range(n)] for i in range(n)]
    )


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dims", [(4, 4), (4, 6)])
def test_irg_is_its_formula(n, dims):
    stages = [[normal(f"irg/{d}/{i}/{n}", n, 2, 3 - i % 2, 3) for i in range(3)] for d in dims]
    pooled = [normal(f"irg/{who}/{d}/{n}", n, d) for who, d in zip("st", dims, strict=True)]

    def distances(rows: Tensor) -> Tensor:
        found = squares(rows)
        return found / (found.max() + 1e-12)

    def mean(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean())

    expected = mean(*map(distances, pooled))
    expected += mean(*pooled) if dims[0] == dims[1] else 0.0
    expected *= 0.5
    for first, second in ((0, 2), (0, 1)):  # stages of one shape, and of two
        edges = [mean(distances(s[first]), distances(s[second])) for s in stages]
        expected += 2 * (edges[0] - edges[1]) ** 2
        if stages[0][first].shape == stages[0][second].shape:
            changes = [mean(s[first], s[second]) for s in stages]
            expected += 2 * (changes[0] - changes[1]) ** 2
    layers = (1, 3, 1, 2)
    loss = IRG(student_layers=layers, teacher_layers=layers, graph_weight=0.5, transform_weight=2.0)
    found = loss(pooled[0], stages[0], pooled[1], stages[1])
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def flow(student: Tensor, teacher: Tensor) -> float:
    n, total = len(student), 0.0
    for kernel in range(2):
        shares = []
        for rows in (student.flatten(1), teacher.flatten(1)):
            apart = squares(rows)
            found = torch.zeros(n, n).double()
            for i in range(n):
                for j in range(n):
                    lengths = (rows[i].norm() + 1e-6) * (rows[j].norm() + 1e-6)
                    found[i, j] = (rows[i] @ rows[j] / lengths + 1) / 2
                    if kernel:
                        found[i, j] = 1 / (1 + math.sqrt(float(apart[i, j]) + 1e-6))
            shares.append(found / found.sum(1, keepdim=True))
        q, p = shares
        total += float(((p - q) * (p / q).log()).mean())
    return total


@pytest.mark.parametrize("count", [1, 3])  # stages of the teacher; the student has two
@pytest.mark.parametrize("repeated", [False, True])
def test_hkd_is_its_formula(count, repeated):
    students = [normal(f"hkd/s/{i}", 4, 3, 4, 2) for i in range(2)]
    teachers = [normal(f"hkd/t/{i}", 4, 2, 3, 3) for i in range(count)]
    pooled = normal("hkd/s", 4, 5), normal("hkd/t", 4, 6)
    if repeated:  # an image occurs twice in the batch
        for each in (*students, *teachers, *pooled):
            each[3] = each[0]
    flows = [flow(s, t) for s, t in zip(students, teachers, strict=False)]
    released = 100 * flows[0] + sum(flows[1:])
    authors = flow(*pooled) + 7 * 0.5 ** (4 * 0.25) * sum(flows)
    given = students, pooled[0], teachers, pooled[1], 0.25
    assert HKD()(*given).item() == pytest.approx(released, rel=1e-5)
    loss = HKD(released=False, initial_weight=7.0, decay=0.5, steps=4)
    assert loss(*given).item() == pytest.approx(authors, rel=1e-5)
    single = [[each.float() for each in g] if isinstance(g, list) else g for g in given]
    assert HKD()(*single).item() == pytest.approx(released, rel=1e-3)


@pytest.mark.parametrize("dims", [(3, 5), (6, 2)])
@torch.no_grad()
def test_srd_is_its_formula(dims):
    n = 4
    pooled = [normal(f"srd/{who}/{d}", n, d) for who, d in zip("st", dims, strict=True)]
    student, teacher = logits("srd", n, 5)
    loss = SRD(*dims, power=3.0, feature_weight=0.7, temperature=2.0, eps=0.01).double()

    def standard(rows: Tensor) -> Tensor:
        return (rows - rows.mean(0)) / (rows.var(0, correction=0) + 0.01).sqrt()

    projected = pooled[0] @ loss.project.weight.T
    total = sum(abs(x) ** 3 for x in (standard(projected) - standard(pooled[1])).flatten().tolist())
    pairs = zip(student, teacher, strict=True)
    expected = 0.7 * math.log(total)
    expected += 4 * sum(kl(softmax(t, 2), softmax(s, 2)) for s, t in pairs) / n
    found = loss(pooled[0], student, pooled[1], teacher)
    assert found.item() == pytest.approx(expected)


# ---- VkD ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 1), (1, 5), (20, 19)])
def test_reflections_take_the_steps_of_pytorchs_parametrization(shape):
    layers = [nn.Linear(shape[1], shape[0], bias=False).double() for _ in range(2)]
    for layer in layers:
        layer.weight.data.copy_(normal(f"reflections/{shape}", *shape))
    nn.utils.parametrizations.orthogonal(layers[0])
    nn.utils.parametrize.register_parametrization(layers[1], "weight", Reflections())
    given, wanted = normal(f"r/{shape[1]}", 6, shape[1]), normal(f"r/{shape[0]}", 6, shape[0])
    optimizers = [torch.optim.SGD(each.parameters(), 0.5, momentum=0.9) for each in layers]
    for _ in range(4):
        torch.testing.assert_close(layers[1].weight, layers[0].weight, rtol=0, atol=1e-12)
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            (layer(given) - wanted).square().mean().backward()
            optimizer.step()
    matrix = layers[1].weight.detach()
    with torch.no_grad():
        layers[1].weight = matrix
    torch.testing.assert_close(layers[1].weight, matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [(3, 7), (7, 3), (4, 4)])
def test_vkd_stays_orthogonal_while_it_learns(dims):
    torch.manual_seed(0)
    loss = VkD(*dims).double()
    student, teacher = normal("vkd/s", 6, dims[0]), normal("vkd/t", 6, dims[1])
    optimizer = torch.optim.SGD(loss.parameters(), 0.5, momentum=0.9)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        optimizer.step()
        values.append(value.item())
    matrix = loss.project.weight if dims[0] <= dims[1] else loss.project.weight.T
    identity = torch.eye(min(dims), dtype=torch.double)
    torch.testing.assert_close(matrix.T @ matrix, identity, rtol=0, atol=1e-5)
    assert values[-1] < 0.9 * values[0]
    wanted = (teacher - teacher.mean(1, keepdim=True)) / (
        teacher.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    apart = (student @ loss.project.weight.T - wanted).abs()
    expected = torch.where(apart < 1, apart.square() / 2, apart - 0.5).mean()
    assert loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-9)


# ---- WKDF and QueueKL ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "grid", "refused"),
    [
        (((2, 2), (4, 4)), 2, None),  # the transposed convolution makes it 4 x 4
        (((5, 5), (4, 4)), 3, None),
        (((4, 4), (2, 2)), 2, "2 x 2"),
        (((3, 3), (4, 4)), 3, "3 x 3"),  # a 1 x 1 convolution keeps the size
        (((8, 8), (4, 4)), 4, "4 x 4"),
    ],
)
def test_wkdf_refuses_cells_of_one_position_of_the_maps_that_it_compares(sizes, grid, refused):
    facts = [3], [5], [sizes[0]], [sizes[1]]
    if refused:
        with pytest.raises(ValueError, match=f"grid={grid} on a map of {refused} has cells of one"):
            WKDF(*facts, grid=grid)
        return
    loss = WKDF(*facts, grid=grid).double()
    value = loss([normal("wkdf/s", 2, 3, *sizes[0])], [normal("wkdf/t", 2, 5, *sizes[1])], 0.0)
    assert value.isfinite()


def test_queuekl_reads_rows_that_were_copied_into_its_queue_and_no_others():
    torch.manual_seed(0)
    loss = QueueKL(3, 4, queue_size=8, temperature=0.5).double().eval()
    rows, student, teacher = (
        normal(f"queue/{i}", n, d) for i, n, d in ((0, 5, 4), (1, 2, 3), (2, 2, 4))
    )
    rows = rows / rows.norm(dim=1, keepdim=True)
    loss.queue[:5] = rows
    own = loss.project(student)
    own, other = (x / x.norm(dim=1, keepdim=True) for x in (own, teacher))
    expected = sum(
        kl(softmax(rows @ t, 0.5), softmax(rows @ s, 0.5)) for s, t in zip(own, other, strict=True)
    )
    assert loss(student, teacher).item() == pytest.approx(expected / 2)
