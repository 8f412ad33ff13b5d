"""Figures of an evaluation, compared with scikit-learn and with slow derivations."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from distillers.report import evaluation
from distillers.training.evaluate import count_classes

NAMES = ("a", "b", "c", "d", "e")


def drawn(seed, count=80):
    """Labels without the last class, predictions without the fourth."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0]), count, True, generator=rng)
    right = torch.rand(count, generator=rng) < 0.6
    predictions = torch.where(right, labels, torch.randint(5, (count,), generator=rng))
    predictions[predictions == 3] = 0
    return predictions, labels


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_each_class_are_those_of_scikit_learn(seed):
    predictions, labels = drawn(seed)
    found = evaluation.per_class(predictions, labels, NAMES)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels.numpy(), predictions.numpy(), labels=range(5), zero_division=np.nan
    )
    for name, expected in (("precision", precision), ("recall", recall)):
        np.testing.assert_allclose(found[name], 100 * expected, rtol=1e-12)
    kept = found["predicted"] + found["support"] > 0
    np.testing.assert_allclose(found["f1"][kept], 100 * np.nan_to_num(f1[kept]), rtol=1e-12)
    assert found["support"].tolist() == support.tolist()
    cells = evaluation.confusion_matrix(predictions, labels, NAMES)
    expected = metrics.confusion_matrix(labels.numpy(), predictions.numpy(), labels=range(5))
    np.testing.assert_array_equal(cells.to_numpy(), expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    positive = (rng.random(60) + 0.4 * labels).round(1)
    pairs = positive[labels == 1][:, None] - positive[labels == 0]
    expected = ((pairs > 0) + (pairs == 0) / 2).mean()
    area, (low, high) = evaluation.auroc(positive, labels)
    assert area == pytest.approx(expected, abs=1e-12)
    assert low < expected < high
    assert evaluation.auroc(positive, labels) == (area, (low, high))


def test_bootstrapping_cells_is_bootstrapping_images():
    predictions, labels = drawn(0, 200)
    cells = evaluation.confusion_matrix(predictions, labels, NAMES).to_numpy()
    found = evaluation.bootstrap(cells)
    assert found == evaluation.bootstrap(cells)
    rng = torch.Generator().manual_seed(1)
    samples = {"test_acc": [], "balanced_acc": [], "macro_f1": []}
    for _ in range(2000):
        rows = torch.randint(200, (200,), generator=rng)
        guesses, truth = predictions[rows], labels[rows]
        samples["test_acc"].append(100 * float((guesses == truth).double().mean()))
        counts = count_classes(guesses, truth, len(NAMES))
        samples["balanced_acc"].append(counts.balanced_accuracy())
        samples["macro_f1"].append(counts.macro_f1())
    for name, ends in found.items():
        expected = np.percentile(samples[name], (2.5, 97.5))
        np.testing.assert_allclose(ends, expected, atol=1.5)


def test_intervals_cover_the_truth_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        counts = rng.multinomial(300, [0.4, 0.1, 0.15, 0.35])
        low, high = evaluation.bootstrap(counts.reshape(2, 2))["test_acc"]
        covered += low <= 75 <= high
    assert covered >= 88
