"""DCD: contrast within the batch, with a learned temperature and a consistency term."""

import math

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import first_row, gathered
from distillers.losses.ops import require
from distillers.losses.ops.divergence import kl_divergence
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class DCD(nn.Module):
    """InfoNCE within the batch, plus a KL divergence between the two directions of retrieval.

    "Discriminative and Consistent Representation Distillation", Giakoumoglou and Stathaki, 2024,
    https://arxiv.org/abs/2407.11802.

    Linear layers map both embeddings to width `dim`, and the results are normalized. M is the n x n
    matrix of their inner products (row: student, column: teacher), times a learned scale:

        mean over i of -log softmax_row(M)_ii
            + consistency * KL(softmax_column(M)^T || softmax_row(M))

    Published weight: 1. There is no memory bank; other images of the same class count as negatives,
    as published. The linear layers and the scale are trained jointly and discarded.

    The scale is min(exp(log_scale), max_scale). The public code clamps it, so that `log_scale` has
    no gradient above the maximum and stays there. Here the value is the same, but the gradient is
    that of the scale without the maximum, so that it can decrease again. The scale must be passed
    to the optimizer, which one public script does not do, and must not be decayed towards 1: it is
    listed in `no_weight_decay`. The published bias, which is added to all of M, is omitted: it
    cancels in both softmaxes and its gradient is exactly zero.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        dim: output width of the linear layers.
        initial_log_scale: initial logarithm of the scale.
        max_scale: maximum of the scale.
        consistency: weight of the second term.
        gather: whether to compare the images of all processes, not only those of each process.

    Attributes:
        no_weight_decay: names of the parameters that are exempt from weight decay.
    """

    no_weight_decay: tuple[str, ...] = ("log_scale",)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        dim: int = 128,
        initial_log_scale: float = 1.0,
        max_scale: float = 10.0,
        consistency: float = 0.5,
        gather: bool = True,
    ) -> None:
        require.positive(dim=dim, max_scale=max_scale)
        require.non_negative(consistency=consistency)
        require.finite(initial_log_scale=initial_log_scale)
        super().__init__()
        self.consistency = consistency
        self.gather = gather
        self.max_log_scale = math.log(max_scale)
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(float(initial_log_scale)))

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from embeddings (n, d_s) and (n, d_t); zero for a single image."""
        student = l2_normalize(at_least_fp32(self.embed_student(student_pooled)))
        teacher = l2_normalize(at_least_fp32(self.embed_teacher(teacher_pooled.detach())))
        students = gathered(student, rows_per_rank, self.gather)
        teachers = gathered(teacher, rows_per_rank, self.gather)
        with no_autocast(student):
            forth = (self.scale() * (student @ teachers.T)).log_softmax(dim=1)
            back = (self.scale() * (teacher @ students.T)).log_softmax(dim=1)
        consistency = kl_divergence(back, forth).mean()
        start = first_row(student, rows_per_rank, self.gather)
        return self.consistency * consistency - forth.diagonal(start).mean()

    def scale(self) -> Tensor:
        """Return the scale of the inner products: limited in value, but not in gradient."""
        above = (self.log_scale.detach() - self.max_log_scale).clamp(min=0)
        return (self.log_scale - above).exp()
