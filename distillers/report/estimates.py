"""Sample statistics over seeds and confidence intervals of their differences."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SampleStats:
    """Mean and standard deviation of one or more independent values."""

    values: Sequence[float]

    @property
    def n(self) -> int:
        """The number of values."""
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        """The arithmetic mean, correctly rounded."""
        return statistics.mean(self.values)

    @cached_property
    def sd(self) -> float | None:
        """The standard deviation with n - 1 degrees of freedom; None for one value."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % t interval of the mean; None for one value."""
        from scipy.stats import t  # slow to import

        if self.sd is None:
            return None
        margin = float(t.ppf((1 + CONFIDENCE) / 2, self.n - 1)) * self.sd / self.n**0.5
        return self.mean - margin, self.mean + margin

    @property
    def rounded_mean(self) -> float:
        """The mean rounded to nine decimals, so that rounding errors do not break ties."""
        return round(self.mean, 9)

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal."""
        return min(self.values) == max(self.values)

    def scaled(self, factor: float) -> "SampleStats":
        """Return the statistics in another unit."""
        return SampleStats([value * factor for value in self.values])


@dataclass(frozen=True)
class Difference:
    """Difference of two means with its confidence interval.

    Attributes:
        value: first mean minus second mean.
        low: lower end of the interval; None if there is no interval.
        high: upper end of the interval.
    """

    value: float
    low: float | None = None
    high: float | None = None


def welch(first: SampleStats, second: SampleStats) -> Difference:
    """Return first mean minus second mean with Welch's 95 % interval for unequal variances.

    There is no interval when either sample has one value or when both samples are constant.

    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34, 1947.
    """
    from scipy.stats import ttest_ind  # slow to import

    value = first.mean - second.mean
    if min(first.n, second.n) < 2 or (first.is_constant and second.is_constant):
        return Difference(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns when one sample is constant
        result = ttest_ind(first.values, second.values, equal_var=False)
    ends = result.confidence_interval(CONFIDENCE)
    return Difference(value, float(ends.low), float(ends.high))
