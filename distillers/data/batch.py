"""The batch that loaders yield and tasks read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import one_hot

# Teacher outputs by the names of the losses' parameters: "teacher_logits", "teacher_maps", ...
Values = Mapping[str, Tensor | list[Tensor]]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on the training device; unpacks to images, labels, index.

    Attributes:
        images: (n, c, h, w), augmented and normalized, floating point.
        labels: (n,) int64 class indices; -1 for images without a label.
        index: (n,) int64 rows in the training set (in evaluation: the test set).
        view: (n,) int64 on the CPU, the fixed view of each image if the loader has fixed views,
            else None: view v of image i of N is number v N + i.
        rows_per_rank: number of images of this batch in each process of a distributed run, by rank;
            empty for a single process.
        teacher: cached teacher outputs for these images; None if the teacher has to run.
        targets: (n, k) probabilities of the classes, smoothed or mixed; None for hard labels. The
            labels of mixed images are those of the first of both. Rows of images without a label
            are undefined.
        labelled: (m,) int64, the positions in the batch of the images that have a label; None if
            all have one.
        labelled_per_rank: the number of labelled images of this batch in each process of a
            distributed run, by rank; empty for a single process, or if all have labels.
        strong: (n, c, h, w), a second, strongly augmented view of the same images for losses that
            read it; None if there is none.
        weak: (n, c, h, w), input of the teacher; None if it is `images`.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None
    rows_per_rank: tuple[int, ...] = ()
    teacher: Values | None = None
    targets: Tensor | None = None
    labelled: Tensor | None = None
    labelled_per_rank: tuple[int, ...] = ()
    strong: Tensor | None = None
    weak: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over images, labels, index."""
        return iter((self.images, self.labels, self.index))

    def soft_targets(self, num_classes: int) -> Tensor:
        """Return the probabilities of the classes (n, k), for hard labels ones and zeros.

        Rows of images without a label are undefined.
        """
        if self.targets is not None:
            return self.targets
        return one_hot(self.labels.clamp(min=0), num_classes).float()

    @property
    def num_labelled(self) -> int:
        """Number of images that have a label."""
        return len(self.labels if self.labelled is None else self.labelled)

    @property
    def labelled_share(self) -> float:
        """Weight of this process's mean over labelled images, relative to `share`.

        With it, the mean over processes of the scaled losses is the mean over the labelled images
        of all processes.
        """
        if not sum(self.labelled_per_rank):
            return 1.0  # a single process, or no label
        counts = self.labelled_per_rank
        return self.num_labelled * len(counts) / sum(counts) / self.share

    def map_views(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with each of its views (n, c, h, w) changed."""
        others = (self.strong, self.weak)
        strong, weak = (None if view is None else change(view) for view in others)
        return replace(self, images=change(self.images), strong=strong, weak=weak)

    @property
    def teacher_images(self) -> Tensor:
        """Input of the teacher, (n, c, h, w)."""
        return self.images if self.weak is None else self.weak

    @property
    def share(self) -> float:
        """Weight of this process's mean loss in the mean over processes, for uneven batches."""
        if len(set(self.rows_per_rank)) <= 1:
            return 1.0
        return len(self.labels) * len(self.rows_per_rank) / sum(self.rows_per_rank)
