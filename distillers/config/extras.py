"""Checks that an optional package is installed."""

from importlib.util import find_spec

from distillers.errors import InputError


def check_wandb(project: str | None) -> None:
    """Check that the package wandb is installed if --wandb is given.

    Raises:
        InputError: saying how to install it.
    """
    if project is not None and find_spec("wandb") is None:
        raise InputError('--wandb needs the package wandb: pip install "distillers[wandb]".')
