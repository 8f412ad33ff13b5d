"""Weights of classes in the losses with the labels."""

from collections.abc import Sequence

from torch import Tensor

from distillers.distributed.collectives import all_gather_rows
from distillers.losses.ops import require


def check_class_weight(class_weight: Sequence[float]) -> tuple[float, ...]:
    """Return the weights as a tuple.

    Raises:
        ValueError: if one is not a positive number.
    """
    for weight in class_weight:
        require.positive(class_weight=weight)
    return tuple(class_weight)


def weight_row(class_weight: Sequence[float], logits: Tensor) -> Tensor:
    """Return the weights (k,) with the device and type of logits (n, k).

    Raises:
        ValueError: if there is not one for each class.
    """
    if len(class_weight) != logits.shape[1]:
        raise ValueError(
            f"class_weight has {len(class_weight)} numbers; there are {logits.shape[1]} classes."
        )
    return logits.new_tensor(class_weight)


def weighted_mean(values: Tensor, weights: Tensor, rows_per_rank: tuple[int, ...] = ()) -> Tensor:
    """Return the sum of weighted losses, divided by the sum of the weights of all processes.

    The mean over processes, each with its share of the images, is then that of one process.

    Args:
        values: (n,) loss of each image, times its weight.
        weights: (n,) weight of each image, without gradient.
        rows_per_rank: as `Batch.rows_per_rank`.
    """
    every = all_gather_rows(weights, rows_per_rank)
    return values.sum() * (len(every) / max(len(values), 1)) / every.sum()
