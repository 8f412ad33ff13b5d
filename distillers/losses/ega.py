"""EGA: match the correlation graph of a batch."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, centered, l2_normalize, no_autocast


class EGA(nn.Module):
    """Distance between the correlation graphs of a batch in student and teacher embeddings.

    "Distilling Knowledge from Self-Supervised Teacher by Embedding Graph Alignment", Ma, Chen and
    Akata, 2022, https://arxiv.org/abs/2211.13264.

    The images are nodes, and the Pearson correlation of two embeddings is the weight of an edge.
    The edges of student and teacher are to agree, and each student node is to correlate with the
    teacher node of the same image only:

        node * |corr(t_i, s_j) - I| + edge * |corr(t_i, t_j) - corr(s_i, s_j)|

    with the Frobenius norm. Published weight: 1, with node = 1 and edge = 0.3.

    The correlation of a student with a teacher node requires equal widths, and the public code
    fails otherwise. Here a linear layer maps the student's embedding to the teacher's width if they
    differ; it is trained jointly and discarded. If they agree there is no layer, as in the public
    code. The correlation of a constant embedding is 0 here and NaN there.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        node: weight of the node term.
        edge: weight of the edge term.
        gather: whether to compare the images of all processes, not only those of each process.
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
        require.non_negative(node=node, edge=edge)
        super().__init__()
        self.gather = gather
        self.node = node
        self.edge = edge
        same = student_dim == teacher_dim
        self.embed = nn.Identity() if same else nn.Linear(student_dim, teacher_dim)

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, rows_per_rank: tuple[int, ...] = ()
    ) -> Tensor:
        """Compute the loss from pooled embeddings (n, d_s) and (n, d_t)."""
        student = l2_normalize(centered(at_least_fp32(self.embed(student_pooled))))
        teacher = l2_normalize(centered(at_least_fp32(teacher_pooled.detach())))
        student = gathered(student, rows_per_rank, self.gather)
        teacher = gathered(teacher, rows_per_rank, self.gather)
        with no_autocast(student):
            edges = teacher @ teacher.T - student @ student.T
            nodes = teacher @ student.T
        nodes = nodes - torch.eye(len(nodes), device=nodes.device, dtype=nodes.dtype)
        norm = torch.linalg.vector_norm
        return self.node * norm(nodes) + self.edge * norm(edges)
