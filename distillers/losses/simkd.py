"""SimKD: the student reproduces the teacher's last map and is classified by the teacher's head."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.reused_classifier import ReusedClassifier, projector, single_linear
from distillers.losses.ops.stages import same_size


class SimKD(nn.Module):
    """Knowledge Distillation with the Reused Teacher Classifier.

    Chen, Mei, Zhang, Wang, Feng and Chen, 2022, https://arxiv.org/abs/2203.14001.

    A projector P, learned along and KEPT, maps the student's last stage map to the teacher's:

        mean over all elements of (P(S) - T)^2

    and the network that is deployed is student backbone, P, average pooling, and the teacher's own
    frozen classifier. Published weight: 1, with no other loss; labels are not used at all. The
    student's own classifier gets no gradient and is not part of what is deployed. The larger of two
    maps is averaged down to the smaller one, the student's before P.

    The teacher's map is the one that its embedding is the average of (`teacher_final`): for a WRN
    the map after the last ReLU, which public code does not take; hence it must avoid WRNs. Where an
    embedding is no average of a map (a class token, say), it is read as a map of one place.

    Where public code saves the student without P, so that the network that was scored cannot be had
    again, `deploy` gives one module with all of it. Public code runs the teacher at inference to
    learn the size of its map; here that is remembered where it is the smaller one.

    Args:
        student_channels: one count a stage; the last is read.
        teacher_dim: channels of the teacher's last map.
        teacher_head: the teacher's classifier, one linear layer; it is frozen.
        factor: P is teacher_dim / factor wide inside. 2 is best and largest; published are also 4
            and 8.

    Raises:
        ValueError: when the teacher's classifier is more than one linear layer, or its embedding
            is not the average of its last map.
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
            raise ValueError(f"factor is {factor}; it may be 1 to {teacher_dim}.")
        self.factor = factor
        self.channels = student_channels[-1], teacher_dim
        self.projector = projector(*self.channels, factor)
        self.teacher_head = single_linear(teacher_head)
        # the grid that the student's last map is averaged down to, zeros where it is left as it is
        self.register_buffer("teacher_size", torch.zeros(2, dtype=torch.long))

    def forward(self, student_maps: list[Tensor], teacher_final: Tensor) -> Tensor:
        """The loss from one (n, c, h, w) a stage of the student, and teacher_final (n, d, h, w)."""
        if teacher_final.shape[1] != self.channels[1]:
            raise ValueError(
                f"the teacher's last map has {teacher_final.shape[1]} channels and its classifier "
                f"reads {self.channels[1]}; SimKD needs a classifier of the pooled last map."
            )
        source, target = same_size(student_maps[-1], teacher_final.detach())
        if self.training:
            shrunk = source.shape != student_maps[-1].shape
            for side, length in enumerate(source.shape[-2:]):
                self.teacher_size[side].fill_(length if shrunk else 0)
        return F.mse_loss(at_least_fp32(self.projector(source)), at_least_fp32(target))

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network to score, save and export; it shares its parameters with `student` and this.

        Args:
            student: a network with its `taps`; it is left as it is.
        """
        height, width = self.teacher_size.tolist()
        card = {
            "name": "simkd",
            "student_channels": self.channels[0],
            "teacher_dim": self.channels[1],
            "factor": self.factor,
            "size": [height, width] if height else None,
            "num_classes": self.teacher_head.out_features,
            "bias": self.teacher_head.bias is not None,
        }
        return ReusedClassifier(student, self.projector, self.teacher_head, card)

    @staticmethod
    def rebuild(student: nn.Module, card: dict[str, Any]) -> nn.Module:
        """The network that `deploy` gave, its weights to be loaded.

        Args:
            student: a new network of the same architecture.
            card: the `card` of what `deploy` gave, perhaps through JSON.
        """
        head = nn.Linear(card["teacher_dim"], card["num_classes"], bias=card["bias"])
        between = projector(card["student_channels"], card["teacher_dim"], card["factor"])
        return ReusedClassifier(student, between, head.requires_grad_(False), card)
