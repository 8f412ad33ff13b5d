"""`distillers evaluate`: score a saved network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from distillers.cli import parse
from distillers.errors import InputError


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a saved network on the test images of its data set."""

    path: tyro.conf.Positional[str]
    """A checkpoint, or a run's folder (its best checkpoint is taken)."""
    dataset: str | None = None
    """Left out: the one that the checkpoint was trained on."""
    model: str | None = None
    """The architecture, where the checkpoint does not tell."""
    data_dir: str = "./data"
    """Where data sets lie, or are downloaded to."""
    download: bool = True
    """Download a data set that is not there."""
    image_size: int | None = None
    """Of images in folders. Left out: what the network was trained on."""
    num_workers: int = 8
    """Processes that decode images in folders."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be read: stop, or count it and score without it."""
    val_fraction: float = 0.0
    """As in training, for a folder without train/ and val/."""
    gpu_id: str | None = None
    """The GPU to use, or "cpu". Left out: the first GPU where there is one."""


def main(args: Sequence[str]) -> None:
    """Print loss and accuracies, parameters and multiply-accumulates of the deployed network."""
    config = parse(EvaluateConfig, args, "distillers evaluate")

    import torch

    from distillers import checkpoint, data, run
    from distillers.models.measure import count_macs, count_parameters

    path = best_of(Path(config.path))
    device = run.device_of(config.gpu_id)
    net, card = checkpoint.load_network(path, name=config.model)
    name = config.dataset or card.get("dataset")
    if name is None:
        raise InputError(f"{path} does not tell its data set; name it with --dataset.")
    own = name == card.get("dataset")
    reading = data.Reading(
        config.image_size or (card.get("image_size") if own else None),
        config.num_workers,
        config.on_bad_image,
        config.val_fraction,
    )
    source = data.source_of(name, config.data_dir, config.download, reading)
    net, card = checkpoint.load_network(path, name=config.model, num_classes=source.num_classes)
    net = net.to(device)
    if card.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    result = run.score(net, source.test_loader(device).epoch(1))
    print(f"{path} on the {result.total} test images of {name}")
    print(f"test_acc       {result.acc!r}")
    print(f"test_acc_top5  {result.acc_top5!r}")
    print(f"test_loss      {result.loss!r}")
    print(f"correct        {result.correct}")
    print(f"parameters     {count_parameters(net)}")
    print(f"MACs           {count_macs(net.cpu(), source.image_size)}")


def best_of(path: Path) -> Path:
    """`path`, or the best checkpoint in it where it is a run's folder."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*_best.pth"))
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found)} files called *_best.pth; name the one to score."
        )
    return found[0]
