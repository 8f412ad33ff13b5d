"""What every loader yields and every task reads."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on the training device; unpacks to images, labels, index.

    Attributes:
        images: (n, c, h, w), augmented and normalised, floating point.
        labels: (n,) int64 class numbers.
        index: (n,) int64 rows in the training set (in the test set while evaluating).
        view: (n,) int64, which of its fixed augmented views each image is, where the loader makes
            such; else None.
        counts: images of this batch in each process of a distributed run, in the order of ranks;
            empty where there is one process.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None
    counts: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        """Images, labels, index."""
        return iter((self.images, self.labels, self.index))

    @property
    def share(self) -> float:
        """What the loss of this part counts, so that the processes' mean is that of all images."""
        if len(set(self.counts)) <= 1:
            return 1.0
        return len(self.labels) * len(self.counts) / sum(self.counts)
