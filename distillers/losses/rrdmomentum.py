"""RRDMomentum: RRD with one running embedding per training image instead of a queue."""

from torch import Tensor, nn

from distillers.losses.rrd import RRD


class RRDMomentum(nn.Module):
    """RRD with a memory bank of all training images instead of a queue.

    "Relational Representation Distillation", Giakoumoglou and Stathaki, 2024,
    https://arxiv.org/abs/2407.12073.

    This is `RRD(memory="momentum")` with one row for each of the N training images; a row is the
    moving average of its image's teacher embeddings. Each step compares the batch with all N rows:
    it computes 2 n N inner products of length `dim` and holds n N numbers per network. The
    teacher's linear layer, `embed_teacher`, is frozen as in `RRD`.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        train_labels: (N,) labels of the training set; only N is used.
        dim: output width of the linear layers.
        student_temperature: see `RRD`.
        teacher_temperature: see `RRD`.
        enqueue: see `RRD`.
        momentum: weight of the old row in an update.
        empty: see `RRD`.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        train_labels: Tensor,
        *,
        dim: int = 128,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.02,
        enqueue: str = "before",
        momentum: float = 0.5,
        empty: str = "keep",
    ) -> None:
        super().__init__()
        self.rrd = RRD(
            student_dim,
            teacher_dim,
            dim=dim,
            queue_size=len(train_labels),
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            enqueue=enqueue,
            memory="momentum",
            momentum=momentum,
            empty=empty,
        )

    def forward(
        self,
        student_pooled: Tensor,
        teacher_pooled: Tensor,
        index: Tensor,
        rows_per_rank: tuple[int, ...] = (),
    ) -> Tensor:
        """Compute the loss from embeddings (n, d_s) and (n, d_t) and training-set indices (n,)."""
        return self.rrd(student_pooled, teacher_pooled, index, rows_per_rank)
