"""Stages are compared over shuffled batches, whatever the order of the test images."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distillers import data
from distillers.features.taps import Taps
from distillers.figures import cka, figures
from distillers.figures.responses import Network


@pytest.fixture(scope="module")
def ordered():
    """The digits with test images sorted by class, as in image folders."""
    digits = data.source_of("digits")
    order = digits.test_labels.argsort(stable=True)
    return replace(
        digits, test_images=digits.test_images[order], test_labels=digits.test_labels[order]
    )


def test_shuffled_images_keep_their_labels_in_an_order_that_depends_on_the_seed(ordered):
    first, again, other = (
        ordered.shuffled_test(0),
        ordered.shuffled_test(0),
        ordered.shuffled_test(1),
    )
    assert torch.equal(first.test_images, again.test_images)
    assert not torch.equal(first.test_labels, other.test_labels)
    assert not torch.equal(first.test_labels, ordered.test_labels)

    def rows(source):
        pixels = source.test_images.flatten(1).to(torch.int64)
        return sorted(zip(pixels.tolist(), source.test_labels.tolist(), strict=True))

    assert rows(first) == rows(ordered)


def test_every_batch_for_cka_has_all_classes(ordered, monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    networks = [Network(name, net.eval(), Taps(maps=("0",), head="3")) for name in ("t", "s")]
    seen = []

    def compare(everybody, batches):
        seen.extend(batch.labels.unique().numel() for batch in batches)
        return everybody, None

    monkeypatch.setattr(cka, "compare", compare)
    monkeypatch.setattr(cka, "plot", lambda *_: None)
    comparison = figures.NetworkComparison(
        source=ordered,
        device=torch.device("cpu"),
        networks=networks[1:],
        teacher=networks[0],
        baseline=None,
        num_images=50,
        perplexity=5.0,
        seed=0,
    )
    comparison.plot("cka")
    assert set(seen) == {10}
