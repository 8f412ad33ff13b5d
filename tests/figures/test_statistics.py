"""The statistics of the figures, compared with slow implementations."""

import itertools
import math
import statistics

import pytest
import timm
import torch

from distillers.data.batch import Batch
from distillers.errors import InputError
from distillers.features.infer import find_taps
from distillers.figures.cka import CKA, compare, unbiased_hsic
from distillers.figures.class_gain import count_gains
from distillers.figures.correlation import class_correlation, mean_difference
from distillers.figures.mean_logits import mean_logits
from distillers.figures.responses import Network, Responses

N, K = 40, 4


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answers(logits, labels, name="net"):
    return Responses(name, logits, None, labels)


LOGITS, LABELS = randn(N, K), torch.arange(N) % K


def test_correlation_is_pearsons():
    found = class_correlation(LOGITS.float())
    for a, b in itertools.product(range(K), repeat=2):
        expected = statistics.correlation(LOGITS[:, a].tolist(), LOGITS[:, b].tolist())
        assert float(found[a, b]) == pytest.approx(expected, abs=1e-6)
    off = [abs(float(found[a, b])) for a, b in itertools.permutations(range(K), 2)]
    assert mean_difference(found) == pytest.approx(statistics.mean(off))


def test_correlation_ignores_order_level_and_scale_of_each_class():
    found = class_correlation(LOGITS)
    shuffled = LOGITS[torch.randperm(N)]
    moved = LOGITS * torch.tensor([1.0, 2.0, 30.0, 0.1]) + torch.arange(K)
    for same in (shuffled, moved):
        torch.testing.assert_close(class_correlation(same), found)
    turned = class_correlation(LOGITS * torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(turned[0, 1:], -found[0, 1:])
    with pytest.raises(InputError, match="class 2 is the same for all images"):
        class_correlation(LOGITS * torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_mean_logits_are_means_of_each_true_class():
    found = mean_logits(LOGITS.float(), LABELS)
    for c, j in itertools.product(range(K), repeat=2):
        values = [float(LOGITS[i, j]) for i in range(N) if int(LABELS[i]) == c]
        assert float(found[c, j]) == pytest.approx(statistics.mean(values), abs=1e-6)
    with pytest.raises(InputError, match="class 3 has no image"):
        mean_logits(LOGITS, LABELS.clamp(max=2))


def hsic_slowly(k, h):
    """Compute the U-statistic, the mean of K_ij (L_ij + L_qr - 2 L_iq) over distinct images."""
    n = len(k)
    terms = [
        float(k[i, j] * (h[i, j] + h[q, r] - 2 * h[i, q]))
        for i, j, q, r in itertools.permutations(range(n), 4)
    ]
    return math.fsum(terms) / len(terms)


def test_hsic_is_the_u_statistic():
    x, y = randn(7, 3), randn(7, 5, seed=1)
    grams = torch.stack([x @ x.T, y @ y.T])
    found = unbiased_hsic(grams)
    for a, b in itertools.product(range(2), repeat=2):
        assert float(found[a, b]) == pytest.approx(hsic_slowly(grams[a], grams[b]))


def cka(*representations, batch=None):
    similarity = CKA()
    batch = batch or len(representations[0])
    for parts in zip(*(each.split(batch) for each in representations), strict=True):
        similarity.add(parts)
    return similarity


def test_cka_is_one_only_up_to_rotation_scale_and_shift():
    x = randn(60, 6)
    rotation = torch.linalg.qr(randn(6, 6, seed=1)).Q
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    found = cka(x, x @ rotation, 3.5 * x, x + 100, stretched, x.view(60, 2, 3, 1)).matrix()
    expected = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(found.diagonal(), expected)
    torch.testing.assert_close(found[0, [0, 1, 2, 3, 5]], expected[:5])
    assert float(found[0, 4]) < 0.9


def test_cka_of_batches_is_the_ratio_of_their_sums():
    x, y = randn(14, 3), randn(14, 5, seed=1) + randn(14, 3)[:, :1]
    similarity = cka(x, y, batch=6)  # the last two images are too few
    assert similarity.num_images == 12
    sums = dict.fromkeys(("xx", "xy", "yy"), 0.0)
    for start in (0, 6):
        parts = {"x": x[start : start + 6], "y": y[start : start + 6]}
        for a, b in sums:
            first, second = (parts[each] @ parts[each].T for each in (a, b))
            sums[a + b] += hsic_slowly(first, second)
    expected = sums["xy"] / math.sqrt(sums["xx"] * sums["yy"])
    assert float(similarity.matrix()[0, 1]) == pytest.approx(expected)
    with pytest.raises(InputError, match="at least 4 images"):
        cka(x[:3], y[:3]).matrix()


def test_cka_is_unbiased_in_the_batch_size_and_zero_for_independent_features():
    x, y = randn(2000, 8), randn(2000, 8, seed=1)
    z = x + y
    whole, parts = cka(x, z), cka(x, z, batch=50)
    assert abs(float(whole.matrix()[0, 1] - parts.matrix()[0, 1])) < 0.01
    assert abs(float(cka(x, y, batch=50).matrix()[0, 1])) < 0.02


def vision_transformer():
    """A small vision transformer of timm for images of 32 x 32 pixels."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.models.VisionTransformer(**sizes, num_classes=10)


class Wrapped(torch.nn.Module):
    """A network inside another module, as users write them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return self.backbone(images)


@pytest.mark.parametrize("wrap", [lambda net: net, Wrapped, lambda net: Wrapped(Wrapped(net))])
def test_stages_of_a_vision_transformer_are_not_its_pixels_whatever_is_around_it(wrap):
    """Pooled features of two random networks differ; those of a network and itself do not."""
    images = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = [Batch(images, torch.zeros(48).long(), torch.arange(48))]
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = wrap(vision_transformer()).eval()
        for parameter in net.parameters():  # far from each other
            torch.nn.init.normal_(parameter, std=0.3)
        networks.append(Network(str(seed), net, find_taps(net, images[:2])))
    similarity, stages = compare(networks, batches)
    names = [each.names for each in stages]
    assert names[0] == names[1]
    assert names[0][-2:] == ("pooled", "logits")
    matrix = similarity.matrix()
    place = names[0].index("pooled")
    assert float(matrix[place, len(names[0]) + place]) < 0.9
    assert float(matrix[place, place]) == pytest.approx(1)


def some_answers():
    labels = torch.arange(300) % 3
    return [answers(randn(300, 3, seed=s) + 2 * torch.eye(3)[labels], labels) for s in (1, 2)]


def test_the_gain_of_a_class_counts_its_images():
    network, baseline = some_answers()
    found = count_gains(network.labels, network.correct, baseline.correct, 3)
    for label in range(3):
        rows = [i for i in range(300) if i % 3 == label]
        here = [int(network.logits[i].argmax()) == label for i in rows]
        there = [int(baseline.logits[i].argmax()) == label for i in rows]
        points = 100 * (sum(here) - sum(there)) / len(rows)
        assert float(found.points[label]) == pytest.approx(points)
        differences = [h - t for h, t in zip(here, there, strict=True)]
        assert int(found.won[label]) == differences.count(1)
        assert int(found.lost[label]) == differences.count(-1)
        differences += [1, -1]  # one more won and one more lost
        mean = statistics.mean(differences)
        error = math.sqrt(statistics.pvariance(differences) / len(differences))
        half = statistics.NormalDist().inv_cdf(0.975) * error
        low, high = (float(end[label]) for end in found.interval)
        assert low == pytest.approx(100 * (mean - half))
        assert high == pytest.approx(100 * (mean + half))


@pytest.mark.parametrize("shares", [(0.1, 0.05), (0.02, 0.0), (0.3, 0.3)])
def test_the_interval_has_its_nominal_coverage(shares):
    won, lost = shares
    rng = torch.Generator().manual_seed(0)
    drawn = torch.rand(100, 4000, generator=rng)
    labels = torch.arange(4000).repeat(100)
    is_won, is_lost = (drawn < won).flatten(), ((drawn >= won) & (drawn < won + lost)).flatten()

    low, high = count_gains(labels, is_won, is_lost, 4000).interval
    covered = ((low <= 100 * (won - lost)) & (100 * (won - lost) <= high)).double().mean()
    assert 0.93 <= float(covered) <= 1
