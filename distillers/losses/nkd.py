"""NKD: target-class cross-entropy and normalized non-target cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import non_target_log_probs
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.standardize import z_score


class NKD(nn.Module):
    """Cross-entropy with the teacher, split into the label and the normalized other classes.

    "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized
    Loss and Customized Soft Labels", Yang, Zeng, Li, Zhang, Yuan and Li, 2023,
    https://arxiv.org/abs/2303.13005.

        -p_t(y) log p_s(y) - gamma T^2 sum over i != y of q_t(i) log q_s(i)

    averaged over the batch, where p is the softmax at temperature 1 and q the softmax over the
    other classes than the label y at temperature T. Published weight: 1, with a cross-entropy of
    weight 1; gamma = 1.5 and T = 1 on ImageNet, 3.5 and 3 on CIFAR-100. The loss is a
    cross-entropy, not a divergence, so it is not zero if student and teacher agree; the gradient is
    the same.

    Args:
        gamma: weight of the other classes.
        temperature: T, for the other classes only.
        standardise: whether to z-score the logits of the second term first
            (`distillers.losses.ops.standardize`), over all classes including the label.
    """

    def __init__(
        self, *, gamma: float = 1.5, temperature: float = 1.0, standardise: bool = False
    ) -> None:
        require.positive(temperature=temperature)
        require.non_negative(gamma=gamma)
        super().__init__()
        self.gamma = gamma
        self.temperature = temperature
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss from two sets of logits (n, k) and labels (n,)."""
        return self.rows(student_logits, teacher_logits, labels).mean()

    def rows(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (n,)."""
        student, teacher = at_least_fp32(student_logits), at_least_fp32(teacher_logits.detach())
        at_label = teacher.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        target = at_label * F.cross_entropy(student, labels, reduction="none")
        if self.standardise:
            student, teacher = z_score(student), z_score(teacher)
        label = F.one_hot(labels, student.shape[1]).bool()
        student = non_target_log_probs(student / self.temperature, label)
        teacher = (teacher / self.temperature).masked_fill(label, -torch.inf).softmax(dim=1)
        others = -(teacher * student).sum(dim=1)
        return target + self.gamma * self.temperature**2 * others
