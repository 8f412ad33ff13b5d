"""`distillers data prepare`: extract the official archives of ImageNet or Tiny ImageNet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from distillers.config.parsing import parse


@dataclass(frozen=True)
class DataConfig:
    """Extract official archives into the layout that training reads; resumes if interrupted."""

    action: Positional[Literal["prepare"]]
    """Action."""
    dataset: Positional[Literal["imagenet", "tinyimagenet"]]
    """Data set. Archives of imagenet: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, and
    ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv; of tinyimagenet:
    tiny-imagenet-200.zip."""
    source: Annotated[str, arg(name="from")]
    """Folder of the archives."""
    to: str
    """Folder in which train/ and val/ are created: DATA_DIR, or DATA_DIR/imagenet."""
    check: bool = True
    """Verify the official checksums of the archives first."""


def main(args: Sequence[str]) -> None:
    """Extract the archives and print the flags to train on them."""
    config = parse(DataConfig, args, "distillers data")

    from distillers.data.datasets.prepare import imagenet, tinyimagenet

    prepare = {"imagenet": imagenet, "tinyimagenet": tinyimagenet}[config.dataset]
    to = Path(config.to).expanduser()
    prepare(Path(config.source).expanduser(), to, config.check)
    print(f"{config.dataset} is ready: --dataset {config.dataset} --data_dir {to}")
