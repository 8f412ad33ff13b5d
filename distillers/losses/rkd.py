"""RKD: the student's embeddings form the same figure as the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import first_row, gathered
from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.validation import require_non_negative


class RKD(nn.Module):
    """Relational Knowledge Distillation.

    Park, Kim, Lu and Cho, 2019, https://arxiv.org/abs/1904.05068.

    Distances between the images of a batch, and angles within all their triples, are to be the same
    for student and teacher, whatever the scale, rotation or width of the two embeddings:

        distance * huber(d_ij / mean d) + angle * huber(cos(j, i, k))

    with the Huber loss averaged over all pairs, and over all triples. Published weight: 1, with the
    25 and 50 inside.

    The cosines come from the distances by the law of cosines, so that memory is n^3 and not
    n^2 d; the values are those of the public code. Embeddings that coincide have distance and
    cosine zero, and give no gradient, where the public code takes a distance of 1e-6.

    Args:
        distance: weight of the distances.
        angle: weight of the angles.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.
    """

    def __init__(self, *, distance: float = 25.0, angle: float = 50.0, gather: bool = True) -> None:
        require_non_negative(distance=distance, angle=angle)
        super().__init__()
        self.distance = distance
        self.angle = angle
        self.gather = gather

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t)."""
        start = first_row(student_pooled) if self.gather else 0
        own = slice(start, start + len(student_pooled))
        student = relative_distances(gathered(student_pooled, self.gather))
        teacher = relative_distances(gathered(teacher_pooled.detach(), self.gather))
        of_distances = F.smooth_l1_loss(student[own], teacher[own])
        of_angles = F.smooth_l1_loss(cosines(student, own), cosines(teacher, own))
        return self.distance * of_distances + self.angle * of_angles


def relative_distances(pooled: Tensor) -> Tensor:
    """(n, n) distances of the rows of (n, d), divided by the mean of the positive ones."""
    rows = at_least_fp32(pooled)
    # the direct form: the one by matrix products loses the distances of near neighbours
    between = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = between.sum() / (between > 0).sum().clamp(min=1)
    return between / torch.where(mean > 0, mean, 1.0)


def cosines(between: Tensor, vertices: slice = slice(None)) -> Tensor:
    """(m, n, n) cosine at i of the angle between j and k, from (n, n) distances.

    Args:
        between: the distances.
        vertices: which m of the n images stand at i.
    """
    apart = between[vertices] > 1e-6
    inverse = torch.where(apart, 1 / torch.where(apart, between[vertices], 1.0), 0.0)
    squares = between.square()
    own = squares[vertices]
    twice = own[:, :, None] + own[:, None, :] - squares[None]
    return (0.5 * twice * inverse[:, :, None] * inverse[:, None, :]).clamp(-1, 1)
