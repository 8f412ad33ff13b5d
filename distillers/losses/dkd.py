"""DKD: KD split into a target-class and a non-target-class divergence."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import (
    kl_divergence,
    non_target_log_probs,
    target_log_probs,
)
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.schedule import linear_ramp
from distillers.losses.ops.standardize import z_score


class DKD(nn.Module):
    """Weighted sum of the target-class and the non-target-class part of the KD loss.

    "Decoupled Knowledge Distillation", Zhao, Cui, Song, Qiu and Liang, 2022,
    https://arxiv.org/abs/2203.08679.

    The KL divergence of KD is the sum of a divergence of the two outcomes "label" and "not the
    label" (TCKD) and one among the other classes (NCKD), which is weighted with the teacher's 1 -
    p_label. DKD weights them independently:

        T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s))

    where b are the probabilities of the two outcomes and q is the softmax over the other classes,
    both at temperature T. Published weight: 1, after a linear warm-up over the first 20 of 240
    epochs (`ramp=20 / 240`; on ImageNet 1 of 100 epochs). beta is 2, 6 or 8 on CIFAR-100, depending
    on the pair of networks; on ImageNet the temperature is 1 and beta 0.5 (2 for MobileNetV1 from
    ResNet50).

    The warm-up follows `progress`, so it changes with each step; in the public code it changes with
    each epoch. The public code masks the label by subtracting 1000 from its logit; the mask here is
    exact, and log(1 - p_label) keeps its precision when p_label is near 1.

    Args:
        alpha: weight of the target-class term.
        beta: weight of the non-target-class term.
        temperature: T.
        ramp: fraction of the training during which the loss is scaled linearly from 0 to 1.
        standardise: whether to z-score the logits first (`distillers.losses.ops.standardize`).
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        ramp: float = 0.0,
        standardise: bool = False,
    ) -> None:
        require.positive(temperature=temperature)
        require.non_negative(alpha=alpha, beta=beta)
        require.fraction(ramp=ramp)
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ramp = ramp
        self.standardise = standardise

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, progress: float
    ) -> Tensor:
        """Compute the loss from two (n, k), labels (n,) and the fraction of training done."""
        loss = self.temperature**2 * self.rows(student_logits, teacher_logits, labels).mean()
        return loss * linear_ramp(progress, self.ramp)

    def rows(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum of both divergences (n,), without the factor T^2."""
        prepare = z_score if self.standardise else at_least_fp32
        student = prepare(student_logits) / self.temperature
        teacher = prepare(teacher_logits.detach()) / self.temperature
        label = F.one_hot(labels, student.shape[1]).bool()
        target = kl_divergence(target_log_probs(teacher, label), target_log_probs(student, label))
        others = kl_divergence(
            non_target_log_probs(teacher, label), non_target_log_probs(student, label)
        )
        return self.alpha * target + self.beta * others
