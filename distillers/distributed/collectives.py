"""Gather the rows of all processes, for losses that compare the images of a batch.

Every function is the identity in a single process. In a distributed run all processes must make the
same calls in the same order, as processes that run the same loss do.

`rows_per_rank` is the number of rows of each process by rank, as `Batch.rows_per_rank`. If it is
empty, all processes have equally many.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total_rows(x: Tensor, rows_per_rank: tuple[int, ...] = ()) -> int:
    """Return the number of rows of all processes, of which `x` (n, ...) has those of this one."""
    return sum(rows_per_rank) if _is_uneven(rows_per_rank) else len(x) * num_ranks()


def first_row(x: Tensor, rows_per_rank: tuple[int, ...] = (), gather: bool = True) -> int:
    """Return the position of the first row of `x` (n, ...) in `gathered` of the same arguments."""
    if not gather or num_ranks() == 1:
        return 0
    rank = dist.get_rank()
    return sum(rows_per_rank[:rank]) if _is_uneven(rows_per_rank) else len(x) * rank


@torch.no_grad()
def all_gather_rows(x: Tensor, rows_per_rank: tuple[int, ...] = ()) -> Tensor:
    """Return the rows of `x` (n, ...) of all processes in the order of ranks, without gradient.

    `rows_per_rank` is the number of rows of each process, where they differ.
    """
    if num_ranks() == 1:
        return x.detach()
    own = x.detach().contiguous()
    if not _is_uneven(rows_per_rank):
        return _gather(own)
    most = max(rows_per_rank)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own
    parts = _gather(padded).split(most)
    return torch.cat([part[:count] for part, count in zip(parts, rows_per_rank, strict=True)])


@torch.no_grad()
def all_gather_stack(x: Tensor) -> Tensor:
    """Return (processes, ...), the `x` (...) of each process by rank, without gradient."""
    return _gather(x.detach()[None].contiguous())


def gathered(x: Tensor, rows_per_rank: tuple[int, ...] = (), gather: bool = True) -> Tensor:
    """Return the rows of `x` (n, ...) of all processes in the order of ranks, with gradient.

    The gradient is that of the sum of the losses of all processes. As the gradients are averaged
    afterwards, each process may take the mean over its own rows, compared with all, or the whole
    loss of all rows: both give the gradient of one process that has all rows. If `gather` is False,
    `x` is returned.
    """
    return _Gather.apply(x, rows_per_rank) if gather and num_ranks() > 1 else x


class _Gather(torch.autograd.Function):
    """Gather rows; in the backward pass, sum the gradients that all processes have for a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows_per_rank: tuple[int, ...]) -> Tensor:
        start = first_row(x, rows_per_rank)
        ctx.rows = slice(start, start + len(x))
        ctx.is_uneven = _is_uneven(rows_per_rank)
        return all_gather_rows(x, rows_per_rank)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()
        if ctx.is_uneven:
            grad = grad.clone()
            dist.all_reduce(grad)
            return grad[ctx.rows], None
        own = torch.empty_like(grad[ctx.rows])
        dist.reduce_scatter_tensor(own, grad)
        return own, None


def _gather(x: Tensor) -> Tensor:
    if num_ranks() == 1:
        return x
    together = x.new_empty(num_ranks() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(together, x)
    return together


def _is_uneven(rows_per_rank: tuple[int, ...]) -> bool:
    return len(set(rows_per_rank)) > 1
