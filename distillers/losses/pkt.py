"""PKT: each image's neighbours, as probabilities, are the same for student and teacher."""

from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.validation import require_non_negative


class PKT(nn.Module):
    """Learning Deep Representations with Probabilistic Knowledge Transfer.

    Passalis and Tefas, 2018, https://arxiv.org/abs/1803.10837.

    The cosine similarities of an image to those of its batch, brought to [0, 1] and divided by
    their sum, are probabilities; the student's q are to be the teacher's p:

        mean over i, j of p_ij log((p_ij + eps) / (q_ij + eps))

    Published weight: 30000. An image counts as its own neighbour, and the mean is over all n^2
    pairs, as in the public code.

    Args:
        eps: added to the probabilities.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.
    """

    def __init__(self, *, eps: float = 1e-7, gather: bool = True) -> None:
        require_non_negative(eps=eps)
        super().__init__()
        self.eps = eps
        self.gather = gather

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t)."""
        student = self.neighbours(student_pooled)
        teacher = self.neighbours(teacher_pooled.detach())
        return (teacher * ((teacher + self.eps) / (student + self.eps)).log()).mean()

    def neighbours(self, pooled: Tensor) -> Tensor:
        """From (n, d) in row i: the probabilities of each image to be a neighbour of image i."""
        with no_autocast(pooled):
            rows = l2_normalize(at_least_fp32(pooled))
            similar = ((rows @ gathered(rows, self.gather).T + 1) / 2).clamp(min=0)
        return similar / similar.sum(dim=1, keepdim=True)
