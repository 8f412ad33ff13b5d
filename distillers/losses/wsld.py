"""WSLD: an image's soft label counts by how much the student still has to learn there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.standardize import z_score
from distillers.losses.ops.validation import require_positive


class WSLD(nn.Module):
    """Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective.

    Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, 2021, https://arxiv.org/abs/2102.00650.

    Soft labels trade variance for bias, image by image. Where the student already beats the teacher
    on the label they mostly add bias, and so count less:

        T^2 mean(w ce_T),  w = 1 - exp(-ce_s / ce_t)

    with ce_T the cross-entropy of student against teacher at temperature T, and ce_s, ce_t those of
    student and teacher against the label, without gradient. Published weight beside a cross-entropy
    of 1: 2.5 at temperature 2 (ImageNet), 2.25 at temperature 4 (CIFAR-100).

    The public code returns its sum with the cross-entropy, which is a loss of its own here:
    CE + 2.5 WSLD is the old value. One public copy took the temperature from another method's
    option (0.07); it is this loss's own.

    Args:
        temperature: T.
        standardise: z-score the logits of the soft term first (see `losses.ops.standardize`);
            the weights keep the plain ones.
    """

    def __init__(self, *, temperature: float = 2.0, standardise: bool = False) -> None:
        require_positive(temperature=temperature)
        super().__init__()
        self.temperature = temperature
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The loss from two (n, k) and labels (n,)."""
        student, teacher = at_least_fp32(student_logits), at_least_fp32(teacher_logits.detach())
        ce_student = F.cross_entropy(student.detach(), labels, reduction="none")
        ce_teacher = F.cross_entropy(teacher, labels, reduction="none")
        weight = 1 - torch.exp(-ce_student / (ce_teacher + 1e-7))
        if self.standardise:
            student, teacher = z_score(student), z_score(teacher)
        soft_labels = (teacher / self.temperature).softmax(dim=1)
        soft = F.cross_entropy(student / self.temperature, soft_labels, reduction="none")
        return self.temperature**2 * (weight * soft).mean()
