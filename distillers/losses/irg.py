"""IRG: match graphs of the distances between images, and how they change between layers."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import gathered
from distillers.losses.ops import require
from distillers.losses.ops.numerics import at_least_fp32, pairwise_distances

FLOOR = 1e-12


class IRG(nn.Module):
    """Squared differences of distances between images, of embeddings, and of changes of layers.

    "Knowledge Distillation via Instance Relationship Graph", Liu, Cao, Li, Yuan, Hu, Li and Duan,
    2019, https://doi.org/10.1109/CVPR.2019.00726.

    D(X) are the squared distances between the flattened features of a batch's images, over the
    largest of them, and m(u, v) is the mean of (u - v)^2:

        graph_weight (m(D(h_s), D(h_t)) + m(h_s, h_t))
        + transform_weight sum over pairs of layers a, b of
            (m(D(a_s), D(b_s)) - m(D(a_t), D(b_t)))^2 + (m(a_s, b_s) - m(a_t, b_t))^2

    h are the embeddings; m(h_s, h_t) is left out where their widths differ, and m(a, b) where a and
    b differ in shape in one of the networks. Without layers, the default, there are no pairs. This
    is the form of SemCKD's code. Its command: weight 0.005 with a cross-entropy of 1 and a KL
    divergence of 1, without layers; no result is published.

    The authors' code differs: the largest distance is constant in its gradient, its transformation
    compares single images, and its weight of 0.005 multiplies sums, so it is 16 to 32 times larger
    in these units. The stem (layer 0 of the public code) is not offered. Layers are taken two by
    two, and an odd last one is left out, as in the public code.

    Args:
        student_layers: layers of the student whose changes are compared: 1 to L are its stages, and
            L + 1 is the embedding.
        teacher_layers: as many layers of the teacher.
        graph_weight: weight of the embeddings' part.
        transform_weight: weight of the changes.
        transform_edges: whether the changes of D are compared, too.
        gather: whether to compare the images of all processes, not only those of each process.

    Raises:
        ValueError: if the numbers of layers differ, or a network does not have a layer.
    """

    def __init__(
        self,
        *,
        student_layers: tuple[int, ...] = (),
        teacher_layers: tuple[int, ...] = (),
        graph_weight: float = 1.0,
        transform_weight: float = 1.0,
        transform_edges: bool = True,
        gather: bool = True,
    ) -> None:
        require.non_negative(graph_weight=graph_weight, transform_weight=transform_weight)
        if len(student_layers) != len(teacher_layers):
            raise ValueError(
                f"student_layers has {len(student_layers)} layers and teacher_layers "
                f"{len(teacher_layers)}; they must be equally many."
            )
        super().__init__()
        self.student_layers = tuple(student_layers)
        self.teacher_layers = tuple(teacher_layers)
        self.graph_weight = graph_weight
        self.transform_weight = transform_weight
        self.transform_edges = transform_edges
        self.gather = gather

    def forward(
        self,
        student_pooled: Tensor,
        student_maps: list[Tensor],
        teacher_pooled: Tensor,
        teacher_maps: list[Tensor],
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from embeddings (n, d) and one map (n, c, h, w) per stage."""
        student, *own = self.read(
            [*student_maps, student_pooled], self.student_layers, rows_per_rank
        )
        fixed = [each.detach() for each in (*teacher_maps, teacher_pooled)]
        teacher, *others = self.read(fixed, self.teacher_layers, rows_per_rank)
        graph = distance(edges(student), edges(teacher))
        if student.shape == teacher.shape:
            graph = graph + distance(student, teacher)
        loss = self.graph_weight * graph
        for i in range(0, len(own) - 1, 2):
            change = self.change(own[i : i + 2], others[i : i + 2])
            loss = loss + self.transform_weight * change
        return loss

    def read(
        self, layers: list[Tensor], chosen: tuple[int, ...], rows_per_rank: tuple[int, ...]
    ) -> list[Tensor]:
        """Return the last of `layers` and the chosen ones, counted from 1, of all processes."""
        for number in chosen:
            if not 1 <= number <= len(layers):
                raise ValueError(f"IRG has no layer {number}; there are 1 to {len(layers)}.")
        found = [layers[-1], *(layers[number - 1] for number in chosen)]
        return [gathered(at_least_fp32(each), rows_per_rank, self.gather) for each in found]

    def change(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Return the squared difference of the changes between two layers of each network."""
        loss = student[0].new_zeros(())
        if self.transform_edges:
            own, other = (distance(*map(edges, pair)) for pair in (student, teacher))
            loss = loss + (own - other).square()
        if all(first.shape == second.shape for first, second in (student, teacher)):
            loss = loss + (distance(*student) - distance(*teacher)).square()
        return loss


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared difference of all elements."""
    return (first - second).square().mean()


def edges(features: Tensor) -> Tensor:
    """Return the (n, n) squared distances of features (n, ...) over the largest one."""
    between = pairwise_distances(features.flatten(1)).square()
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    between = between.clamp(min=FLOOR).masked_fill(itself, 0.0)
    return between / (between.max() + FLOOR)
