"""The flags of commands that evaluate saved networks; nothing here imports torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from distillers.config.flags import FRACTION, NOT_NEGATIVE, at_least, check_ranges


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Test images, and the device to evaluate on."""

    dataset: str | None = None
    """Data set. Default: that of the network's training."""
    data_dir: str = "./data"
    """Folder of the data sets; downloads go there too."""
    download: bool = True
    """Download the data set if it is missing."""
    image_size: Annotated[int | None, at_least(8)] = None
    """Height and width of the images in pixels. Default: that of the network's training."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 8
    """Processes that decode images from folders."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be read: stop, or count it and leave it out."""
    val_fraction: Annotated[float, FRACTION] = 0.0
    """Fraction of a folder without train/ and val/ that is the test set, as in training."""
    gpu_id: str | None = None
    """GPU index, or "cpu". Default: the first GPU if there is one."""

    def check(self) -> None:
        """Check the flags.

        Raises:
            InputError: naming the flag, its value, and what is allowed.
        """
        check_ranges(self)
