"""DCD: each student embedding finds its teacher's in the batch, and the way back looks the same."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import first_row, gathered
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.validation import require_finite, require_non_negative, require_positive


class DCD(nn.Module):
    """Discriminative and Consistent Representation Distillation.

    Giakoumoglou and Stathaki, 2024, https://arxiv.org/abs/2407.11802.

    Both embeddings pass a learned linear map and are brought to length one. With M the n x n matrix
    of their products (row: student, column: teacher) times a learned scale, every student finds its
    own image among the teacher's, and the two directions of retrieval agree:

        mean -log softmax_row(M)_ii + consistency KL(softmax_column(M)^T || softmax_row(M))

    Published weight: 1. Both maps and the scale are learned, and discarded; no memory bank. Other
    images of the same class count as negatives, as published.

    The scale is min(exp(log_scale), max_scale). The public code clamps it, which leaves log_scale
    without gradient once it is above the cap: it would stay there for ever. Here the value is the
    same, and the gradient is that of the scale before the cap, so that it can come back down. A
    learned scale is worth its name only if it is in the optimiser (one public script forgets it)
    and not decayed towards 1: it is listed in `no_weight_decay`. The published bias, added to all
    of M, is left out: it cancels in both softmaxes, its gradient is exactly zero.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        dim: width that both are brought to.
        initial_log_scale: logarithm of the scale at the start.
        max_scale: cap of the scale.
        consistency: weight of the second term.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.

    Attributes:
        no_weight_decay: the parameters that should not be decayed.
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
        require_positive(dim=dim, max_scale=max_scale)
        require_non_negative(consistency=consistency)
        require_finite(initial_log_scale=initial_log_scale)
        super().__init__()
        self.consistency = consistency
        self.gather = gather
        self.max_log_scale = math.log(max_scale)
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(float(initial_log_scale)))

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t); zero for one image."""
        student = l2_normalize(at_least_fp32(self.embed_student(student_pooled)))
        teacher = l2_normalize(at_least_fp32(self.embed_teacher(teacher_pooled.detach())))
        students, teachers = gathered(student, self.gather), gathered(teacher, self.gather)
        with no_autocast(student):
            forth = (self.scale() * (student @ teachers.T)).log_softmax(dim=1)
            back = (self.scale() * (teacher @ students.T)).log_softmax(dim=1)
        consistency = F.kl_div(forth, back, reduction="batchmean", log_target=True)
        start = first_row(student) if self.gather else 0
        return self.consistency * consistency - forth.diagonal(start).mean()

    def scale(self) -> Tensor:
        """The factor of the products: capped in value, not in gradient."""
        above = (self.log_scale.detach() - self.max_log_scale).clamp(min=0)
        return (self.log_scale - above).exp()
