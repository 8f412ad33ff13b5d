"""LS: logits without their level and scale, before any temperature."""

import torch
from torch import Tensor

from distillers.losses.ops.normalize import centered
from distillers.losses.ops.precision import at_least_fp32


def z_score(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Logit Standardization in Knowledge Distillation: the z-score of each row.

    Sun, Ren, Li, Wang and Cao, 2024, https://arxiv.org/abs/2403.01427.

        (z - mean(z)) / (eps + std(z)), over the classes, the deviation with k - 1

    A student then matches the teacher's logits up to a shift and a scale of its own for each image.
    The losses with a temperature take it as an option, `standardise=True`. Published with KD:
    temperature 2 and weight 9 beside a cross-entropy of 0.1, that is
    `KD(temperature=2.0, standardise=True)` with weight 9, as KD multiplies by temperature^2 itself.

    Args:
        logits: (n, k).
        eps: added to the deviation.

    Returns:
        (n, k); a row of equal logits gives zeros and gets no gradient.
    """
    apart = centered(at_least_fp32(logits), dim=1)
    variance = apart.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - 1, 1)
    return apart / (eps + torch.where(variance > 0, variance, 1.0).sqrt())
