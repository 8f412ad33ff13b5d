"""CTKD: KD whose temperature is learned against the student."""

import math

import torch
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import softened_divergence
from distillers.losses.ops.schedule import linear_ramp


class CTKD(nn.Module):
    """KD with a temperature that is learned by gradient ascent, with increasing strength.

    "Curriculum Temperature for Knowledge Distillation", Li, Li, Yang, Zhao, Song, Luo, Li and Yang,
    2023, https://arxiv.org/abs/2211.16231.

        T^2 KL(softmax(teacher / T) || softmax(student / T)),    T = low + span sigmoid(theta)

    averaged over the batch. theta is one learned number, whose gradient, that of the factor T^2
    included, is multiplied by -(1 - cos(pi min(e / rise, 1))) / 2, where e is the fraction of the
    training that is done: theta ascends the loss, at first not at all and after `rise` with the
    whole gradient. Published weights: 0.9 with a cross-entropy of 0.1 on CIFAR-100, where `rise` is
    10 of 240 epochs; 1 with 1 on ImageNet, 5 of 120 epochs. theta is optimized with the student,
    with the same learning rate, momentum and weight decay.

    e follows `progress`; in the public code it is the number of the epoch, counted from 1. The
    public code also has temperatures for single images, as a download only; they are not here.
    theta is a parameter of the loss, so the student is deployed without it.

    Args:
        low: smallest temperature.
        span: largest temperature minus the smallest.
        rise: fraction of the training after which the gradient is fully reversed.
        initial: theta at the start; 1 gives a temperature of 15.6.
    """

    def __init__(
        self,
        *,
        low: float = 1.0,
        span: float = 20.0,
        rise: float = 10 / 240,
        initial: float = 1.0,
    ) -> None:
        require.positive(low=low)
        require.non_negative(span=span)
        require.fraction(rise=rise)
        require.finite(initial=initial)
        super().__init__()
        self.low = low
        self.span = span
        self.rise = rise
        self.theta = nn.Parameter(torch.tensor(float(initial)))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, progress: float) -> Tensor:
        """Compute the loss from two (n, k) and the fraction of training done."""
        reversal = 0.5 * (1 - math.cos(math.pi * linear_ramp(progress, self.rise)))
        fixed = self.theta.detach()
        theta = fixed - reversal * (self.theta - fixed)  # the value of theta, another gradient
        temperature = self.low + self.span * theta.sigmoid()
        divergence = softened_divergence(student_logits, teacher_logits, temperature)
        return temperature.square() * divergence.mean()
