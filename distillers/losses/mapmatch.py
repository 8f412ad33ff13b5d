"""MapMatch: match the positions of the teacher's last map, or its patch tokens."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.match import DISTANCES, RunningStandardize, distances
from distillers.losses.ops.numerics import at_least_fp32


class MapMatch(nn.Module):
    """Cosine or smooth L1 distance of the student's last map from the teacher's, at each position.

    The loss on patch tokens of "UNIC: Universal Classification Models via Multi-teacher
    Distillation", Sariyildiz, Weinzaepfel, Lucas, Larlus and Kalantidis, 2024,
    https://arxiv.org/abs/2408.05088, without its deeper projector.

        mean over images and positions of D(R(conv(S)), N(T))

    for the maps S and T of the last stage, or the patch tokens of the last block as a map. The
    convolution is 1 x 1; R resamples its output bilinearly to the size of T, so that any two
    networks fit: convolutional ones, transformers, and other patch sizes. D(s, t) = 1 - cos(s, t),
    the mean of smooth_l1(s - t) over the channels, or the mean of both, which is UNIC's. N
    standardizes each channel of the teacher by running statistics. No labels are used. Suggested
    weight: 1. Written from the paper's formulas, not compared with its code. The convolution is
    discarded after training.

    Args:
        student_channels: channels of each student stage.
        teacher_channels: channels of each teacher stage.
        distance: "cosine", "smooth_l1" or "both".
        standardize: whether to standardize the teacher's map.
    """

    teacher_stages = (-1,)

    def __init__(
        self,
        student_channels: list[int],
        teacher_channels: list[int],
        *,
        distance: str = "cosine",
        standardize: bool = True,
    ) -> None:
        require.choice(DISTANCES, distance=distance)
        if not student_channels or not teacher_channels:
            raise ValueError("MapMatch needs a map of both networks.")
        super().__init__()
        self.distance = distance
        width = teacher_channels[-1]
        self.project = nn.Conv2d(student_channels[-1], width, 1)
        self.standardize = RunningStandardize(width) if standardize else nn.Identity()

    def per_image(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Return the mean distance over the positions of each image, (n,)."""
        teacher = at_least_fp32(teacher_maps[-1].detach())
        student = at_least_fp32(self.project(student_maps[-1]))
        if student.shape[-2:] != teacher.shape[-2:]:
            student = F.interpolate(student, teacher.shape[-2:], mode="bilinear", antialias=True)
        vectors = teacher.permute(0, 2, 3, 1)
        standard = self.standardize(vectors.flatten(0, 2)).view(vectors.shape)
        return distances(student.permute(0, 2, 3, 1), standard, self.distance).mean((1, 2))

    def forward(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> Tensor:
        """Compute the loss from maps (n, c, h, w) of each stage of both networks."""
        return self.per_image(student_maps, teacher_maps).mean()
