"""Inputs and parameters drawn from a text, so that numbers agree on every machine.

The values come from numpy's legacy generator, whose stream numpy keeps fixed across releases,
seeded with the CRC-32 of the text.
"""

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

FILLED_KINDS = ("weight", "bias", "running_mean", "running_var")


def draw(tag: str, *shape: int) -> Tensor:
    """Standard normal float32 numbers of `shape`, always the same for the same `tag`."""
    generator = np.random.RandomState(zlib.crc32(tag.encode()))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def fill_by_key(module: nn.Module) -> None:
    """Fill a network by the names in its state dict.

    Equal outputs afterwards prove equal names as well as equal wiring.
    """
    for key, tensor in module.state_dict().items():
        kind = key.rpartition(".")[2]
        if kind != "num_batches_tracked":
            _overwrite(tensor, _values(kind, key, tuple(tensor.shape)))


def fill_by_shape(module: nn.Module) -> None:
    """Fill a loss's projections by kind and shape, so that their names are free.

    A 1 x 1 convolution gets the values of the linear layer of the same widths.
    """
    for key, tensor in module.state_dict().items():
        kind = key.rpartition(".")[2]
        if kind in FILLED_KINDS:
            shape = tuple(tensor.shape)
            while len(shape) > 2 and shape[-1] == 1:
                shape = shape[:-1]
            _overwrite(tensor, _values(kind, f"{kind}:{shape}", shape).reshape(tensor.shape))


def _overwrite(tensor: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(values)


def _values(kind: str, tag: str, shape: tuple[int, ...]) -> Tensor:
    noise = draw(tag, *shape)
    match kind:
        case "weight" if len(shape) > 1:
            return noise * math.sqrt(2.0 / math.prod(shape[1:]))
        case "weight":  # the scale of a normalization layer
            return 1 + 0.1 * noise
        case "bias" | "running_mean":
            return 0.1 * noise
        case "running_var":
            return 1 + 0.1 * noise.abs()
        case _:
            raise KeyError(f"no values for {tag!r}: its last word is none of {FILLED_KINDS}")
