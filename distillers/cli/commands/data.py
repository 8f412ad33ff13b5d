"""`distillers data prepare`: unpack the official archives of ImageNet or Tiny ImageNet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from distillers.config.parsing import parse


@dataclass(frozen=True)
class DataConfig:
    """Unpack official archives into the folders that training reads; goes on where it stopped."""

    action: Positional[Literal["prepare"]]
    """What to do."""
    dataset: Positional[Literal["imagenet", "tinyimagenet"]]
    """ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz or
    LOC_val_solution.csv; or tiny-imagenet-200.zip."""
    source: Annotated[str, arg(name="from")]
    """The folder with the archives."""
    to: str
    """Where to make train/ and val/: DATA_DIR, or DATA_DIR/imagenet."""
    check: bool = True
    """Compare the archives with the official checksums first."""


def main(args: Sequence[str]) -> None:
    """Unpack, and say where to."""
    config = parse(DataConfig, args, "distillers data")

    from distillers.data.datasets.prepare import imagenet, tinyimagenet

    prepare = {"imagenet": imagenet, "tinyimagenet": tinyimagenet}[config.dataset]
    to = Path(config.to).expanduser()
    prepare(Path(config.source).expanduser(), to, config.check)
    print(f"{config.dataset} is ready: --dataset {config.dataset} --data_dir {to}")
