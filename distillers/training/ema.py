"""An exponential moving average of a module's weights, swapped in while it is scored and saved."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Keeps decay * average + (1 - decay) * value for every floating-point tensor of a module.

    Args:
        module: whose state is averaged; it goes on training with its own weights.
        decay: in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self._average = {key: value.clone() for key, value in self._live().items()}
        self._raw: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present weights."""
        for key, value in self._live().items():
            self._average[key].lerp_(value, 1 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module has the averaged weights."""
        self._raw = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict({**self._raw, **self._average})
        try:
            yield
        finally:
            self.module.load_state_dict(self._raw)
            self._raw = None

    def raw(self) -> dict[str, Tensor]:
        """The module's own state, also while the averaged one is swapped in."""
        return self.module.state_dict() if self._raw is None else self._raw

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by name."""
        return self._average

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up a `state`."""
        self._average = {k: state[k].to(v.device).clone() for k, v in self._average.items()}

    def _live(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        return {key: value.detach() for key, value in state.items() if value.is_floating_point()}
