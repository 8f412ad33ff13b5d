"""PKT: match the neighbor probabilities within a batch."""

from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, l2_normalize, no_autocast


class PKT(nn.Module):
    """Kullback-Leibler divergence between the neighbor probabilities of a batch's images.

    "Learning Deep Representations with Probabilistic Knowledge Transfer", Passalis and Tefas, 2018,
    https://arxiv.org/abs/1803.10837.

    The cosine similarities of an image to all images of the batch, mapped linearly from [-1, 1] to
    [0, 1] and divided by their sum, are probabilities; p are the teacher's and q the student's:

        mean over i, j of p_ij log((p_ij + eps) / (q_ij + eps))

    Published weight: 30000. As in the public code, an image is its own neighbor and the mean is
    over all n^2 pairs.

    Args:
        eps: constant added to the probabilities.
        gather: whether to compare the images of all processes, not only those of each process.
    """

    def __init__(self, *, eps: float = 1e-7, gather: bool = True) -> None:
        require.non_negative(eps=eps)
        super().__init__()
        self.eps = eps
        self.gather = gather

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from pooled embeddings (n, d_s) and (n, d_t)."""
        student = self.neighbors(student_pooled, rows_per_rank)
        teacher = self.neighbors(teacher_pooled.detach(), rows_per_rank)
        return (teacher * ((teacher + self.eps) / (student + self.eps)).log()).mean()

    def neighbors(self, pooled: Tensor, rows_per_rank: tuple[int, ...] = ()) -> Tensor:
        """Return the neighbor probabilities (n, N) of embeddings (n, d) among all N images."""
        with no_autocast(pooled):
            rows = l2_normalize(at_least_fp32(pooled))
            similar = ((rows @ gathered(rows, rows_per_rank, self.gather).T + 1) / 2).clamp(min=0)
        return similar / similar.sum(dim=1, keepdim=True)
