"""Logit standardization: remove mean and scale of logits before a temperature is applied."""

import torch
from torch import Tensor

from distillers.losses.ops.numerics import at_least_fp32, centered


def z_score(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Compute the z-score of each row of logits.

    "Logit Standardization in Knowledge Distillation", Sun, Ren, Li, Wang and Cao, 2024,
    https://arxiv.org/abs/2403.01427.

        (z - mean(z)) / (eps + std(z)), over the classes; std is divided by k - 1

    The student then matches the teacher's logits up to a shift and a scale for each image. Losses
    with a temperature have it as the option `standardise=True`. Published with KD: temperature 2
    and weight 9, with a cross-entropy of 0.1, which is `KD(temperature=2.0, standardise=True)` with
    weight 9, because KD multiplies by temperature^2 itself.

    Args:
        logits: (n, k).
        eps: constant added to the standard deviation.

    Returns:
        (n, k); a row of equal logits gives zeros without gradient.
    """
    apart = centered(at_least_fp32(logits), dim=1)
    variance = apart.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - 1, 1)
    return apart / (eps + torch.where(variance > 0, variance, 1.0).sqrt())
