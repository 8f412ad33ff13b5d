"""SRD: match projected, standardized embeddings by the logarithm of a power of the difference."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.divergence import softened_divergence
from distillers.losses.ops.numerics import at_least_fp32


class SRD(nn.Module):
    """Log of the sum of powers of the difference of standardized embeddings, and KD.

    "Understanding the Role of the Projector in Knowledge Distillation", Miles and Mikolajczyk,
    2024, https://arxiv.org/abs/2303.11098.

        w log(sum over images and dimensions of |N(W s + b) - N(t)|^power) + T^2 KL

    with s, t the embeddings, N a batch normalization without affine parameters, one for each
    network, and KL the divergence of KD at temperature T, averaged over the batch. Because of the
    logarithm the gradient does not depend on the number of images and dimensions. b has no effect,
    as N removes it. Published for ResNet34 to ResNet18 on ImageNet: the defaults and a
    cross-entropy of 1. The linear layer is discarded after training.

    In a distributed run the sum is that of all processes, unless `gather` is False; mean and
    variance of N are those of each process, unless `--sync_bn` is given. Where student and teacher
    are equal, the public code gives minus infinity and NaN; here the logarithm is bounded below and
    has no gradient there. The authors' code for DeiT has another loss.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        power: exponent of the absolute differences.
        feature_weight: w.
        temperature: T.
        eps: constant added to the variances.
        gather: whether to sum over the images of all processes of a distributed run.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        power: float = 4.0,
        feature_weight: float = 2.0,
        temperature: float = 1.0,
        eps: float = 1e-4,
        gather: bool = True,
    ) -> None:
        require.positive(power=power, temperature=temperature, eps=eps)
        require.non_negative(feature_weight=feature_weight)
        super().__init__()
        self.power = power
        self.feature_weight = feature_weight
        self.temperature = temperature
        self.gather = gather
        self.project = nn.Linear(student_dim, teacher_dim)
        self.student_norm = nn.BatchNorm1d(teacher_dim, eps=eps, affine=False)
        self.teacher_norm = nn.BatchNorm1d(teacher_dim, eps=eps, affine=False)

    def forward(
        self,
        student_pooled: Tensor,
        student_logits: Tensor,
        teacher_pooled: Tensor,
        teacher_logits: Tensor,
    ) -> Tensor:
        """Compute the loss from embeddings (n, d_s), (n, d_t) and two sets of logits (n, k)."""
        student = self.student_norm(at_least_fp32(self.project(student_pooled)))
        teacher = self.teacher_norm(at_least_fp32(teacher_pooled.detach()))
        sums = gathered((student - teacher).abs().pow(self.power).sum()[None], (), self.gather)
        smallest = torch.finfo(sums.dtype).tiny
        of_features = sums.sum().clamp(min=smallest).log()
        divergence = softened_divergence(student_logits, teacher_logits, self.temperature).mean()
        return self.feature_weight * of_features + self.temperature**2 * divergence
