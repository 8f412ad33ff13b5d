"""CC: match the correlations between the images of a batch."""

import math

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class CC(nn.Module):
    """Difference between the correlations of a batch's images in student and teacher embeddings.

    "Correlation Congruence for Knowledge Distillation", Peng, Jin, Liu, Li, Wu, Liu, Zhou and
    Zhang, 2019, https://arxiv.org/abs/1904.01802.

    Two linear layers map the embeddings of both networks to the same width; they are trained
    jointly and discarded. There are two forms of the loss.

    `"consecutive"`, the default, is the form behind the public tables, which the authors gave to
    the benchmark of the CRD paper. With e_i the element-wise absolute difference of the student's
    and the teacher's embedding of image i,

        mean over i of <e_i, e_{i+1}>

    It compares each image with the next one only, so it depends on the order of the batch. The
    embeddings are not normalized there; `normalise=True` does it, and makes the loss about 25 times
    smaller.

    `"matrix"` is the form of the paper and does not depend on the order: the mean squared
    difference of the two n x n matrices of the Gaussian kernel exp(-gamma |x - y|^2) between
    embeddings of unit length, where the kernel is replaced by its Taylor series.

    Published weight: 0.02 (for `"consecutive"`).

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        dim: output width of the two linear layers.
        form: `"consecutive"` or `"matrix"`.
        normalise: whether to scale embeddings to unit length (`"matrix"` always does).
        gamma: gamma of the Gaussian kernel (`"matrix"` only).
        order: order of the Taylor series (`"matrix"` only).
        gather: whether to compare the images of all processes, not only those of each process.

    Raises:
        ValueError: if `form` is unknown or an option is out of range.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        dim: int = 128,
        form: str = "consecutive",
        normalise: bool = False,
        gamma: float = 0.4,
        order: int = 2,
        gather: bool = True,
    ) -> None:
        require.positive(dim=dim)
        require.non_negative(gamma=gamma, order=order)
        require.choice(("consecutive", "matrix"), form=form)
        super().__init__()
        self.form = form
        self.normalise = normalise
        self.gamma = gamma
        self.order = order
        self.gather = gather
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from embeddings (n, d_s) and (n, d_t); zero for a single image."""
        student = at_least_fp32(self.embed_student(student_pooled))
        teacher = at_least_fp32(self.embed_teacher(teacher_pooled.detach()))
        if self.normalise or self.form == "matrix":
            student, teacher = l2_normalize(student), l2_normalize(teacher)
        if self.form == "consecutive":
            errors = gathered((student - teacher).abs(), rows_per_rank, self.gather)
            return (errors[:-1] * errors[1:]).sum() / max(len(errors) - 1, 1)
        kernels = [self.kernel(rows, rows_per_rank) for rows in (student, teacher)]
        return (kernels[0] - kernels[1]).square().mean()

    def kernel(self, rows: Tensor, rows_per_rank: tuple[int, ...] = ()) -> Tensor:
        """Return the truncated Gaussian kernel (n, N) of unit rows (n, dim) with all N rows."""
        with no_autocast(rows):
            twice = 2 * self.gamma * (rows @ gathered(rows, rows_per_rank, self.gather).T)
        series = [twice**power / math.factorial(power) for power in range(self.order + 1)]
        return math.exp(-2 * self.gamma) * torch.stack(series).sum(dim=0)
