"""What every loader yields and every task reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

# What losses ask of the teacher, by the names that they use: "teacher_logits", "teacher_maps", ...
Values = Mapping[str, Tensor | list[Tensor]]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on the training device; unpacks to images, labels, index.

    Attributes:
        images: (n, c, h, w), augmented and normalised, floating point.
        labels: (n,) int64 class numbers.
        index: (n,) int64 rows in the training set (in the test set while evaluating).
        view: (n,) int64 on the CPU, which of the fixed augmented views of all images each image is,
            where the loader makes such: view v of image i of N is number v N + i; else None.
        counts: images of this batch in each process of a distributed run, in the order of ranks;
            empty where there is one process.
        teacher: what the losses ask of the teacher for these images, where it need not run.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None
    counts: tuple[int, ...] = ()
    teacher: Values | None = None

    def __iter__(self) -> Iterator[Tensor]:
        """Images, labels, index."""
        return iter((self.images, self.labels, self.index))

    @property
    def share(self) -> float:
        """What the loss of this part counts, so that the processes' mean is that of all images."""
        if len(set(self.counts)) <= 1:
            return 1.0
        return len(self.labels) * len(self.counts) / sum(self.counts)
