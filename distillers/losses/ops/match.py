"""Distances of vectors from those of a teacher, one for each image."""

import torch.nn.functional as F
from torch import Tensor

DISTANCES = ("cosine", "smooth_l1", "both")


def check_distance(distance: str) -> None:
    """Check the name of a distance.

    Raises:
        ValueError: if it is unknown.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}; it must be {' or '.join(DISTANCES)}.")


def distances(student: Tensor, teacher: Tensor, distance: str) -> Tensor:
    """Return the distances (...) of vectors (..., d) of the student from the teacher's.

    Args:
        student: (..., d).
        teacher: (..., d).
        distance: "cosine" for 1 - cos; "smooth_l1" for its mean over the dimensions, with a
            threshold of 1; "both" for the mean of these two.
    """
    cosine = 1 - F.cosine_similarity(student, teacher, dim=-1)
    if distance == "cosine":
        return cosine
    smooth = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    return smooth if distance == "smooth_l1" else (cosine + smooth) / 2
