"""What an option may be, refused by name where it is not.

Each function takes values by name and raises a ValueError that names the first bad one; none of
them takes a number that is infinite or no number.
"""

import math
from collections.abc import Callable, Mapping


def require_finite(**options: float) -> None:
    """Refuse options that are infinite or not a number."""
    _require(options, lambda _: True, "must be finite")


def require_positive(**options: float) -> None:
    """Refuse options that are not greater than 0."""
    _require(options, lambda value: value > 0, "must be greater than 0")


def require_non_negative(**options: float) -> None:
    """Refuse options below 0."""
    _require(options, lambda value: value >= 0, "must be 0 or greater")


def require_fraction(**options: float) -> None:
    """Refuse options that are not in [0, 1]."""
    _require(options, lambda value: 0 <= value <= 1, "may be 0 to 1")


def _require(options: Mapping[str, float], good: Callable[[float], bool], wanted: str) -> None:
    for name, value in options.items():
        if not (math.isfinite(value) and good(value)):
            raise ValueError(f"{name} is {value}; it {wanted}.")
