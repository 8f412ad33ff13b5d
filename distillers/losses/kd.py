"""KD: KL divergence of softened class probabilities."""

from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import softened_divergence
from distillers.losses.ops.standardize import z_score


class KD(nn.Module):
    """Kullback-Leibler divergence between softened class probabilities of teacher and student.

    "Distilling the Knowledge in a Neural Network", Hinton, Vinyals and Dean, 2015,
    https://arxiv.org/abs/1503.02531.

        T^2 KL(softmax(teacher / T) || softmax(student / T))

    summed over classes and averaged over the batch. The factor T^2 keeps the scale of the gradient
    independent of T. Published weights: 0.9 with a cross-entropy of 0.1 (tables of the CRD paper),
    or 1 with a cross-entropy of 1 (tables of the SimKD paper; about one point better for resnet32x4
    to resnet8x4).

    Some public code averages over batch and classes, which divides the loss by k, or takes the
    logarithm of a softmax, which gives NaN for logits that are far apart; this class does neither.

    Args:
        temperature: T.
        standardise: whether to z-score the logits first (`distillers.losses.ops.standardize`);
            published with temperature 2 and weight 9, with a cross-entropy of 0.1.
    """

    def __init__(self, *, temperature: float = 4.0, standardise: bool = False) -> None:
        require.positive(temperature=temperature)
        super().__init__()
        self.temperature = temperature
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss from two sets of logits (n, k)."""
        return self.per_image(student_logits, teacher_logits).mean()

    def per_image(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of each image, (n,); its mean is that of `forward`."""
        if self.standardise:
            student_logits, teacher_logits = z_score(student_logits), z_score(teacher_logits)
        divergence = softened_divergence(student_logits, teacher_logits, self.temperature)
        return self.temperature**2 * divergence
