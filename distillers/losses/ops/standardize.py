"""Logit standardization: remove mean and scale of logits before a temperature is applied."""

import torch
from torch import Tensor

from distillers.losses.ops.numerics import at_least_fp32, centered


def z_score(logits: Tensor) -> Tensor:
    """Compute the z-score of each row of logits (n, k).

    "Logit Standardization in Knowledge Distillation", Sun, Ren, Li, Wang and Cao, 2024,
    https://arxiv.org/abs/2403.01427.

        (z - mean(z)) / (1e-7 + std(z)), over the classes; std is divided by k - 1

    The student then matches the teacher's logits up to a shift and a scale for each image. Losses
    with a temperature have it as the option `standardise=True`. Published with KD: temperature 2
    and weight 9, with a cross-entropy of 0.1, which is `KD(temperature=2.0, standardise=True)` with
    weight 9, because KD multiplies by temperature^2 itself.
    A row of equal logits gives zeros without gradient.
    """
    deviations = centered(at_least_fp32(logits), dim=1)
    variance = deviations.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - 1, 1)
    return deviations / (1e-7 + torch.where(variance > 0, variance, 1.0).sqrt())
