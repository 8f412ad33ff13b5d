"""ITRD: feature by feature correlation, and mutual information of the batch's Gram matrices."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.normalize import centered, l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.validation import require_non_negative, require_positive


class ITRD(nn.Module):
    """Information Theoretic Representation Distillation.

    Miles, Lopez-Rodriguez and Mikolajczyk, 2021, https://arxiv.org/abs/2112.00459.

    Renyi's entropy of order alpha turns two wishes into formulas.
    Each feature of the embedded student is to correlate with that feature of the teacher, with c
    their correlations over the batch; and the student's Gram matrix G_s is to hold what the
    teacher's G_t holds:

        correlation log2(sum |c - 1|^(2 alpha)) + mutual (|G_s|^2 - |G_s * G_t|^2)

    with cosines in G, both terms' matrices divided by their trace. Published weight: 1, with the 2
    and 1 inside; alpha 1.01, or 1.5 for networks of different kinds, where some runs took a mutual
    of 0.05. One public copy left both factors out: `ITRD(correlation=1.0, mutual=1.0, alpha=1.5)`.

    As in the public code, the second term is without its logarithms, and reads the student before
    the linear map where the widths agree. The map is learned, and discarded. A constant feature has
    correlation zero (NaN there).

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding, which the student's is brought to.
        correlation: weight of the correlations.
        mutual: weight of the mutual information.
        alpha: order of the entropy in the correlations.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        correlation: float = 2.0,
        mutual: float = 1.0,
        alpha: float = 1.01,
        gather: bool = True,
    ) -> None:
        require_non_negative(correlation=correlation, mutual=mutual)
        require_positive(alpha=alpha)
        super().__init__()
        self.correlation = correlation
        self.mutual = mutual
        self.alpha = alpha
        self.gather = gather
        self.same = student_dim == teacher_dim
        self.embed = nn.Linear(student_dim, teacher_dim)

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t)."""
        embedded = at_least_fp32(self.embed(student_pooled))
        embedded = gathered(embedded, self.gather)
        plain = gathered(at_least_fp32(student_pooled), self.gather) if self.same else embedded
        teacher = gathered(at_least_fp32(teacher_pooled.detach()), self.gather)
        correlation = correlation_loss(embedded, teacher, self.alpha)
        return self.correlation * correlation + self.mutual * mutual_loss(plain, teacher)


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """log2 of the summed |c - 1|^(2 alpha), c the correlations of the columns of two (n, d)."""
    n = len(student)
    a = l2_normalize(centered(student, dim=0), dim=0)
    b = l2_normalize(centered(teacher, dim=0), dim=0)
    # published: deviations with n - 1, their product averaged with n
    correlations = (a * b).sum(dim=0) * (n - 1) / n
    return (correlations - 1).abs().pow(2 * alpha).sum().log2()


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared norm of the student's Gram matrix less that of its product with the teacher's."""
    a, b = l2_normalize(student), l2_normalize(teacher)
    with no_autocast(a):
        of_student = a @ a.T
        joint = of_student * (b @ b.T)
    # a trace counts the rows that are not zero, so that it is 0 or at least 1
    return squares_at_trace_one(of_student) - squares_at_trace_one(joint)


def squares_at_trace_one(gram: Tensor) -> Tensor:
    """Sum of squares of a matrix divided by its trace."""
    return (gram / torch.trace(gram).clamp(min=0.5)).square().sum()
