"""A dataset of image files that are decoded on demand."""

from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.augmentation import Augmentation
from distillers.config.data import Dali, OnBad
from distillers.data.augment.boxes import AREA, RATIO
from distillers.data.datasets.listing import Listing
from distillers.data.fingerprint import hash_files, hash_labels, hash_tensors
from distillers.data.loaders.decode import ImageFiles, shorter_side
from distillers.data.loaders.folder import FolderLoader
from distillers.data.loaders.views import VIEW_SEED
from distillers.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from distillers.data.sampling import generator
from distillers.data.source import (
    EVALUATION_BATCH,
    DataSource,
    TrainOptions,
    evaluation_batch_size,
)
from distillers.distributed.world import Shard
from distillers.errors import InputError


@dataclass(frozen=True, eq=False)
class FolderSet(DataSource):
    """Training and test images in files.

    Attributes:
        name: as in `distillers.data.load`.
        train: files of training images.
        test: files of test images.
        train_rows: (N,) int64, the subset of `train` in use.
        test_rows: (M,) int64, the subset of `test` in use.
        image_size: height and width of a network's input, in pixels.
        num_workers: processes that decode, per loader.
        on_bad_image: "error" stops at an image that cannot be read; "skip" counts it, and replaces
            it in training.
        dali: where NVIDIA DALI decodes the training images, or None. Test images are decoded
            without it, so that accuracy does not depend on it.
        is_split: whether the test images are held out from the training images already, as by
            --val_fraction; then `split` does not do it again.
        mean: per channel, for normalization.
        std: per channel, for normalization.
        unlabelled_share: see `LabelMix`.
        augmentation: of the training images.
    """

    name: str
    train: Listing
    test: Listing
    train_rows: Tensor
    test_rows: Tensor
    image_size: int
    num_workers: int = 0
    on_bad_image: OnBad = "error"
    dali: Dali = None
    is_split: bool = False  # pyrefly: ignore[bad-override]: frozen here, an attribute there
    mean: tuple[float, ...] = IMAGENET_MEAN  # those of nearly all pretrained networks
    std: tuple[float, ...] = IMAGENET_STD
    unlabelled_share: float | None = None
    augmentation: Augmentation = Augmentation()

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    @override
    def shorter_side(self) -> int:
        return shorter_side(self.image_size)

    @property
    @override
    def train_labels(self) -> Tensor:
        return self.train.labels[self.train_rows]

    @property
    @override
    def test_labels(self) -> Tensor:
        return self.test.labels[self.test_rows]

    @property
    @override
    def num_crops(self) -> None:
        return

    @override
    def test_image_name(self, row: int) -> str:
        return self.test.paths[int(self.test_rows[row])]

    @override
    def fingerprint(self) -> dict[str, Any]:
        options = self.augmentation.of_teacher()
        return {
            "name": self.name,
            "images": len(self.train_rows),
            "files": hash_files(self.train.paths, self.train_rows),
            "labels": hash_labels(self.train_labels),
            "image_size": self.image_size,
            "decoder": f"dali {self.dali}" if self.dali else "torchvision",
            "mean": list(self.mean),
            "std": list(self.std),
            "augmentation": f"a random part of area {AREA} and ratio {RATIO}, resized, "
            "mirrored one in two",
            "views": f"seed {VIEW_SEED}",
            **({"options": options} if options else {}),
        }

    @override
    def digest(self) -> str:
        train = hash_files(self.train.paths, self.train_rows, times=False)
        test = hash_files(self.test.paths, self.test_rows, times=False)
        return f"{train}{test}{hash_tensors(self.train_labels, self.test_labels)}"

    @override
    def train_loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        second_view: bool = False,
        **options: Unpack[TrainOptions],
    ) -> FolderLoader:
        return FolderLoader(
            self._images(self.train, self.train_rows, options["seed"], augment=True),
            batch_size=batch_size,
            mean=self.mean,
            std=self.std,
            shuffle=shuffle,
            num_workers=self.num_workers,
            dali=self.dali,
            unlabelled_share=self.unlabelled_share,
            augmentation=self.augmentation.with_second_view(second_view),
            **options,
        )

    @override
    def test_loader(self, device: torch.device, shard: Shard = Shard()) -> FolderLoader:
        return self._eval_loader(self.test_rows, device, self.num_workers, shard=shard)

    @override
    def train_as_test(self) -> "FolderSet":
        return replace(self, test=self.train, test_rows=self.train_rows)

    @override
    def shuffled_test(self, seed: int) -> "FolderSet":
        order = torch.randperm(len(self.test_rows), generator=generator(seed, 0))
        return replace(self, test_rows=self.test_rows[order])

    @override
    def sample(self, device: torch.device) -> Tensor:
        for batch in self._eval_loader(self.test_rows[:EVALUATION_BATCH], device, 0, 2).epoch(1):
            return batch.images
        raise InputError(f"none of the first {EVALUATION_BATCH} test images can be read.")

    @override
    def keep(self, rows: Tensor) -> "FolderSet":
        return replace(self, train_rows=self.train_rows[rows])

    @override
    def relabelled(self, labels: Tensor) -> "FolderSet":
        every = self.train.labels.clone()
        every[self.train_rows] = labels
        return replace(self, train=replace(self.train, labels=every))

    def _eval_loader(
        self,
        rows: Tensor,
        device: torch.device,
        workers: int,
        batch_size: int | None = None,
        shard: Shard = Shard(),
    ) -> FolderLoader:
        return FolderLoader(
            self._images(self.test, rows, 0, augment=False),
            batch_size=batch_size or evaluation_batch_size(self.image_size),
            mean=self.mean,
            std=self.std,
            device=device,
            num_workers=workers,
            shard=shard,
            whole_batches=True,
        )

    def _images(self, listing: Listing, rows: Tensor, seed: int, augment: bool) -> ImageFiles:
        return ImageFiles(
            paths=listing.paths,
            labels=listing.labels,
            rows=rows,
            size=self.image_size,
            augment=augment,
            seed=seed,
            on_bad=self.on_bad_image,
            area=self.augmentation.scale or AREA,
            ratio=self.augmentation.ratio or RATIO,
            flip=self.augmentation.hflip is None,
        )
