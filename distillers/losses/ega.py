"""EGA: the graph of a batch, by correlations, is the same for student and teacher."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops.normalize import centered, l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.validation import require_non_negative


class EGA(nn.Module):
    """Distilling Knowledge from Self-Supervised Teacher by Embedding Graph Alignment.

    Ma, Chen and Akata, 2022, https://arxiv.org/abs/2211.13264.

    Images are nodes, and the Pearson correlation of two embeddings is an edge. Edges of the student
    are to be those of the teacher, and a student node is to correlate with its own teacher node
    alone:

        node |corr(t_i, s_j) - I| + edge |corr(t_i, t_j) - corr(s_i, s_j)|

    with the Frobenius norm. Published weight: 1, with the 1 and 0.3 inside.

    Correlating a student with a teacher node needs equal widths, and the public code stops
    otherwise. Where they differ, a linear map from student to teacher width is learned here, and
    discarded; where they agree there is none, as in that code. A constant embedding correlates
    with nothing (NaN there).

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        node: weight of the nodes.
        edge: weight of the edges.
        gather: compare with the images of all processes of a distributed run, so that the loss is
            that of one process with the whole batch; False compares within each process.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        node: float = 1.0,
        edge: float = 0.3,
        gather: bool = True,
    ) -> None:
        require_non_negative(node=node, edge=edge)
        super().__init__()
        self.gather = gather
        self.node = node
        self.edge = edge
        same = student_dim == teacher_dim
        self.embed = nn.Identity() if same else nn.Linear(student_dim, teacher_dim)

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s) and teacher_pooled (n, d_t)."""
        student = gathered(
            l2_normalize(centered(at_least_fp32(self.embed(student_pooled)))), self.gather
        )
        teacher = gathered(
            l2_normalize(centered(at_least_fp32(teacher_pooled.detach()))), self.gather
        )
        with no_autocast(student):
            edges = teacher @ teacher.T - student @ student.T
            nodes = teacher @ student.T
        nodes = nodes - torch.eye(len(nodes), device=nodes.device, dtype=nodes.dtype)
        norm = torch.linalg.vector_norm
        return self.node * norm(nodes) + self.edge * norm(edges)
