"""Check the values of options, as in `require.positive(temperature=temperature)`.

Each function takes values by name and raises a ValueError that names the first invalid one.
Infinity and NaN are never valid.
"""

import math
from collections.abc import Callable, Mapping, Sequence


def finite(**options: float) -> None:
    """Check that all options are finite."""
    _check(options, lambda _: True, "must be finite")


def positive(**options: float) -> None:
    """Check that all options are greater than 0."""
    _check(options, lambda value: value > 0, "must be greater than 0")


def non_negative(**options: float) -> None:
    """Check that all options are at least 0."""
    _check(options, lambda value: value >= 0, "must be 0 or greater")


def fraction(**options: float) -> None:
    """Check that all options are in [0, 1]."""
    _check(options, lambda value: 0 <= value <= 1, "must be from 0 to 1")


def choice(allowed: Sequence[str | None], **options: str | None) -> None:
    """Check that all options have one of the allowed values."""
    for name, value in options.items():
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; it must be {' or '.join(map(repr, allowed))}.")


def _check(options: Mapping[str, float], good: Callable[[float], bool], wanted: str) -> None:
    for name, value in options.items():
        if not (math.isfinite(value) and good(value)):
            raise ValueError(f"{name} is {value}; it {wanted}.")
