"""Match vectors with a teacher's: distances, and standardization by running statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_stack

DISTANCES = ("cosine", "smooth_l1", "both")
LEAST_MOMENTUM = 0.001
EPSILON = 1e-6


def distances(student: Tensor, teacher: Tensor, distance: str) -> Tensor:
    """Return the distances (...) of vectors (..., d) of the student from the teacher's.

    They are "cosine", 1 - cos; "smooth_l1", its mean over the dimensions, with a threshold of 1; or
    "both", the mean of these two.
    """
    cosine = 1 - F.cosine_similarity(student, teacher, dim=-1)
    if distance == "cosine":
        return cosine
    smooth = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    return smooth if distance == "smooth_l1" else (cosine + smooth) / 2


class RunningStandardize(nn.Module):
    """Subtract the running mean of each dimension and divide by its running standard deviation.

    In training mode the statistics move towards those of the batch, of all processes together: by
    the factor 1 / t in the t-th step, so that they are averages at first, and by at least 0.001.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, values: Tensor) -> Tensor:
        """Return standardized values (m, d)."""
        if self.training:
            self._update(values.detach())
        return (values - self.mean) / (self.variance + EPSILON).sqrt()

    @torch.no_grad()
    def _update(self, values: Tensor) -> None:
        count = values.new_full((1,), len(values))
        sums = all_gather_stack(torch.cat([values.sum(0), count])).sum(0)
        mean = sums[:-1] / sums[-1]
        spread = all_gather_stack((values - mean).square().sum(0)).sum(0) / sums[-1]
        self.steps += 1
        momentum = (1 / self.steps).clamp(min=LEAST_MOMENTUM).to(self.mean.dtype)
        self.mean.lerp_(mean.to(self.mean.dtype), momentum)
        self.variance.lerp_(spread.to(self.variance.dtype), momentum)
