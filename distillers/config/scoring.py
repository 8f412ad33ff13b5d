"""The flags of commands that show saved networks test images; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from distillers.config.flags import require


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
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
