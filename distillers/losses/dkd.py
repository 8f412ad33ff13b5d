"""DKD: the probability of the label, and how the rest is shared out, as two losses."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.standardize import z_score
from distillers.losses.ops.validation import (
    require_fraction,
    require_non_negative,
    require_positive,
)


class DKD(nn.Module):
    """Decoupled Knowledge Distillation.

    Zhao, Cui, Song, Qiu and Liang, 2022, https://arxiv.org/abs/2203.08679.

    KD is a divergence of the two outcomes "label" and "not the label" (TCKD), plus, weighted by the
    teacher's doubt 1 - p_label, one among the other classes (NCKD). DKD weighs them freely:

        T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s))

    with b the two outcomes and q the softmax without the label. Published weight: 1, after a linear
    rise over the first 20 of 240 epochs (`ramp=20 / 240`; ImageNet 1 of 100), beta 2, 6 or 8 by
    pair of networks on CIFAR-100; ImageNet temperature 1 and beta 0.5 (2 for MobileNetV1 from
    ResNet50). As the rise follows `progress`, it grows step by step where the public code steps
    from epoch to epoch.

    The mask of the public code, a logit lowered by 1000, is exact here, and log(1 - p) does not
    lose its digits when p is near 1.

    Args:
        alpha: weight of the label against the rest.
        beta: weight of the classes among the rest.
        temperature: T.
        ramp: share of the training during which the loss rises linearly from zero.
        standardise: z-score the logits first (`distillers.losses.ops.standardize`).
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
        require_positive(temperature=temperature)
        require_non_negative(alpha=alpha, beta=beta)
        require_fraction(ramp=ramp)
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ramp = ramp
        self.standardise = standardise

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, progress: float
    ) -> Tensor:
        """The loss from two (n, k), labels (n,), and the share of the training that is done."""
        prepare = z_score if self.standardise else at_least_fp32
        student = prepare(student_logits) / self.temperature
        teacher = prepare(teacher_logits.detach()) / self.temperature
        label = torch.zeros_like(student, dtype=torch.bool).scatter(1, labels[:, None], True)
        target = divergence(outcomes(teacher, label), outcomes(student, label))
        others = divergence(without(teacher, label), without(student, label))
        loss = self.temperature**2 * (self.alpha * target + self.beta * others).mean()
        return loss * min(progress / self.ramp, 1.0) if self.ramp > 0 else loss


def outcomes(logits: Tensor, label: Tensor) -> Tensor:
    """(n, 2) log-probabilities of the label and of any other class."""
    at_label = logits.masked_fill(~label, -torch.inf).logsumexp(dim=1)
    at_others = logits.masked_fill(label, -torch.inf).logsumexp(dim=1)
    return torch.stack((at_label, at_others), dim=1).log_softmax(dim=1)


def without(logits: Tensor, label: Tensor) -> Tensor:
    """(n, k) log-probabilities among the other classes; zero at the label, to count for nothing."""
    return logits.masked_fill(label, -torch.inf).log_softmax(dim=1).masked_fill(label, 0.0)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """(n,) Kullback-Leibler divergence of log-probabilities (n, k)."""
    return (teacher.exp() * (teacher - student)).sum(dim=1)
