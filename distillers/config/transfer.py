"""The flags of transfer_student.py; nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from distillers.config.augmentation import Augmentation
from distillers.config.flags import Fact, Milestones, default_flags
from distillers.config.scoring import EvalDataConfig
from distillers.config.train import TrainConfig, refuse_dot
from distillers.errors import InputError
from distillers.files import file_name

SIZE = 32  # image size of the published protocol


@dataclass(frozen=True, kw_only=True)
class TransferConfig(TrainConfig):
    """Train a new classifier on a trained backbone, or the whole network, for another data set."""

    COMMAND: ClassVar[str] = "transfer"

    path_s: Annotated[str | None, Fact.PATH] = None
    """Checkpoint or run folder (its best checkpoint is used) of the network to transfer."""
    model_s: str | None = None
    """Architecture of the network, if the checkpoint does not name it."""
    path_t: Annotated[str | None, Fact.PATH] = None
    """Checkpoint of the network's teacher; needed only for files of SimKD's published code."""
    mode: Literal["linear", "finetune"] = "linear"
    """Train only the classifier (a linear probe), or the whole network."""
    protocol: Literal["fixed", "public"] = "fixed"
    """fixed: BatchNorm statistics are frozen and the last epoch is reported. public: as in the
    published code, BatchNorm statistics are updated even in a linear probe, images are 32 x 32,
    and the best test epoch is reported."""
    augment: bool = False
    """Linear probe: crop and flip the images anew in every epoch instead of precomputing their
    features once. Always on for --mode finetune and --protocol public."""
    dataset: str = "stl10"
    """Data set: stl10, tinyimagenet, cifar10, folder (your own images), ... (see `distillers
    list`)."""
    image_size: int | None = None
    """Height and width of the images in pixels. Default: that of the network's training."""
    epochs: int = 120
    """Number of passes over the training set."""
    learning_rate: float | None = None
    """Initial learning rate. Default: 0.01 for MobileNetV2 and ShuffleNets, else 0.05, as
    published."""
    lr_decay_epochs: Milestones = (30, 60, 90)
    """Epochs after which the learning rate is multiplied by --lr_decay_rate."""
    weight_decay: float | None = None
    """L2 penalty of SGD, or weight decay of --opt. Default: 5e-4 for --mode finetune and --protocol
    public, else 0."""
    save_freq: int = 50
    """Epochs between checkpoints that are kept, ckpt_epoch_N.pth; 0 keeps only the last and the
    best."""
    trial: Annotated[int, arg(aliases=["-t"])] = 0
    """Random seed; part of the run folder's name."""

    def check(self) -> None:
        """Check the flags, alone and together; see `TrainConfig.check`."""
        super().check()
        refuse_dot(self)
        if not self.path_s:
            raise InputError("--path_s is missing: the checkpoint of the network to transfer.")
        if self.precompute_features and self.augmentation() != Augmentation():
            raise InputError(
                f"the features of each image are computed only once, without augmentation, so that "
                f"it cannot have {self.augmentation()}; add --augment, or leave these flags out."
            )
        if self.drop_path is not None and not (self.finetune or self.update_bn_stats):
            raise InputError(
                "--drop_path acts on a backbone in training mode; add --mode finetune, or leave it "
                "out."
            )
        if self.label_loss != "ce":
            raise InputError(
                "--smoothing, --mixup, --cutmix and --bce_loss are not supported for a transfer; "
                "train_teacher.py --pretrained fine-tunes a network with them."
            )
        if self.protocol == "public" and self.image_size not in (None, SIZE):
            raise InputError(
                f"--image_size is {self.image_size}; --protocol public uses images of {SIZE}."
            )

    def default_recipe(self) -> str | None:
        """Return the recipe without --recipe; see `TrainConfig.default_recipe`."""
        return "finetune" if self.dataset == "folder" and self.finetune else None

    @property
    def update_bn_stats(self) -> bool:
        """Whether BatchNorm normalizes by each batch and updates its running statistics."""
        return self.protocol == "public"

    @property
    def finetune(self) -> bool:
        """Whether the backbone is trained."""
        return self.mode == "finetune"

    @property
    def precompute_features(self) -> bool:
        """Whether the features of each image are computed only once."""
        return not (self.finetune or self.update_bn_stats or self.augment)

    def run_flags(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags to take from the run of the network, if it used the same data set.

        These are its data folder, split and workers, unless --data_dir is given or, for the others,
        they are given.
        """
        defaults = default_flags(TransferConfig)
        if self.dataset != run.get("dataset") or self.data_dir != defaults["data_dir"]:
            return {}
        names = [name for name in EvalDataConfig.DEFAULTS if name in run]
        return {n: run[n] for n in names if getattr(self, n) == defaults[n] != run[n]}

    def resolved(self, learning_rate: float) -> "TransferConfig":
        """Return these flags with weight decay and the published `learning_rate` filled in."""
        decay = 5e-4 if self.finetune or self.update_bn_stats else 0.0
        return replace(
            self,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
            learning_rate=self.learning_rate or learning_rate,
        )

    def folder(self, network: str) -> Path:
        """Return the run folder of a network by its architecture."""
        rate, decay = f"lr_{self.learning_rate:g}", f"decay_{self.weight_decay:g}"
        name = f"{file_name(network)}_{self.dataset}_{self.mode}_{rate}_{decay}"
        return Path(self.save_dir) / "ft" / "models" / f"{name}_trial_{self.trial}_{self.digest()}"
