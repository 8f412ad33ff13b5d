"""The rows of all processes of a distributed run, for losses that compare the images of a batch.

Every function is the identity where there is one process. In a distributed run every process must
make the same calls in the same order, as processes that run the same loss do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Rows of each process where they are not equally many, as in the last batch of an epoch.
_COUNTS: ContextVar[tuple[int, ...]] = ContextVar("counts", default=())


def num_ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def uneven_batch(counts: tuple[int, ...]) -> Iterator[None]:
    """Inside, process r has `counts[r]` rows of the batch; else all have equally many."""
    token = _COUNTS.set(counts)
    try:
        yield
    finally:
        _COUNTS.reset(token)


def total_rows(x: Tensor) -> int:
    """Rows of all processes together, of which `x` (n, ...) has this one's."""
    return sum(_COUNTS.get()) if _uneven() else len(x) * num_ranks()


def first_row(x: Tensor) -> int:
    """The place of the first row of `x` (n, ...) among those of all processes."""
    if num_ranks() == 1:
        return 0
    rank = dist.get_rank()
    return sum(_COUNTS.get()[:rank]) if _uneven() else len(x) * rank


@torch.no_grad()
def all_gather_rows(x: Tensor) -> Tensor:
    """(all rows, ...) of `x` (n, ...) of each process, in the order of ranks; no gradient passes.

    Args:
        x: has a row for each image of this process's part of the batch.
    """
    if num_ranks() == 1:
        return x.detach()
    own = x.detach().contiguous()
    if not _uneven():
        return _gather(own)
    counts = _COUNTS.get()
    padded = own.new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own
    parts = _gather(padded).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@torch.no_grad()
def all_gather_stack(x: Tensor) -> Tensor:
    """(processes, ...) of `x` (...) of each process, in the order of ranks; no gradient passes."""
    return _gather(x.detach()[None].contiguous())


def gathered(x: Tensor, gather: bool = True) -> Tensor:
    """(all rows, ...) of `x` (n, ...) of each process, in the order of ranks, with gradient.

    The gradient is that of the SUM of all processes' losses. As their gradients are averaged
    afterwards, each process may take the mean over its own rows against all, or the whole loss of
    all rows: both give the gradient that one process has with all rows.

    Args:
        x: the rows of this process.
        gather: False gives `x` itself.
    """
    return _Gather.apply(x) if gather and num_ranks() > 1 else x


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards, the sum of what all processes ask of a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = slice(first_row(x), first_row(x) + len(x))
        ctx.even = not _uneven()
        return all_gather_rows(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        if not ctx.even:
            grad = grad.clone()
            dist.all_reduce(grad)
            return grad[ctx.rows]
        own = torch.empty_like(grad[ctx.rows])
        dist.reduce_scatter_tensor(own, grad)
        return own


def _gather(x: Tensor) -> Tensor:
    if num_ranks() == 1:
        return x
    together = x.new_empty(num_ranks() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(together, x)
    return together


def _uneven() -> bool:
    return len(set(_COUNTS.get())) > 1
