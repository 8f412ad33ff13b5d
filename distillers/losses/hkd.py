"""HKD: match the information flow, the similarities within the batch at each stage."""

import math

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import first_row, gathered
from distillers.losses.ops import require
from distillers.losses.ops.feature_maps import flatten_rows
from distillers.losses.ops.numerics import at_least_fp32, no_autocast

EPS = 1e-6
ROUNDING = 8  # a squared distance below so many units in the last place is rounding noise


class HKD(nn.Module):
    """Divergence of the similarities between the images of a batch, stage by stage.

    "Heterogeneous Knowledge Distillation using Information Flow Modeling", Passalis, Tzelepi and
    Tefas, 2020, https://arxiv.org/abs/2005.00727.

        J = mean over pairs of (p - q) (log p - log q), for two kernels, added

    where p and q are the kernels between the flattened features of a batch's images, of teacher and
    student, with rows that sum to 1. The kernels are (cos + 1) / 2 and 1 / (1 + d), d the distance.
    With F_1, F_2, ... the stage maps, from the front, as many as the shorter network has, the loss
    is, as released in SemCKD's code (`released=True`),

        initial_weight J(F_1) + J(F_2) + J(F_3) + ...

    and in the authors' code (`released=False`), with h the embedding,

        J(h) + initial_weight decay^(steps progress) (J(F_1) + J(F_2) + ...)

    where `steps` stands for their 50 epochs. Published, released form: weight 1 with a
    cross-entropy of 1 and a KL divergence of 1; the teacher has the student's architecture, twice
    its width, and was itself distilled with PKT. The authors use the loss alone, without labels.

    The released code's `decay` multiplies a weight that nothing reads, so it has no effect. The
    public implementations compute distances from a Gram matrix, so that the distance of an image to
    itself is rounding noise in float32, which changes the loss by up to a fifth; here it is 0, as
    between equal images. The public gradient is NaN for an image whose features are all 0; it is 0
    here. (cos + 1) / 2 is bounded below before the logarithm. The public loss depends on the batch
    of each process.

    Args:
        initial_weight: weight of the first map, or of all maps at the start.
        decay: factor of the maps' weight for each of the steps, if not released.
        steps: number of steps in the training, if not released.
        released: whether the form of the released or of the authors' code is used.
        gather: whether to compare the images of all processes, not only those of each process.
    """

    def __init__(
        self,
        *,
        initial_weight: float = 100.0,
        decay: float = 0.7,
        steps: int = 50,
        released: bool = True,
        gather: bool = True,
    ) -> None:
        require.non_negative(initial_weight=initial_weight, decay=decay, steps=steps)
        super().__init__()
        self.initial_weight = initial_weight
        self.decay = decay
        self.steps = steps
        self.released = released
        self.gather = gather

    def forward(
        self,
        student_maps: list[Tensor],
        student_pooled: Tensor,
        teacher_maps: list[Tensor],
        teacher_pooled: Tensor,
        progress: float,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from stage maps, embeddings and the fraction of training done."""
        flows = [
            self.flow(student, teacher, rows_per_rank)
            for student, teacher in zip(student_maps, teacher_maps, strict=False)
        ]
        if self.released:
            return self.initial_weight * flows[0] + sum(flows[1:])
        weight = self.initial_weight * self.decay ** (self.steps * progress)
        return self.flow(student_pooled, teacher_pooled, rows_per_rank) + weight * sum(flows)

    def flow(self, student: Tensor, teacher: Tensor, rows_per_rank: tuple[int, ...]) -> Tensor:
        """Return J of features (n, ...)."""
        own = self.kernels(student, rows_per_rank)
        others = self.kernels(teacher.detach(), rows_per_rank)
        parts = [((p - q) * (p.log() - q.log())).mean() for p, q in zip(others, own, strict=True)]
        return parts[0] + parts[1]

    def kernels(self, features: Tensor, rows_per_rank: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return both kernels (n, N) between these images and those of all processes."""
        features = at_least_fp32(features)
        rows = flatten_rows(features) if features.ndim == 4 else features
        start = first_row(rows, rows_per_rank, self.gather)
        everyone = gathered(rows, rows_per_rank, self.gather)
        with no_autocast(rows):
            products = rows @ everyone.T
        squares = everyone.square().sum(dim=1)
        lengths = torch.linalg.vector_norm(everyone, dim=1) + EPS
        own = slice(start, start + len(rows))
        cosines = products / lengths[own, None] / lengths
        sums = squares[own, None] + squares
        distances = sums - 2 * products  # squared
        image = torch.arange(len(everyone), device=rows.device)
        is_rounding = distances < ROUNDING * torch.finfo(sums.dtype).eps * sums
        is_same = (image[own, None] == image) | is_rounding
        near = 1 / (1 + (distances.masked_fill(is_same, 0.0) + EPS).sqrt())
        similar = ((cosines + 1) / 2).clamp(min=math.sqrt(torch.finfo(rows.dtype).tiny))
        return normalized(similar), normalized(near)


def normalized(kernel: Tensor) -> Tensor:
    """Divide the rows of a kernel by their sums."""
    return kernel / kernel.sum(dim=1, keepdim=True)
