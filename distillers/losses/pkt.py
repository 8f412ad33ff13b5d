"""PKT: each image's neighbours, as probabilities, are the same for student and teacher."""

from torch import Tensor, nn

from distillers.losses.precision import full, no_autocast
from distillers.losses.unit import unit


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
    """

    def __init__(self, *, eps: float = 1e-7) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t)."""
        student = neighbours(student_pooled)
        teacher = neighbours(teacher_pooled.detach())
        return (teacher * ((teacher + self.eps) / (student + self.eps)).log()).mean()


def neighbours(pooled: Tensor) -> Tensor:
    """(n, n), row i: the probabilities of each image to be a neighbour of image i."""
    with no_autocast(pooled):
        rows = unit(full(pooled))
        similar = (rows @ rows.T + 1) / 2
    return similar / similar.sum(dim=1, keepdim=True)
