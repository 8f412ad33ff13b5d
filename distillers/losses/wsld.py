"""WSLD: weight each image's soft-label loss by how well the student already does."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.standardize import z_score


class WSLD(nn.Module):
    """Soft-label cross-entropy, weighted per image by the student's and the teacher's error.

    "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective", Zhou,
    Song, Chen, Zhou, Wang, Yuan and Zhang, 2021, https://arxiv.org/abs/2102.00650.

        T^2 mean(w ce_T),  w = 1 - exp(-ce_s / ce_t)

    where ce_T is the cross-entropy of student and teacher at temperature T, and ce_s and ce_t are
    the cross-entropies of student and teacher with the label, without gradient. The weight is small
    for images on which the student is already better than the teacher, where soft labels mostly add
    bias. Published weight, with a cross-entropy of weight 1: 2.5 at temperature 2 (ImageNet), 2.25
    at temperature 4 (CIFAR-100).

    The public code returns the sum with the cross-entropy, which is a separate loss here: CE + 2.5
    WSLD is its value. One public copy takes the temperature from another method's option (0.07);
    here it is this loss's own option.

    Args:
        temperature: T.
        standardise: whether to z-score the logits of ce_T first
            (`distillers.losses.ops.standardize`); the weights use the plain logits.
    """

    def __init__(self, *, temperature: float = 2.0, standardise: bool = False) -> None:
        require.positive(temperature=temperature)
        super().__init__()
        self.temperature = temperature
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss from two sets of logits (n, k) and labels (n,)."""
        student, teacher = at_least_fp32(student_logits), at_least_fp32(teacher_logits.detach())
        ce_student = F.cross_entropy(student.detach(), labels, reduction="none")
        ce_teacher = F.cross_entropy(teacher, labels, reduction="none")
        weight = 1 - torch.exp(-ce_student / (ce_teacher + 1e-7))
        if self.standardise:
            student, teacher = z_score(student), z_score(teacher)
        soft_labels = (teacher / self.temperature).softmax(dim=1)
        soft = F.cross_entropy(student / self.temperature, soft_labels, reduction="none")
        return self.temperature**2 * (weight * soft).mean()
