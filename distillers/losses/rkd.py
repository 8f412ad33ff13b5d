"""RKD: the student's embeddings form the same figure as the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.precision import full


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
    """

    def __init__(self, *, distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__()
        self.distance = distance
        self.angle = angle

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t)."""
        student = relative_distances(student_pooled)
        teacher = relative_distances(teacher_pooled.detach())
        of_distances = F.smooth_l1_loss(student, teacher)
        of_angles = F.smooth_l1_loss(cosines(student), cosines(teacher))
        return self.distance * of_distances + self.angle * of_angles


def relative_distances(pooled: Tensor) -> Tensor:
    """(n, n) distances of the rows of (n, d), divided by the mean of the positive ones."""
    rows = full(pooled)
    # the direct form: the one by matrix products loses the distances of near neighbours
    between = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = between.sum() / (between > 0).sum().clamp(min=1)
    return between / torch.where(mean > 0, mean, 1.0)


def cosines(between: Tensor) -> Tensor:
    """(n, n, n) cosine at i of the angle between j and k, from (n, n) distances."""
    apart = between > 1e-6
    inverse = torch.where(apart, 1 / torch.where(apart, between, 1.0), 0.0)
    squares = between.square()
    twice = squares[:, :, None] + squares[:, None, :] - squares[None]
    return (0.5 * twice * inverse[:, :, None] * inverse[:, None, :]).clamp(-1, 1)
