"""EmbedMatch: match the teacher's embedding after a projection."""

from torch import Tensor, nn

from distillers.losses.ops import require
from distillers.losses.ops.match import DISTANCES, RunningStandardize, distances
from distillers.losses.ops.numerics import at_least_fp32


class EmbedMatch(nn.Module):
    """Cosine or smooth L1 distance of projected embeddings from the teacher's.

    The loss on class tokens of "UNIC: Universal Classification Models via Multi-teacher
    Distillation", Sariyildiz, Weinzaepfel, Lucas, Larlus and Kalantidis, 2024,
    https://arxiv.org/abs/2408.05088, without its deeper projector.

        mean over images of D(W h_s + b, N(h_t))

    with D(s, t) = 1 - cos(s, t), the mean of smooth_l1(s - t) over the dimensions, or the mean of
    both, which is UNIC's. N standardizes each dimension of the teacher's embedding by running
    statistics, so that teachers of different scales weigh alike. No labels are used. Suggested
    weight: 1. Written from the paper's formulas, not compared with its code; in the paper the
    student is projected by a network that reads all its blocks, here by one linear layer. It is
    discarded after training.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        distance: "cosine", "smooth_l1" or "both".
        standardize: whether to standardize the teacher's embedding.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        distance: str = "cosine",
        standardize: bool = True,
    ) -> None:
        require.choice(DISTANCES, distance=distance)
        super().__init__()
        self.distance = distance
        self.project = nn.Linear(student_dim, teacher_dim)
        self.standardize = RunningStandardize(teacher_dim) if standardize else nn.Identity()

    def per_image(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """Return the distance of each image, (n,)."""
        student = at_least_fp32(self.project(student_pooled))
        teacher = self.standardize(at_least_fp32(teacher_pooled.detach()))
        return distances(student, teacher, self.distance)

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """Compute the loss from embeddings (n, d_s) and (n, d_t)."""
        return self.per_image(student_pooled, teacher_pooled).mean()
