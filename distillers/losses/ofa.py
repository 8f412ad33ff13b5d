"""OFA: compare the logits of the stages with the teacher's, between any two architectures."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.exits import convolutional_exit, token_exit
from distillers.losses.ops.numerics import at_least_fp32


class OFA(nn.Module):
    """Cross-entropy of logits and exits with the teacher, whose share of the label is raised.

    "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
    Hao, Guo, Han, Tang, Hu, Wang and Xu, 2023, https://arxiv.org/abs/2310.19444.

        l(z) + sum over stages of l(exit(map)),    l(z) = -sum over classes of q log softmax(z / T)

    averaged over the batch, with q = (p + e)^power - e, where p is the teacher's softmax at
    temperature T and e is 1 for the label, else 0. A power above 1 raises the share of the label;
    with 1 it is the cross-entropy with the teacher. Published with T 1 and a cross-entropy of 1;
    power 1 in the command for CIFAR-100, 1.5 for ResNet18 from DeiT-T on ImageNet. The author's own
    runs on CIFAR-100 have 0.1 as the weight of the exits. The exits are discarded after training.

    An exit turns the map of a stage into logits: convolutions with stride 2, as many as stages
    follow, average pooling and a linear layer. In a student whose stages all have one width, as in
    a vision transformer, it is one merging of 2 x 2 positions, transformer blocks, the mean of the
    positions and a linear layer. The public code merges until 7 x 7 positions are left, which is
    once for patches of 16 in images of 224, and may read the class token. It is written for
    networks with four stages; another number has the last of its exits.

    Args:
        student_channels: channels of each student stage.
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        num_classes: number of classes.
        power: exponent of the teacher's probabilities; above 1 it raises the share of the label.
        temperature: T.
        exits: whether to compare the stages, or the logits only.
    """

    def __init__(
        self,
        student_channels: list[int],
        student_dim: int,
        teacher_dim: int,
        num_classes: int,
        *,
        power: float = 1.0,
        temperature: float = 1.0,
        exits: bool = True,
    ) -> None:
        require.positive(power=power, temperature=temperature)
        super().__init__()
        self.power = power
        self.temperature = temperature
        self.exits = nn.ModuleList()
        if exits:
            count = len(student_channels)
            is_flat = count > 1 and set(student_channels) == {student_dim}
            for stage, width in enumerate(student_channels, start=1):
                self.exits.append(
                    token_exit(width, max(count - stage, 1), num_classes)
                    if is_flat
                    else convolutional_exit(
                        width, max(student_dim, teacher_dim), count - stage, num_classes
                    )
                )

    def forward(
        self,
        student_maps: list[Tensor],
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Compute the loss from maps (n, c, h, w), two sets of logits (n, k) and labels (n,)."""
        teacher = at_least_fp32(teacher_logits.detach()) / self.temperature
        label = F.one_hot(labels, teacher.shape[1]).to(teacher.dtype)
        wanted = (teacher.softmax(dim=1) + label).pow(self.power) - label
        early = [
            early_head(maps) for early_head, maps in zip(self.exits, student_maps, strict=False)
        ]
        logits = torch.stack([at_least_fp32(each) for each in (student_logits, *early)])
        found = (logits / self.temperature).log_softmax(dim=2)
        return -(wanted * found).sum(dim=(0, 2)).mean()
