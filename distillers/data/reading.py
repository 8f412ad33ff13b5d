"""How images in files are read, as the flags say it; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

# How many fixed augmented views each training image has; "all" is every crop and flip there is.
Views = int | Literal["all"]


@dataclass(frozen=True)
class Reading:
    """Settings of data sets that are decoded from files.

    Attributes:
        image_size: pixels on a side, or None for the data set's usual.
        num_workers: processes that decode for one loader.
        on_bad_image: "error" stops at an image that cannot be read, "skip" counts and replaces it.
        val_fraction: share of a folder without train/ and val/ that becomes the test images.
    """

    image_size: int | None = None
    num_workers: int = 0
    on_bad_image: Literal["error", "skip"] = "error"
    val_fraction: float = 0.0
