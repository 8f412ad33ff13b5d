"""CE: cross-entropy with the labels."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.validation import require_fraction


class CE(nn.Module):
    """Cross-entropy with the labels, averaged over the batch.

    Label smoothing: "Rethinking the Inception Architecture for Computer Vision", Szegedy,
    Vanhoucke, Ioffe, Shlens and Wojna, 2015, https://arxiv.org/abs/1512.00567.

        mean over images of -log softmax(student)_label

    Args:
        label_smoothing: fraction of the target distribution that is spread uniformly over all
            classes; 0 in all published tables of distillation.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        require_fraction(label_smoothing=label_smoothing)
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss from logits (n, k) and labels (n,)."""
        return F.cross_entropy(
            at_least_fp32(student_logits), labels, label_smoothing=self.label_smoothing
        )
