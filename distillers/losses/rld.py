"""RLD: match the student's confidence in the label with the teacher's in its own top class."""

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


class RLD(nn.Module):
    """Divergence of confidences, and of the classes that the teacher ranks below the label.

    "Knowledge Distillation with Refined Logits", Sun et al., 2025, https://arxiv.org/abs/2408.07703.

        alpha S^2 KL(b_t || b_s) + beta T^2 KL(q_t || q_s)

    averaged over the images. b_s are the student's probabilities of the label and of all other
    classes, b_t the teacher's of its most likely class and of all others, at temperature S: the
    teacher's confidence is passed on even where it is wrong. q are the softmax outputs at
    temperature T among the classes whose teacher logit is below that of the label; if there is
    none, the term is 0. Where the teacher is right, and no class ties with the label, this is DKD.

    Published with a cross-entropy of weight 1: alpha 1, beta 8, T 4 and a linear warm-up over the
    first 20 of 240 epochs (`ramp=20 / 240`) on CIFAR-100. On ImageNet T and alpha are 1, the
    warm-up is 1 epoch and beta 0.5 (2 for MobileNetV1 from ResNet50). With standardised logits T is
    2, and alpha and beta are multiplied by 9.

    The configuration of the public code sets S to 1, its documented command to T; T is the default
    here. The public code takes the logarithm of a softmax, which is minus infinity where the
    label's probability underflows, and masks with -1e9; both are exact here. The warm-up follows
    `progress`, so it changes with each step instead of each epoch.

    Args:
        alpha: weight of the divergence of confidences.
        beta: weight of the divergence among the classes below the label.
        temperature: T.
        target_temperature: S; None is T.
        ramp: fraction of the training during which the loss is scaled linearly from 0 to 1.
        standardise: whether to z-score the logits first (`distillers.losses.ops.standardize`).
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        target_temperature: float | None = None,
        ramp: float = 0.0,
        standardise: bool = False,
    ) -> None:
        target = temperature if target_temperature is None else target_temperature
        require.positive(temperature=temperature, target_temperature=target)
        require.non_negative(alpha=alpha, beta=beta)
        require.fraction(ramp=ramp)
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.target_temperature = target
        self.ramp = ramp
        self.standardise = standardise

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, progress: float
    ) -> Tensor:
        """Compute the loss from two (n, k), labels (n,) and the fraction of training done."""
        prepare = z_score if self.standardise else at_least_fp32
        student, teacher = prepare(student_logits), prepare(teacher_logits.detach())
        label, top = (
            F.one_hot(classes, student.shape[1]).bool()
            for classes in (labels, teacher.argmax(dim=1))
        )
        of_target = kl_divergence(
            target_log_probs(teacher / self.target_temperature, top),
            target_log_probs(student / self.target_temperature, label),
        )
        left_out = teacher >= teacher.gather(1, labels[:, None])
        exists = ~left_out.all(dim=1)
        left_out = left_out & exists[:, None]  # a row of nothing but -inf has no gradient
        below = kl_divergence(
            non_target_log_probs(teacher / self.temperature, left_out),
            non_target_log_probs(student / self.temperature, left_out),
        )
        target = self.alpha * self.target_temperature**2 * of_target
        loss = (target + self.beta * self.temperature**2 * below * exists).mean()
        return loss * linear_ramp(progress, self.ramp)
