"""Rename the weights of networks' own projects as timm does when it publishes them."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
import torch

from distillers import models

if TYPE_CHECKING:
    from distillers.checkpoints.architecture import Weights

# What a conversion raises for the weights of another network.
MISFITS = (AttributeError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)


def renamed_by_timm(name: str, candidates: Iterable["Weights"], size: int) -> Iterator["Weights"]:
    """Yield sets of weights as timm reads them from the files of DINOv2, MAE, Swin and others.

    Args:
        name: of a network; nothing is yielded if it is not timm's.
        candidates: the sets of weights in a file.
        size: side of the images in pixels for which the network is built.
    """
    library, _, network = name.partition(":")
    if library != "timm":
        return
    module = sys.modules[timm.model_entrypoint(network).__module__]
    convert: Any = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return
    net = models.create(name, image_size=size)
    for weights in candidates:
        try:
            with torch.no_grad():
                state = convert(dict(weights.state), net)
        except MISFITS:
            continue
        if isinstance(state, dict):
            yield replace(weights, state=state)
