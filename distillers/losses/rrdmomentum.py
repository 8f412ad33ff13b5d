"""RRDMomentum: RRD with one running embedding for each training image instead of a queue."""

from torch import Tensor, nn

from distillers.losses.rrd import RRD


class RRDMomentum(nn.Module):
    """Relational Representation Distillation with a bank of all training images.

    Giakoumoglou and Stathaki, 2024, https://arxiv.org/abs/2407.12073.

    `RRD(memory="momentum")` with a row for each of the N training images, which follows the image's
    teacher embedding as it is seen again under other augmentations. Each step compares the batch
    with all N rows: 2 n N products of length `dim`, a matrix of n N numbers for either network. The
    teacher's projection, `embed_teacher`, is frozen as in `RRD`.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        train_labels: (N,) of the training set; only N is read.
        dim: width that both are brought to.
        student_temperature: as in `RRD`.
        teacher_temperature: as in `RRD`.
        enqueue: as in `RRD`.
        momentum: share of a row that stays when its image is seen again.
        empty: as in `RRD`.
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

    def forward(self, student_pooled: Tensor, teacher_pooled: Tensor, index: Tensor) -> Tensor:
        """The loss from student_pooled (n, d_s), teacher_pooled (n, d_t), index (n,)."""
        return self.rrd(student_pooled, teacher_pooled, index)
