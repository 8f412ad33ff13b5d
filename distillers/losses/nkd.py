"""NKD: cross-entropy with the teacher, the label and the normalised rest apart."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.standardize import z_score
from distillers.losses.ops.validation import require_non_negative, require_positive


class NKD(nn.Module):
    """From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach.

    "... with Normalized Loss and Customized Soft Labels", Yang, Zeng, Li, Zhang, Yuan and Li,
    2023, https://arxiv.org/abs/2303.13005.

    The teacher's probability of the label weighs the student's cross-entropy; the other classes,
    with their probabilities made to sum to one, are matched apart:

        -p_t(y) log p_s(y) - gamma T^2 sum over i != y of q_t(i) log q_s(i)

    with p at temperature 1, q the softmax of the other logits at temperature T, mean over the
    batch. Published weight: 1, beside a cross-entropy of 1, with gamma 1.5 and T 1 on ImageNet, 3.5
    and 3 on CIFAR-100. Not zero at equality, as it is a
    cross-entropy and no divergence; the gradients are the same.

    Args:
        gamma: weight of the other classes.
        temperature: T, of the other classes only.
        standardise: z-score the logits of the other classes' term first
            (`distillers.losses.ops.standardize`); over all classes, the label among them.
    """

    def __init__(
        self, *, gamma: float = 1.5, temperature: float = 1.0, standardise: bool = False
    ) -> None:
        require_positive(temperature=temperature)
        require_non_negative(gamma=gamma)
        super().__init__()
        self.gamma = gamma
        self.temperature = temperature
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The loss from two (n, k) and labels (n,)."""
        student, teacher = at_least_fp32(student_logits), at_least_fp32(teacher_logits.detach())
        at_label = teacher.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        target = at_label * F.cross_entropy(student, labels, reduction="none")
        if self.standardise:
            student, teacher = z_score(student), z_score(teacher)
        label = torch.zeros_like(student, dtype=torch.bool).scatter(1, labels[:, None], True)
        student = (student / self.temperature).masked_fill(label, -torch.inf).log_softmax(dim=1)
        teacher = (teacher / self.temperature).masked_fill(label, -torch.inf).softmax(dim=1)
        others = -(teacher * student.masked_fill(label, 0.0)).sum(dim=1)
        return (target + self.gamma * self.temperature**2 * others).mean()
