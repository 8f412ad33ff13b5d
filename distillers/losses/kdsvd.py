"""KDSVD: match relations between the singular vectors of consecutive stages."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import check_stages
from distillers.losses.ops.numerics import at_least_fp32, no_autocast


class KDSVD(nn.Module):
    """Squared difference of RBF relations between the singular vectors of consecutive stages.

    "Self-supervised Knowledge Distillation Using Singular Value Decomposition", Lee, Kim and Song,
    2018, https://arxiv.org/abs/1807.06819.

    A stage's map, as a matrix (positions, channels), is reduced to its first right singular vectors
    v. Their relations to those of the previous stage are compared:

        1 / n sum of (R_s - R_t)^2,  R = exp(-(v_l[a] - v_{l-1}[b])^2 / 8) for all channels a, b

    summed over all stages after the first. Each teacher vector is matched with the most parallel of
    the student's first rank + 3 vectors. Both are multiplied by the teacher's singular value; the
    singular values of a stage are scaled to unit length. Published weight: 1.

    The vectors are compared by channel, so channels must agree; spatial sizes may differ and need
    not be square.

    Deviations from the public code. It backpropagates through the whole decomposition, whose
    gradient is infinite wherever singular values coincide, as for two inactive channels. Here only
    the vectors that are used have a gradient: the exact one, without the terms of pairs of singular
    values whose squares differ by less than 1e-6 of the largest. The sign of a singular vector is
    arbitrary; the teacher's vectors are flipped to a non-negative sum, so that the loss does not
    depend on the linear algebra library.

    The loss is slow: one decomposition per image and stage, in float32 or higher, for which the
    host waits on a GPU. `torch.compile` keeps it as a call to the library.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage; they must equal the student's.
        rank: number of singular vectors.

    Raises:
        ValueError: if there is only one stage, the stages or their channels differ, or there are
            fewer than `rank` vectors.
    """

    def __init__(
        self, student_channels: list[int], teacher_channels: list[int], *, rank: int = 1
    ) -> None:
        require.positive(rank=rank)
        super().__init__()
        check_stages("KDSVD", student_channels, teacher_channels)
        if list(student_channels) != list(teacher_channels):
            raise ValueError(
                f"KDSVD needs stages with equal channels; the student has {list(student_channels)} "
                f"and the teacher {list(teacher_channels)}."
            )
        if len(student_channels) < 2:
            raise ValueError("KDSVD needs at least two stages; there is one.")
        if rank > min(student_channels):
            raise ValueError(f"rank is {rank}; it must be from 1 to {min(student_channels)}.")
        self.rank = rank

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage of each network."""
        with no_autocast(student_maps[0]):
            stages = [
                self.directions(at_least_fp32(student), at_least_fp32(teacher.detach()))
                for student, teacher in zip(student_maps, teacher_maps, strict=True)
            ]
        losses = []
        for (student_before, teacher_before), (student, teacher) in pairwise(stages):
            difference = relation(student, student_before) - relation(teacher, teacher_before)
            losses.append(difference.square().sum())
        return torch.stack(losses).sum() / len(student_maps[0])

    def directions(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's vectors (n, c, rank), aligned to the teacher's, and these."""
        positions = min(maps.shape[2] * maps.shape[3] for maps in (student, teacher))
        if positions < self.rank:
            raise ValueError(
                f"rank is {self.rank}; a map of {positions} positions has no more vectors."
            )
        reference, values = right_vectors(teacher, self.rank)
        reference = reference * torch.where(reference.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        candidates, _ = right_vectors(student, self.rank + 3)
        with torch.no_grad():
            parallel = candidates.mT @ reference
            best = parallel.abs().argmax(dim=1, keepdim=True)
            signs = torch.where(parallel.gather(1, best) < 0, -1.0, 1.0)
        chosen = candidates.gather(2, best.expand(-1, candidates.shape[1], -1)) * signs
        scale = values / torch.linalg.vector_norm(values, dim=1, keepdim=True).clamp(min=1e-12)
        return chosen * scale[:, None], reference * scale[:, None]


def relation(after: Tensor, before: Tensor) -> Tensor:
    """Return the relations (n, c, c', rank) of vectors (n, c, rank) and (n, c', rank)."""
    return torch.exp(-((after[:, :, None] - before[:, None]) ** 2) / 8)


def right_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first right singular vectors (n, c, count) and values of (n, h w, c) matrices.

    With x the matrix and v its singular vectors, the first-order change of a vector v_i is sum over
    j of v_j <v_j, d(x^T x) v_i> / (lambda_i - lambda_j). It is added to the vectors as a term whose
    value is zero, so that only the requested vectors have a gradient.
    """
    matrix = maps.flatten(2).mT
    with torch.no_grad():
        _, singular, rows = torch.linalg.svd(matrix, full_matrices=False)
    basis, squares = rows.mT, singular.square()
    top, own = basis[..., :count], squares[:, None, :count]
    change = matrix.mT @ (matrix @ top)
    change = change - change.detach()
    along = basis.mT @ change
    smallest = 1e-6 * squares[:, :1, None]
    inside = basis @ (along * reciprocal(own - squares[:, :, None], smallest))
    outside = (change - basis @ along) * reciprocal(own, smallest)
    return top + inside + outside, singular[:, :count]


def reciprocal(x: Tensor, smallest: Tensor) -> Tensor:
    """Return 1 / x where |x| is larger than `smallest`, and 0 elsewhere."""
    large = x.abs() > smallest
    return torch.where(large, 1 / torch.where(large, x, 1.0), 0.0)
