"""Losses that need labels, computed for the labelled images of a batch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from distillers.data.batch import Batch

ROWS_PER_RANK = "rows_per_rank"


def take_rows(values: Mapping[str, Any], rows: Tensor, num_rows: int) -> dict[str, Any]:
    """Return tensors (n, ...) and lists of them with only some rows (m,) int64.

    Anything else, and tensors of another length than `num_rows`, as of stage maps that no loss
    reads, are kept.
    """

    def take(value: Any) -> Any:
        is_per_image = isinstance(value, Tensor) and value.ndim > 0 and len(value) == num_rows
        return value.index_select(0, rows) if is_per_image else value

    return tree_map(take, dict(values))


def call_for_labelled(
    function: Callable[..., Tensor],
    inputs: Mapping[str, Any],
    batch: Batch,
    trained: Iterable[Tensor] = (),
) -> Tensor:
    """Compute a loss that needs labels, for the labelled images of a batch only.

    If this process has none, the value is zero and the gradient zeros. A loss that compares the
    images of all processes is called nevertheless if other processes have some, because all must
    take part in what it gathers.

    `function` is the `forward` or `warmup` of the loss, `inputs` are what it receives for the whole
    batch, and `trained` the parameters of the loss.
    """
    if batch.labelled is None:
        return function(**inputs)
    inputs = dict(inputs)
    others = ROWS_PER_RANK in inputs and sum(batch.labelled_per_rank) > 0
    if not batch.num_labelled and not others:
        return _zero([*tree_leaves(inputs), *trained])
    part = take_rows(inputs, batch.labelled, len(batch.labels))
    if ROWS_PER_RANK in inputs:
        part[ROWS_PER_RANK] = batch.labelled_per_rank
    return function(**part)


def _zero(leaves: list[Any]) -> Tensor:
    """Return zero, connected to all that the loss would train, as DDP's static graph requires."""
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    zero = torch.zeros((), device=tensors[0].device)
    for x in tensors:
        if x.requires_grad:
            zero = zero + (x * 0).sum()
    return zero
