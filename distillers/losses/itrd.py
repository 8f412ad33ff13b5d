"""ITRD: match correlations of features and Gram matrices of the batch."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, centered, l2_normalize, no_autocast


class ITRD(nn.Module):
    """Feature-wise correlation loss plus a mutual-information loss of the batch's Gram matrices.

    "Information Theoretic Representation Distillation", Miles, Lopez-Rodriguez and Mikolajczyk,
    2021, https://arxiv.org/abs/2112.00459.

        correlation * log2(sum |c - 1|^(2 alpha)) + mutual * (|G_s|^2 - |G_s * G_t|^2)

    where c are the correlations over the batch of each feature of the embedded student with the
    same feature of the teacher, and G_s, G_t are the n x n matrices of cosine similarities. The
    matrices of the second term are divided by their traces; |.| is the Frobenius norm and * the
    element-wise product. Both terms derive from Renyi's entropy of order alpha. Published weight:
    1, with correlation = 2 and mutual = 1; alpha is 1.01, or 1.5 for networks of different
    architectures, for some of which mutual is 0.05. One public copy omits both factors:
    `ITRD(correlation=1.0, mutual=1.0, alpha=1.5)`.

    As in the public code, the second term omits the logarithms of the paper, and uses the student's
    embedding before the linear layer if the widths agree. The linear layer is trained jointly and
    discarded. The correlation of a constant feature is 0 here and NaN in the public code.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding and output width of the linear layer.
        correlation: weight of the correlation loss.
        mutual: weight of the mutual-information loss.
        alpha: order of the entropy in the correlation loss.
        gather: whether to compare the images of all processes, not only those of each process.
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
        require.non_negative(correlation=correlation, mutual=mutual)
        require.positive(alpha=alpha)
        super().__init__()
        self.correlation = correlation
        self.mutual = mutual
        self.alpha = alpha
        self.gather = gather
        self.same = student_dim == teacher_dim
        self.embed = nn.Linear(student_dim, teacher_dim)

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from pooled embeddings (n, d_s) and (n, d_t)."""
        embedded = at_least_fp32(self.embed(student_pooled))
        plain = at_least_fp32(student_pooled)
        teacher = at_least_fp32(teacher_pooled.detach())
        embedded = gathered(embedded, rows_per_rank, self.gather)
        plain = gathered(plain, rows_per_rank, self.gather) if self.same else embedded
        teacher = gathered(teacher, rows_per_rank, self.gather)
        correlation = correlation_loss(embedded, teacher, self.alpha)
        return self.correlation * correlation + self.mutual * mutual_loss(plain, teacher)


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Return log2 of the sum of |c - 1|^(2 alpha); c are column correlations of two (n, d)."""
    n = len(student)
    a = l2_normalize(centered(student, dim=0), dim=0)
    b = l2_normalize(centered(teacher, dim=0), dim=0)
    # as in the public code: standard deviations divide by n - 1, their product by n
    correlations = (a * b).sum(dim=0) * (n - 1) / n
    return (correlations - 1).abs().pow(2 * alpha).sum().log2()


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return |G_s|^2 - |G_s * G_t|^2 of the Gram matrices of two (n, d), each of trace 1."""
    a, b = l2_normalize(student), l2_normalize(teacher)
    with no_autocast(a):
        of_student = a @ a.T
        joint = of_student * (b @ b.T)
    # the trace is the number of rows that are not zero: 0 or at least 1
    return squares_at_trace_one(of_student) - squares_at_trace_one(joint)


def squares_at_trace_one(gram: Tensor) -> Tensor:
    """Return the sum of squares of a matrix divided by its trace."""
    return (gram / torch.trace(gram).clamp(min=0.5)).square().sum()
