"""The flags of train_teacher.py; nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from distillers.config.flags import Fact, NotInGrid, Protocol
from distillers.config.train import InitialNetworkConfig, refuse_dot
from distillers.files import file_name


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(InitialNetworkConfig):
    """Train a network on labels alone."""

    COMMAND: ClassVar[str] = "teacher"

    model: Annotated[str, Fact.OWN_COLUMN, NotInGrid("`teachers` and `pairs` name it")] = (
        "resnet32x4"
    )
    """Network to train (see `distillers list`)."""
    protocol: Protocol = "simkd"
    """Published evaluation protocol: simkd reports the best test epoch and leaves out the last
    batch of an epoch if it is smaller, crd reports the last epoch."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD, or weight decay of --opt."""
    trial: Annotated[int, arg(aliases=["-t"])] = 0
    """Random seed; part of the run folder's name."""

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.model

    def check(self) -> None:
        """Check the flags, alone and together; see `TrainConfig.check`."""
        super().check()
        refuse_dot(self)

    def folder(self) -> Path:
        """Return the run folder."""
        name = f"{file_name(self.model)}_vanilla_{self.dataset}_trial_{self.trial}_{self.digest()}"
        return Path(self.save_dir) / "teachers" / "models" / name
