"""Terms of a weighted sum of losses, and the checks of it."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from distillers.errors import InputError
from distillers.features.extractor import eval_mode
from distillers.losses.hooks import as_deploying, as_warming_up


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Attributes:
        name: under which its value is logged.
        loss: the loss module.
        weight: its weight in the sum.
        teacher: number of the teacher that it reads, from 0; None for all of them together.
    """

    name: str
    loss: nn.Module
    weight: float
    teacher: int | None = None


def is_stateful(loss: nn.Module) -> bool:
    """Return whether a loss has parameters or buffers, which a call may change."""
    return next(chain(loss.parameters(), loss.buffers()), None) is not None


def active_after_warmup(loss: nn.Module) -> bool:
    """Return whether a loss is active after its first stage; by default AB and FSP are not."""
    return as_warming_up(loss) is None or bool(getattr(loss, "keep", True))


def check_terms(terms: list[Term]) -> None:
    """Check that terms form a valid loss.

    Raises:
        InputError: if there are none, two have the same name or would both deploy a network, a
            weight is negative or not finite, or none is active after the first stage.
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
        raise InputError(f"no loss is active after the first stage of {', '.join(names)}.")
    deploying = [term.name for term in terms if as_deploying(term.loss)]
    if len(deploying) > 1:
        raise InputError(f"only one loss may deploy a network; {' and '.join(deploying)} do.")


def check_sole_readers(terms: list[Term], inputs: Mapping[str, Collection[str]]) -> None:
    """Check that no loss reads what another one, which has `sole_reader_of`, matches already.

    `inputs` are the names of what each loss reads, by the names of the terms.
    """
    for term in terms:
        names: Any = getattr(term.loss, "sole_reader_of", ())
        for other in terms:
            is_own = type(other.loss) is type(term.loss)  # the same loss for another teacher
            if names and not is_own and set(names) <= set(inputs[other.name]):
                raise InputError(
                    f"{term.name} matches {' with '.join(names)} already, and {other.name} would "
                    f"count them twice; leave {other.name} out (--div 0 for kd)."
                )


def check_trainable(
    name: str, inputs: Mapping[str, Any], student: nn.Module, *, backward: bool = False
) -> None:
    """Check that a trainable parameter of the student affects some of what the loss `name` reads.

    With `backward` the gradient is computed, which may be zero, as behind a rounding.
    """
    read = {key: value for key, value in inputs.items() if key.startswith("student_")}
    found = [x for x in tree_leaves(read) if x.requires_grad]
    if not found or (backward and not _has_gradient(found, student)):
        raise InputError(
            f"the loss {name} gives {type(student).__name__} no gradient: it reads "
            f"{', '.join(read) or 'nothing of the student'}, which no trainable parameter affects"
            f"{' in training mode' if student.training and not backward else ''}; "
            "name other modules, as in student_taps=Taps(maps=(...), head=...)."
        )


def _has_gradient(values: list[Tensor], net: nn.Module) -> bool:
    """Return whether values, each with its own weight, change with a parameter of a network."""
    weights = [torch.linspace(1, 2, x.numel()).view(x.shape).to(x) for x in values]
    trained = [p for p in net.parameters() if p.requires_grad]
    with eval_mode(net):  # layers that are checkpointed run again, as in the forward pass
        grads = torch.autograd.grad(values, trained, weights, retain_graph=True, allow_unused=True)
    return any(bool(grad.any()) for grad in grads if grad is not None)


def check_scalar(name: str, value: object) -> None:
    """Check that the value of the loss `name` is a floating-point scalar."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"the loss {name} returned a {type(value).__name__}; it must return a tensor."
        )
    if value.ndim or not value.is_floating_point():
        raise InputError(
            f"the loss {name} returned {tuple(value.shape)} {value.dtype}; it must return a "
            "floating-point scalar, as in .mean()."
        )
