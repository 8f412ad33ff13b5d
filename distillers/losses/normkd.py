"""NormKD: a temperature for each image, proportional to the spread of its logits."""

import torch
from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import kl_divergence
from distillers.losses.ops.numerics import at_least_fp32, centered


class NormKD(nn.Module):
    """KD in which the temperature of an image is T times the standard deviation of its logits.

    "NormKD: Normalized Logits for Knowledge Distillation", Chi et al., 2023,
    https://arxiv.org/abs/2308.00520.

        t_t^2 KL(softmax(teacher / t_t) || softmax(student / t_s)),    t = T std(logits)

    averaged over the batch; std is that of the image's logits over the classes, divided by k - 1,
    of each network, and the gradient passes through that of the student. As a softmax ignores
    shifts, this is KD of z-scored logits (`KD(standardise=True)`) in which an image has the weight
    std(teacher)^2. Published weights: T 2 and 0.9 with a cross-entropy of 0.1 on CIFAR-100; T 1 and
    0.5 with 0.5 on ImageNet.

    The public code divides by zero where all logits of an image are equal; such an image has no
    weight here.

    Args:
        temperature: T.
    """

    def __init__(self, *, temperature: float = 2.0) -> None:
        require.positive(temperature=temperature)
        super().__init__()
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss from two sets of logits (n, k)."""
        student, own = self.scaled(student_logits)
        teacher, scale = self.scaled(teacher_logits.detach())
        divergence = kl_divergence(teacher.log_softmax(dim=1), student.log_softmax(dim=1))
        return (scale.square() * (own > 0) * divergence).mean()

    def scaled(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, k) over their temperatures, and these (n,); 0 for equal logits."""
        deviations = centered(at_least_fp32(logits), dim=1)
        variance = deviations.square().sum(dim=1) / max(logits.shape[1] - 1, 1)
        is_flat = variance == 0
        temperature = self.temperature * torch.where(is_flat, 1.0, variance).sqrt()
        return deviations / temperature[:, None], temperature * ~is_flat
