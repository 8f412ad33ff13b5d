"""The flags of transfer_student.py; nothing here imports torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from distillers.config.flags import Milestones
from distillers.config.train import TrainConfig
from distillers.errors import InputError
from distillers.files import file_name

SIZE = 32  # of the published protocol's images


@dataclass(frozen=True, kw_only=True)
class TransferConfig(TrainConfig):
    """Train a new classifier on a trained backbone, or the whole network, for another data set."""

    path_s: str | None = None
    """The network: a checkpoint, or a run's folder (its best checkpoint is taken)."""
    model_s: str | None = None
    """Its architecture, where the checkpoint does not tell."""
    path_t: str | None = None
    """Its teacher's checkpoint, for a SimKD file of its authors' code."""
    mode: Literal["linear", "finetune"] = "linear"
    """Train only the classifier (a linear probe), or everything."""
    protocol: Literal["fixed", "public"] = "fixed"
    """fixed: BatchNorm statistics stay, the last epoch is reported. public, as published: they
    drift, also under a linear probe, images of 32 x 32, the best test epoch."""
    augment: bool = False
    """Linear probe: crop and flip the images anew in every epoch, instead of computing their
    embeddings once. Always so with --mode finetune and --protocol public."""
    dataset: str = "stl10"
    """stl10, tinyimagenet, cifar10, folder (your own images), ... (see `distillers list`)."""
    image_size: int | None = None
    """Pixels on a side of the images. Left out: what the network was trained on."""
    epochs: int = 120
    """Passes over the training set; they count from 1."""
    learning_rate: float | None = None
    """Left out: 0.05, but 0.01 for MobileNetV2 and the ShuffleNets, as published."""
    lr_decay_epochs: Milestones = (30, 60, 90)
    """The rate drops after each of these epochs."""
    weight_decay: float | None = None
    """L2 penalty of SGD. Left out: 0 for a linear probe, 5e-4 for --mode finetune and --protocol
    public."""
    save_freq: int = 50
    """Epochs between two checkpoints that are kept; 0 keeps only last and best."""
    trial: Annotated[int, arg(aliases=["-t"])] = 0
    """The seed, and part of the folder's name."""

    def check(self) -> None:
        """Refuse what cannot work; see `TrainConfig.check`."""
        super().check()
        if not self.path_s:
            raise InputError("--path_s is missing: the checkpoint of the network to transfer.")
        if self.protocol == "public" and self.image_size not in (None, SIZE):
            raise InputError(
                f"--image_size is {self.image_size}; --protocol public has images of {SIZE}."
            )

    @property
    def drifts(self) -> bool:
        """Whether BatchNorm takes its statistics from each batch, and so moves them."""
        return self.protocol == "public"

    @property
    def learns(self) -> bool:
        """Whether the backbone's weights are trained."""
        return self.mode == "finetune"

    @property
    def embeds(self) -> bool:
        """Whether each image's embedding is computed only once."""
        return not (self.learns or self.drifts or self.augment)

    def resolved(self, learning_rate: float) -> "TransferConfig":
        """The same with a number for every one that was left out.

        Args:
            learning_rate: the published one of the network.
        """
        decay = 5e-4 if self.learns or self.drifts else 0.0
        return replace(
            self,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
            learning_rate=self.learning_rate or learning_rate,
        )

    def folder(self, network: str) -> Path:
        """The run's folder."""
        rate, decay = f"lr_{self.learning_rate:g}", f"decay_{self.weight_decay:g}"
        name = f"{file_name(network)}_{self.dataset}_{self.mode}_{rate}_{decay}"
        return Path(self.save_dir) / "ft" / "models" / f"{name}_trial_{self.trial}_{self.digest()}"
