"""Linear chart axes with round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Linear map from data values, low to high, to coordinates, start to stop."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, about: int = 6, min_step: float = 0.0) -> list[float]:
        """Return round values on the axis, 1, 2 or 5 times a power of ten and `min_step` apart."""
        step = round_step(max((self.high - self.low) / about, min_step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def padded_range(values: Sequence[float], share: float) -> tuple[float, float]:
    """Return a range of positive length around the values, padded by a share of their range."""
    low, high = min(values), max(values)
    padding = (high - low) * share or max(abs(high) * share, 0.5)
    return low - padding, high + padding
