"""Training images to calibrate a quantisation with, prepared as in the evaluation of training."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distillers.checkpoints.input_adapter import adapt_input
from distillers.data.datasets.folder_set import FolderSet
from distillers.data.source import DataSource
from distillers.errors import InputError

SEED = 0


def calibration_images(source: DataSource, card: dict[str, Any], count: int) -> Tensor:
    """Return training images as the network of a card takes them, about equally many of each class.

    Args:
        source: the data set.
        card: of the network.
        count: number of images; all of the training images if there are fewer.

    Returns:
        (n, c, h, w) float32.

    Raises:
        InputError: if the data set has no training images.
    """
    if isinstance(source, FolderSet):
        source = replace(source, is_split=False)  # its training images may be sampled all the same
    total = len(source.train_labels)
    if not total:
        raise InputError("quantisation is calibrated on training images, and there are none.")
    loader = source.train_eval_loader(torch.device("cpu"))
    if count < total:
        held_out = source.split(count / total, SEED)[1]
        assert held_out is not None  # it is None only for a fraction of 0
        loader = held_out.test_loader(torch.device("cpu"))
    size = (source.image_size, source.image_size)
    adapted = adapt_input(nn.Identity(), card, mean=source.mean, std=source.std, size=size)
    return torch.cat([adapted(batch.images) for batch in loader.epoch(1)])
