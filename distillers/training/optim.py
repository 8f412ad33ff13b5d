"""Create the optimizer of a task, and its parameter groups."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from distillers.config.hyperparameters import DOT as DOT_NAME
from distillers.config.hyperparameters import LOOKAHEAD, Hyperparameters
from distillers.config.sizes import pluralize
from distillers.distillation.task import Task
from distillers.errors import InputError
from distillers.training.dot import DOT

Group = dict[str, Any]


def build_optimizer(task: Task, hparams: Hyperparameters) -> torch.optim.Optimizer:
    """Return SGD as published or, if `hparams.opt` is given, DOT or an optimizer of timm.

    Raises:
        InputError: if timm's optimizer cannot be created with these hyperparameters.
    """
    rate, momentum = hparams.learning_rate, hparams.momentum
    if hparams.opt == DOT_NAME:
        groups = parameter_groups(task, hparams.weight_decay)
        return DOT(groups, rate, momentum, hparams.dot_delta)
    if hparams.opt is not None:
        return _build_timm_optimizer(task, hparams, hparams.opt)
    # one kernel for all parameters, which reads the scale of fp16 on the GPU
    fused = next(task.parameters()).is_cuda and not hparams.shard
    groups = parameter_groups(task, hparams.weight_decay)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=fused)


def _build_timm_optimizer(task: Task, hparams: Hyperparameters, name: str) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2, get_optimizer_info

    info = get_optimizer_info(name.lower().removeprefix(LOOKAHEAD))
    given: dict[str, Any] = {}
    if hparams.opt_eps is not None:
        given["eps"] = hparams.opt_eps
    if hparams.opt_betas:
        given["betas"] = hparams.opt_betas
    for option in given:
        if not getattr(info, f"has_{option}"):
            raise InputError(f"--opt {name} has no {option}; leave out --opt_{option}.")
    if len(hparams.opt_betas) not in (0, info.num_betas):  # some fail only in their first step
        number = pluralize(len(hparams.opt_betas), "number")
        raise InputError(f"--opt {name} has {info.num_betas} betas; --opt_betas has {number}.")
    groups = timm_parameter_groups(task, hparams.weight_decay, hparams.layer_decay)
    rate, momentum = hparams.learning_rate, hparams.momentum
    try:
        return create_optimizer_v2(groups, name, lr=rate, momentum=momentum, **given)
    except (IndexError, TypeError, ValueError) as error:
        raise InputError(f"--opt {name} cannot be created: {error}") from error


def parameter_groups(task: nn.Module, weight_decay: float) -> list[Group]:
    """Return the trainable parameters in two groups, with and without weight decay, as published.

    All are decayed but those that a module names in its attribute `no_weight_decay`, a tuple.
    """
    exempt = {id(p) for p in _exempt_parameters(task)}
    trainable = [p for p in task.parameters() if p.requires_grad]
    decayed = [p for p in trainable if id(p) not in exempt]
    free = [p for p in trainable if id(p) in exempt]
    groups: list[Group] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def timm_parameter_groups(
    task: Task, weight_decay: float, layer_decay: float | None
) -> list[Group]:
    """Return the groups that timm makes of the trained networks, then those of other parameters.

    Biases, parameters of one dimension and those that a network or loss exempts are not decayed.
    The parameters of losses have the learning rate of the last layer.

    Raises:
        InputError: if `layer_decay` is given and a network does not name its layers.
    """
    groups: list[Group] = []
    for net in task.networks():
        groups += _network_groups(net, weight_decay, layer_decay)
    grouped = {id(p) for group in groups for p in group["params"]}
    exempt = {id(p) for p in _exempt_parameters(task)}
    decayed, free = [], []
    for name, parameter in task.named_parameters():
        if parameter.requires_grad and id(parameter) not in grouped:
            is_free = parameter.ndim <= 1 or name.endswith(".bias") or id(parameter) in exempt
            (free if is_free else decayed).append(parameter)
    scale = {} if layer_decay is None else {"lr_scale": 1.0}
    others = ((free, 0.0), (decayed, weight_decay))
    return groups + [{"params": p, "weight_decay": decay, **scale} for p, decay in others if p]


def _network_groups(net: nn.Module, weight_decay: float, layer_decay: float | None) -> list[Group]:
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    exempt = getattr(net, "no_weight_decay", None)
    names = exempt() if callable(exempt) else ()
    if layer_decay is None:
        return param_groups_weight_decay(net, weight_decay, no_weight_decay_list=names)
    if not any(p.requires_grad for p in net.parameters()):  # a teacher
        return []
    if not hasattr(net, "group_matcher"):
        raise InputError(
            f"--layer_decay needs a network that names its layers, as those of timm do; "
            f"{type(net).__name__} does not."
        )
    return param_groups_layer_decay(
        net, weight_decay, no_weight_decay_list=names, layer_decay=layer_decay
    )


def clip_gradient(task: Task, limit: float, mode: str) -> None:
    """Clip the gradient of a task: its "norm", each "value", or by "agc" the norm of each unit.

    As in timm, "agc" leaves out the last two parameters of a network, its classifier.
    """
    from timm.utils import dispatch_clip_grad

    nets = task.networks() if mode == "agc" else []
    heads = {id(p) for net in nets for p in list(net.parameters())[-2:]}
    dispatch_clip_grad([p for p in task.parameters() if id(p) not in heads], limit, mode)


def _exempt_parameters(task: nn.Module) -> Iterable[nn.Parameter]:
    """Yield the parameters that modules exempt from weight decay by a tuple `no_weight_decay`."""
    for module in task.modules():
        names = getattr(module, "no_weight_decay", ())
        if isinstance(names, tuple):
            yield from (module.get_parameter(name) for name in names)
