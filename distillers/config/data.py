"""How images in files are read, as the flags say it; nothing here imports torch."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from distillers.errors import InputError

Dali = Literal["cpu", "gpu"] | None
# How many fixed augmented views each training image has; "all" is every crop and flip there is.
NumViews = int | Literal["all"]


@dataclass(frozen=True)
class DecodeOptions:
    """Settings of data sets that are decoded from files.

    Attributes:
        image_size: pixels on a side, or None for the data set's usual.
        num_workers: processes that decode for one loader.
        on_bad_image: "error" stops at an image that cannot be read, "skip" counts and replaces it.
        val_fraction: share of a folder without train/ and val/ that becomes the test images.
        dali: where NVIDIA DALI decodes the training images, or None for torchvision.
    """

    image_size: int | None = None
    num_workers: int = 0
    on_bad_image: Literal["error", "skip"] = "error"
    val_fraction: float = 0.0
    dali: Dali = None


def check_dali(dali: Dali, device: str | None = None) -> None:
    """Refuse DALI where it is not installed, or has no GPU to decode on.

    Args:
        dali: as in `DecodeOptions`.
        device: type of the device that trains, "cpu" or "cuda"; None where it is not known yet.

    Raises:
        InputError: telling how to install it, or what to take instead.
    """
    if dali is None:
        return
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        raise InputError(
            f"--dali {dali} needs NVIDIA DALI, which is not installed: pip install "
            "distillers[dali], or leave the flag out."
        )
    if dali == "gpu" and device not in (None, "cuda"):
        raise InputError(
            f"--dali gpu decodes on the GPU that trains, but this run trains on the {device}; take "
            "--dali cpu, or leave the flag out."
        )
