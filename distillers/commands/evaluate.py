"""`distillers evaluate`: score a saved network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    images = data.load(name, config.data_dir, config.download)
    net, card = checkpoint.load_network(path, name=config.model, num_classes=images.num_classes)
    net = net.to(device)
    if card.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    test = run.evaluation_loader(images.test_images, images.test_labels, images, device)
    result = run.score(net, test.epoch(1))
    size = images.test_images.shape[-1]
    print(f"{path} on the {result.total} test images of {name}")
    print(f"test_acc       {result.acc!r}")
    print(f"test_acc_top5  {result.acc_top5!r}")
    print(f"test_loss      {result.loss!r}")
    print(f"correct        {result.correct}")
    print(f"parameters     {count_parameters(net)}")
    print(f"MACs           {count_macs(net.cpu(), size)}")


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
