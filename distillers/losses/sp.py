"""SP: match the similarities between the images of a batch."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.feature_maps import flatten_rows
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class SP(nn.Module):
    """Squared difference between row-normalized similarity matrices of the batch.

    "Similarity-Preserving Knowledge Distillation", Tung and Mori, 2019,
    https://arxiv.org/abs/1907.09682.

        |G(S) - G(T)|_F^2 / n^2,    G(F) = F F^T with rows scaled to unit length

    for the last stage's maps F, flattened to (n, c h w). Published weight: 3000. No parameters;
    channels and spatial sizes of the networks may differ.

    The loss depends on the images of the batch, hence on its size, but not on their order. The
    paper allows a sum over several stages; the tables use the last one only, and so does this
    class.

    Args:
        gather: whether to compare the images of all processes, not only those of each process.
    """

    teacher_stages = (-1,)

    def __init__(self, *, gather: bool = True) -> None:
        super().__init__()
        self.gather = gather

    def forward(
        self,
        student_maps: list[Tensor],
        teacher_maps: list[Tensor],
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from one map (n, c, h, w) per stage; only the last stage is used."""
        student, teacher = student_maps[-1], teacher_maps[-1].detach()
        similar = self.similarity(student, rows_per_rank)
        return F.mse_loss(similar, self.similarity(teacher, rows_per_rank))

    def similarity(self, maps: Tensor, rows_per_rank: tuple[int, ...] = ()) -> Tensor:
        """Return similarities (n, N) of maps (n, c, h, w) with all N, as unit rows."""
        rows = flatten_rows(at_least_fp32(maps))
        with no_autocast(rows):
            return l2_normalize(rows @ gathered(rows, rows_per_rank, self.gather).T)
