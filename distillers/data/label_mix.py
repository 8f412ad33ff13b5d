"""The order of an epoch in which some images have no label: a fixed share of every batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from distillers.data.sampling import generator
from distillers.errors import InputError

UNLABELLED = -1  # the label of an image without a label


class EpochOrder(NamedTuple):
    """The images of an epoch in all processes' order.

    Attributes:
        rows: (N,) int64, rows of the training set.
        rng: the RNG that drew them; augmentations are drawn from it next.
        turns: (N,) int64, how often each image was seen up to here, from 1.
    """

    rows: Tensor
    rng: torch.Generator
    turns: Tensor


def has_unlabelled(labels: Tensor) -> bool:
    """Return whether some of the images with these labels (N,) have none."""
    return bool((labels < 0).any())


class LabelMix:
    """Order of labelled and unlabelled images: evenly interleaved, each kind in shuffled passes.

    An epoch has as many places as there are images. Without `share` each image has one place. With
    it, unlabelled images have that share of the places, and a kind that has fewer images than
    places is repeated, while one that has more continues in the next epoch where it stopped. Which
    image has which place is a pure function of the seed and the epoch.

    Places come in pairs of one kind, because mixup and CutMix mix neighbors.

    Args:
        labels: (N,) int64, `UNLABELLED` for images without a label.
        share: of unlabelled images in each batch, in (0, 1); None for that of the data.
        seed: of the run.

    Raises:
        InputError: if a share is given although all or no images have labels.
    """

    def __init__(self, labels: Tensor, share: float | None, seed: int) -> None:
        self._seed = seed
        known = labels.cpu() >= 0
        self._kinds = known.nonzero().flatten(), (~known).nonzero().flatten()
        counts = [len(kind) for kind in self._kinds]
        if share is not None:
            if not all(counts):
                which = "no image has a label" if not counts[0] else "every image has a label"
                raise InputError(f"--unlabelled_share {share:g} cannot be met: {which}.")
            total = sum(counts)
            unlabelled = min(max(round(share * total), 1), total - 1)
            counts = [total - unlabelled, unlabelled]
        self._counts = counts
        # Pair i of a kind with n places is at (2 i + 1) / n of the epoch.
        at = [(torch.arange(n) // 2 * 2 + 1) / max(n, 1) for n in counts]
        self._places = torch.cat(at).argsort(stable=True)

    def order(self, number: int) -> EpochOrder:
        """Return the order of an epoch, from 1."""
        each = [self._passes(kind, number) for kind in range(2)]
        rows, turns = (torch.cat(parts)[self._places] for parts in zip(*each, strict=True))
        return EpochOrder(rows, generator(self._seed, number), turns)

    def _passes(self, kind: int, number: int) -> tuple[Tensor, Tensor]:
        """Return rows and turns of the images of one kind in an epoch, before interleaving."""
        rows, count = self._kinds[kind], self._counts[kind]
        if not count:
            return rows, rows
        places = torch.arange(count) + (number - 1) * count
        turns = places // len(rows)
        passes = [
            torch.randperm(len(rows), generator=generator(f"{self._seed} {kind}", turn))
            for turn in range(int(turns[0]), int(turns[-1]) + 1)
        ]
        return rows[torch.cat(passes)[places - turns[0] * len(rows)]], turns + 1
