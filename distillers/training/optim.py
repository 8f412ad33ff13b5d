"""Which parameters learn, and which of them are decayed."""

from typing import Any

from torch import nn


def parameter_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: with weight decay, and those named to go without.

    A module names the latter in its attribute `no_weight_decay`, a tuple of parameters' names.
    """
    exempt = {
        id(module.get_parameter(name))
        for module in task.modules()
        for name in _names_without_decay(module)
    }
    trainable = [p for p in task.parameters() if p.requires_grad]
    decayed = [p for p in trainable if id(p) not in exempt]
    free = [p for p in trainable if id(p) in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def _names_without_decay(module: nn.Module) -> tuple[str, ...]:
    names = getattr(module, "no_weight_decay", ())
    return tuple(names) if isinstance(names, tuple) else ()
