"""DIST: the probabilities of student and teacher correlate, within images and within classes."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.normalize import centered
from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.standardize import z_score
from distillers.losses.ops.validation import require_non_negative, require_positive


class DIST(nn.Module):
    """Knowledge Distillation from A Stronger Teacher.

    Huang, You, Wang, Qian and Xu, 2022, https://arxiv.org/abs/2205.10536.

    A strong teacher's probabilities are hard to match; that they correlate is enough. With r the
    Pearson correlation of the softmax outputs at temperature T,

        T^2 (beta (1 - mean over images of r across the classes)
             + gamma (1 - mean over classes of r across the batch))

    Published weight: 2 beside a cross-entropy of 1; temperature 4 on CIFAR-100 and 1 on ImageNet.
    The second term depends on the batch. The correlation's denominator is |a| |b| + eps, as in the
    public code: it lets the classes that hardly occur in a batch count less.

    Args:
        beta: weight of the relations between the classes of an image.
        gamma: weight of the relations between the images of a class.
        temperature: T.
        eps: added to the correlation's denominator.
        standardise: z-score the logits first (`distillers.losses.ops.standardize`).
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.
    """

    def __init__(
        self,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 4.0,
        eps: float = 1e-8,
        standardise: bool = False,
        gather: bool = True,
    ) -> None:
        require_positive(temperature=temperature)
        require_non_negative(beta=beta, gamma=gamma, eps=eps)
        super().__init__()
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.eps = eps
        self.standardise = standardise
        self.gather = gather

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The loss from two (n, k)."""
        prepare = z_score if self.standardise else at_least_fp32
        student = (prepare(student_logits) / self.temperature).softmax(dim=1)
        teacher = (prepare(teacher_logits.detach()) / self.temperature).softmax(dim=1)
        inter = 1 - pearson(student, teacher, self.eps).mean()
        students, teachers = gathered(student, self.gather), gathered(teacher, self.gather)
        intra = 1 - pearson(students.T, teachers.T, self.eps).mean()
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def pearson(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """(n,) correlations of the rows of two (n, d); zero, without gradient, for a constant row."""
    a, b = centered(a), centered(b)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (lengths + eps)
