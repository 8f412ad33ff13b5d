"""The summands of a loss, and which of them go together."""

import math
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn

from distillers.errors import InputError


@dataclass(frozen=True)
class Term:
    """One summand of the loss: a loss module, its weight, and the name that it is logged under."""

    name: str
    loss: nn.Module
    weight: float


def warmup_epochs(loss: nn.Module) -> int:
    """Epochs of a loss's first stage; mostly 0."""
    return getattr(loss, "warmup_epochs", 0)


def is_stateful(loss: nn.Module) -> bool:
    """Whether a loss has parameters or buffers, which a call may change."""
    return next(chain(loss.parameters(), loss.buffers()), None) is not None


def active_after_warmup(loss: nn.Module) -> bool:
    """Whether a loss acts after its first stage; AB's and FSP's, as published, do not."""
    return not warmup_epochs(loss) or getattr(loss, "keep", True)


def check_terms(terms: list[Term]) -> None:
    """Refuse summands that make no loss.

    Raises:
        InputError: saying what is wrong with them.
    """
    names = [term.name for term in terms]
    if not terms:
        raise InputError("no loss is left: every weight is zero.")
    if len(set(names)) < len(names):
        raise InputError(f"a loss is named twice: {', '.join(names)}.")
    for term in terms:
        if not math.isfinite(term.weight) or term.weight < 0:
            raise InputError(f"the weight of {term.name} is {term.weight}; it must be positive.")
    if not any(active_after_warmup(term.loss) for term in terms):
        raise InputError(f"nothing is left to learn after the first stage of {', '.join(names)}.")
    deploying = [term.name for term in terms if hasattr(term.loss, "deploy")]
    if len(deploying) > 1:
        raise InputError(f"{' and '.join(deploying)} would each deploy a network of its own.")


def check_scalar(name: str, value: object) -> None:
    """Refuse what a loss gave where it is not one floating number.

    Raises:
        InputError: naming the loss and what it gave.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"the loss {name} gives a {type(value).__name__}; it must give a tensor.")
    if value.ndim or not value.is_floating_point():
        raise InputError(
            f"the loss {name} gives {tuple(value.shape)} {value.dtype}; it must give one floating "
            "number, as in .mean()."
        )
