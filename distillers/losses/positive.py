"""Options of losses that would divide by zero."""


def require_positive(**options: float) -> None:
    """Refuse options that are not greater than 0.

    Args:
        options: values by name.

    Raises:
        ValueError: naming the first.
    """
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be greater than 0.")
