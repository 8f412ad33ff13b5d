"""KDSVD: the main directions of consecutive stages relate as the teacher's do."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.stages import check_stages
from distillers.losses.ops.validation import require_positive


class KDSVD(nn.Module):
    """Self-supervised Knowledge Distillation Using Singular Value Decomposition.

    Lee, Kim and Song, 2018, https://arxiv.org/abs/1807.06819.

    A stage's map, positions by channels, is compressed to its first right singular vectors v; their
    relation to those of the stage before is to be the teacher's:

        1 / n sum of (R_s - R_t)^2,  R = exp(-(v_l[a] - v_{l-1}[b])^2 / 8) for all channels a, b

    summed over stages after the first. To each teacher vector belongs that of the student's first
    rank + 3 that is most parallel to it; both are multiplied by the teacher's singular value, these
    being of length one together. Published weight: 1.

    Vectors are aligned over channels, so those must agree; grids may differ and need not be square.
    Deviations from the public code, which takes the gradient of the whole decomposition, infinite
    wherever singular values coincide, as for two silent channels: here only the vectors that are
    used have a gradient, the exact one, less the part between singular values whose squares differ
    by under 1e-6 of the largest. A singular vector has no sign of its own; the teacher's are turned
    to a sum that is not negative, so that the loss does not depend on the linear algebra library.
    Slow: a decomposition per image and stage, in float32 or better, for which the host waits on a
    GPU; `torch.compile` takes it, as a call to the library.

    Args:
        student_channels: channels of the student's stages.
        teacher_channels: channels of the teacher's stages; they must be the same.
        rank: number of singular vectors.

    Raises:
        ValueError: when there is one stage only, the stages or their channels differ, or there are
            fewer than rank vectors.
    """

    def __init__(
        self, student_channels: list[int], teacher_channels: list[int], *, rank: int = 1
    ) -> None:
        require_positive(rank=rank)
        super().__init__()
        check_stages("KDSVD", student_channels, teacher_channels)
        if list(student_channels) != list(teacher_channels):
            raise ValueError(
                f"KDSVD needs stages of equal channels; the student has {list(student_channels)} "
                f"and the teacher {list(teacher_channels)}."
            )
        if len(student_channels) < 2:
            raise ValueError("KDSVD relates each stage to the one before; there is one only.")
        if rank > min(student_channels):
            raise ValueError(f"rank is {rank}; it may be 1 to {min(student_channels)}.")
        self.rank = rank

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from lists of (n, c, h, w), one a stage."""
        relations, before = [], None
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            with no_autocast(student):
                pair = self.directions(at_least_fp32(student), at_least_fp32(teacher.detach()))
            if before is not None:
                relations.append(relation(pair, before))
            before = pair
        student, teacher = (torch.cat([r[i].flatten() for r in relations]) for i in (0, 1))
        return (student - teacher).square().sum() / len(student_maps[0])

    def directions(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, rank) of the student, aligned to those of the teacher, and these."""
        places = min(maps.shape[2] * maps.shape[3] for maps in (student, teacher))
        if places < self.rank:
            raise ValueError(f"rank is {self.rank}; a map of {places} places has no more vectors.")
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


def relation(after: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(n, c, c', rank) of two stages, for student and teacher."""
    pairs = zip(after, before, strict=True)
    student, teacher = (torch.exp(-((a[:, :, None] - b[:, None]) ** 2) / 8) for a, b in pairs)
    return student, teacher


def right_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors (n, c, count) and values of maps as (n, h w, c) matrices.

    With x the matrix and v its vectors, an eigenvector's first-order change is
    sum over j of v_j <v_j, d(x^T x) v_i> / (lambda_i - lambda_j); it is added to the vectors as a
    term of value zero, so that only the vectors asked for have a gradient.
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
    """1 / x, and zero where x is not larger than `smallest`."""
    large = x.abs() > smallest
    return torch.where(large, 1 / torch.where(large, x, 1.0), 0.0)
