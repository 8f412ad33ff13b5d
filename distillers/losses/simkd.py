"""SimKD: regress the teacher's last map and reuse the teacher's classifier."""

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.losses.ops.feature_maps import same_size
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.reused_classifier import ReusedClassifier, projector, single_linear


class SimKD(nn.Module):
    """Mean squared error between the projected last student map and the teacher's.

    "Knowledge Distillation with the Reused Teacher Classifier", Chen, Mei, Zhang, Wang, Feng and
    Chen, 2022, https://arxiv.org/abs/2203.14001.

        mean over all elements of (P(S) - T)^2

    where P is a projector that is trained jointly and, unlike the heads of other methods, kept: the
    deployed network is the student's backbone, P, average pooling and the teacher's frozen
    classifier. Published weight: 1, with no other loss; labels are not used. The student's own
    classifier gets no gradient and is not deployed. If the spatial sizes differ, the larger map is
    average-pooled to the smaller, the student's before P.

    T is the map whose average is the teacher's embedding (`teacher_final`). For a WRN it is the map
    after the last ReLU, which the public code does not use, and therefore has to exclude WRNs. If
    the embedding is not the average of a map (a class token, for example), it is used as a 1x1 map.

    The public code saves the student without P, so that the evaluated network cannot be restored;
    `deploy` returns one module with all parts. The public code runs the teacher at inference to
    find the size of its map; here the size is stored if it is the smaller one.

    Args:
        student_channels: channels of each student stage; the last is used.
        teacher_dim: channels of the teacher's last map.
        teacher_head: the teacher's classifier, one linear layer; it is frozen.
        factor: the hidden width of P is teacher_dim / factor. 2 is the most accurate and largest; 4
            and 8 are published, too.

    Raises:
        ValueError: if the teacher's classifier is more than one linear layer, or does not read the
            average of the last map.
    """

    teacher_size: Tensor

    def __init__(
        self,
        student_channels: list[int],
        teacher_dim: int,
        teacher_head: nn.Module,
        *,
        factor: int = 2,
    ) -> None:
        super().__init__()
        if not 1 <= factor <= teacher_dim:
            raise ValueError(f"factor is {factor}; it must be from 1 to {teacher_dim}.")
        self.factor = factor
        self.channels = student_channels[-1], teacher_dim
        self.projector = projector(*self.channels, factor)
        self.teacher_head = single_linear(teacher_head)
        # size that the student's last map is average-pooled to; zeros if it is not pooled
        self.register_buffer("teacher_size", torch.zeros(2, dtype=torch.long))

    def forward(self, student_maps: list[Tensor], teacher_final: Tensor) -> Tensor:
        """Compute the loss from one (n, c, h, w) per stage and teacher_final (n, d, h, w)."""
        self.check_inputs(teacher_final)
        source, target = same_size(student_maps[-1], teacher_final.detach())
        if self.training:
            shrunk = source.shape != student_maps[-1].shape
            for side, length in enumerate(source.shape[-2:]):
                self.teacher_size[side].fill_(length if shrunk else 0)
        return F.mse_loss(at_least_fp32(self.projector(source)), at_least_fp32(target))

    def check_inputs(self, teacher_final: Tensor) -> None:
        """Check that the teacher's last map (n, d, h, w) is the one that its classifier reads.

        Raises:
            ValueError: if it has another number of channels.
        """
        if teacher_final.shape[1] != self.channels[1]:
            raise ValueError(
                f"SimKD needs a classifier of the pooled last map, but the teacher's last map has "
                f"{teacher_final.shape[1]} channels and its classifier {self.channels[1]} inputs."
            )

    def deploy(self, student: nn.Module, taps: Taps) -> nn.Module:
        """Return the network to evaluate, save and export; see `distillers.losses.hooks.Deploys`.

        It shares all parameters; P reads the last stage map of `taps`.
        """
        height, width = self.teacher_size.tolist()
        layout = dict(taps.layouts).get((taps.maps[-1], "out"))
        card = {
            "name": "simkd",
            "student_channels": self.channels[0],
            "teacher_dim": self.channels[1],
            "factor": self.factor,
            "size": [height, width] if height else None,
            "num_classes": self.teacher_head.out_features,
            "bias": self.teacher_head.bias is not None,
            "cut": taps.maps[-1],
            "classifier": taps.head,
            "layout": layout and asdict(layout),
        }
        return ReusedClassifier(student, self.projector, self.teacher_head, card)

    @staticmethod
    def rebuild(student: nn.Module, card: dict[str, Any]) -> nn.Module:
        """Return a network of the structure that `deploy` returned, to load its weights into."""
        head = nn.Linear(card["teacher_dim"], card["num_classes"], bias=card["bias"])
        between = projector(card["student_channels"], card["teacher_dim"], card["factor"])
        return ReusedClassifier(student, between, head.requires_grad_(False), card)
