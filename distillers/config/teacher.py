"""The flags of train_teacher.py; nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from distillers.config.flags import Fact, NotInGrid, Pretrained, Protocol
from distillers.config.train import TrainConfig
from distillers.files import file_name


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(TrainConfig):
    """Train a network on labels alone."""

    model: Annotated[str, Fact.OWN_COLUMN, NotInGrid("`teachers` and `pairs` name it")] = (
        "resnet32x4"
    )
    """Network to train (see `distillers list`)."""
    pretrained: Pretrained = None
    """Initial weights: a file, or without a value those published by timm or torchvision. A
    classifier for another number of classes is replaced."""
    protocol: Protocol = "simkd"
    """Published evaluation protocol: simkd reports the best test epoch, crd the last epoch."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD."""
    trial: Annotated[int, arg(aliases=["-t"])] = 0
    """Random seed; part of the run folder's name."""

    def folder(self) -> Path:
        """Return the run folder."""
        name = f"{file_name(self.model)}_vanilla_{self.dataset}_trial_{self.trial}_{self.digest()}"
        return Path(self.save_dir) / "teachers" / "models" / name
