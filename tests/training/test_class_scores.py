"""Scores that count every class alike."""

import numpy as np
import pytest
import torch

from distillers.training.evaluate import count_classes


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_unequal_classes_are_those_of_scikit_learn(seed):
    """Including a class that is never predicted and one that has no image."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0]), 60, True, generator=rng)
    right = torch.rand(60, generator=rng) < 0.6
    predictions = torch.where(right, labels, torch.randint(5, (60,), generator=rng))
    predictions[predictions == 3] = 0
    true, given = labels.numpy(), predictions.numpy()
    expected = metrics.recall_score(true, given, average="macro", labels=np.unique(true))
    counts = count_classes(predictions, labels, 6)
    assert counts.balanced_accuracy() == pytest.approx(100 * expected)
    expected = metrics.f1_score(true, given, average="macro", zero_division=0)
    assert counts.macro_f1() == pytest.approx(100 * expected)
    perfect = count_classes(labels, labels, 6)
    assert perfect.balanced_accuracy() == perfect.macro_f1() == 100
