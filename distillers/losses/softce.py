"""SoftCE: cross-entropy with soft labels."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.class_weight import check_class_weight, weight_row, weighted_mean
from distillers.losses.ops.numerics import at_least_fp32


class SoftCE(nn.Module):
    """Cross-entropy with probabilities of the classes, averaged over the batch.

    It takes the place of CE where labels are smoothed or images are mixed. With label smoothing
    alone it equals `CE(label_smoothing=...)`. timm: `SoftTargetCrossEntropy`.

    "mixup: Beyond Empirical Risk Minimization", Zhang, Cisse, Dauphin and Lopez-Paz, 2018,
    https://arxiv.org/abs/1710.09412; "CutMix: Regularization Strategy to Train Strong Classifiers
    with Localizable Features", Yun, Han, Oh, Chun, Choe and Yoo, 2019,
    https://arxiv.org/abs/1905.04899.

        mean over images of -sum_c target_c log softmax(student)_c

    Args:
        class_weight: weight of each class, which multiplies its term of the sum; the mean over the
            images is weighted by that of their targets, so that hard labels give the weighted CE.
            Empty for equal weights.
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
            return F.cross_entropy(logits, targets)
        weight = weight_row(self.class_weight, logits)
        each = F.cross_entropy(logits, targets, weight, reduction="none")
        return weighted_mean(each, targets @ weight, rows_per_rank)
