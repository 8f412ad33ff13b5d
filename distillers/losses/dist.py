"""DIST: Pearson correlation of class probabilities, within images and within classes."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, centered
from distillers.losses.ops.standardize import z_score


class DIST(nn.Module):
    """One minus the correlation of class probabilities, across classes and across the batch.

    "Knowledge Distillation from A Stronger Teacher", Huang, You, Wang, Qian and Xu, 2022,
    https://arxiv.org/abs/2205.10536.

    With r the Pearson correlation of the softmax outputs of student and teacher at temperature T,

        T^2 (beta (1 - mean over images of r across the classes)
             + gamma (1 - mean over classes of r across the batch))

    Published weight: 2, with a cross-entropy of weight 1; temperature 4 on CIFAR-100 and 1 on
    ImageNet. The second term depends on the batch. The denominator of the correlation is |a| |b| +
    eps, as in the public code, which reduces the weight of classes that hardly occur in a batch.

    Args:
        beta: weight of the correlations across classes (inter-class relation).
        gamma: weight of the correlations across the batch (intra-class relation).
        temperature: T.
        eps: constant added to the denominator of the correlation.
        standardise: whether to z-score the logits first (`distillers.losses.ops.standardize`).
        gather: whether to compare the images of all processes, not only those of each process.
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
        require.positive(temperature=temperature)
        require.non_negative(beta=beta, gamma=gamma, eps=eps)
        super().__init__()
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.eps = eps
        self.standardise = standardise
        self.gather = gather

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from two sets of logits (n, k)."""
        prepare = z_score if self.standardise else at_least_fp32
        student = (prepare(student_logits) / self.temperature).softmax(dim=1)
        teacher = (prepare(teacher_logits.detach()) / self.temperature).softmax(dim=1)
        inter = 1 - pearson(student, teacher, self.eps).mean()
        students = gathered(student, rows_per_rank, self.gather)
        teachers = gathered(teacher, rows_per_rank, self.gather)
        intra = 1 - pearson(students.T, teachers.T, self.eps).mean()
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def pearson(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Return the (n,) row correlations of two (n, d); constant rows give 0 without gradient."""
    a, b = centered(a), centered(b)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (lengths + eps)
