"""CE: cross-entropy with the labels."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.class_weight import check_class_weight, weight_row, weighted_mean
from distillers.losses.ops.numerics import at_least_fp32


class CE(nn.Module):
    """Cross-entropy with the labels, averaged over the batch.

    Label smoothing: "Rethinking the Inception Architecture for Computer Vision", Szegedy,
    Vanhoucke, Ioffe, Shlens and Wojna, 2015, https://arxiv.org/abs/1512.00567.

        mean over images of -log softmax(student)_label

    Args:
        label_smoothing: fraction of the target distribution that is spread uniformly over all
            classes; 0 in all published tables of distillation.
        class_weight: weight of each class, with the meaning of `torch.nn.CrossEntropyLoss`: the
            mean over the images is weighted by those of their labels. Empty for equal weights.
    """

    def __init__(self, *, label_smoothing: float = 0.0, class_weight: Sequence[float] = ()) -> None:
        require.fraction(label_smoothing=label_smoothing)
        super().__init__()
        self.class_weight = check_class_weight(class_weight)
        self.label_smoothing = label_smoothing

    def forward(
        self, student_logits: Tensor, labels: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from logits (n, k) and labels (n,)."""
        logits, smoothing = at_least_fp32(student_logits), self.label_smoothing
        if not self.class_weight:
            if not len(labels):  # no labelled image in this process
                return logits.sum() * 0
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        weight = weight_row(self.class_weight, logits)
        each = F.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=smoothing)
        return weighted_mean(each, weight[labels], rows_per_rank)
