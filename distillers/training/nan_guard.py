"""Steps that are taken back, where --on_nan skip asks for it."""

from typing import Any

import torch
from torch import Tensor, nn

from distillers.distributed.world import World


class NaNGuard:
    """Knows the buffers of a task before a step, and takes back a step that is not finite.

    Parameters have not moved yet when the gradient is looked at; running statistics, memories and
    queues have. Costs a copy of them, and waits for the device, at every step.

    Args:
        task: a module.
        world: the processes that train it together; they take a step back together.
    """

    def __init__(self, task: Any, world: World) -> None:
        self._task, self._world = task, world
        self._before: list[Tensor] = []

    def snapshot(self) -> None:
        """Before a step."""
        self._before = [buffer.clone() for buffer in self._buffers()]

    def is_non_finite(self, loss: Tensor, gradients: bool) -> bool:
        """Whether a loss, or with `gradients` any gradient, is not finite in any process."""
        finite = [loss.detach().isfinite()]
        if gradients:
            grads = [p.grad for p in self._task.parameters() if p.grad is not None]
            finite += [grad.isfinite().all() for grad in grads]
        is_bad = not all(bool(each) for each in finite)
        return self._world.all_reduce_max([int(is_bad)]) == [1]

    @torch.no_grad()
    def rollback(self) -> None:
        """Give the buffers the values of `snapshot`, and drop the gradient."""
        for buffer, before in zip(self._buffers(), self._before, strict=True):
            buffer.copy_(before)
        self._task.zero_grad(set_to_none=True)

    def _buffers(self) -> list[Tensor]:
        """What a step may move: buffers that are part of the state."""
        state = self._task.state_dict(keep_vars=True)
        return [value for value in state.values() if not isinstance(value, nn.Parameter)]
