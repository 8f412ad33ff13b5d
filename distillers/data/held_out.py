"""Stratified choice of training images to hold out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillers.errors import InputError


def held_out_rows(
    labels: Tensor, num_classes: int, fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the rows to hold out and the remaining rows, each ascending.

    The total is `fraction` of the images, rounded. Each class gives its exact share, rounded down
    or up (ties are broken by `seed`), but always keeps one image for training; larger classes
    give what it cannot. Images without a label are not held out.

    Args:
        labels: (N,) int64, -1 for images without a label.
        num_classes: number of classes.
        fraction: to hold out of every class, in [0, 1).
        seed: any integer.

    Raises:
        InputError: if a part would be empty although `fraction` is not 0, or a class would have
            no training image.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"fraction to hold out is {fraction}; it must be in [0, 1).")
    if bool((labels < 0).any()):
        return _of_labelled(labels, num_classes, fraction, seed)
    total = round(fraction * len(labels))
    if fraction > 0 and not 0 < total < len(labels):
        raise InputError(
            f"holding out {fraction} of {len(labels)} training images would select {total}, but "
            f"both parts need at least one; change --val_fraction, as to {1 / len(labels):.2g}."
        )
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    sizes = torch.bincount(labels, minlength=num_classes)
    room = (sizes - 1).clamp(min=0)
    most = int(room.sum())
    if total > most:
        fitting = f", --val_fraction {1000 * most // len(labels) / 1000:g}" if most else ""
        raise InputError(
            f"holding out {fraction} of {len(labels)} training images of {num_classes} classes "
            f"would leave classes without a training image; at most {most} can be held out"
            f"{fitting or ', so add images, or give test images in a folder of their own'}."
        )
    ties = torch.randperm(num_classes, generator=rng)
    counts = _shares(sizes.tolist(), room.tolist(), total, ties.tolist())
    by_class = order[labels[order].argsort(stable=True)]
    starts = sizes.cumsum(0) - sizes
    number = torch.arange(len(labels)) - starts[labels[by_class]]  # of an image within its class
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[number < torch.tensor(counts)[labels[by_class]]]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def _of_labelled(
    labels: Tensor, num_classes: int, fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the rows to hold out, of those with a label, and all remaining rows."""
    known = (labels >= 0).nonzero().flatten()
    if fraction > 0 and not len(known):
        raise InputError(
            f"--val_fraction {fraction:g} is held out of the images with labels, and no training "
            "image has one; leave it out."
        )
    held_out = known[:0]
    if fraction > 0:
        held_out = known[held_out_rows(labels[known], num_classes, fraction, seed)[0]]
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return held_out, kept.nonzero().flatten()


def _shares(
    sizes: Sequence[int], room: Sequence[int], total: int, ties: Sequence[int]
) -> list[int]:
    """Divide `total` among classes by the largest remainder method, at most `room` of each.

    Args:
        sizes: images of each class.
        room: most images that each class can give; their sum is at least `total`.
        total: images to give.
        ties: the classes in the order that breaks ties.
    """
    whole = sum(sizes)
    exact = [size * total / whole for size in sizes]
    counts = [min(size * total // whole, most) for size, most in zip(sizes, room, strict=True)]
    while sum(counts) < total:
        free = [label for label in ties if counts[label] < room[label]]
        counts[max(free, key=lambda label: exact[label] - counts[label])] += 1
    return counts
