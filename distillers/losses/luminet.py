"""LumiNet: KD of logits that are standardized per class over the batch."""

from torch import Tensor, nn

from distillers.distributed.collectives import first_row, gathered
from distillers.losses.ops import require
from distillers.losses.ops.divergence import kl_divergence
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.schedule import linear_ramp


class LumiNet(nn.Module):
    """KL divergence of logits whose mean and variance over the batch are removed, class by class.

    "LumiNet: The Bright Side of Perceptual Knowledge Distillation", Hossain, Elahi, Ramasinghe,
    Cheraghian, Rahman, Mohammed and Rahman, 2023, https://arxiv.org/abs/2310.03669.

        alpha^2 KL(softmax(t / T) || softmax(s / T)),    s, t = (z - mean(z)) / sqrt(var(z) + eps)

    averaged over the batch. Mean and (biased) variance are those of a class over the images of the
    batch, of each network by itself, and the gradient passes through them. The factor is alpha^2
    instead of the T^2 of KD. Published on CIFAR-100, with a linear warm-up over 20 of 240 epochs
    (`ramp=20 / 240`): alpha 33, T 4 and a cross-entropy of 2 for resnet32x4 to resnet8x4; 70, 8 and
    1 for vgg13 to vgg8; 75, 8 and 1 for wrn_40_2 to wrn_40_1; 35, 4 and 1 for wrn_40_2 to
    ShuffleNetV1. On ImageNet alpha is 2, T 0.7, the cross-entropy 1 and the warm-up 1 epoch.

    The loss depends on the batch. In the public code each process uses its own images; here the
    images of all processes are used, unless `gather` is False. The warm-up follows `progress`, so
    it changes with each step instead of each epoch.

    Args:
        alpha: square root of the factor.
        temperature: T.
        eps: constant added to the variance.
        ramp: fraction of the training during which the loss is scaled linearly from 0 to 1.
        gather: whether to use the images of all processes of a distributed run for mean and
            variance, so that the loss equals that of one process with the whole batch.
    """

    def __init__(
        self,
        *,
        alpha: float = 33.0,
        temperature: float = 4.0,
        eps: float = 1e-5,
        ramp: float = 0.0,
        gather: bool = True,
    ) -> None:
        require.positive(temperature=temperature, eps=eps)
        require.non_negative(alpha=alpha)
        require.fraction(ramp=ramp)
        super().__init__()
        self.alpha = alpha
        self.temperature = temperature
        self.eps = eps
        self.ramp = ramp
        self.gather = gather

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        progress: float,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from two (n, k) and the fraction of training done."""
        student = self.standardized(at_least_fp32(student_logits), rows_per_rank)
        teacher = self.standardized(at_least_fp32(teacher_logits.detach()), rows_per_rank)
        loss = self.alpha**2 * kl_divergence(teacher, student).mean()
        return loss * linear_ramp(progress, self.ramp)

    def standardized(self, logits: Tensor, rows_per_rank: tuple[int, ...]) -> Tensor:
        """Return the (n, k) log-probabilities of the standardized logits of this process."""
        start = first_row(logits, rows_per_rank, self.gather)
        rows = gathered(logits, rows_per_rank, self.gather)
        deviations = rows - rows.mean(dim=0)
        scaled = deviations / (deviations.square().mean(dim=0) + self.eps).sqrt()
        own = scaled[start : start + len(logits)]
        return (own / self.temperature).log_softmax(dim=1)
