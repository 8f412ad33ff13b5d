"""Which batch normalisations can be part of the layer before them, and what it becomes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillers.features.taps import Place
from distillers.features.trace import ForwardTrace

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
WIDE = (torch.float32, torch.float64)  # in fewer digits, the product of two weights is another one


@dataclass(frozen=True)
class Pair:
    """The paths of a layer and of the batch normalisation that alone takes what it gives."""

    layer: str
    norm: str


def find_pairs(trace: ForwardTrace, places: Collection[Place]) -> list[Pair]:
    """Return the pairs that can be fused into one layer.

    The input of the normalisation is the output of the layer; no other function takes this output,
    and none takes the weight of the layer; each of both runs once, has a known type and no hooks;
    and nothing between them is read.

    Args:
        trace: of the network.
        places: where the network is read, module paths with "in" or "out".
    """
    read = {
        id(call.output if side == "out" else call.input)
        for call in trace.calls
        for path, side in places
        if call.path == path
    }
    made_by = {
        id(call.output): call
        for call in trace.calls
        if _is_layer(call.module) and trace.ran_once(call.path)
    }
    pairs = []
    for call in trace.calls:
        before = made_by.get(id(call.input))
        if before is None or not trace.ran_once(call.path) or not _is_norm(call.module):
            continue
        if id(before.output) in read or trace.num_uses(before.output) != 1:
            continue
        if trace.num_uses(before.module.get_parameter("weight")) == 1:
            pairs.append(Pair(before.path, call.path))
    return pairs


@torch.no_grad()
def fold(net: nn.Module, pairs: Collection[Pair]) -> None:
    """Make each pair one layer; what is left of the normalisation stays at its path."""
    for pair in pairs:
        layer, norm = net.get_submodule(pair.layer), net.get_submodule(pair.norm)
        weight, bias = folded(layer, norm)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)
        net.set_submodule(pair.norm, Activation(norm) if _activates(norm) else nn.Identity())


def folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that gives what `norm` makes of `layer`.

    Computed in double precision, so that each is rounded once.
    """
    weight, mean = layer.weight.double(), norm.running_mean.double()
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = (bias - mean) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)


class Activation(nn.Module):
    """What is left of timm's normalisation with an activation; its parts keep their names."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        """`x`, activated."""
        return self.act(self.drop(x))


def _is_layer(module: nn.Module) -> bool:
    known = type(module) in LAYERS and "weight" in module._parameters  # not computed when asked for
    return known and module.weight.dtype in WIDE and not _hooked(module)


def _is_norm(module: Any) -> bool:
    known = type(module) in NORMS or _activates(module)
    return known and module.running_mean is not None and not _hooked(module)


def _activates(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.layers.")


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
