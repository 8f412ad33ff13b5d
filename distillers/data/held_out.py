"""Stratified choice of training images to hold out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillers.data.sampling import occurrences
from distillers.errors import InputError


def held_out_rows(
    labels: Tensor, num_classes: int, fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the rows of images with labels (N,) int64 to hold out and the others, each ascending.

    The total is `fraction` of the images with a label, rounded. Each class gives its exact share,
    rounded down or up (ties are broken by `seed`), but always keeps one image for training; larger
    classes give what it cannot. Images without a label (-1) are not held out.

    Raises:
        InputError: if a part would be empty although `fraction` is not 0, or a class would have
            no training image.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"fraction to hold out is {fraction}; it must be in [0, 1).")
    if fraction == 0:
        return torch.arange(0), torch.arange(len(labels))
    known = (labels >= 0).nonzero().flatten()
    if not len(known):
        raise InputError(
            f"--val_fraction {fraction:g} is held out of the images with labels, and no training "
            "image has one; leave it out."
        )
    total = round(fraction * len(known))
    if not 0 < total < len(known):
        raise InputError(
            f"holding out {fraction} of {len(known)} training images would select {total}, but "
            f"both parts need at least one; change --val_fraction, as to {1 / len(known):.2g}."
        )
    sizes = torch.bincount(labels[known], minlength=num_classes)
    room = (sizes - 1).clamp(min=0)
    most = int(room.sum())
    if total > most:
        fitting = f", --val_fraction {1000 * most // len(known) / 1000:g}" if most else ""
        raise InputError(
            f"holding out {fraction} of {len(known)} training images of {num_classes} classes "
            f"would leave classes without a training image; at most {most} can be held out"
            f"{fitting or ', so add images, or give test images in a folder of their own'}."
        )
    rng = torch.Generator().manual_seed(seed)
    order = known[torch.randperm(len(known), generator=rng)]
    ties = torch.randperm(num_classes, generator=rng)
    counts = torch.tensor(_shares(sizes.tolist(), room.tolist(), total, ties.tolist()))
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    is_held_out[order[occurrences(labels[order]) < counts[labels[order]]]] = True
    return is_held_out.nonzero().flatten(), (~is_held_out).nonzero().flatten()


def _shares(
    sizes: Sequence[int], room: Sequence[int], total: int, ties: Sequence[int]
) -> list[int]:
    """Divide `total` among classes of some sizes by the largest remainder method.

    Each gets at most `room`, whose sum is at least `total`. `ties` are the classes in the order
    that breaks ties.
    """
    whole = sum(sizes)
    exact = [size * total / whole for size in sizes]
    counts = [min(size * total // whole, most) for size, most in zip(sizes, room, strict=True)]
    while sum(counts) < total:
        free = [label for label in ties if counts[label] < room[label]]
        counts[max(free, key=lambda label: exact[label] - counts[label])] += 1
    return counts
