"""Exponential moving average of a module's weights, swapped in for evaluation and saving."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NUM_UPDATES = "num_updates"


class ExponentialMovingAverage:
    """Average every floating-point tensor of a module's state over the training steps.

    Update t = 1, 2, ... computes d * average + (1 - d) * value with
    d = min(decay, (1 + t) / (10 + t)), so that a short run forgets its random start; with a decay
    of 0.999 the warm-up ends after 8,990 updates.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.num_updates = 0
        self._average = {key: value.clone() for key, value in self._live().items()}
        self._raw: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Include the present weights of the module in the average."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for key, value in self._live().items():
            self._average[key].lerp_(value, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the module the averaged weights inside the context."""
        self._raw = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict({**self._raw, **self._average})
        try:
            yield
        finally:
            self.module.load_state_dict(self._raw)
            self._raw = None

    def raw(self) -> dict[str, Tensor]:
        """Return the module's own state, also while the averaged one is swapped in."""
        return self.module.state_dict() if self._raw is None else self._raw

    def state(self) -> dict[str, Tensor]:
        """Return the averaged tensors by name, and the number of updates."""
        return {**self._average, NUM_UPDATES: torch.tensor(self.num_updates)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Load a `state`."""
        self.num_updates = int(state[NUM_UPDATES])
        self._average = {k: state[k].to(v.device).clone() for k, v in self._average.items()}

    def _live(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        return {key: value.detach() for key, value in state.items() if value.is_floating_point()}
