"""Types of the optional members of a loss; see docs/contracts.md."""

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn

from distillers.features.taps import Taps


class HasWarmup(Protocol):
    """A loss with a first stage.

    Attributes:
        warmup_epochs: number of its epochs; with 0 there is no first stage.
        warmup: the loss of that stage; its parameters are wired like those of `forward`.
    """

    warmup_epochs: int
    warmup: Callable[..., Tensor]


class Deploys(Protocol):
    """A loss that deploys another network than the student."""

    def deploy(self, student: nn.Module, taps: Taps) -> nn.Module:
        """Return the network to evaluate, save and export, with its description as `card`.

        Args:
            student: the trained student; it is not modified.
            taps: where the student is read.
        """

    @staticmethod
    def rebuild(student: nn.Module, card: dict[str, Any]) -> nn.Module:
        """Return a network of the structure that `deploy` returned, to load its weights into.

        Args:
            student: a new network of the student's architecture.
            card: the description, possibly read from JSON.
        """


class Prepares(Protocol):
    """A loss that changes the student before the training."""

    def prepare(self, student: nn.Module, taps: Taps) -> None:
        """Change the student, which is read at `taps`, in place."""


def as_preparing(loss: nn.Module) -> Prepares | None:
    """Return the loss if it changes the student before the training, else None."""
    return cast(Prepares, loss) if hasattr(loss, "prepare") else None


def as_deploying(loss: nn.Module) -> Deploys | None:
    """Return the loss if it deploys another network than the student, else None."""
    return cast(Deploys, loss) if hasattr(loss, "deploy") else None


def as_warming_up(loss: nn.Module) -> HasWarmup | None:
    """Return the loss if it has a first stage, else None."""
    return cast(HasWarmup, loss) if getattr(loss, "warmup_epochs", 0) else None
