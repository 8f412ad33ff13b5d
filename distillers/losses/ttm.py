"""TTM: KL divergence with powers of the teacher's probabilities, the student at temperature 1."""

from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.divergence import kl_divergence
from distillers.losses.ops.numerics import at_least_fp32


class TTM(nn.Module):
    """KL divergence of the student's probabilities from powers of the teacher's.

    "Knowledge Distillation Based on Transformed Teacher Matching", Zheng and Yang, 2024,
    https://arxiv.org/abs/2402.11148.

        KL(p || softmax(student)),    p = softmax(gamma teacher)

    averaged over the batch. p are the teacher's probabilities to the power gamma, renormalized:
    those of temperature 1 / gamma. Unlike in KD the student has temperature 1 and there is no
    factor of temperature squared, so that the loss is not zero where both networks agree. Published
    for vgg13 to vgg8 on CIFAR-100: gamma 0.1 and weight 45, with a cross-entropy of weight 1; other
    pairs are in the paper's appendix. With gamma 1, the default of the public script, the loss is
    KD at temperature 1.

    Args:
        gamma: exponent of the teacher's probabilities.
    """

    def __init__(self, *, gamma: float = 0.1) -> None:
        require.positive(gamma=gamma)
        super().__init__()
        self.gamma = gamma

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss from two sets of logits (n, k)."""
        return transformed_divergence(student_logits, teacher_logits, self.gamma).mean()


def transformed_divergence(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """Return KL(softmax(gamma teacher) || softmax(student)) (n,) of two sets of logits (n, k)."""
    target = (gamma * at_least_fp32(teacher.detach())).log_softmax(dim=1)
    predicted = at_least_fp32(student).log_softmax(dim=1)
    return kl_divergence(target, predicted)
