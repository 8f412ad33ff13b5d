"""Stratified choice of training images to hold out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillers.errors import InputError


def held_out_rows(
    labels: Tensor, num_classes: int, fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the rows to hold out and the remaining rows, each ascending; see `images.hold_out`.

    Args:
        labels: (N,) int64.
        num_classes: number of classes.
        fraction: to hold out of every class, in [0, 1).
        seed: any integer.

    Raises:
        InputError: if a part would be empty although `fraction` is not 0.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"fraction to hold out is {fraction}; it must be in [0, 1).")
    total = round(fraction * len(labels))
    if fraction > 0 and not 0 < total < len(labels):
        raise InputError(
            f"holding out {fraction} of {len(labels)} training images would select {total}; "
            "both parts need at least one."
        )
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    counts = _shares(torch.bincount(labels, minlength=num_classes).tolist(), total)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        chosen[order[labels[order] == label][:count]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Divide `total` among classes in proportion to their sizes (largest remainder method)."""
    whole = sum(sizes)
    counts = [size * total // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(sizes[i] * total % whole))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
