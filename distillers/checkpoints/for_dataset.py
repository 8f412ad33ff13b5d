"""Prepare a loaded network for a data set and a device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillers import data
from distillers.checkpoints.input_adapter import adapt_input, class_mismatch, with_normalization
from distillers.checkpoints.load import Classifier
from distillers.checkpoints.onnx import RuntimeNetwork
from distillers.config.scoring import EvalDataConfig, read_run_flags
from distillers.data.source import DataSource
from distillers.errors import InputError, complain
from distillers.models.profile import count_macs, count_parameters


def find_test_source(flags: EvalDataConfig, card: dict[str, Any], path: Path | str) -> DataSource:
    """Return the data set to evaluate a network on.

    On the data set that it was trained on, flags that are not given have the values of training.

    Raises:
        InputError: if neither flags, card nor run name a data set, or it is missing.
    """
    run = read_run_flags(path)
    name = flags.dataset or card.get("dataset") or run.get("dataset")
    if name is None:
        raise InputError(f"{path} does not name its data set; give it with --dataset.")
    own = card if name == card.get("dataset") else {}
    run = run if name == run.get("dataset") else {}
    data_dir, options = flags.decode_options(run, own.get("image_size"))
    if own.get("class_names"):
        options = replace(options, class_names=tuple(own["class_names"]))
    source = data.source_of(name, data_dir, flags.download, options)
    # The statistics of training, so that its accuracy is reproduced to the bit.
    return with_normalization(source, own.get("mean"), own.get("std"))


def for_dataset(
    classifier: Classifier, source: DataSource, path: Path | str, device: torch.device
) -> nn.Module:
    """Return the network on a device, with an adapter for the data set's images if needed.

    Raises:
        InputError: if its classes are not those of the data set.
    """
    classes = classifier.card.get("num_classes")
    if classes == 0:
        raise InputError(
            f"{path} has no classifier. `distillers transfer` trains one; a student can have it as "
            "its teacher with --teacher_head, or start from it with --pretrained."
        )
    if classes not in (None, source.num_classes):
        raise InputError(
            f"{path} has {classes} classes, the data set has {source.num_classes}. Name the data "
            "set that it was trained on (--dataset, --data_dir), or give it a new classifier with "
            "`distillers transfer`."
        )
    mismatch = class_mismatch(classifier.card, source, path)
    if mismatch and classifier.card.get("dataset") == source.name:
        raise InputError(mismatch)
    if mismatch:  # possibly the same classes under other names
        complain(f"WARNING: {mismatch}")
    net = adapt_input(classifier.net, classifier.card, source)
    if classifier.card.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    return net.to(device).eval()


def count_costs(classifier: Classifier, image_size: int) -> tuple[int | str, int | str]:
    """Return the numbers of parameters and multiply-accumulates, for ONNX and IR from the card."""
    if isinstance(classifier.net, RuntimeNetwork):
        unknown = "unknown (the file has no card)"
        return classifier.card.get("parameters", unknown), classifier.card.get("macs", unknown)
    size = classifier.card.get("image_size", image_size)
    return count_parameters(classifier.net), count_macs(classifier.net.cpu(), size)
