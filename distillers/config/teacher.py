"""The flags of train_teacher.py; nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from distillers.config.flags import Pretrained, Protocol
from distillers.config.train import TrainConfig
from distillers.files import file_name


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(TrainConfig):
    """Train a network on labels alone."""

    model: str = "resnet32x4"
    """The network (see `distillers list`)."""
    pretrained: Pretrained = None
    """Start from the weights in this file, or without one from those that timm or torchvision
    publish; a classifier of another number of classes is made anew."""
    protocol: Protocol = "simkd"
    """Whose rules: simkd reports the best test epoch, crd the last."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD."""
    trial: Annotated[int, arg(aliases=["-t"])] = 0
    """The seed, and part of the folder's name."""

    def folder(self) -> Path:
        """The run's folder."""
        name = f"{file_name(self.model)}_vanilla_{self.dataset}_trial_{self.trial}_{self.digest()}"
        return Path(self.save_dir) / "teachers" / "models" / name
