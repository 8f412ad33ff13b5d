"""Factors of a loss that follow the fraction of the training that is done."""

import math


def linear_ramp(progress: float, ramp: float) -> float:
    """Return a factor that rises linearly from 0 to 1 until `ramp`; always 1 if that is 0."""
    return min(progress / ramp, 1.0) if ramp > 0 else 1.0


def half_cosine(progress: float, start: float) -> float:
    """Return a factor that is 1 until `start` and decays to 0 by half a cosine at progress 1."""
    if progress <= start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - start) / (1 - start)))
