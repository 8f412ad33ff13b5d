"""The flags of commands that show saved networks test images; nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distillers.config.base import require
from distillers.config.data import Reading
from distillers.errors import InputError

if TYPE_CHECKING:
    from distillers.data.source import DataSource


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Which test images, and where the networks run."""

    dataset: str | None = None
    """Left out: the one that the network was trained on."""
    data_dir: str = "./data"
    """Where data sets lie, or are downloaded to."""
    download: bool = True
    """Download a data set that is not there."""
    image_size: int | None = None
    """Pixels on a side of the images. Left out: what the network was trained on."""
    num_workers: int = 8
    """Processes that decode images in folders."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be read: stop, or count it and score without it."""
    val_fraction: float = 0.0
    """As in training, for a folder without train/ and val/."""
    gpu_id: str | None = None
    """The GPU to use, or "cpu". Left out: the first GPU where there is one."""

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the flag, what was given, and what is allowed.
        """
        side = self.image_size
        require("image_size", side, side is None or side >= 8, "at least 8")
        require("num_workers", self.num_workers, self.num_workers >= 0, "0 or more")
        require("val_fraction", self.val_fraction, 0 <= self.val_fraction < 1, "in [0, 1)")

    def source(self, card: dict[str, Any], path: object) -> "DataSource":
        """The data set, its images of the size that a network knows where it was trained on them.

        Args:
            card: of the network.
            path: of its file, for the message.

        Raises:
            InputError: when neither the flags nor the card tell which it is, or it is not there.
        """
        from distillers import data
        from distillers.checkpoints import input_adapter as inputs

        name = self.dataset or card.get("dataset")
        if name is None:
            raise InputError(f"{path} does not tell its data set; name it with --dataset.")
        own = card if name == card.get("dataset") else {}
        reading = Reading(
            self.image_size or own.get("image_size"),
            self.num_workers,
            self.on_bad_image,
            self.val_fraction,
        )
        source = data.source_of(name, self.data_dir, self.download, reading)
        # so that what was scored in training is computed again to the bit
        return inputs.normalised(source, own.get("mean"), own.get("std"))
