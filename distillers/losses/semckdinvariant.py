"""SemCKDInvariant: SemCKD with an attention that does not care for the order of the batch."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.cross_stage import CrossStage, Embedding, attention
from distillers.losses.ops.normalize import unit
from distillers.losses.ops.precision import full, no_autocast
from distillers.losses.ops.validation import require_positive


class SemCKDInvariant(nn.Module):
    """Cross-Layer Distillation with Semantic Calibration, for batches of any size and order.

    After Chen, Mei, Zhang, Wang, Wang, Feng and Chen, 2021, https://arxiv.org/abs/2012.03236; a
    variant of this library, for which no published table exists.

    The loss is that of `SemCKD` but for what an image is described by. There it is its products
    with the first, second, ... image of the batch. Here it is the distribution of its cosines with
    all of them: sorted, and read at `points` equal steps from the smallest to the largest, linearly
    in between. So the loss is the same for every order of the batch, the attention of an image
    follows the image, and any batch size goes, also one that changes.

    Args:
        student_channels: one count a stage.
        teacher_channels: likewise.
        softness: temperature of the attention.
        points: numbers that describe an image.
        reduction: the query has points / reduction numbers.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.

    Raises:
        ValueError: when there are fewer points than reduction, or for an option out of range.
    """

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        softness: float = 1.0,
        points: int = 64,
        reduction: int = 4,
        gather: bool = True,
    ) -> None:
        require_positive(softness=softness, points=points, reduction=reduction)
        super().__init__()
        if points < reduction:
            raise ValueError(f"points is {points}; it must be {reduction} or more.")
        self.softness = softness
        self.points = points
        self.gather = gather
        width = points // reduction
        self.queries = nn.ModuleList(Embedding(points, width) for _ in student_channels)
        self.keys = nn.ModuleList(Embedding(points, width) for _ in teacher_channels)
        self.cross_stage = CrossStage(student_channels, teacher_channels)

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """The loss from one (n, c, h, w) a stage of each network."""
        teacher_maps = [each.detach() for each in teacher_maps]
        weights = self.attend(student_maps, teacher_maps)
        distances = self.cross_stage(student_maps, teacher_maps)
        return (weights * distances).sum(dim=2).mean()

    def attend(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """(n, student stages, teacher stages) that sum to one over the last."""
        pairs = zip(self.queries, student_maps, strict=True)
        queries = [query(self.describe(maps)) for query, maps in pairs]
        pairs = zip(self.keys, teacher_maps, strict=True)
        return attention(queries, [key(self.describe(maps)) for key, maps in pairs], self.softness)

    def describe(self, maps: Tensor) -> Tensor:
        """(n, points) from (n, c, h, w): each image's sorted cosines with all, resampled."""
        flat = unit(full(maps).flatten(1))
        with no_autocast(flat):
            ordered = (flat @ gathered(flat, self.gather).T).sort(dim=1).values
        return F.interpolate(
            ordered[:, None], size=self.points, mode="linear", align_corners=True
        ).squeeze(1)
