"""Sampling: which images each process loads, as a pure function of seed and epoch."""

import hashlib

import torch
from torch import Tensor

from distillers.errors import InputError


def generator(seed: int | str, epoch: int) -> torch.Generator:
    """Return the RNG of an epoch, on the CPU, where it gives the same numbers on every machine."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))


def balanced_order(labels: Tensor, rng: torch.Generator) -> Tensor:
    """Return the rows of an epoch in random order, equally many of each class, (N,) int64.

    The rows of a class follow one another in random permutations, so that in an epoch each comes
    equally often, or once more. Where the classes do not divide the images, random ones give one
    more.
    """
    classes = labels.unique()
    share, rest = divmod(len(labels), len(classes))
    counts = torch.full((len(classes),), share)
    counts[torch.randperm(len(classes), generator=rng)[:rest]] += 1
    drawn = []
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        rows = (labels == label).nonzero().flatten()
        times = -(-count // len(rows))
        orders = [rows[torch.randperm(len(rows), generator=rng)] for _ in range(times)]
        drawn.append(torch.cat([rows[:0], *orders])[:count])
    chosen = torch.cat(drawn)
    return chosen[torch.randperm(len(chosen), generator=rng)]


def occurrences(order: Tensor) -> Tensor:
    """Return how often each entry of an order came before in it, (n,) int64."""
    by_row = order.argsort(stable=True)
    rows = order[by_row]
    positions = torch.arange(len(order))
    starts = torch.ones(len(order), dtype=torch.bool)
    starts[1:] = rows[1:] != rows[:-1]
    first = torch.where(starts, positions, 0).cummax(0).values
    return torch.empty_like(order).index_copy_(0, by_row, positions - first)


def rank_indices(
    num: int,
    batch_size: int,
    rank: int,
    world_size: int,
    drop_last: bool,
    whole_batches: bool = False,
) -> Tensor:
    """Return the positions in the order of an epoch that one process loads, (m,) int64.

    Batches of `world_size * batch_size` of the `num` images are split among the processes;
    `drop_last` leaves out the last one if it is smaller. With `whole_batches` the batches of a
    single process are dealt out in turn instead.
    """
    if whole_batches:
        mine = torch.arange(num).split(batch_size)[rank::world_size]
        return torch.cat(mine) if mine else torch.empty(0, dtype=torch.int64)
    whole = batch_size * world_size
    rest, done = num % whole, num // whole * whole
    full = torch.arange(done).view(-1, world_size, batch_size)[:, rank].flatten()
    if drop_last:
        return full
    last = torch.arange(rest * rank // world_size, rest * (rank + 1) // world_size)
    return torch.cat([full, done + last])


def check_epoch_size(
    num: int, batch_size: int, world_size: int, shuffle: bool, drop_last: bool
) -> None:
    """Check that an epoch has a batch, and that every process gets a part of each.

    Raises:
        InputError: with a batch size that works.
    """
    whole = batch_size * world_size
    if drop_last and num < whole:
        each = f" in each of {world_size} processes" if world_size > 1 else ""
        fitting = num // world_size * world_size
        smaller = f"--batch_size {fitting} or less, or " if fitting else ""
        raise InputError(
            f"{num} images do not fill one batch of {batch_size}{each}, and smaller batches are "
            f"left out; use {smaller}--protocol crd (drop_last=False), which keeps them."
        )
    if shuffle and not drop_last and 0 < num % whole < world_size:
        raise InputError(
            f"the last {num % whole} of {num} images cannot be divided among {world_size} "
            "processes, so some would wait forever for a batch of the others; use "
            "drop_last=True or another batch size."
        )


def check_epoch(number: int, start_batch: int, num_batches: int) -> None:
    """Check the numbers of an epoch and of its first batch.

    Raises:
        InputError: if one is out of range.
    """
    if number < 1:
        raise InputError(f"epoch is {number}; epochs count from 1.")
    if not 0 <= start_batch <= num_batches:
        raise InputError(
            f"start_batch is {start_batch}; an epoch has {num_batches} batches, "
            f"so it must be in 0 to {num_batches}."
        )
