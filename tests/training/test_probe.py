"""Probes score embeddings by labelled images."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distillers import data
from distillers.data.unlabelled import with_few_labels
from distillers.distributed.world import World
from distillers.features.taps import Taps
from distillers.training.evaluate import score
from distillers.training.probe import NearestNeighbors, Probe, linear_cka, nearest
from distillers.training.runner import evaluate_on_splits


def slow_votes(query, bank, labels, classes, neighbors, temperature):
    """The vote of DINO's protocol for one image, one neighbor after the other."""
    cosine = [float(query @ row / (query.norm() * row.norm())) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -cosine[i])[:neighbors]
    votes = [0.0] * classes
    for i in nearest:
        votes[int(labels[i])] += math.exp(cosine[i] / temperature)
    return [vote / sum(votes) for vote in votes]


@pytest.mark.parametrize("neighbors", [3, 20, 50])
def test_nearest_neighbors_vote_with_their_similarity(neighbors):
    torch.manual_seed(0)
    bank, labels, queries = torch.randn(30, 6), torch.randint(4, (30,)), torch.randn(8, 6)
    found = NearestNeighbors(bank, labels, 4, neighbors=neighbors)(queries).exp()
    for query, row in zip(queries, found, strict=True):
        expected = slow_votes(query, bank, labels, 4, neighbors, 0.07)
        assert row.tolist() == pytest.approx([max(each, 1e-6) for each in expected], abs=2e-6)


class Pixels(nn.Module):
    """Embeds an image as its pixels, and classifies it at random."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Flatten(), nn.LazyLinear(10)

    def forward(self, images):
        return self.head(self.embedding(images))


@pytest.fixture(scope="module")
def pixels():
    net = Pixels()
    net(data.source_of("digits").sample(torch.device("cpu")))
    return net


@pytest.mark.parametrize(("kind", "least"), [("knn", 92), ("linear", 85)])
def test_pixels_of_digits_are_scored_without_the_classifier(kind, least, pixels):
    source = data.source_of("digits")
    probe = Probe(kind, source, Taps((), head="head"))
    tests = {"test": source.test_loader(torch.device("cpu"))}
    assert evaluate_on_splits(pixels, tests)["test_acc"] < 40
    found = evaluate_on_splits(pixels, tests, probe=probe)
    assert found["test_acc"] > least
    assert found["test_acc_top5"] >= found["test_acc"]
    assert math.isfinite(found["test_loss"])


def test_only_labelled_images_are_in_the_bank(pixels):
    source = data.source_of("digits")
    few = with_few_labels(source, 2, seed=0, keep_rest=True)
    classifier = Probe("knn", few, Taps((), head="head")).classifier(pixels, World())
    assert classifier.decide.labels.bincount().tolist() == [2] * 10
    batches = source.test_loader(torch.device("cpu")).epoch(1)
    assert 40 < score(classifier, batches).acc < 90


def test_agreement_is_that_of_the_nearest_images():
    torch.manual_seed(0)
    one = torch.randn(40, 7)
    turned = one @ torch.linalg.qr(torch.randn(7, 7)).Q * 3
    assert torch.equal(nearest(one), nearest(turned))
    assert linear_cka(one, turned) == pytest.approx(1)
    assert linear_cka(one, torch.randn(40, 7)) < 0.5
    rows = nearest(one, 3)
    for row in range(40):
        cosine = [
            float(F.cosine_similarity(one[row], one[other], dim=0)) if other != row else -2
            for other in range(40)
        ]
        assert rows[row].tolist() == sorted(range(40), key=lambda i: -cosine[i])[:3]
