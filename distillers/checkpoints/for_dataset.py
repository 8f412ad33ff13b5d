"""Any saved network, ONNX files too, made ready for one data set and device."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillers import data
from distillers.checkpoints import input_adapter as inputs
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.load import Ready, best_of, load
from distillers.checkpoints.onnx import OnnxNetwork
from distillers.config.data import DecodeOptions
from distillers.config.scoring import ScoringConfig
from distillers.data.source import DataSource
from distillers.distributed.world import complain
from distillers.errors import InputError
from distillers.models.profile import count_macs, count_parameters


def read(path: Path, model: str | None = None, teacher: Ready | None = None) -> Ready:
    """The network in a file or a run's folder; that of an ONNX file is run by onnxruntime.

    Args:
        path: where it is.
        model: the architecture, where the file does not tell.
        teacher: of a SimKD file of its authors' code.

    Raises:
        InputError: when it cannot be had.
    """
    path = best_of(path)
    if path.suffix == ".onnx":
        net = OnnxNetwork(path)
        return Ready(net, net.card)
    if path.suffix == ".pt2" or teacher is None:
        return load(path, model=model)
    return Ready(*checkpoint.load_network(path, name=model, teacher=teacher.net))


def test_source(flags: ScoringConfig, card: dict[str, Any], path: Path | str) -> DataSource:
    """The data set to score a network on, at the image size of the network where it is its own.

    Args:
        flags: of the command.
        card: of the network.
        path: of its file, for the message.

    Raises:
        InputError: when neither flags nor card name a data set, or it is not there.
    """
    name = flags.dataset or card.get("dataset")
    if name is None:
        raise InputError(f"{path} does not name its data set; give it with --dataset.")
    own = card if name == card.get("dataset") else {}
    reading = DecodeOptions(
        flags.image_size or own.get("image_size"),
        flags.num_workers,
        flags.on_bad_image,
        flags.val_fraction,
    )
    source = data.source_of(name, flags.data_dir, flags.download, reading)
    # the network's own statistics, so that the accuracy of training is repeated to the bit
    return inputs.normalised(source, own.get("mean"), own.get("std"))


def fitted(ready: Ready, source: DataSource, path: Path | str, device: torch.device) -> nn.Module:
    """The network on a device, behind what turns the data set's images into those that it knows.

    Raises:
        InputError: when it tells another number of classes apart.
    """
    classes = ready.card.get("num_classes")
    if classes not in (None, source.num_classes):
        raise InputError(
            f"{path} tells {classes} classes apart, the data set has {source.num_classes}."
        )
    told = inputs.other_classes(ready.card, source, path)
    if told and ready.card.get("dataset") == source.name:
        raise InputError(told)
    if told:  # perhaps the same by other names
        complain(f"WARNING: {told}")
    size = (source.image_size, source.image_size)
    net = inputs.adapted(ready.net, ready.card, mean=source.mean, std=source.std, size=size)
    if ready.card.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    return net.to(device).eval()


def costs(ready: Ready, image_size: int) -> tuple[Any, Any]:
    """Parameters and multiply-accumulates; of an ONNX file those that its card tells."""
    if isinstance(ready.net, OnnxNetwork):
        unknown = "unknown (the file has no card)"
        return ready.card.get("parameters", unknown), ready.card.get("macs", unknown)
    size = ready.card.get("image_size", image_size)
    return count_parameters(ready.net), count_macs(ready.net.cpu(), size)
