"""The interfaces of datasets and loaders, whether images are in memory or in files."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, Self, TypedDict, Unpack, cast

import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.config.data import NumViews
from distillers.data.batch import Batch
from distillers.data.held_out import held_out_rows
from distillers.distributed.world import Shard

EVALUATION_BATCH = 256  # always the same, so that an evaluation is reproducible to the bit
LARGE_IMAGE, LARGE_IMAGE_BATCH = 96, 64  # above this size an evaluation needs more than a step


def evaluation_batch_size(image_size: int) -> int:
    """Return the batch size of an evaluation, a function of the image size in pixels alone."""
    return EVALUATION_BATCH if image_size <= LARGE_IMAGE else LARGE_IMAGE_BATCH


class BatchLoader(Protocol):
    """Batches on a device; order and augmentation are a function of the seed and the epoch.

    Attributes:
        batch_size: images per batch, in this process.
        num_images: images per epoch, in this process.
    """

    batch_size: int
    num_images: int

    @property
    def device(self) -> torch.device:
        """Where the batches are."""

    def __len__(self) -> int:
        """Return the number of batches per epoch, in this process."""

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of one epoch.

        Args:
            number: of the epoch, from 1.
            start_batch: number of batches to skip; the others are the same to the bit.

        Raises:
            InputError: if `number` or `start_batch` is out of range.
        """


class WrappedLoader(BatchLoader):
    """Base class of loaders that change the batches of another loader."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader
        self.batch_size, self.num_images = loader.batch_size, loader.num_images

    @property
    @override
    def device(self) -> torch.device:
        return self._loader.device

    @override
    def __len__(self) -> int:
        return len(self._loader)


class TrainOptions(TypedDict):
    """Options of a loader of training images; see `DataSource.train_loader`."""

    seed: int
    drop_last: bool
    device: torch.device
    shard: NotRequired[Shard]
    views: NotRequired[NumViews | None]
    balanced: NotRequired[bool]


class DataSource(Protocol):
    """Training and test images of one dataset; see `ImageSet` and `FolderSet`.

    Attributes:
        is_split: whether the test images were held out from the training images.
    """

    is_split: bool = False

    if TYPE_CHECKING:  # a property at run time would be the default value of a dataclass field

        @property
        def name(self) -> str:
            """Name, as in `distillers.data.load`."""

        @property
        def class_names(self) -> tuple[str, ...]:
            """Names of the classes, in the order of the labels."""

        @property
        def image_size(self) -> int:
            """Height and width of a network's input, in pixels."""

        @property
        def shorter_side(self) -> int:
            """Pixels that the shorter side of a test image is resized to before the crop."""

        @property
        def mean(self) -> tuple[float, ...]:
            """Mean per channel for normalization, where 0 is black and 1 is white."""

        @property
        def std(self) -> tuple[float, ...]:
            """Standard deviation per channel for normalization, on the same scale."""

        @property
        def train_labels(self) -> Tensor:
            """Class of each training image, (N,) int64, -1 for those without a label.

            `Batch.index` is a row of it.
            """

        @property
        def test_labels(self) -> Tensor:
            """Class of each test image, (M,) int64."""

        @property
        def num_crops(self) -> int | None:
            """Number of different augmented views of an image; None if it is unlimited."""

        @property
        def unlabelled_share(self) -> float | None:
            """Share of unlabelled images in each batch; None for that of the data."""

    @property
    def test_part(self) -> str:
        """What the test images are called: "val" if they were held out, else "test"."""
        return "val" if self.is_split else "test"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def test_image_name(self, row: int) -> str:
        """Return the path of the file of a test image, or DATASET/test/ROW if it is in memory."""
        return f"{self.name}/test/{row}"

    def fingerprint(self) -> dict[str, Any]:
        """Return all that determines the pixels of every view of every training image.

        Returns:
            Plain types, as JSON has them.
        """

    def digest(self) -> str:
        """Return a hash of all training and test images and labels.

        Of image files, the names and sizes are hashed (of more than 200,000 the names only).
        """

    def train_loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        second_view: bool = False,
        **options: Unpack[TrainOptions],
    ) -> BatchLoader:
        """Return a loader of augmented training images, in a new order in every epoch.

        Args:
            batch_size: images per batch, in each process.
            shuffle: False keeps the order of the rows; with `views`, epoch e shows view e of each.
            second_view: whether to make the second view of each image.
            options: `seed` of order and augmentation; `drop_last`, whether to leave out a last
                batch that is smaller; `device` of the batches; `shard`, the part of each epoch that
                this process loads; `views`, number of fixed augmentations per image, the same in
                every run, which sets `Batch.view` (None augments anew in each epoch); `balanced`,
                whether to draw images of every class equally often, in `shuffle`d epochs of the
                same length.
        """

    def test_loader(self, device: torch.device, shard: Shard = Shard()) -> BatchLoader:
        """Return a loader of the test images without augmentation, in order, each exactly once.

        Batches are those of a single process; with several, they are dealt out in turn.
        """

    def train_eval_loader(self, device: torch.device, shard: Shard = Shard()) -> BatchLoader:
        """Return a loader of the training images, prepared and ordered as test images are."""
        return self.train_as_test().test_loader(device, shard)

    def train_as_test(self) -> Self:
        """Return this dataset with its training images as its test images."""

    def augmented(self, augmentation: Augmentation) -> Self:
        """Return this dataset with another augmentation of its training images.

        Raises:
            InputError: if it cannot have it.
        """
        return replace(cast(Any, self), augmentation=augmentation)

    def shuffled_test(self, seed: int) -> Self:
        """Return this dataset with its test images in random order."""

    def sample(self, device: torch.device) -> Tensor:
        """Return two test images as a network gets them, for probing: (2, 3, h, w)."""

    def split(self, fraction: float, seed: int) -> tuple[Self, Self | None]:
        """Hold out a fraction of the training images, stratified by class.

        Returns:
            This dataset with the remaining training images, whose rows count from 0 again; and
            the dataset whose test images are those held out, None if `fraction` is 0 or they are
            held out already.
        """
        if fraction == 0 or self.is_split:
            return self, None
        held_out, kept = held_out_rows(self.train_labels, self.num_classes, fraction, seed)
        return self.keep(kept), self.keep(held_out).train_as_test()

    def keep(self, rows: Tensor) -> Self:
        """Return this dataset with the training images of `rows` (m,) int64, in this order."""

    def relabelled(self, labels: Tensor) -> Self:
        """Return this dataset with other labels (N,) int64 of its training images, -1 for none."""

    def with_unlabelled_share(self, share: float) -> Self:
        """Return this dataset with a share of unlabelled images in each batch; see `LabelMix`."""
        return replace(cast(Any, self), unlabelled_share=share)
