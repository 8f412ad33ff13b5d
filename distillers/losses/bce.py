"""BCE: binary cross-entropy for each class."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.class_weight import check_class_weight, weight_row, weighted_mean
from distillers.losses.ops.numerics import at_least_fp32


class BCE(nn.Module):
    """Binary cross-entropy for each class, averaged over the classes and the batch.

    "ResNet strikes back: An improved training procedure in timm", Wightman, Touvron and Jegou,
    2021, https://arxiv.org/abs/2110.00476, section 3. Takes the place of CE with `--bce_loss`.

        mean over images and classes of -target log s - (1 - target) log(1 - s),
        s = sigmoid(student)

    timm's `BinaryCrossEntropy` without a threshold on the targets is the same. The mean over k
    classes makes it about k times smaller than a sum over them, so that published learning rates
    and weights of distillation losses for the cross-entropy do not carry over.

    Args:
        class_weight: weight of each class; the mean over the images is weighted by that of their
            targets. Empty for equal weights.
    """

    def __init__(self, *, class_weight: Sequence[float] = ()) -> None:
        super().__init__()
        self.class_weight = check_class_weight(class_weight)

    def forward(
        self, student_logits: Tensor, targets: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from logits (n, k) and probabilities (n, k)."""
        logits = at_least_fp32(student_logits)
        targets = targets.to(logits.dtype)
        if not self.class_weight:
            if not len(targets):  # no labelled image in this process
                return logits.sum() * 0
            return F.binary_cross_entropy_with_logits(logits, targets)
        weight = weight_row(self.class_weight, logits)
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        each = each * (targets @ weight)
        return weighted_mean(each, targets @ weight, rows_per_rank)
