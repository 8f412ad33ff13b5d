"""Undo training steps whose loss or gradient is not finite (--on_nan skip)."""

from typing import Any

import torch
from torch import Tensor, nn

from distillers.distributed.world import World


class NaNGuard:
    """Restore the buffers of a task after a step that is not finite.

    When the gradient is checked, the step has not changed the parameters yet, but running
    statistics, memory banks and queues. Each step copies them and waits for the device.
    """

    def __init__(self, task: Any, world: World) -> None:
        self._task, self._world = task, world
        self._before: list[Tensor] = []

    def snapshot(self) -> None:
        """Copy the buffers, before a step."""
        self._before = [buffer.clone() for buffer in self._buffers()]

    def is_non_finite(self, loss: Tensor, gradients: bool) -> bool:
        """Return whether a loss, or with `gradients` any gradient, is not finite in any process."""
        finite = [loss.detach().isfinite()]
        if gradients:
            grads = [p.grad for p in self._task.parameters() if p.grad is not None]
            finite += [grad.isfinite().all() for grad in grads]
        is_bad = not all(bool(each) for each in finite)
        return self._world.all_reduce_max([int(is_bad)]) == [1]

    @torch.no_grad()
    def rollback(self) -> None:
        """Restore the buffers of `snapshot`, and drop the gradient."""
        for buffer, before in zip(self._buffers(), self._before, strict=True):
            buffer.copy_(before)
        self._task.zero_grad(set_to_none=True)

    def _buffers(self) -> list[Tensor]:
        """Return the buffers that are part of the state dict."""
        state = self._task.state_dict(keep_vars=True)
        return [value for value in state.values() if not isinstance(value, nn.Parameter)]
