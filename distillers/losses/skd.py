"""SKD: KD, and the Mahalanobis length of the difference of the similarities of logits."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.divergence import rare_share, softened_divergence, uncertain_share
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class SKD(nn.Module):
    """KL divergence of softened probabilities, and a distance of the similarities of the batch.

    "Streamlined Knowledge Distillation", CVPR 2026, https://github.com/HyunJunSik/StreamLined; the
    first term is that of KD, https://arxiv.org/abs/1503.02531.

        a KL_T + c mean over images of sqrt(d_i' (cov(D) + r I)^-1 d_i),    D = S S' - T T'

    where S and T are the logits with rows of unit length, and d_i is a row of D. cov is the
    covariance of the columns of D; the gradient passes through it. r is `tikhonov`.

    The public code (`released=True`) divides both products by the number of classes, has a = T^2 u
    and c = v, and is used with weight 0.9 and a cross-entropy of 0.1 (0.5 and 0.5 for resnet32x4 to
    resnet8x4). u and v are masks, of the images whose teacher is at most as confident as the median
    and of the classes that are at most as probable as the median, which multiply averages, so that
    only the shares of what they select matter, usually 1/2. In torchdistill's implementation of the
    paper (`released=False`), nothing is divided, a = c = 1, and its sample configuration has no
    cross-entropy. Divided by the number of classes, D is so small that cov(D) is negligible beside
    r I for 100 classes: that term is then the mean length of d_i over sqrt(r).

    Where student and teacher are equal the public code gives NaN; here the gradient is 0. In the
    public code each process uses its own images.

    Args:
        temperature: T.
        tikhonov: r.
        released: whether to follow the public code instead of the paper.
        gather: whether to compare the images of all processes, not only those of each process.
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        tikhonov: float = 0.1,
        released: bool = True,
        gather: bool = True,
    ) -> None:
        require.positive(temperature=temperature, tikhonov=tikhonov)
        super().__init__()
        self.temperature = temperature
        self.tikhonov = tikhonov
        self.released = released
        self.gather = gather

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from two sets of logits (n, k)."""
        student = gathered(at_least_fp32(student_logits), rows_per_rank, self.gather)
        teacher = gathered(at_least_fp32(teacher_logits.detach()), rows_per_rank, self.gather)
        instance = softened_divergence(student, teacher, self.temperature).mean()
        with no_autocast(student):
            direction = self.direction(student, teacher)
        if not self.released:
            return instance + direction
        scaled = uncertain_share(teacher) * self.temperature**2 * instance
        return scaled + rare_share(teacher) * direction

    def direction(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean Mahalanobis length of the rows of D, for two sets of logits (n, k)."""
        similar, wanted = (x @ x.T for x in map(l2_normalize, (student, teacher)))
        difference = (similar - wanted) / (student.shape[1] if self.released else 1)
        centered = difference - difference.mean(dim=0)
        covariance = centered.T @ centered / max(len(difference) - 1, 1)
        identity = torch.eye(len(difference), dtype=difference.dtype, device=difference.device)
        factor = torch.linalg.cholesky_ex(covariance + self.tikhonov * identity).L
        whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)
        squares = whitened.square().sum(dim=0)
        is_positive = squares > 0
        return (torch.where(is_positive, squares, 1.0).sqrt() * is_positive).mean()
