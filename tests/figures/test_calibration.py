"""Expected calibration error and agreement, compared with their definitions."""

import math

import pytest
import torch
from torch import nn

from distillers.data.batch import Batch
from distillers.figures.calibration import (
    expected_calibration_error,
)
from distillers.training.evaluate import score
from distillers.training.predictions import Predictions, agreement


def slowly(confidence, is_right, num_bins):
    """Compute equation 3 of Guo et al., 2017, bin by bin."""
    total = 0.0
    for m in range(1, num_bins + 1):
        inside = [
            (c, r)
            for c, r in zip(confidence, is_right, strict=True)
            if (m - 1) / num_bins < c <= m / num_bins
        ]
        if inside:
            accuracy = sum(r for _, r in inside) / len(inside)
            mean = sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_the_error_is_that_of_the_definition(num_bins):
    rng = torch.Generator().manual_seed(num_bins)
    confidence = torch.rand(200, generator=rng, dtype=torch.float64)
    is_right = torch.rand(200, generator=rng) < 0.7
    expected = slowly(confidence.tolist(), is_right.tolist(), num_bins)
    assert math.isclose(expected_calibration_error(confidence, is_right, num_bins), expected)


def test_the_error_of_perfect_and_worst_calibration():
    sure, right = torch.ones(5), torch.ones(5, dtype=torch.bool)
    assert expected_calibration_error(sure, right) == 0
    assert expected_calibration_error(sure, ~right) == 1
    # 0.2 is in the third of 15 bins, which are closed on the right, and 0.21 in the fourth
    near = torch.tensor([0.2, 0.21], dtype=torch.float64)
    assert math.isclose(
        expected_calibration_error(near, torch.tensor([True, False])), (0.8 + 0.21) / 2
    )


def test_predictions_are_recorded_during_an_evaluation():
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 5.0]])
    labels = torch.tensor([0, 1, 1, 1])
    batches = [
        Batch(logits[:3], labels[:3], torch.arange(3)),
        Batch(logits[3:], labels[3:], torch.arange(3, 4)),
    ]
    seen, other = Predictions(), Predictions()
    result = score(nn.Identity(), batches, on_batch=seen.add)
    assert result.acc == 75
    confidence = logits.double().softmax(1).amax(1)
    expected = slowly(confidence.tolist(), [True, True, False, True], 15)
    found = expected_calibration_error(seen.confidence(), seen.classes() == labels)
    assert math.isclose(found, expected)
    other.add(Batch(logits[:1], labels[:1], torch.arange(1)), -logits[:1])
    other.add(Batch(logits[1:], labels[1:], torch.arange(1, 4)), logits[1:])
    assert agreement(seen, other) == 75
