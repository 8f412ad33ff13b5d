"""RKD: match distances and angles between the embeddings of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import first_row, gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, pairwise_distances


class RKD(nn.Module):
    """Huber losses between relative distances, and between angles, of a batch's embeddings.

    "Relational Knowledge Distillation", Park, Kim, Lu and Cho, 2019,
    https://arxiv.org/abs/1904.05068.

        distance * huber(d_ij / mean d) + angle * huber(cos(j, i, k))

    where d_ij is the distance of two embeddings and cos(j, i, k) the cosine of the angle at i, and
    the Huber loss between student and teacher is averaged over all pairs and all triples. The loss
    does not depend on scale, rotation or width of the embeddings. Published weight: 1, with
    distance = 25 and angle = 50. No parameters.

    The cosines are computed from the distances by the law of cosines, which takes n^3 instead of
    n^2 d numbers of memory; the values are those of the public code. Embeddings that coincide have
    distance 0 and cosine 0 without gradient; the public code uses a distance of 1e-6.

    Args:
        distance: weight of the distances.
        angle: weight of the angles.
        gather: whether to compare the images of all processes, not only those of each process.
    """

    def __init__(self, *, distance: float = 25.0, angle: float = 50.0, gather: bool = True) -> None:
        require.non_negative(distance=distance, angle=angle)
        super().__init__()
        self.distance = distance
        self.angle = angle
        self.gather = gather

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from pooled embeddings (n, d_s) and (n, d_t)."""
        start = first_row(student_pooled, rows_per_rank, self.gather)
        own = slice(start, start + len(student_pooled))
        students = gathered(student_pooled, rows_per_rank, self.gather)
        teachers = gathered(teacher_pooled.detach(), rows_per_rank, self.gather)
        student, teacher = relative_distances(students), relative_distances(teachers)
        of_distances = F.smooth_l1_loss(student[own], teacher[own])
        of_angles = F.smooth_l1_loss(cosines(student, own), cosines(teacher, own))
        return self.distance * of_distances + self.angle * of_angles


def relative_distances(pooled: Tensor) -> Tensor:
    """Return the (n, n) distances of the rows of (n, d), over the mean of the positive ones."""
    between = pairwise_distances(at_least_fp32(pooled))
    mean = between.sum() / (between > 0).sum().clamp(min=1)
    return between / torch.where(mean > 0, mean, 1.0)


def cosines(between: Tensor, vertices: slice = slice(None)) -> Tensor:
    """Return the cosines (m, n, n) of the angles at i between j and k.

    Args:
        between: (n, n) distances.
        vertices: the m of the n images that i ranges over.
    """
    is_apart = between[vertices] > 1e-6
    inverse = torch.where(is_apart, 1 / torch.where(is_apart, between[vertices], 1.0), 0.0)
    squares = between.square()
    own = squares[vertices]
    twice = own[:, :, None] + own[:, None, :] - squares[None]
    return (0.5 * twice * inverse[:, :, None] * inverse[:, None, :]).clamp(-1, 1)
