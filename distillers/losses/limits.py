"""What an option may be, refused by name where it is not."""

import math


def require_finite(**options: float) -> None:
    """Refuse options that are infinite or not a number.

    Args:
        options: values by name.

    Raises:
        ValueError: naming the first.
    """
    for name, value in options.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be finite.")


def require_positive(**options: float) -> None:
    """Refuse options that are not finite and greater than 0.

    Args:
        options: values by name.

    Raises:
        ValueError: naming the first.
    """
    for name, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be greater than 0.")


def require_not_negative(**options: float) -> None:
    """Refuse options that are not finite, or below 0.

    Args:
        options: values by name.

    Raises:
        ValueError: naming the first.
    """
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; it must be 0 or greater.")


def require_share(**options: float) -> None:
    """Refuse options that are not in [0, 1].

    Args:
        options: values by name.

    Raises:
        ValueError: naming the first.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it may be 0 to 1.")
