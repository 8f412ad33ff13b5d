"""How image files are decoded, and augmented views; nothing here imports torch."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from distillers.config.flags import require
from distillers.errors import InputError, install_command

Dali = Literal["cpu", "gpu"] | None
OnBad = Literal["error", "skip"]
MAX_SIZE = 4096  # pixels on a side, as in a card
# Number of fixed augmented views of each training image; "all" is every possible crop and flip.
NumViews = int | Literal["all"]


@dataclass(frozen=True)
class DecodeOptions:
    """Options of data sets that are decoded from image files.

    Attributes:
        image_size: height and width in pixels, or None for the data set's default.
        num_workers: processes that decode for one loader.
        on_bad_image: "error" stops at an image that cannot be read, "skip" counts and replaces it.
        val_fraction: fraction of a folder without train/ and val/ that becomes the test set.
        class_names: classes of the network to evaluate; a folder that lacks training images or
            images of some classes is then read for evaluation alone.
        dali: device on which NVIDIA DALI decodes training images, or None for torchvision.
    """

    image_size: int | None = None
    num_workers: int = 0
    on_bad_image: OnBad = "error"
    val_fraction: float = 0.0
    class_names: tuple[str, ...] | None = None
    dali: Dali = None

    def __post_init__(self) -> None:
        size, skips = self.image_size, self.on_bad_image
        require("image_size", size, size is None or 0 < size <= MAX_SIZE, f"1 to {MAX_SIZE}")
        require("num_workers", self.num_workers, self.num_workers >= 0, "at least 0")
        require("on_bad_image", skips, skips in ("error", "skip"), "error or skip")
        require("val_fraction", self.val_fraction, 0 <= self.val_fraction < 1, "in [0, 1)")


NO_DATASET = "none"  # value of --dataset where the only images are those of --unlabelled
REST = "rest"  # unlabelled images: those that `per_class` leaves out


@dataclass(frozen=True)
class LabelOptions:
    """Which training images have labels.

    Attributes:
        per_class: number of labelled images of each class; None keeps all labels.
        seed: which images these are.
        unlabelled: folder of further images without labels; `REST`; or None.
        share: of unlabelled images in each batch; None for that of the data.
    """

    per_class: int | None = None
    seed: int = 0
    unlabelled: str | None = None
    share: float | None = None


@dataclass(frozen=True)
class SoftLabels:
    """Options of soft labels; names and meaning are those of timm.

    Attributes:
        smoothing: fraction of each label that is spread over all classes.
        mixup: alpha of mixup's Beta distribution, 0 for no mixup.
        cutmix: alpha of CutMix's Beta distribution, 0 for no CutMix. If both are positive, each
            batch is mixed by one of them, drawn with equal probability.
        mixup_prob: probability that a batch is mixed.
        mixup_off_epoch: last epoch in which images are mixed, 0 for all epochs.
    """

    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_off_epoch: int = 0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return bool(self.mixup or self.cutmix) and self.mixup_prob > 0


def check_dali(dali: Dali, device: str | None = None) -> None:
    """Check that DALI is installed and has the device it decodes on.

    `device` is the type of the training device, "cpu" or "cuda"; None if it is not known yet.

    Raises:
        InputError: saying how to install it, or what to use instead.
    """
    if dali is None:
        return
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        raise InputError(
            f"--dali {dali} needs NVIDIA DALI, which is not installed: {install_command('dali')}, "
            "or leave the flag out."
        )
    if dali == "gpu" and device not in (None, "cuda"):
        raise InputError(
            f"--dali gpu decodes on the training GPU, but this run trains on the {device}; use "
            "--dali cpu, or leave the flag out."
        )
