"""What loaders yield and tasks read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

# Teacher outputs by the names of the losses' parameters: "teacher_logits", "teacher_maps", ...
Values = Mapping[str, Tensor | list[Tensor]]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on the training device; unpacks to images, labels, index.

    Attributes:
        images: (n, c, h, w), augmented and normalized, floating point.
        labels: (n,) int64 class indices.
        index: (n,) int64 rows in the training set (in evaluation: the test set).
        view: (n,) int64 on the CPU, the fixed view of each image if the loader has fixed views,
            else None: view v of image i of N is number v N + i.
        rows_per_rank: number of images of this batch in each process of a distributed run, by rank;
            empty for a single process.
        teacher: cached teacher outputs for these images; None if the teacher has to run.
        targets: (n, k) probabilities of the classes, smoothed or mixed; None for hard labels. The
            labels of mixed images are those of the first of both.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None
    rows_per_rank: tuple[int, ...] = ()
    teacher: Values | None = None
    targets: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over images, labels, index."""
        return iter((self.images, self.labels, self.index))

    def soft_targets(self, num_classes: int) -> Tensor:
        """Return the probabilities of the classes (n, k), for hard labels ones and zeros."""
        if self.targets is not None:
            return self.targets
        return one_hot(self.labels, num_classes).float()

    @property
    def share(self) -> float:
        """Weight of this process's mean loss in the mean over processes, for uneven batches."""
        if len(set(self.rows_per_rank)) <= 1:
            return 1.0
        return len(self.labels) * len(self.rows_per_rank) / sum(self.rows_per_rank)
