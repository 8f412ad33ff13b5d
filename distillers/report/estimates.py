"""Means over seeds, and how far apart two of them are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean of independent values.

    Attributes:
        mean: their mean.
        sd: their standard deviation with n - 1; None of one value.
        n: how many they are.
    """

    mean: float
    sd: float | None
    n: int

    @property
    def even(self) -> float:
        """The mean without what its sum was rounded by, so that equal means compare as equal."""
        return round(self.mean, 9)


@dataclass(frozen=True)
class Difference:
    """How much larger one mean is than another.

    Attributes:
        value: the difference.
        low: the lower end of its confidence interval; None where there is none.
        high: the upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard deviation of at least one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, None, len(values))
    if min(values) == max(values):  # whose mean is rounded, which would pass for a deviation
        return Estimate(values[0], 0.0, len(values))
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Estimate(mean, math.sqrt(squares / (len(values) - 1)), len(values))


def welch(first: Estimate, second: Estimate) -> Difference:
    """The first mean minus the second, with Welch's interval for unequal variances.

    There is no interval where one of them is a single value, or where neither varies.

    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34, 1947.
    """
    from scipy.special import stdtrit  # the quantile of Student's t; slow to import

    value = first.mean - second.mean
    if first.sd is None or second.sd is None or not first.sd + second.sd > 0:
        return Difference(value)
    a, b = first.sd**2 / first.n, second.sd**2 / second.n
    freedom = (a + b) ** 2 / (a**2 / (first.n - 1) + b**2 / (second.n - 1))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(a + b)
    return Difference(value, value - half, value + half)
