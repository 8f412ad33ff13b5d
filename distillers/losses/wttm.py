"""WTTM: TTM with larger weights for images on which the teacher is uncertain."""

from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ttm import transformed_divergence


class WTTM(nn.Module):
    """TTM, in which the weight of an image is the sum of the powers of the teacher's probabilities.

    "Knowledge Distillation Based on Transformed Teacher Matching", Zheng and Yang, 2024,
    https://arxiv.org/abs/2402.11148.

        u KL(p || softmax(student)),    u = sum over classes of softmax(teacher)^gamma

    averaged over the batch, where p are the teacher's probabilities to the power gamma,
    renormalized. The weight u is 1 for a teacher that is certain and k^(1 - gamma) for one that is
    uniform (40 for 100 classes and gamma 0.2), and is not normalized over the batch, so the weight
    of the loss is an order smaller than that of TTM. Published on CIFAR-100: gamma 0.2 and weight
    4, beside CRD with weight 0.8 and a cross-entropy of weight 1; other pairs are in the paper's
    appendix.

    Args:
        gamma: exponent of the teacher's probabilities.
    """

    def __init__(self, *, gamma: float = 0.2) -> None:
        require.positive(gamma=gamma)
        super().__init__()
        self.gamma = gamma

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss from two sets of logits (n, k)."""
        divergence = transformed_divergence(student_logits, teacher_logits, self.gamma)
        log_p = at_least_fp32(teacher_logits.detach()).log_softmax(dim=1)
        return ((self.gamma * log_p).exp().sum(dim=1) * divergence).mean()
