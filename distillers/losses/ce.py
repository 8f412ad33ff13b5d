"""CE: cross-entropy with the labels, what a student learns from without a teacher."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.validation import require_fraction


class CE(nn.Module):
    """Cross-entropy with the labels.

    Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception
    Architecture for Computer Vision", 2015, https://arxiv.org/abs/1512.00567.

        -log softmax(student)_label, mean over the batch

    Args:
        label_smoothing: share of the target that is spread evenly over all classes; 0 in every
            published table of distillation.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        require_fraction(label_smoothing=label_smoothing)
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        """The loss from student_logits (n, k) and labels (n,)."""
        return F.cross_entropy(
            at_least_fp32(student_logits), labels, label_smoothing=self.label_smoothing
        )
