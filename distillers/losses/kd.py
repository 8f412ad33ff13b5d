"""KD: the student's softened class probabilities follow the teacher's."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32
from distillers.losses.ops.standardize import z_score
from distillers.losses.ops.validation import require_positive


class KD(nn.Module):
    """Distilling the Knowledge in a Neural Network.

    Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531.

    The student matches the teacher's probabilities after both are softened by a temperature T:

        T^2 KL(softmax(teacher / T) || softmax(student / T))

    summed over the classes, mean over the batch. T^2 keeps the size of the gradient the same for
    every T. Published weights: 0.9 beside 0.1 of cross-entropy (tables of the CRD paper), or 1
    beside 1 (tables of the SimKD paper, about one point better for resnet32x4 to resnet8x4).

    Public code that averages over batch and classes divides the loss by k, and code that takes the
    logarithm of a softmax gives NaN for far-apart logits; neither happens here.

    Args:
        temperature: T.
        standardise: z-score the logits first (`distillers.losses.ops.standardize`); published with
            temperature 2 and weight 9, beside 0.1 of cross-entropy.
    """

    def __init__(self, *, temperature: float = 4.0, standardise: bool = False) -> None:
        require_positive(temperature=temperature)
        super().__init__()
        self.temperature = temperature
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The loss from two (n, k)."""
        prepare = z_score if self.standardise else at_least_fp32
        student = (prepare(student_logits) / self.temperature).log_softmax(dim=1)
        teacher = (prepare(teacher_logits.detach()) / self.temperature).log_softmax(dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence
